"""Parts of the benchmarks' reports: the machine, tables, and their part of benches/RESULTS.md."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Final

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


def figure(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
