"""Whether this tree is slower than another revision: both built side by side, measured in turn.

A shared machine has slow minutes, and two runs an hour apart differ by more than most changes do.
So every round measures each benchmark of both revisions, one right after the other, and what counts
is the median of the rounds' ratios. A row is slower when that median is above 1 by more than the
rounds differ among themselves (a quarter of them is above the third quartile) and by more than
`TOLERANCE`. Each revision runs its own benchmarks; rows that only one of them has are named.
With --instructions callgrind counts instead: exact, also on a busy machine, so one round suffices.

Writes target/compare/result.json. Ends with 1 when a row is slower.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benches import replay
from benches.harness import callgrind, programs
from benches.harness.processes import ROOT
from benches.harness.report import machine

FOLDER: Final = ROOT / "target/compare"
RESULTS: Final = FOLDER / "result.json"
TOLERANCE: Final = 0.03
"""The share that alignment of code alone may cost or bring."""
FLOWS: Final = (1000, 100_000, 1_000_000)
COUNTED_FLOWS: Final = 1000
"""Flows while callgrind counts: more make more misses, hardly more instructions."""
SHAPES: Final = (("udp", "ipv4"), ("tcp", "ipv4"), ("udp", "ipv6"), ("tcp", "ipv6"))
CAPTURE_BYTES: Final = 128 << 20
SERVICES: Final = (10, 1000, 30_000)
Figures: TypeAlias = dict[str, float]
"""Nanoseconds, or instructions, by the row's name."""


@dataclass(frozen=True, slots=True)
class Revision:
    """A tree with its programs."""

    name: str
    tree: Path
    flows: Path
    first: Path
    parts: Path
    site: Path
    """Where its Python package lies."""


@dataclass(frozen=True, slots=True)
class Row:
    """One benchmark in both revisions."""

    name: str
    base: float
    head: float
    ratio: float
    """Median of the rounds."""
    quartiles: tuple[float, float]

    @property
    def is_slower(self) -> bool:
        """Three quarters of the rounds say so, and it is more than chance."""
        return self.ratio > 1 + TOLERANCE and self.quartiles[0] > 1


def main() -> int:
    """Build, measure, show; 1 when a row is slower."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="the revision to compare with")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose names contain this pattern")
    parser.add_argument("--no-python", action="store_true", help="leave out the rows from Python")
    parser.add_argument(
        "--instructions",
        action="store_true",
        help="count instructions of the engine by callgrind, instead of any time",
    )
    arguments = parser.parse_args()
    if arguments.instructions and not callgrind.is_installed():
        return 2
    console = Console(stderr=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with console.status(f"building {arguments.base} and this tree (minutes)"):
        has_python = not (arguments.no_python or arguments.instructions)
        base = build(arguments.base, checkout(arguments.base), has_python=has_python)
        head = build("this tree", ROOT, has_python=has_python)
    suites = [measure_flows, measure_first, measure_parts]
    if has_python:
        suites += [measure_python, measure_replay]
    count = arguments.rounds
    if arguments.instructions:
        suites, count = [count_flows, count_strategies], 1
    rounds: list[tuple[Figures, Figures]] = []
    for number in track(range(count), "rounds", console=console, transient=True):
        figures: dict[Revision, Figures] = {base: {}, head: {}}
        for suite in suites:
            # Neither is always the one that meets the processor warm.
            for revision in (base, head) if number % 2 else (head, base):
                figures[revision] |= suite(revision)
        rounds.append((figures[base], figures[head]))
    rows = [row for row in compare(rounds) if re.search(arguments.only, row.name)]
    unit = "instructions" if arguments.instructions else "ns"
    show(rows, rounds[0], arguments.base, unit)
    return int(any(row.is_slower for row in rows))


def checkout(revision: str) -> Path:
    """A work tree of this revision, beside ours."""
    tree = FOLDER / "base"
    git = ("git", "-C", str(ROOT))
    if tree.exists():
        subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=False)
        shutil.rmtree(tree, ignore_errors=True)
    subprocess.run([*git, "worktree", "prune"], check=True)
    done = subprocess.run(
        [*git, "worktree", "add", "--quiet", "--detach", str(tree), revision],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr.strip())
    return tree


def build(name: str, tree: Path, *, has_python: bool) -> Revision:
    """Its programs, and its Python package if that is measured, each in a folder of its own."""
    place = FOLDER / ("head" if tree == ROOT else "base-build")
    target = place / "target"
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    benches = {
        bench: programs.build(bench, tree=tree, environment=environment)
        for bench in ("flows", "first", "parts")
    }
    wheels, site = place / "wheels", place / "site"
    revision = Revision(name, tree, benches["flows"], benches["first"], benches["parts"], site)
    if not has_python:
        return revision
    for folder in (wheels, site):
        shutil.rmtree(folder, ignore_errors=True)
    maturin = ["maturin", "build", "--quiet", "--release", "--out", str(wheels)]
    subprocess.run(maturin, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    [wheel] = wheels.iterdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    return revision


def measure_flows(revision: Revision) -> Figures:
    """Packets of known flows and of new ones."""
    return {
        f"{shape(row)}{row['flows']:,} flows, {row['mode']}, {what}": row[field]
        for row in programs.lines_of(revision.flows, *FLOWS)
        for what, field in (("known", "ns"), ("new", "new_ns"))
        if row.get(field) is not None
    }


def shape(row: dict[str, Any]) -> str:
    """Protocol and family, unless they are what all rows once were about: UDP in IPv4."""
    protocol, family = row.get("protocol", "udp"), row.get("family", "ipv4")
    return "" if (protocol, family) == ("udp", "ipv4") else f"{protocol} {family}, "


def count_flows(revision: Revision) -> Figures:
    """Instructions of packets of known flows and of new ones."""
    return {
        f"{protocol} {family}, {COUNTED_FLOWS:,} flows, {row['mode']}, {row['phase']}": row[
            "instructions"
        ]
        for protocol, family in SHAPES
        for row in _count(revision, "count", protocol, family, str(COUNTED_FLOWS))
        if row["phase"] in ("known", "new")
    }


def count_strategies(revision: Revision) -> Figures:
    """Instructions of new flows by strategy, with and without masquerade."""
    return {
        f"new flow, {row['mode']}, {row['phase']}": row["instructions"]
        for row in _count(revision, "count-strategies", str(COUNTED_FLOWS))
        if row["phase"] != "warm"
    }


def _count(revision: Revision, *arguments: str) -> list[dict[str, Any]]:
    """The phases of the program's run; none in a revision whose program knows no such verb."""
    if not (revision.tree / "benches/rust/strategies.rs").exists():
        return []
    return callgrind.count(revision.flows, *arguments)


def measure_first(revision: Revision) -> Figures:
    """First packets among many service ports."""
    return {
        f"first packet, {services:,} service ports, {field.removesuffix('_ns')}": row[field]
        for services, row in zip(
            SERVICES, programs.lines_of(revision.first, *SERVICES), strict=True
        )
        for field in ("p50_ns", "p99_ns")
    }


def measure_parts(revision: Revision) -> Figures:
    """Parts of a packet's cost, by criterion."""
    command = [str(revision.parts), "--bench", "--noplot"]
    short = ["--warm-up-time", "0.1", "--measurement-time", "0.2"]
    done = subprocess.run(
        [*command, *short], cwd=revision.tree, check=True, capture_output=True, text=True
    )
    joined = re.sub(r"\n\s+time:", " time:", done.stdout)
    return {
        name: float(value) * UNITS[unit]
        for name, value, unit in re.findall(
            r"^(\S.*?)\s+time:\s+\[\S+ \S+ (\S+) (\S+)", joined, re.MULTILINE
        )
    }


def measure_python(revision: Revision) -> Figures:
    """Python's costs, by pytest-benchmark."""
    path = FOLDER / "python.json"
    quiet = ("--quiet", "--no-header", "--benchmark-quiet", "--override-ini=addopts=")
    command = [sys.executable, "-m", "pytest", *quiet, f"--benchmark-json={path}"]
    environment = {**os.environ, "PYTHONPATH": str(revision.site)}
    done = subprocess.run(
        [*command, str(revision.tree / "benches/python")],
        cwd=FOLDER,
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{revision.name}: {done.stdout}")
    benchmarks: list[dict[str, Any]] = json.loads(path.read_text())["benchmarks"]
    return {
        f"Python: {bench['name'].removeprefix('test_')}": bench["stats"]["median"] * 1e9
        for bench in benchmarks
    }


def measure_replay(revision: Revision) -> Figures:
    """A capture of TCP through `kbe-nat replay`."""
    with replay.capture(CAPTURE_BYTES) as capture:
        return {"Python: replay of a packet": replay.measure(capture, revision.site)}


def compare(rounds: list[tuple[Figures, Figures]]) -> Iterator[Row]:
    """The rows that both revisions have."""
    first_base, first_head = rounds[0]
    for name in first_base.keys() & first_head.keys():
        pairs = [(base[name], head[name]) for base, head in rounds]
        ratios = sorted(head / base for base, head in pairs if base)
        quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        yield Row(
            name,
            statistics.median(base for base, _ in pairs),
            statistics.median(head for _, head in pairs),
            statistics.median(ratios),
            (quarters[0], quarters[2]),
        )


def show(rows: list[Row], first: tuple[Figures, Figures], base: str, unit: str) -> None:
    """The table, slowest first, and the file."""
    table = Table(box=None, pad_edge=False)
    for column in ("row", base, "this tree", "ratio", "quartiles", ""):
        table.add_column(column, justify="left" if column in ("row", "") else "right")
    for row in sorted(rows, key=lambda row: -row.ratio):
        low, high = row.quartiles
        values = (f"{row.base:,.1f}", f"{row.head:,.1f}", f"{row.ratio:.3f}")
        word = "slower" if row.is_slower else ""
        table.add_row(row.name, *values, f"{low:.3f} to {high:.3f}", word)
    console = Console(width=160)
    console.print(table, "Instructions." if unit == "instructions" else "Nanoseconds, medians.")
    alone = sorted(first[0].keys() ^ first[1].keys())
    if alone:
        console.print("In one of the two only:", ", ".join(alone))
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "machine": machine(),
        "base": base,
        "rows": [
            {"name": row.name, f"base_{unit}": row.base, unit: row.head, "ratio": row.ratio}
            for row in sorted(rows, key=lambda row: row.name)
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")
    print(f"Written: {RESULTS.relative_to(ROOT)}")


UNITS: Final = {"ps": 1e-3, "ns": 1.0, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9}

if __name__ == "__main__":
    sys.exit(main())
