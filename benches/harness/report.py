"""Parts of the benchmarks' reports: the machine, tables, and their part of benches/RESULTS.md."""

import argparse
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[1] / "RESULTS.md"


def machine() -> str:
    """When and where it ran."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = model[1] if model else platform.machine()
    rust = subprocess.run(
        ["rustc", "--version"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()[1]
    return (
        f"{date.today()}: {processor}, {os.cpu_count()} cores, "
        f"Linux {platform.release().split('-')[0]}, "
        f"Rust {rust}, Python {platform.python_version()}."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first hold numbers."""
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def part(name: str, verb: str, text: str) -> None:
    """Replace one benchmark's part of the page, or append it."""
    start, end = f"<!-- {name}: written by {verb} -->", f"<!-- {name}: end -->"
    before = PAGE.read_text() if PAGE.exists() else "# Results\n\n"
    if start not in before:
        before = f"{before.rstrip()}\n\n## {name.capitalize()}\n\n{start}\n{end}\n"
    head, tail = before.partition(start)[0], before.partition(end)[2]
    PAGE.write_text(f"{head}{start}\n{text}{end}{tail}")


def store(name: str, verb: str, results: Any, text: str) -> None:
    """Keep what a benchmark has measured in benches/results and on the page, and show it."""
    (PAGE.parent / f"results/{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    part(name, verb, text)
    print(text)


def by_services(
    name: str,
    measure: Callable[[int, int], dict[str, Any]],
    fields: Mapping[str, str],
    rounds: int,
    description: str | None,
) -> None:
    """The command of a benchmark with a row for each number of Services: measure, store in
    benches/results, show. `measure` gets that number and the rounds; `fields` are the columns
    behind "services" and "endpoints", by their heads; `rounds` is how many there are by default.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=rounds, help="times that each is measured")
    arguments = parser.parse_args()
    rows = [measure(services, arguments.rounds) for services in arguments.services]
    lines = [
        [
            f"{row['services']:,}",
            f"{row['endpoints']:,}",
            *(figure(row[field]) for field in fields.values()),
        ]
        for row in rows
    ]
    columns = ["Services", "endpoints", *fields]
    text = f"{machine()} Rounds: {arguments.rounds}.\n\n{table(columns, lines)}"
    store(name, f"make bench-{name}", rows, text)


def figure(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
