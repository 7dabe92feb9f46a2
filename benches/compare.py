"""Whether this tree is slower than another revision: both built side by side, measured in turn.

A shared machine has slow minutes, and two runs an hour apart differ by more than most changes do.
So every round measures each benchmark of both revisions, one right after the other, and what counts
is the median of the rounds' ratios. A row is slower when that median is above 1 by more than the
rounds differ among themselves (a quarter of them is above the third quartile) and by more than
`TOLERANCE`. Each revision runs its own benchmarks; rows that only one of them has are named.

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

from benches.harness.report import machine

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "target/compare"
RESULTS: Final = FOLDER / "result.json"
TOLERANCE: Final = 0.03
"""The share that alignment of code alone may cost or bring."""
FLOWS: Final = (1000, 100_000, 1_000_000)
SERVICES: Final = (10, 1000, 30_000)
Times: TypeAlias = dict[str, float]
"""Nanoseconds by the row's name."""


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
    base_ns: float
    head_ns: float
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
    arguments = parser.parse_args()
    console = Console(stderr=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with console.status(f"building {arguments.base} and this tree (minutes)"):
        base = build(arguments.base, checkout(arguments.base))
        head = build("this tree", ROOT)
    suites = [measure_flows, measure_first, measure_parts]
    if not arguments.no_python:
        suites.append(measure_python)
    rounds: list[tuple[Times, Times]] = []
    for number in track(range(arguments.rounds), "rounds", console=console, transient=True):
        times: dict[Revision, Times] = {base: {}, head: {}}
        for suite in suites:
            # Neither is always the one that finds the processor warm.
            for revision in (base, head) if number % 2 else (head, base):
                times[revision] |= suite(revision)
        rounds.append((times[base], times[head]))
    rows = [row for row in compare(rounds) if re.search(arguments.only, row.name)]
    show(rows, rounds[0], arguments.base)
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


def build(name: str, tree: Path) -> Revision:
    """Its programs and its Python package, each in a folder of its own."""
    place = FOLDER / ("head" if tree == ROOT else "base-build")
    target = place / "target"
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target)}
    programs = {}
    for bench in ("flows", "first", "parts"):
        command = ["cargo", "bench", "--quiet", "-p", "kbe-nat-engine", "--bench", bench]
        done = subprocess.run(
            [*command, "--no-run", "--message-format=json"],
            cwd=tree,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        messages = map(json.loads, done.stdout.splitlines())
        programs[bench] = Path(next(m["executable"] for m in messages if m.get("executable")))
    wheels, site = place / "wheels", place / "site"
    for folder in (wheels, site):
        shutil.rmtree(folder, ignore_errors=True)
    maturin = ["maturin", "build", "--quiet", "--release", "--out", str(wheels)]
    subprocess.run(maturin, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    [wheel] = wheels.iterdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    return Revision(name, tree, programs["flows"], programs["first"], programs["parts"], site)


def measure_flows(revision: Revision) -> Times:
    """Packets of known flows and of new ones."""
    return {
        f"{row['flows']:,} flows, {row['mode']}, {what}": row[field]
        for row in _lines(revision.flows, *FLOWS)
        for what, field in (("known", "ns"), ("new", "new_ns"))
        if row.get(field) is not None
    }


def measure_first(revision: Revision) -> Times:
    """First packets among many service ports."""
    return {
        f"first packet, {services:,} service ports, {field.removesuffix('_ns')}": row[field]
        for services, row in zip(SERVICES, _lines(revision.first, *SERVICES), strict=True)
        for field in ("p50_ns", "p99_ns")
    }


def measure_parts(revision: Revision) -> Times:
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


def measure_python(revision: Revision) -> Times:
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


def compare(rounds: list[tuple[Times, Times]]) -> Iterator[Row]:
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


def show(rows: list[Row], first: tuple[Times, Times], base: str) -> None:
    """The table, slowest first, and the file."""
    table = Table(box=None, pad_edge=False)
    for column in ("row", base, "this tree", "ratio", "quartiles", ""):
        table.add_column(column, justify="left" if column in ("row", "") else "right")
    for row in sorted(rows, key=lambda row: -row.ratio):
        low, high = row.quartiles
        values = (f"{row.base_ns:,.1f}", f"{row.head_ns:,.1f}", f"{row.ratio:.3f}")
        word = "slower" if row.is_slower else ""
        table.add_row(row.name, *values, f"{low:.3f} to {high:.3f}", word)
    console = Console(width=160)
    console.print(table, "Nanoseconds, medians.")
    alone = sorted(first[0].keys() ^ first[1].keys())
    if alone:
        console.print("In one of the two only:", ", ".join(alone))
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "machine": machine(),
        "base": base,
        "rows": [
            {"name": row.name, "base_ns": row.base_ns, "ns": row.head_ns, "ratio": row.ratio}
            for row in sorted(rows, key=lambda row: row.name)
        ],
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")
    print(f"Written: {RESULTS.relative_to(ROOT)}")


def _lines(program: Path, *numbers: int) -> list[dict[str, Any]]:
    """A program's output for these numbers: one JSON object in each line."""
    command = [str(program), *map(str, numbers)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


UNITS: Final = {"ps": 1e-3, "ns": 1.0, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9}

if __name__ == "__main__":
    sys.exit(main())
