"""The engine's costs, beside the C yardstick and the reference NAT in the same run.

Writes benches/results/engine.json, and the tables of benches/RESULTS.md. Each count of flows is
measured in turn by C and by us, several times; the median of the runs counts, so that a slow minute
of the machine hits both.
"""

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benches.harness.report import PAGE, machine, part

ROOT: Final = Path(__file__).parent.parent
RESULTS: Final = ROOT / "benches/results/engine.json"
MODES: Final = ("one", "batch64")
SERVICES: Final = (10, 1000, 30_000)
"""Service ports among which first packets are spread."""
UPDATE_FIELDS: Final = (
    "change_ns",
    "change_p99_ns",
    "exchange_ns",
    "exchange_p99_ns",
    "rebuild_ns",
)
UPDATED_SERVICES: Final = (10_000, 100_000)
"""Service ports of which one changes."""

Row = dict[str, Any]


def main() -> None:
    """Measure, store, show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = [1000, 100_000, 1_000_000, 10_000_000]
    parser.add_argument("--flows", type=int, nargs="+", default=counts, help="numbers of flows")
    parser.add_argument(
        "--runs", type=int, default=5, help="runs of each, of which the median counts"
    )
    parser.add_argument(
        "--no-criterion", action="store_true", help="leave out the parts of a packet's cost"
    )
    arguments = parser.parse_args()
    ours, first, update = build("flows"), build("first"), build("updates")
    yardstick = build_yardstick()
    python = run_python()
    references = {bench["params"]["flows"]: bench for bench in named(python, "test_reference")}
    rows: list[Row] = []
    for flows in arguments.flows:
        runs: list[Row] = []
        c_runs: list[Row] = []
        for _ in track(
            range(arguments.runs), f"{flows} flows", console=Console(stderr=True), transient=True
        ):
            c_runs += lines_of(yardstick, flows) if yardstick else []
            runs += lines_of(ours, flows)
        reference = references.get(flows)
        rows += [row(flows, mode, runs, c_runs, reference) for mode in MODES]
    firsts = [lines_of(first, *SERVICES) for _ in range(arguments.runs)]
    updates = [lines_of(update, *UPDATED_SERVICES) for _ in range(arguments.runs)]
    parts = [] if arguments.no_criterion else criterion()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    part("engine", "make bench-engine", page(rows, firsts, updates, python, parts))
    show(rows)


def row(flows: int, mode: str, runs: list[Row], c_runs: list[Row], reference: Row | None) -> Row:
    """One line of the result: medians of all runs, in ns per packet."""

    def median(of: list[Row], field: str) -> float | None:
        values = [run[field] for run in of if run["mode"] == mode]
        return round(statistics.median(values), 1) if values else None

    insert = median(c_runs, "insert_ns")
    return {
        "flows": flows,
        "mode": mode,
        "ns": median(runs, "ns"),
        "c_ns": median(c_runs, "ns"),
        "reference_ns": None if reference is None else round(reference["stats"]["median"] * 1e9),
        "new_ns": median(runs, "new_ns"),
        # The yardstick inserts one entry; a flow needs two.
        "c_new_ns": None if insert is None else round(2 * insert, 1),
        "bytes_per_flow": median(runs, "bytes_per_flow"),
    }


def build(name: str) -> Path:
    """The program of a benchmark in Rust."""
    command = ["cargo", "bench", "--quiet", "-p", "kbe-nat-engine", "--bench", name, "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    artifacts = [json.loads(line) for line in done.stdout.splitlines()]
    return Path(next(each["executable"] for each in artifacts if each.get("executable")))


def build_yardstick() -> Path | None:
    """The C program; None where there is no compiler, or another processor than it is made for."""
    if platform.machine() != "x86_64" or shutil.which("cc") is None:
        return None
    program = ROOT / "target/yardstick"
    source = ROOT / "benches/yardstick/engine.c"
    subprocess.run(["cc", "-O3", "-march=native", "-o", program, source], check=True)
    return program


def lines_of(program: Path, *numbers: int) -> list[Row]:
    """A program's output for these numbers: one JSON object in each line."""
    done = subprocess.run(
        [program, *map(str, numbers)], check=True, stdout=subprocess.PIPE, text=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


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


def named(benchmarks: list[Row], name: str) -> list[Row]:
    """The benchmarks of one test function."""
    return [bench for bench in benchmarks if bench["name"].partition("[")[0] == name]


def criterion() -> list[tuple[str, str]]:
    """Name and median of each benchmark of `parts`."""
    command = ["cargo", "bench", "--quiet", "-p", "kbe-nat-engine", "--bench", "parts", "--"]
    short = ["--noplot", "--warm-up-time", "0.2", "--measurement-time", "0.5"]
    done = subprocess.run(
        [*command, *short], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    joined = re.sub(r"\n\s+time:", " time:", done.stdout)
    return re.findall(r"^(\S.*?)\s+time:\s+\[\S+ \S+ (\S+ \S+)", joined, re.MULTILINE)


def page(
    rows: list[Row],
    firsts: list[list[Row]],
    updates: list[list[Row]],
    python: list[Row],
    parts: list[tuple[str, str]],
) -> str:
    """The tables in Markdown."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:,.1f}".rstrip("0").rstrip(".")

    head = (
        "| flows | mode | ns per packet | C | ratio | reference.py | new flow | C, two inserts "
        "| bytes per flow |\n"
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    lines = [
        f"| {row['flows']:,} | {row['mode']} | {text(row['ns'])} | {text(row['c_ns'])} "
        f"| {text(ratio(row))} | {text(row['reference_ns'])} | {text(row['new_ns'])} "
        f"| {text(row['c_new_ns'])} | {text(row['bytes_per_flow'])} |\n"
        for row in rows
    ]
    by_services = [
        "| service ports | first packet p50 | p99 | p99 to that of the fewest |\n"
        "|--:|--:|--:|--:|\n"
    ]
    fewest = statistics.median(run[0]["p99_ns"] for run in firsts)
    for place, services in enumerate(SERVICES):
        p50, p99 = (
            statistics.median(run[place][field] for run in firsts) for field in ("p50_ns", "p99_ns")
        )
        by_services.append(
            f"| {services:,} | {p50:,.0f} ns | {p99:,.0f} ns | {p99 / fewest:.2f} |\n"
        )
    by_updates = [
        "| service ports | one changed | p99 | packets wait | p99 | whole table, one changed |\n"
        "|--:|--:|--:|--:|--:|--:|\n"
    ]
    for place, services in enumerate(UPDATED_SERVICES):
        medians = (
            seconds(statistics.median(run[place][field] for run in updates) * 1e-9)
            for field in UPDATE_FIELDS
        )
        by_updates.append(f"| {services:,} | {' | '.join(medians)} |\n")
    boundary = ["| from Python | median | per packet |\n|---|--:|--:|\n"]
    for bench in python:
        median = bench["stats"]["median"]
        packets = bench["extra_info"].get("packets")
        each = "-" if packets is None else f"{median * 1e9 / packets:,.1f} ns"
        boundary.append(f"| {bench['name'].removeprefix('test_')} | {seconds(median)} | {each} |\n")
    table = [
        "| part (criterion) | median |\n|---|--:|\n",
        *(f"| {name} | {time} |\n" for name, time in parts),
    ]
    extra = f"\n{''.join(table)}" if parts else ""
    tables = "\n".join(
        (head + "".join(lines), "".join(by_services), "".join(by_updates), "".join(boundary))
    )
    return f"{machine()} Nanoseconds; medians.\n\n{tables}{extra}"


def ratio(row: Row) -> float | None:
    """Ours to C's."""
    return round(row["ns"] / row["c_ns"], 2) if row["c_ns"] else None


def seconds(value: float) -> str:
    """A time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value * 1e9:,.1f} ns"


def show(rows: list[Row]) -> None:
    """The first table, for people."""
    table = Table(box=None, pad_edge=False)
    for column in (
        "flows",
        "mode",
        "ns",
        "C",
        "ratio",
        "reference.py",
        "new flow",
        "bytes per flow",
    ):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for row in rows:
        values = (
            row["ns"],
            row["c_ns"],
            ratio(row),
            row["reference_ns"],
            row["new_ns"],
            row["bytes_per_flow"],
        )
        table.add_row(
            f"{row['flows']:,}",
            row["mode"],
            *("-" if value is None else f"{value:,}" for value in values),
        )
    Console().print(table)
    print(f"Written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
