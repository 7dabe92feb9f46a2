"""A folder's scenario is the one that was run: what was changed since is told, and another version
of kbe-nat is no change.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import scenario
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.identity import values_hash

VALUES = scenario(strategies=["rr", "mh"], memory=["conntrack"], repeats=2)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def test_a_manifest_has_the_hash_of_the_scenario_in_it(tmp_path: Path) -> None:
    lab.run(VALUES, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["scenario_hash"] == values_hash(manifest["scenario"])
    assert values_hash(manifest["scenario"] | {"name": "y"}) == manifest["scenario_hash"]
    assert values_hash(manifest["scenario"] | {"duration": 11.0}) != manifest["scenario_hash"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "seed is 7, and the run has 1"),
        ({"repeats": 5}, "repeats is 5, and the run has 2"),
        ({"strategies": ["rr"]}, "strategies: rr, and the run has mh, rr"),
        ({"memory": ["none"]}, "memory: none, and the run has conntrack"),
        ({"duration": 99.0}, "the axes of its cells are those of the run: something within them"),
    ],
)
@pytest.mark.parametrize("verb", ["report", "merge", "reproduce"])
def test_a_scenario_that_was_changed_after_its_run_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    folder = tmp_path / "run"
    lab.run(VALUES, folder, shard=(1, 1) if verb == "merge" else None)
    edit(folder, lambda manifest: manifest["scenario"].update(changes))
    target = ["-d", str(tmp_path / "target")] if verb != "report" else []
    assert main(["lab", verb, str(folder), *target]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"kbe-nat: {folder}/manifest.json: the scenario was changed after the run: its hash is "
    )
    assert words in err and err.count("\n") == 1


def test_runs_of_another_version_and_revision_are_compared_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other version had a field less, so its hash is another one, of the same scenario."""
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        lab.run(VALUES, folder)

    def age(manifest: dict[str, Any]) -> None:
        del manifest["scenario"]["outputs"]
        manifest["scenario_hash"] = values_hash(manifest["scenario"])
        manifest["machine"] |= {"kbe_nat": "0.0.1", "git": "a" * 40, "git_native": "b" * 40}

    edit(first, lambda manifest: manifest["machine"].update(git="c" * 40, git_native="c" * 40))
    edit(second, age)
    page = tmp_path / "both.html"
    assert main(["lab", "report", str(first), str(second), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    revisions = (
        "The runs are of different revisions of kbe-nat, which may be why they differ: "
        f"{first}: {'c' * 40}; {second}: {'a' * 40}, its native module {'b' * 40}."
    )
    release = f"{second} was run by kbe-nat 0.0.1, and is read by {version('kbe-nat')}, whose"
    for words in (revisions, release):
        assert words in out
        assert words in page.read_text()
    assert lab.differences(lab.Result(first), lab.Result(second))[0].startswith("manifest: kbe_nat")
    assert main(["lab", "run", "even", "-d", str(second)]) == 2
    assert "was begun by kbe-nat 0.0.1" in capsys.readouterr().err


def test_runs_of_one_revision_need_no_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        lab.run(VALUES, tmp_path / name)
    capsys.readouterr()
    assert main(["lab", "report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "different revisions" not in capsys.readouterr().out


def test_a_run_is_not_taken_up_with_another_trace(tmp_path: Path) -> None:
    trace = tmp_path / "x.csv"
    trace.write_text("time,client,bytes,lifetime\n0,0,1,1\n")
    stream = {"service": "web", "arrivals": {"kind": "trace", "file": str(trace)}}
    lab.run(scenario(traffic=[stream]), tmp_path / "run")
    trace.write_text("time,client,bytes,lifetime\n0,0,1,1\n1,0,1,1\n")
    with pytest.raises(lab.LabError, match="the files of traces, or what this revision does"):
        lab.run(scenario(traffic=[stream]), tmp_path / "run")


def test_a_table_of_another_revision_lacks_a_column(tmp_path: Path) -> None:
    result = lab.run(VALUES, tmp_path / "run")
    file = result.folder.table("totals")
    file.write_text(file.read_text().replace("balancer_bytes", "other"))
    reason = r"totals.csv: column balancer_bytes is missing: the run is of another revision"
    with pytest.raises(lab.LabError, match=reason):
        list(result.rows("totals"))
