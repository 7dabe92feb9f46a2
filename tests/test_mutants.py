"""Every mutant of tests/mutants/mutants.yaml still fits the code: the place that it changes is there, once.

Whether tests notice them is what `make mutants` shows.
"""

import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml
from mutate import Mutant, mutants
from tree_copy import ROOT

MUTANTS = mutants([])


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
        files = [word for word in words if word.endswith(".py")]
        assert files and all((ROOT / file).is_file() for file in files)
    else:
        assert program == "cargo" and ("--lib" in words or "--test" in words), "a bare crate links every test"
