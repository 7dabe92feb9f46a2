"""docs/python.md names everything that programs may use."""

import re
from pathlib import Path

import pytest

import kbe_nat

PAGE = (Path(__file__).parent.parent / "docs/python.md").read_text()
METHODS = [name for name in dir(kbe_nat.Engine) if not name.startswith("_")]


ERRORS = [name for name, value in vars(kbe_nat.errors).items() if isinstance(value, type)]


@pytest.mark.parametrize("name", [*kbe_nat.__all__, *METHODS, *ERRORS])
def test_a_public_name_is_on_the_page(name: str) -> None:
    table = PAGE.partition("## All names")[2].partition("\n## ")[0]
    assert re.search(rf"`{name}`", table)
