"""Each row of the page about the RFCs names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    row
    for row in (ROOT / "docs/rfc.md").read_text().splitlines()
    if row.startswith("| ") and row.endswith("` |")
]
TESTS = {
    name
    for room, ending in (("rust", "rs"), ("tests", "py"))
    for path in (ROOT / room).rglob(f"*.{ending}")
    for name in re.findall(r"^ *(?:fn|def) (\w+)", path.read_text(), re.MULTILINE)
}


def test_the_page_has_rows_of_all_four() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_its_test(row: str) -> None:
    named = re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[1])
    assert named and set(named) <= TESTS
