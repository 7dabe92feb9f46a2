"""Every mutant of tests/mutants/mutants.yaml still fits the code: the place that it changes is
there, once.

Whether tests notice them is what `make mutants` shows.
"""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mutants.mutate import Mutant, mutants
from mutants.tree_copy import ROOT

MUTANTS = mutants([])
FUNCTION = re.compile(r"(?:def|fn) (\w+)")


def test_there_are_many_and_each_has_a_name_of_its_own() -> None:
    rows = yaml.safe_load((Path(__file__).parent / "mutants/mutants.yaml").read_text())
    assert len(rows) == len(MUTANTS) >= 91
    assert [name for name, count in Counter(own.name for own in MUTANTS).items() if count > 1] == []
    changes = Counter((own.file, own.before, own.after) for own in MUTANTS)
    assert [change for change, count in changes.items() if count > 1] == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_fits_the_code(mutant: Mutant) -> None:
    assert mutant.misfit(ROOT) == ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_tests_are_there_and_few(mutant: Mutant) -> None:
    program, *words = shlex.split(mutant.tests)
    if program == "pytest":
        files = [ROOT / word for word in words if word.endswith(".py")]
        wanted = words[words.index("-k") + 1].split(" or ") if "-k" in words else ["test"]
    else:
        assert program == "cargo" and ("--lib" in words or "--test" in words), (
            "a bare crate links every test"
        )
        crate = ROOT / "rust" / words[words.index("-p") + 1].removeprefix("kbe-nat-")
        is_lib = "--lib" in words
        last = words.index("--lib") if is_lib else words.index("--test") + 1
        files = list(crate.glob("src/**/*.rs")) if is_lib else [crate / f"tests/{words[last]}.rs"]
        wanted = [word.rpartition("::")[2] for word in words[last + 1 :]] or [""]
    names = [file.stem for file in files] + [
        name for file in files for name in FUNCTION.findall(file.read_text())
    ]
    assert files and any(word in name for word in wanted for name in names)
