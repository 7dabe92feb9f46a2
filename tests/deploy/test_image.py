"""The Dockerfile and the pinned packages, without a container engine. `tests/netns/test_image.py`
builds and runs the root filesystem.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.wheels import ROOT

FOLDER = ROOT / "deploy/image"
DOCKERFILE = FOLDER / "Dockerfile"
PINNED = re.compile(r"(?m)^([\w.-]+)==(\S+) \\$")


def instructions(stage: int) -> list[str]:
    """The instructions of a stage, each on a line."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", "")
    return re.split(r"(?m)^(?=FROM )", text)[stage].splitlines()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_no_fault() -> None:
    done = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_last_stage_is_the_root_that_the_script_builds_and_nothing_else() -> None:
    build, last = instructions(-2), [line for line in instructions(-1) if line]
    script = next(line for line in build if "root.py --wheel" in line)
    folder = script.split()[-1]
    assert last[0] == "FROM scratch"
    assert [line for line in last if line.startswith(("COPY", "ADD", "RUN", "USER"))] == [
        f"COPY --from=root {folder} /"
    ]
    assert 'ENTRYPOINT ["kbe-nat"]' in last


def test_stages_are_pinned_by_arguments() -> None:
    defaults = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", DOCKERFILE.read_text()))
    assert re.fullmatch(r"debian:bookworm-\d{8}-slim", defaults["DEBIAN"])
    assert defaults["SNAPSHOT"].startswith(defaults["DEBIAN"].split("-")[1])
    assert re.findall(r"(?m)^FROM (\S+)", DOCKERFILE.read_text()) == [
        "${RUST}",
        "${DEBIAN}",
        "scratch",
    ]


def test_the_wheel_is_built_by_the_rust_that_the_project_names() -> None:
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
    version = cargo["workspace"]["package"]["rust-version"]
    assert f"ARG RUST=rust:{version}-" in DOCKERFILE.read_text()


def test_every_package_of_the_wheel_is_pinned_as_it_asks() -> None:
    pinned = dict(PINNED.findall((FOLDER / "requirements.txt").read_text()))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["proxy"]]
    for requirement in map(Requirement, asked):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert pinned[name] in requirement.specifier, requirement


def test_pinned_packages_are_complete_and_their_digests_hold(tmp_path: Path) -> None:
    report = tmp_path / "report"
    requirements = FOLDER / "requirements.txt"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    pip += ["--require-hashes", "--requirement", str(requirements), "--report", str(report)]
    pip += ["--only-binary=:all:", "--python-version", "3.11", "--target", str(tmp_path)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    if re.search(r"No matching distribution|Connection|resolve", done.stderr):
        pytest.skip(f"pip reaches no index: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    names = {each["metadata"]["name"].lower() for each in json.loads(report.read_text())["install"]}
    pinned = {name for name, _ in PINNED.findall(requirements.read_text())}
    assert {re.sub(r"[-_.]+", "-", name) for name in names} == pinned
