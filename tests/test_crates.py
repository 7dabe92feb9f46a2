"""The metadata of crates, as auditors and packagers read it: `cargo metadata`."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ("version", "license", "authors", "repository", "homepage", "keywords", "categories")
"""Fields of which every crate has the workspace's."""


@pytest.fixture(scope="module")
def workspace() -> dict[str, Any]:
    value: dict[str, Any] = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    return value


@pytest.fixture(scope="module")
def crates() -> list[dict[str, Any]]:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    text = subprocess.check_output(command, cwd=ROOT, text=True, timeout=60)
    packages: list[dict[str, Any]] = json.loads(text)["packages"]
    assert {each["name"] for each in packages} >= {"kbe-nat-engine", "kbe-nat-python"}
    return packages


def test_every_crate_has_what_the_workspace_says(
    crates: list[dict[str, Any]], workspace: dict[str, Any]
) -> None:
    for crate in crates:
        for field in SHARED:
            assert crate[field] == workspace[field], (crate["name"], field)
        assert crate["rust_version"] == workspace["rust-version"], crate["name"]
        assert crate["publish"] == [], f"{crate['name']} would go to crates.io"


def test_every_crate_says_what_it_is_for(crates: list[dict[str, Any]]) -> None:
    descriptions = [crate["description"] for crate in crates]
    assert all(descriptions) and len({*descriptions}) == len(descriptions)


def test_crates_and_wheel_say_the_same(workspace: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert workspace["license"] == project["license"]
    assert workspace["keywords"] == project["keywords"]
    assert workspace["authors"] == [each["name"] for each in project["authors"]]
    assert workspace["repository"] == project["urls"]["Source"]
    assert workspace["homepage"] == project["urls"]["Homepage"]
