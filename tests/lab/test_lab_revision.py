"""Manifests name the revision of the native module beside that of the checkout."""

import re
import subprocess
from pathlib import Path

import pytest

from harness.scenarios import scenario
from kbe_nat import _native, lab
from kbe_nat.lab import machine
from kbe_nat.lab.report import headline

ROOT = Path(__file__).parents[2]


def test_the_module_knows_the_revision_of_its_sources() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout: nothing tells the module its revision")
    assert _native.REVISION is not None
    assert re.fullmatch(r"[0-9a-f]{40}\+?", _native.REVISION)
    git = ["git", "-C", str(ROOT), "cat-file", "-e", _native.REVISION.rstrip("+")]
    assert subprocess.run(git, check=False).returncode == 0


def test_a_manifest_has_both(monkeypatch: pytest.MonkeyPatch) -> None:
    revisions = {(): "c" * 40, machine.RUST: "b" * 40}
    monkeypatch.setattr(machine, "_revision", lambda paths=(): revisions[paths])
    monkeypatch.setattr(machine, "REVISION", "a" * 40)
    result = lab.run(scenario())
    facts = result.manifest.machine
    assert (facts["git"], facts["git_native"], facts["git_sources"]) == (
        "c" * 40,
        "a" * 40,
        "b" * 40,
    )
    assert list(headline(result))[-1] == (
        f"The native module was built of Rust sources at {'a' * 40}, "
        f"and those of the checkout are at {'b' * 40}."
    )
    monkeypatch.setattr(machine, "REVISION", "b" * 40)
    other = lab.run(scenario())
    assert not any("native module" in line for line in headline(other))
    assert f"manifest: git_native was {'a' * 40} and is {'b' * 40}" in lab.differences(
        result, other
    )
