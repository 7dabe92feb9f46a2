"""Write docs/faults.md: each fault of tests/faults.yaml with the tests that carry its number in
their names.

Ends with 1 if a row has no test, or a test names a row that is not there.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/faults.md"
TEST = re.compile(r"^ *(?:async )?(?:def (test_\w+)|(?:pub )?fn (\w+))\(", re.MULTILINE)
NUMBER = re.compile(r"(?:^|_)f(\d{2,3})(?=_|$)")
HEAD = """# Faults

What goes wrong, what must hold then, and the tests that show it. `tools/fault_table.py` writes this
page of `tests/faults.yaml` and of the tests' names: a test of row F09 has `f09` in its name.
"""


def tests() -> Iterator[tuple[str, str, str]]:
    """Row, file and name of every test that carries a row's number."""
    files = [
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("rust/*/src/**/*.rs"),
        *ROOT.glob("rust/*/tests/**/*.rs"),
    ]
    for path in sorted(files):
        for name in (python or rust for python, rust in TEST.findall(path.read_text())):
            for number in NUMBER.findall(name):
                yield f"F{number}", str(path.relative_to(ROOT)), name


def page() -> tuple[str, list[str]]:
    """The page, and what is wrong with its rows."""
    table = yaml.safe_load((ROOT / "tests/faults.yaml").read_text())
    numbers = {row for rows in table.values() for row in rows}
    shown: dict[str, dict[str, list[str]]] = {row: {} for row in numbers}
    faults = []
    for row, path, name in tests():
        if row in numbers:
            shown[row].setdefault(path, []).append(name)
        else:
            faults.append(f"{path}: {name} names {row}, which tests/faults.yaml does not have")
    lines = [HEAD]
    for title, rows in table.items():
        lines += [
            f"## {title[0].upper()}{title[1:]}\n",
            "| row | fault | must hold | tests |",
            "|---|---|---|---|",
        ]
        for row, (fault, holds) in rows.items():
            cell = "<br>".join(
                f"`{path}`: {', '.join(f'`{name}`' for name in names)}"
                for path, names in shown[row].items()
            )
            if not cell:
                faults.append(f"{row} ({fault}) has no test")
            lines.append(f"| {row} | {fault} | {holds} | {cell} |")
        lines.append("")
    return "\n".join(lines), faults


if __name__ == "__main__":
    text, faults = page()
    if "--check" in sys.argv:
        if not PAGE.exists() or PAGE.read_text() != text:
            faults.append("docs/faults.md is not what tools/fault_table.py writes: run it")
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
    sys.exit("\n".join(faults) or 0)
