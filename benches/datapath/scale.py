"""The cost of many Services to the kernel and us: to program, to change, and for a new connection.

Runs the scenario `first-packets` of the lab's gallery with the fewest and the most Services, and
lets the daemon follow as many in files. Writes benches/results/scale.json, a part of
benches/RESULTS.md, and what programming took into benches/results/datapath.json. Needs root.
"""

import argparse
import json
import sys
from typing import Final

from benches.datapath.files import ENDPOINTS, changed_files
from benches.datapath.rows import PATHS, Row, measure, median, places, scenario, values
from benches.datapath.run import FIELDS
from benches.datapath.run import RESULTS as DATAPATHS
from benches.harness.report import figure, machine, store, table
from kbe_nat.lab import Result
from kbe_nat.lab.live.scenario import Connects, Programming, WayChoice

CONNECTS: Final = ("connects_per_s", "connect_us_p50", "connect_us_p99")


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--services", type=int, nargs="+", default=[1, 10_000], help="numbers of Services"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured")
    parser.add_argument("--changes", type=int, default=100, help="times that an endpoint changes")
    parser.add_argument("--directory", help="keep the run here; an interrupted one goes on")
    arguments = parser.parse_args()
    still = (Connects(validate=False), Programming(changes=0))
    value = scenario(
        "first-packets",
        ways=(
            WayChoice("nft-dnat", measures=still),
            "kube-proxy-nft",
            WayChoice("first-packet", measures=still),
        ),
        measures=(Connects(validate=False), Programming(changes=3)),
        services=tuple(arguments.services),
        endpoints=ENDPOINTS,
        rounds=arguments.rounds,
    )
    result = measure(value, arguments.directory)
    rows = [row(result, way, services) for way, services in places(result)]
    most = max(arguments.services)
    print(f"{most} Services in files, of which one endpoint changes", file=sys.stderr)
    rows[-1] |= changed_files(most, arguments.changes)
    add_programming(rows)
    text = f"{machine()} Rounds: {arguments.rounds}; medians.\n\n{table(*view(rows))}"
    store("scale", "make bench-datapath", rows, text)


def row(result: Result, way: str, services: int) -> Row:
    """Medians of the rounds."""

    def of(name: str, column: str, digits: int = 2) -> float | None:
        return median(values(result, name, column).get((way, services), []), digits)

    line: Row = {
        "path": PATHS.get(way, way),
        "services": services,
        "endpoints": services * ENDPOINTS,
        "peak_mb": of("programming", "peak_mb", 1),
        "change_ms": of("changes", "change_ms", 1),
        "seconds": of("programming", "seconds", 3),
    }
    if line["change_ms"] is None:
        del line["change_ms"]
    return line | {field: of(*FIELDS[field]) for field in CONNECTS}


def add_programming(rows: list[Row]) -> None:
    """The cost of programming the most Services goes to the datapaths' rows too."""
    paths = json.loads(DATAPATHS.read_text()) if DATAPATHS.exists() else []
    most = max(row["services"] for row in rows)
    for row in rows:
        if row["services"] != most or row["path"] == "nft-dnat":
            continue
        datapath = next((each for each in paths if each["path"] == row["path"]), None)
        if datapath is None:
            datapath = (
                {"path": row["path"]}
                | dict.fromkeys(FIELDS)
                | {field: row[field] for field in CONNECTS}
            )
            paths.append(datapath)
        fields = ("services", "endpoints", "seconds", "peak_mb", "change_ms", "change_drained_ms")
        datapath["programming"] = {field: row.get(field) for field in fields}
    DATAPATHS.write_text(json.dumps(paths, indent=2) + "\n")


def view(rows: list[Row]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The table."""

    def against(row: Row, field: str) -> str:
        peer = next(
            each
            for each in rows
            if each["path"] == "nft-dnat" and each["services"] == row["services"]
        )
        return f"{figure(row[field])}, {row[field] / peer[field]:.2f}x"

    columns = (
        "path",
        "Services",
        "endpoints",
        "connections/s, x nft-dnat",
        "connect p50 µs, x nft-dnat",
        "connect p99 µs, x nft-dnat",
        "objects to first answer, s",
        "memory, MB",
        "one endpoint changed, ms",
        "with a drain in force, ms",
    )
    lines = [
        [
            row["path"],
            f"{row['services']:,}",
            f"{row['endpoints']:,}",
            *(against(row, field) for field in CONNECTS),
            figure(row["seconds"]),
            *(
                "-" if row.get(field) is None else figure(row[field])
                for field in ("peak_mb", "change_ms", "change_drained_ms")
            ),
        ]
        for row in rows
    ]
    return columns, lines


if __name__ == "__main__":
    main()
