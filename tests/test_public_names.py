"""`import kbe_nat` leads to every name that is for programs, and calls it by that name."""

import doctest
import inspect
import pickle
import pydoc
import subprocess
import sys
from types import ModuleType

import pytest

import kbe_nat

MODULES = ("compat", "drivers", "errors", "lab", "packets", "words")


@pytest.mark.parametrize("name", kbe_nat.__all__)
def test_a_name_says_where_programs_find_it(name: str) -> None:
    value = getattr(kbe_nat, name)
    if isinstance(value, ModuleType):
        assert name in MODULES and value.__name__ == f"kbe_nat.{name}"
        assert inspect.getdoc(value)
    elif callable(value):
        assert value.__module__ in ("kbe_nat", "kbe_nat.errors"), value
        assert pickle.loads(pickle.dumps(value)) is value


def test_public_names_are_all_that_dir_shows() -> None:
    assert [name for name in dir(kbe_nat) if not name.startswith("__")] == [
        name for name in sorted(kbe_nat.__all__) if not name.startswith("__")
    ]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_for_programs_needs_no_import_of_its_own(name: str) -> None:
    program = (
        f"import kbe_nat, sys; print('kbe_nat.{name}' in sys.modules, kbe_nat.{name}.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", f"kbe_nat.{name}"], done.stderr


def test_help_begins_with_a_map_that_fits_a_screen() -> None:
    text = inspect.getdoc(kbe_nat) or ""
    assert len(text.splitlines()) <= 30
    for name in kbe_nat.__all__:
        value = getattr(kbe_nat, name)
        if isinstance(value, ModuleType) or (
            inspect.isclass(value) and not issubclass(value, Exception)
        ):
            assert f"`{name}`" in text
    assert "kbe_nat._" not in text
    assert pydoc.plain(pydoc.render_doc(kbe_nat)).splitlines()[3].strip().startswith("kbe_nat - ")


def test_examples_in_the_help_are_true() -> None:
    # pytest's own search passes over names that other modules have made.
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for name in kbe_nat.__all__:
        value = getattr(kbe_nat, name)
        if not isinstance(value, ModuleType) and callable(value):
            for test in finder.find(value, f"kbe_nat.{name}", module=False):
                runner.run(test)
    results = runner.summarize()
    assert results.attempted and not results.failed
