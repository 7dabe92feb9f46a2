"""The workflow that builds releases: what can be wrong in it before it runs on its machines."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github/workflows/release.yml"
TEXT = WORKFLOW.read_text()
JOBS: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["jobs"]
STEPS = [(name, step) for name, job in JOBS.items() for step in job["steps"]]


def test_every_job_has_a_machine_and_every_step_does_one_thing() -> None:
    assert all("runs-on" in job for job in JOBS.values())
    for name, step in STEPS:
        assert len(step.keys() & {"run", "uses"}) == 1, (name, step)
        assert step.keys() <= {"run", "uses", "with", "name", "if"}
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))


def test_expressions_name_what_the_matrix_has() -> None:
    rows = JOBS["wheel"]["strategy"]["matrix"]["include"]
    keys = set().union(*rows)
    for expression in re.findall(r"\$\{\{ *(.*?) *\}\}", TEXT):
        kind, _, key = expression.lstrip("!").partition(".")
        assert kind == "matrix" and key in keys, expression


def test_files_that_steps_use_exist() -> None:
    for name in re.findall(r"(?:examples|tests)/[\w./-]+", TEXT):
        assert (ROOT / name).exists(), name


def test_nothing_may_be_written_but_artefacts() -> None:
    document = yaml.safe_load(TEXT)
    assert document["permissions"] == {"contents": "read"}
    # YAML 1.1 reads the key `on` as a truth value.
    assert set(document[True]) == {"push", "workflow_dispatch"}
    assert "upload" not in re.sub("actions/upload-artifact", "", TEXT).replace("uploaded", "")


def test_toolchains_are_those_of_the_repository() -> None:
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    assert set(re.findall(r"rustup (?:toolchain install|default) ([\d.]+)", TEXT)) == {rust}


@pytest.mark.parametrize("word", ["aarch64", "musl", "Free Threading", "cp314t"])
def test_the_package_claims_no_target_that_was_not_built(word: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert word.lower() not in " ".join(project["classifiers"]).lower()
    assert (
        "There are no wheels for aarch64, for musl (Alpine) and for free-threaded Python"
        in " ".join((ROOT / "docs/install.md").read_text().split())
    )
