"""What a packet, a connection and a gigabyte cost on each way through a node, side by side.

Runs the scenario `datapath` of the lab's gallery with the C yardstick beside; writes
benches/results/datapath.json and a part of benches/RESULTS.md. Needs root.
"""

import argparse
from typing import Final

from benches.datapath.rows import PATHS, Row, measure, median, places, scenario, values
from benches.datapath.yardstick import Yardstick
from benches.harness.processes import ROOT
from benches.harness.report import figure, machine, store, table
from kbe_nat.lab import Result
from kbe_nat.lab.live.scenario import Cpu, WayChoice
from kbe_nat.lab.live.ways import register

RESULTS: Final = ROOT / "benches/results/datapath.json"
FIELDS: Final = {
    "cpu_ns_net": ("cpu", "net_ns"),
    "core_kpps": ("cpu", "core_kpps"),
    "tcp_gbit_s": ("bulk", "gbit_s"),
    "rtt_us_p50": ("latency", "p50_us"),
    "rtt_us_p99": ("latency", "p99_us"),
    "connects_per_s": ("connections", "rate"),
    "connect_us_p50": ("connections", "p50_us"),
    "connect_us_p99": ("connections", "p99_us"),
}
"""Tables and columns of the lab."""
PEERS: Final = {
    "cpu_ns_net": "nft-dnat",
    "core_kpps": "c-nfq",
    "tcp_gbit_s": "forward",
    "connects_per_s": "nft-dnat",
    "connect_us_p50": "nft-dnat",
}
"""What fields are told against."""
COMPARED: Final = "first-packet"
"""Should cost what the kernel's NAT does."""


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is measured")
    parser.add_argument("--paths", nargs="+", help="ways to measure, nft-dnat among them")
    parser.add_argument("--directory", help="keep the run here; an interrupted one goes on")
    arguments = parser.parse_args()
    register(Yardstick())
    full = scenario("datapath")
    ways = (*full.ways, WayChoice("c-nfq", measures=(Cpu(packets=102_400, rate=170_000),)))
    names = [way if isinstance(way, str) else way.way for way in ways]
    chosen = tuple(
        way for way, name in zip(ways, names, strict=True) if name in (arguments.paths or names)
    )
    result = measure(
        scenario("datapath", ways=chosen, rounds=arguments.rounds), arguments.directory
    )
    rows = [row(result, way, services) for way, services in places(result)]
    rows = [line for line in rows if any(line[field] is not None for field in FIELDS)]
    head = f"{machine()} Rounds: {arguments.rounds}; medians (lowest to highest)."
    text = f"{head}\n\n{table(*view(rows))}{comparison(result)}"
    store("datapath", "make bench-datapath", rows, text)


def row(result: Result, way: str, services: int) -> Row:
    """Medians, and from where to where the rounds went."""
    line: Row = {"path": PATHS.get(way, way)}
    for field, (name, column) in FIELDS.items():
        samples = values(result, name, column).get((way, services), [])
        line[field] = median(samples)
        spread = [round(min(samples), 2), round(max(samples), 2)] if samples else None
        line[f"{field}_spread"] = spread
    return line


def comparison(result: Result) -> str:
    """The pair that should be equal, as the lab judges it."""
    parts = [
        f"{line['table']} {line['quantity']} {line['ratio']:.2f} "
        f"({line['ratio_low']:.2f} to {line['ratio_high']:.2f}; {line['difference'] or 'unknown'})"
        for line in result.rows("medians")
        if line["way"] == COMPARED and line["ratio"] is not None
    ]
    if not parts:
        return ""
    base = getattr(result.scenario, "base", "")
    return (
        f"\n{COMPARED} to {base} in the same round, and whether they differ: {', '.join(parts)}.\n"
    )


def view(rows: list[Row]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The table: figures, and what they are against their peers."""
    by_path = {line["path"]: line for line in rows}

    def text(line: Row, field: str) -> str:
        value, peer = line[field], PEERS.get(field)
        if value is None:
            return "-"
        low, high = line[f"{field}_spread"]
        other = by_path[peer][field] if peer in by_path else None
        against = f", {value / other:.2f}x" if other else ""
        return f"{figure(value)}{against} ({figure(low)} to {figure(high)})"

    columns = (
        "path",
        "CPU ns a packet, x nft-dnat",
        "kpps of a core, x c-nfq",
        "TCP Gbit/s, x forward",
        "round trip p50 µs",
        "p99 µs",
        "connections/s, x nft-dnat",
        "connect p50 µs, x nft-dnat",
        "p99 µs",
    )
    return columns, [[line["path"], *(text(line, field) for field in FIELDS)] for line in rows]


if __name__ == "__main__":
    main()
