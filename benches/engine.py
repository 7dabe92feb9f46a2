"""The engine's costs, beside the C yardstick and the reference NAT in the same run.

Writes benches/results/engine.json and strategies.json, and the tables of benches/RESULTS.md. Each
number of flows is measured by C and by us in the same rounds, one right after the other and in
rotating order. The median of the rounds' ratios counts, so that a slow minute of the machine
hits both. Instructions are counted by callgrind where valgrind is installed.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benches.harness import callgrind
from benches.harness.engine_page import Measures, Row, page, ratio
from benches.harness.processes import ROOT
from benches.harness.programs import COUNTED_PROCESSOR, Server, build, build_yardstick, lines_of
from benches.harness.report import PAGE, part

RESULTS: Final = ROOT / "benches/results/engine.json"
STRATEGIES: Final = ROOT / "benches/results/strategies.json"
QUICK_RESULTS: Final = ROOT / "target/bench-engine-quick.json"
MODES: Final = ("one", "batch64")
SHAPES: Final = (("udp", "ipv4"), ("tcp", "ipv4"), ("udp", "ipv6"), ("tcp", "ipv6"))
SERVICES: Final = (10, 1000, 30_000)
"""Service ports among which first packets are spread."""
UPDATED_SERVICES: Final = (10_000, 100_000)
"""Service ports of which one changes."""
COUNTED: Final = 1_000_000
"""Flows up to which callgrind counts: filling a larger table takes it many minutes."""
WEIGHED: Final = 10_000
"""Flows from which memory is a matter of flows, and not of what stands beside them."""
PACKET_COLUMNS: Final = (
    "protocol",
    "family",
    "flows",
    "mode",
    "ns",
    "c_ns",
    "ratio",
    "instructions",
    "c_instructions",
    "new_ns",
    "new_instructions",
    "bytes_per_flow",
)
STRATEGY_COLUMNS: Final = ("strategy", "is_masqueraded", "flows", "new_ns", "new_instructions")
START: Final = time.monotonic()


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is measured."""

    flows: Sequence[int]
    runs: int
    """Pairs of programs for each number of flows."""
    rounds: int
    """Blocks of each mode in each run."""
    counted: int
    """Flows up to which callgrind counts."""
    table: int
    """Flows in the table in which strategies open new ones."""


QUICK: Final = Extent((1000, 100_000), runs=1, rounds=10, counted=1000, table=10_000)


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs that are measured; None: it is not there."""

    ours: Path
    yardstick: Path | None
    counted_yardstick: Path | None
    """For valgrind."""
    is_counting: bool


def main() -> None:
    """Measure, store, show."""
    arguments = parse()
    full = Extent(arguments.flows, arguments.runs, arguments.rounds, COUNTED, 1_000_000)
    extent = QUICK if arguments.quick else full
    tell("building")
    is_counting = callgrind.is_installed()
    programs = Programs(
        build("flows"),
        build_yardstick(),
        build_yardstick(COUNTED_PROCESSOR) if is_counting else None,
        is_counting,
    )
    measures = Measures()
    for protocol, family in SHAPES:
        for flows in extent.flows:
            measures.packets += measure(programs, protocol, family, flows, extent)
    measures.strategies = measure_strategies(programs, extent)
    if arguments.quick:
        QUICK_RESULTS.write_text(json.dumps(measures.packets, indent=2) + "\n")
        show(measures, QUICK_RESULTS)
        return
    measure_others(measures, arguments.runs, has_parts=not arguments.no_criterion)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(measures.packets, indent=2) + "\n")
    STRATEGIES.write_text(json.dumps(measures.strategies, indent=2) + "\n")
    part("engine", "make bench-engine", page(measures))
    show(measures, RESULTS, STRATEGIES, PAGE)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = [1000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--flows", type=int, nargs="+", default=counts, help="numbers of flows")
    parser.add_argument(
        "--runs",
        type=int,
        default=3,
        help="pairs of programs for each number of flows (%(default)s)",
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds in each run (%(default)s)")
    parser.add_argument(
        "--no-criterion", action="store_true", help="leave out the parts of a packet's cost"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="packets of few flows alone, in less than a minute: shown, and written into target"
        " instead of benches",
    )
    return parser.parse_args()


def tell(text: str) -> None:
    """Progress, on standard error."""
    print(f"[{time.monotonic() - START:5.0f} s] {text}", file=sys.stderr, flush=True)


def measure(
    programs: Programs, protocol: str, family: str, flows: int, extent: Extent
) -> list[Row]:
    """The rows of one number of flows, one for each mode."""
    name = f"{protocol} {family}, {flows:,} flows"
    rounds: dict[str, list[tuple[float, float | None]]] = {mode: [] for mode in MODES}
    fills: list[dict[str, Row]] = []
    c_fills: list[dict[str, Row]] = []
    for run in range(extent.runs):
        tell(f"{name}: run {run + 1} of {extent.runs}")
        with Server(programs.ours, protocol, family, flows) as ours:
            fills.append(ours.fill)
            if programs.yardstick is None:
                for mode in MODES:
                    rounds[mode] += [(ours.block(mode), None) for _ in range(extent.rounds)]
                continue
            with Server(programs.yardstick, protocol, family, flows) as yardstick:
                c_fills.append(yardstick.fill)
                for number in range(extent.rounds):
                    for mode in MODES:
                        rounds[mode].append(pair(ours, yardstick, mode, is_first=number % 2 == 0))
    counts, c_counts = {}, {}
    if programs.is_counting and flows <= extent.counted:
        tell(f"{name}: instructions")
        counts = count(programs.ours, protocol, family, flows)
        if programs.counted_yardstick is not None:
            c_counts = count(programs.counted_yardstick, protocol, family, flows)
    return [
        {
            "flows": flows,
            "mode": mode,
            "protocol": protocol,
            "family": family,
            **summarise(rounds[mode]),
            "instructions": counts.get(("known", mode)),
            "c_instructions": c_counts.get(("known", mode)),
            "reference_ns": None,
            "new_ns": median_of(fills, mode, "new_ns"),
            # The yardstick inserts one entry; a flow needs two.
            "c_new_ns": twice(median_of(c_fills, mode, "new_ns")),
            "new_instructions": counts.get(("new", mode)),
            "c_new_instructions": twice(c_counts.get(("new", mode))),
            "bytes_per_flow": median_of(fills, mode, "bytes_per_flow")
            if flows >= WEIGHED
            else None,
        }
        for mode in MODES
    ]


def pair(ours: Server, yardstick: Server, mode: str, *, is_first: bool) -> tuple[float, float]:
    """Nanoseconds of a packet, ours and C's, in one round."""
    if is_first:
        ns = ours.block(mode)
        return ns, yardstick.block(mode)
    c_ns = yardstick.block(mode)
    return ours.block(mode), c_ns


def summarise(rounds: list[tuple[float, float | None]]) -> Row:
    """Medians of the rounds, and of their ratios, with the 10th and 90th percentile of these."""
    row: Row = {
        "ns": round(statistics.median(ns for ns, _ in rounds), 2),
        "c_ns": None,
        "ratio": None,
        "ratio_p10": None,
        "ratio_p90": None,
    }
    pairs = [(ns, c_ns) for ns, c_ns in rounds if c_ns is not None]
    if pairs:
        row["c_ns"] = round(statistics.median(c_ns for _, c_ns in pairs), 2)
        ratios = sorted(ns / c_ns for ns, c_ns in pairs)
        row["ratio"] = round(statistics.median(ratios), 3)
        for name, share in (("ratio_p10", 0.1), ("ratio_p90", 0.9)):
            row[name] = round(ratios[round(share * (len(ratios) - 1))], 3)
    return row


def median_of(fills: list[dict[str, Row]], mode: str, name: str) -> float | None:
    """The median of all runs; None for none."""
    return round(statistics.median(fill[mode][name] for fill in fills), 1) if fills else None


def twice(value: float | None) -> float | None:
    """Of two entries instead of one."""
    return None if value is None else round(2 * value, 1)


def count(program: Path, protocol: str, family: str, flows: int) -> dict[tuple[str, str], float]:
    """Instructions a packet by phase and mode."""
    phases = callgrind.count(program, "count", protocol, family, str(flows))
    return {(row["phase"], row["mode"]): row["instructions"] for row in phases}


def measure_strategies(programs: Programs, extent: Extent) -> list[Row]:
    """New flows by strategy, with and without masquerade: UDP in IPv4, in batches."""
    tell(f"new flows by strategy among {extent.table:,}")
    runs = [lines_of(programs.ours, "time-strategies", extent.table) for _ in range(extent.runs)]
    counts: dict[tuple[str, bool], float] = {}
    if programs.is_counting:
        tell("new flows by strategy: instructions")
        phases = callgrind.count(programs.ours, "count-strategies", str(extent.table))
        counts = {
            (row["mode"], row["phase"] == "masqueraded"): row["instructions"]
            for row in phases
            if row["phase"] != "warm"
        }
    return [
        {
            "flows": extent.table,
            "strategy": rows[0]["strategy"],
            "is_masqueraded": rows[0]["is_masqueraded"],
            "new_ns": round(statistics.median(row["new_ns"] for row in rows), 1),
            "new_instructions": counts.get((rows[0]["strategy"], rows[0]["is_masqueraded"])),
        }
        for rows in zip(*runs, strict=True)
    ]


def measure_others(measures: Measures, runs: int, *, has_parts: bool) -> None:
    """First packets, changed Services, Python and criterion; the reference joins our packets."""
    tell("first packets by number of service ports")
    first, update = build("first"), build("updates")
    measures.firsts = [lines_of(first, *SERVICES) for _ in range(runs)]
    tell("changed Services")
    measures.updates = [lines_of(update, *UPDATED_SERVICES) for _ in range(runs)]
    tell("from Python")
    measures.python = run_python()
    for bench in measures.python:
        if bench["name"].partition("[")[0] != "test_reference":
            continue
        for row in measures.packets:
            shape = (row["protocol"], row["family"], row["flows"])
            if shape == ("udp", "ipv4", bench["params"]["flows"]):
                row["reference_ns"] = round(bench["stats"]["median"] * 1e9)
    if has_parts:
        tell("parts of a packet's cost")
        measures.parts = criterion()


def run_python() -> list[Row]:
    """The benchmarks of pytest-benchmark."""
    path = ROOT / "target/boundary.json"
    folder = ROOT / "benches/python"
    quiet = ("--quiet", "--no-header", "--benchmark-quiet", "--override-ini=addopts=")
    command = [sys.executable, "-m", "pytest", *quiet, f"--benchmark-json={path}", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stdout)
    benchmarks: list[Row] = json.loads(path.read_text())["benchmarks"]
    return benchmarks


def criterion() -> list[tuple[str, str]]:
    """Name and median of each benchmark of `parts`."""
    command = ["cargo", "bench", "--quiet", "-p", "kbe-nat-engine", "--bench", "parts", "--"]
    short = ["--noplot", "--warm-up-time", "0.2", "--measurement-time", "0.5"]
    done = subprocess.run(
        [*command, *short], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    joined = re.sub(r"\n\s+time:", " time:", done.stdout)
    return re.findall(r"^(\S.*?)\s+time:\s+\[\S+ \S+ (\S+ \S+)", joined, re.MULTILINE)


def show(measures: Measures, *files: Path) -> None:
    """The tables of packets and strategies, for people."""
    _show(PACKET_COLUMNS, [{**row, "ratio": ratio(row)} for row in measures.packets])
    _show(STRATEGY_COLUMNS, measures.strategies)
    print(f"Written: {', '.join(str(path.relative_to(ROOT)) for path in files)}")


def _show(names: Sequence[str], rows: list[Row]) -> None:
    def text(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:,}" if type(value) in (int, float) else str(value)

    table = Table(box=None, pad_edge=False)
    for name in names:
        is_text = rows and isinstance(rows[0][name], str)
        table.add_column(name.replace("_", " "), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(text(row[name]) for name in names))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
