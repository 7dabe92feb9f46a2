"""Packages that are not installed: each task that needs one says which extra brings it."""

import json
import os
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from harness.verbs import SEED, Ran
from kbe_nat.cli import app
from kbe_nat.daemon import privileges
from kbe_nat.extras import EXTRAS, extra_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def kbe(capsys: pytest.CaptureFixture[str]) -> Ran:
    return Ran(capsys)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install kbe-nat`: no package of any extra can be imported."""
    for modules in EXTRAS.values():
        for module in modules:
            for name in [name for name in sys.modules if name.partition(".")[0] == module]:
                monkeypatch.delitem(sys.modules, name)
            monkeypatch.setitem(sys.modules, module, None)


def packages(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", each)[0].lower() for each in requirements}


def test_the_table_of_extras_is_that_of_the_project() -> None:
    assert {
        extra: packages(requirements)
        for extra, requirements in PROJECT["optional-dependencies"].items()
    } == {extra: set(modules) for extra, modules in EXTRAS.items()}
    assert packages(PROJECT["dependencies"]) == {"click", "inotify-simple", "msgspec", "pyyaml"}
    assert extra_of("aiohttp") == "proxy" and extra_of("json") is None


@pytest.mark.usefixtures("bare")
def test_the_proxy_says_what_it_lacks(kbe: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "effective", lambda: -1)
    code, out, err = kbe("proxy", "--manifests", SEED)
    assert (code, out) == (2, "")
    assert err == (
        "kbe-nat: kbe-nat proxy needs aiohttp and prometheus_client: pip install 'kbe-nat[proxy]'\n"
    )


@pytest.mark.usefixtures("bare")
def test_the_playground_says_what_its_daemon_lacks(kbe: Ran, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("without root it ends before")
    code, out, err = kbe("playground", "up", "--state", tmp_path / "state")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'kbe-nat[proxy]'" in err


@pytest.mark.usefixtures("bare")
def test_a_module_that_is_imported_late_is_one_sentence_too(
    kbe: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "main", lambda *_, **__: import_module("polars.series"))
    code, out, err = kbe("lab", "list")
    assert (code, out) == (2, "")
    assert err == "kbe-nat: polars is not installed: pip install 'kbe-nat[lab]'\n"


@pytest.mark.usefixtures("bare")
def test_doctor_names_the_extra(kbe: Ran) -> None:
    checks = {check["name"]: check for check in json.loads(kbe("doctor", "-o", "json")[1])["items"]}
    assert checks["packages"]["state"] == "failed"
    assert checks["packages"]["remedy"] == "pip install 'kbe-nat[proxy]'"
