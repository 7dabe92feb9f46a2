"""The lab's Python API: a wrong argument is told by its name, its value and its range; a path may
be a str wherever it may be a Path.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import scenario
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.errors import ArgumentError, FileError

any_lab: Any = lab
"""The package without its types, which these calls contradict."""
ALL = "random, cascade, rr, wrr, lc, wlc, p2c, mh, rendezvous, sh, ring, bounded, peak-ewma"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: any_lab.Assignment("foo", lab.backends(2)),
            f"strategy.name: 'foo' is none of {ALL}, modulo, jump, anchor, lcd",
        ),
        (lambda: any_lab.Assignment(7, lab.backends(2)), "strategy: a name, a Strategy or a class"),
        (
            lambda: any_lab.Assignment(lab.Strategy("lcd", draws=0), lab.backends(2)),
            "strategy: draws: expected int >= 1",
        ),
        (
            lambda: any_lab.Assignment(lab.Strategy("rr", draws=2), lab.backends(2)),
            "strategy.draws: rr has no such parameter",
        ),
        (
            lambda: any_lab.Assignment(lab.Strategy("mh", table_size=10), lab.backends(2)),
            "strategy.table_size: 10 is not prime",
        ),
        (
            lambda: any_lab.Assignment("rr", lab.backends(2), seed=-1),
            "seed is a whole number from 0 to 18446744073709551615, not -1",
        ),
        (
            lambda: any_lab.Assignment("rr", lab.backends(2), seed="x"),
            "seed is a whole number from 0 to 18446744073709551615, not 'x'",
        ),
        (
            lambda: any_lab.Assignment("rr", lab.backends(2)).assign([1, -1]),
            "keys[1] is a whole number from 0 to 18446744073709551615, not -1",
        ),
        (lambda: any_lab.backends(-1), "count is a whole number from 0 to 65535, not -1"),
        (lambda: any_lab.backends(70_000), "count is a whole number from 0 to 65535, not 70000"),
        (lambda: any_lab.backends(2, [1]), "weights: 1 of them, for 2 backends"),
        (
            lambda: any_lab.backends(1, [-1]),
            "weights is a whole number from 0 to 4294967295, not -1",
        ),
        (lambda: any_lab.keys(-1), "count is a whole number of 0 or more, not -1"),
        (lambda: any_lab.keys(1, seed=-1), "seed is a whole number from 0 to "),
        (lambda: any_lab.run(scenario(), jobs=0), "jobs is a whole number of 1 or more, not 0"),
        (lambda: any_lab.run(scenario(), jobs=-1), "jobs is a whole number of 1 or more, not -1"),
        (lambda: any_lab.run(scenario(), jobs=2.5), "jobs is a whole number of 1 or more, not 2.5"),
        (
            lambda: any_lab.run(scenario(), jobs=True),
            "jobs is a whole number of 1 or more, not True",
        ),
        (
            lambda: any_lab.run(scenario(), jobs=lab.Cluster(*["spark", "x"])),  # type: ignore[arg-type]
            "jobs: backend 'spark' is none of dask, ray",
        ),
        (
            lambda: any_lab.run(scenario(), seed=-1),
            "seed is a whole number from 0 to 9223372036854775807, not -1",
        ),
        (
            lambda: any_lab.run(scenario(), repeats=0),
            "repeats is a whole number from 1 to 10000, not 0",
        ),
        (
            lambda: any_lab.run(scenario(), repeats="2"),
            "repeats is a whole number from 1 to 10000, not '2'",
        ),
        (lambda: any_lab.run(scenario(), shard=3), "shard: 3 is no pair, such as (2, 4)"),
        (lambda: any_lab.run(5), "scenario: a Scenario, a mapping, a file or a name of the"),
        (lambda: any_lab.run(scenario(), classes=[int]), "classes: a mapping of names to classes"),
        (lambda: any_lab.report("run"), "results: a list of Result is expected, not str"),
        (lambda: any_lab.report([]), "results: one at least is expected"),
        (lambda: any_lab.report(["run"]), "results: a list of Result is expected, with no str"),
        (lambda: any_lab.write_report(7, "x"), "results: a list of Result is expected, not int"),
        (lambda: any_lab.merge("x", "abc"), "shards: a list of folders is expected"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ArgumentError, TypeError)) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_values_of_python_are_checked_as_those_of_files() -> None:
    value = lab.scenario_of(scenario())
    assert isinstance(value, lab.Scenario)
    wrong: Any = lab.Scenario(
        name="x",
        duration=-1,
        services=value.services,
        traffic=value.traffic,
        strategies=("rr",),
    )
    with pytest.raises(lab.ScenarioError, match=r"^x: duration: expected float >= 1\.0"):
        lab.run(wrong)


def test_every_path_may_be_a_str(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(json.dumps(scenario()))
    for kind in (str, Path):
        folder = tmp_path / kind.__name__
        kept = [kind(folder / name) for name in ("run", "again", "part", "whole")]
        run, again, part, whole = kept
        assert lab.read_scenario(kind(tmp_path / "x.yaml"))[0].name == "small"
        assert lab.validate(kind(tmp_path / "x.yaml")) == []
        lab.run(kind(tmp_path / "x.yaml"), run)
        result = lab.Result(run)
        assert repr(result) == f"<Result {run}: {', '.join(result.tables)}>"
        lab.reproduce(run, again)
        lab.run(kind(tmp_path / "x.yaml"), part, shard=(1, 1))
        lab.merge(whole, [part])
        lab.write_report([result], kind(folder / "x.html"), kind(folder / "plots"))
        assert (folder / "x.html").exists() and any((folder / "plots").iterdir())


@pytest.mark.parametrize("word", ["n", "y", "no", "off", "true", "7", "1.5", "1e3", "null", "~"])
@pytest.mark.parametrize(
    ("before", "path"),
    [
        ("name: small", "name"),
        ("question: Why", "question"),
        ("{name: web", "services[0].name"),
        ("service: web", "traffic[0].service"),
    ],
)
def test_a_bare_word_that_is_no_text_is_to_be_quoted(
    tmp_path: Path, before: str, path: str, word: str
) -> None:
    text = """name: small
question: Why
duration: 3
services: [{name: web, backends: [{count: 2}]}]
traffic: [{service: web, arrivals: {kind: paced, rate: 10}}]
strategies: [rr]
"""
    file = tmp_path / "x.yaml"
    file.write_text(text.replace(before, before[: before.rindex(" ") + 1] + word))
    with pytest.raises(lab.ScenarioError) as error:
        lab.read_scenario(file)
    assert str(error.value).startswith(f"{file}: {path}: expected str, got ")
    assert "put it in quotes" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\x7fELF\x02\x01\x00\x00", "x.yaml: it is no text, but a binary file"),
        (b"name: small\nquestion: W\xe4rum\n", "x.yaml, line 2: byte 0xe4 is not UTF-8"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(FileError, match=re.escape(message)):
        lab.read_scenario(tmp_path / "x.yaml")


def test_text_in_utf_16_with_its_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(json.dumps(scenario()), encoding="utf-16")
    assert lab.read_scenario(tmp_path / "x.yaml")[0].name == "small"


def test_a_report_that_cannot_be_written_is_named_as_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.run(scenario(), tmp_path / "run")
    target = tmp_path / "nowhere" / "x.html"
    assert main(["lab", "report", str(tmp_path / "run"), "--html", str(target)]) == 2
    assert capsys.readouterr().err == f"kbe-nat: {target}: No such file or directory\n"
    assert main(["lab", "report", str(tmp_path / "run"), "--html", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"kbe-nat: {tmp_path}: Is a directory\n"


PICK = """
class First:
    consistent = True

    def __init__(self, backends, seed):
        pass

    def pick(self, hash, loads):
        return {}
"""


def python_scenario(folder: Path, position: int) -> Path:
    folder.mkdir()
    (folder / "beside_it.py").write_text(PICK.format(position))
    strategy = {"name": "python", "class": "beside_it:First"}
    (folder / "x.yaml").write_text(json.dumps(scenario(strategies=[strategy])))
    return folder / "x.yaml"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_module_lies_beside_the_scenario_wherever_one_is(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    jobs: int,
) -> None:
    """Two scenarios may have modules of one name. The manifest says where the module was."""
    monkeypatch.chdir(tmp_path)
    path = sys.path[:]
    for position in (0, 1):
        name = f"s{position}"
        file = python_scenario(tmp_path / name, position)
        result = lab.run(file.relative_to(tmp_path), f"run{position}", jobs=jobs)
        shares = [row["connections"] for row in result.rows("backends")]
        assert shares[position] == 100
        assert result.manifest.modules == {"beside_it:First": str(tmp_path / name)}
    assert sys.path == path
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for position in (0, 1):
        assert main(["lab", "reproduce", str(tmp_path / f"run{position}")]) == 0
        assert capsys.readouterr().out.startswith("All tables are equal")


def test_a_module_of_the_working_directory_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("here", "scenarios", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "here" / "in_the_way.py").write_text(PICK.format(1))
    strategy = {"name": "python", "class": "in_the_way:First"}
    file = tmp_path / "scenarios" / "x.yaml"
    file.write_text(json.dumps(scenario(strategies=[strategy])))
    monkeypatch.chdir(tmp_path / "here")
    assert main(["lab", "run", str(file), "-d", str(tmp_path / "run"), "-o", "json"]) == 0
    assert lab.Result(tmp_path / "run").manifest.modules == {
        "in_the_way:First": str(tmp_path / "here")
    }
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["lab", "reproduce", str(tmp_path / "run")]) == 0
    (tmp_path / "here" / "in_the_way.py").unlink()
    del sys.modules["in_the_way"]
    capsys.readouterr()
    assert main(["lab", "reproduce", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        f"kbe-nat: {tmp_path / 'run'}/manifest.json: strategies[0].class: in_the_way:First: "
        f"No module named 'in_the_way'; it was searched for in {tmp_path / 'scenarios'}"
    )


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"seed": 9}, "seed is 9, and was 1; seeds are repeats: run one scenario with more"),
        ({"repeats": 2}, "repeats is 2, and was 1; seeds are repeats"),
        ({"duration": 9}, "duration is 9.0, and was 10.0; a sweep of the field, or a list"),
    ],
)
def test_a_refused_comparison_says_how_it_is_made(changes: dict[str, Any], remedy: str) -> None:
    results = [lab.run(scenario()), lab.run(scenario(**changes))]
    with pytest.raises(lab.LabError, match=re.escape(f"the scenarios differ: {remedy}")):
        lab.report(results)
