"""`import kbe_nat` leads to every name that is for programs, and calls it by that name."""

import copy
import doctest
import inspect
import pickle
import pydoc
import subprocess
import sys
from types import ModuleType

import pytest

import kbe_nat
from kbe_nat import field_docs
from kbe_nat.drivers.queue import Batch
from kbe_nat.policy.options import Options

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


def test_help_begins_with_the_map() -> None:
    lines = pydoc.plain(pydoc.render_doc(kbe_nat)).splitlines()
    assert any("Modules for programs" in line for line in lines[:30])
    assert not [line for line in lines if "__getattr__" in line], "none of its workings"
    engine = pydoc.plain(pydoc.render_doc(kbe_nat.Engine))
    assert "process(self, /, packet, now" in engine and len(engine.splitlines()) > 100


def test_a_star_import_brings_every_name() -> None:
    names: dict[str, object] = {}
    exec("from kbe_nat import *", names)
    assert {*kbe_nat.__all__} <= {*names}
    assert len(kbe_nat.__all__) > 40


DOCUMENTED = [
    kbe_nat.Outcome,
    kbe_nat.Snapshot,
    kbe_nat.packets.Ends,
    kbe_nat.packets.Packet,
    kbe_nat.lab.Scenario,
    kbe_nat.lab.Strategy,
    Batch,
    Options,
]


@pytest.mark.parametrize("kind", DOCUMENTED)
def test_help_says_what_fields_are(kind: type) -> None:
    fields = [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isdatadescriptor(value)
    ]
    text = " ".join(pydoc.plain(pydoc.render_doc(kind)).replace("|", " ").split())
    assert fields
    for name in fields:
        words = inspect.getdoc(getattr(kind, name)) or ""
        assert words.endswith((".", ")")), name
        assert " ".join(words.split()) in text


def test_help_of_fields_says_units() -> None:
    for kind, name, words in (
        (kbe_nat.packets.Packet, "sequence", "32 bits"),
        (kbe_nat.lab.Scenario, "duration", "Seconds"),
        (kbe_nat.Outcome, "packet", "from the IP header on"),
    ):
        assert words in (inspect.getdoc(getattr(kind, name)) or "")


def test_documented_fields_without_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are packed without it."""

    def unreadable(module: ModuleType) -> str:
        raise OSError("could not get source code")

    field_docs._docstrings_in.cache_clear()
    monkeypatch.setattr(inspect, "getsource", unreadable)
    assert not inspect.getdoc(vars(kbe_nat.Outcome)["packet"])
    field_docs._docstrings_in.cache_clear()


def test_documented_values_are_copied_and_pickled_as_others() -> None:
    packet = kbe_nat.packets.Packet("tcp", ("10.0.0.1", 1), ("10.0.0.2", 2), "S")
    for value in (packet, packet.ends, kbe_nat.Outcome("pass", "not-ours", b"x"), Options()):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


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


@pytest.mark.parametrize(
    ("package", "modules"),
    [("drivers", "capture native netfilterqueue queue thread"), ("compat", "netfilterqueue")],
)
def test_modules_of_a_package_are_there_when_they_are_asked_for(package: str, modules: str) -> None:
    program = (
        f"import kbe_nat; place = kbe_nat.{package};"
        "print(*(name for name in dir(place) if not name.startswith('_')));"
        "print(*(getattr(place, name).__name__ for name in place.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        modules,
        " ".join(f"kbe_nat.{package}.{name}" for name in modules.split()),
    ], done.stderr


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
