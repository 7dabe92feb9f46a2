"""`kbe-nat lab` on the command line."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from harness.scenarios import poisson, scenario, service
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.standing import Standing

ROOT = Path(__file__).parents[2]
SCHEMA = Draft202012Validator(json.loads((ROOT / "schemas/kbe-nat.v1.schema.json").read_text()))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(scenario(strategies=["rr", "mh"], repeats=2, question="Why?")))
    return str(path)


def test_list_and_show(capsys: pytest.CaptureFixture[str], file: str) -> None:
    assert main(["lab", "list", "-o", "name"]) == 0
    assert capsys.readouterr().out.split() == lab.gallery()
    assert main(["lab", "list", "-o", "json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    SCHEMA.validate(listing)
    assert listing["kind"] == "LabScenarioList"
    assert {"name", "question", "expect"} == set(listing["items"][0])
    assert [row["name"] for row in listing["items"]] == lab.gallery()
    assert main(["lab", "list"]) == 0
    assert "How evenly does a Service with two endpoints split" in capsys.readouterr().out
    assert main(["lab", "show", file, "-o", "json"]) == 0
    text = capsys.readouterr().out
    values = json.loads(text)
    SCHEMA.validate(values)
    assert (values["apiVersion"], values["kind"]) == ("kbe-nat.io/v1", "LabScenario")
    assert values["limits"]["max_flows"] == 1_048_576
    (Path(file).parent / "shown.json").write_text(text)
    shown, _ = lab.read_scenario(str(Path(file).parent / "shown.json"))
    assert shown == lab.read_scenario(file)[0]
    assert main(["lab", "show", "two-endpoints"]) == 0
    (Path(file).parent / "copy.yaml").write_text(capsys.readouterr().out)
    assert lab.read_scenario(str(Path(file).parent / "copy.yaml"))[0].name == "two-endpoints"


def test_validate(capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str) -> None:
    assert main(["lab", "validate", file, "two-endpoints"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: small is valid",
        "two-endpoints: two-endpoints is valid",
    ]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(json.dumps(scenario(services=[{"name": "web", "backends": [{"count": "x"}]}])))
    assert main(["lab", "validate", str(wrong)]) == 2
    complaint = "services[0].backends[0].count: expected int, got str"
    assert capsys.readouterr().err == f"kbe-nat: {wrong}: {complaint}\n"
    assert main(["lab", "validate", "nothing"]) == 2
    assert "is no file, and no scenario of the gallery: affinity, " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_a_scenario_from_a_pipe(tmp_path: Path, name: str) -> None:
    """It can be read once. Its paths begin where the command is given."""
    (tmp_path / "trace.csv").write_text("time,client,bytes,lifetime\n0,1,100,1\n")
    arrivals = {"kind": "trace", "file": "trace.csv"}
    text = json.dumps(scenario(traffic=[{"service": "web", "arrivals": arrivals}]))
    for arguments in (["validate", name], ["run", name, "-d", "run"], ["run", name, "-d", "run"]):
        command = [sys.executable, "-m", "kbe_nat", "lab", *arguments]
        subprocess.run(command, cwd=tmp_path, input=text.encode(), check=True)
    assert main(["lab", "reproduce", str(tmp_path / "run")]) == 0


def test_run_report_and_reproduce(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "run"
    assert main(["lab", "run", file, "-d", str(folder), "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("small: Why?\n4 cells, 2 repeats from seed 3; kbe-nat ")
    assert "Balance (conntrack, web)" in out
    assert "Changes, processor time in ns (conntrack, time 0 s)" in out
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["seed"] == 3
    for name in ("kbe_nat", "git", "kernel", "cpu", "mitigations", "command"):
        assert name in manifest["machine"]
    assert main(["lab", "report", str(folder), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    SCHEMA.validate(document)
    assert document["kind"] == "LabPageList"
    pages = document["items"]
    assert [page["title"].partition(" (")[0] for page in pages][:2] == [
        "Balance",
        "Shares of connections",
    ]
    assert main(["lab", "reproduce", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("All tables are equal")
    table = folder / "balance.csv"
    table.write_text(table.read_text().replace("rr,conntrack,0", "rr,conntrack,1", 1))
    assert main(["lab", "reproduce", str(folder)]) == 1
    assert capsys.readouterr().out == "balance: line 2: repeat 1 -> 0\n"


def test_a_terminal_shows_cells_as_they_are_finished(tmp_path: Path, file: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kbe_nat", "lab", "run", file, "-d", str(tmp_path / "run")]
    environment = os.environ | {"COLUMNS": "100", "LINES": "30", "TERM": "xterm"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        # The end of the terminal's other side is an error of reading (EIO).
        with suppress(OSError):
            while part := os.read(ours, 4096):
                shown += part
        assert process.stdout is not None
        lines = process.stdout.read().decode().splitlines()
    os.close(ours)
    assert process.returncode == 0
    for words in (b"max over mean", b"rr \xc2\xb7 conntrack", b"2/2", b"4/4"):
        assert words in shown, words
    assert not any("\x1b" in line for line in lines), "the report goes to a pipe"


def test_nothing_folds_in_a_pipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    question = "Why? " * 60 + "?"
    path = tmp_path / "long.yaml"
    path.write_text(json.dumps(scenario(question=question)))
    folder = tmp_path / ("a" * 120) / ("b" * 120)
    lab.run(str(path), folder)
    second = tmp_path / ("a" * 120) / ("c" * 120)
    lab.run(str(path), second)
    assert main(["lab", "report", str(folder), str(second)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"small: {question}"
    assert sum(line.startswith(str(folder)) and "cv" not in line for line in lines) >= 6


def test_a_folder_says_how_far_its_run_is(tmp_path: Path, file: str) -> None:
    standing = Standing(tmp_path / "run")
    assert standing.rows() == []
    seen: list[int] = []
    lab.run(
        file,
        tmp_path / "run",
        watch=lambda *_: seen.append(sum(row.finished for row in standing.rows())),
    )
    assert seen == [0, 1, 2, 3, 4]
    first, second = standing.rows()
    assert first == ("rr · conntrack", 2, 2, ["1", "0", "0"])
    assert (second.name, second.finished, second.total) == ("mh · conntrack", 2, 2)
    assert float(second.measures[0]) > 1


def test_runs_are_compared_where_they_can_be(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str
) -> None:
    first, second, other = (str(tmp_path / name) for name in ("a", "b", "c"))
    for arguments in ([first], [second], [other, "--repeats", "1"]):
        assert main(["lab", "run", file, "-d", *arguments]) == 0
    capsys.readouterr()
    assert main(["lab", "report", first, second]) == 0
    out = capsys.readouterr().out
    assert first in out and second in out
    assert main(["lab", "report", first, other]) == 2
    assert "the scenarios differ: repeats is 1, and was 2" in capsys.readouterr().err
    assert main(["lab", "report", str(tmp_path)]) == 2
    assert "no run is here: manifest.json is missing" in capsys.readouterr().err
    run = next(folder for folder in tmp_path.iterdir() if folder.is_dir())
    assert main(["lab", "report", str(run), f"{run}/"]) == 2
    assert f"{run}: the run is given twice" in capsys.readouterr().err


def test_the_page_is_there_when_the_text_is_not_read(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "kbe_nat", "lab", "run", file, "-d", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        run.stdout.close()
    assert (folder / "report.html").exists()


def test_a_bound_is_told_to_its_last_digit(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, file: str
) -> None:
    most = 2**63 - 1
    assert main(["lab", "run", file, "-d", str(tmp_path / "x"), f"--seed={most + 1}"]) == 2
    assert f"{most + 1} is more than {most}" in capsys.readouterr().err


def test_a_strategy_in_python_beside_the_scenario(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in the working directory, by processes too."""
    (tmp_path / "mine.py").write_text(
        "class First:\n"
        "    def __init__(self, backends, seed):\n        self.seed = seed\n"
        "    def pick(self, hash, loads):\n        return 0\n"
    )
    values = scenario(strategies=[{"name": "python", "class": "mine:First"}], repeats=2)
    (tmp_path / "x.yaml").write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "run", "x.yaml", "-d", "run", "-j", "2"]) == 0
    assert "python(class=mine:First)  0                     1 ±0" in capsys.readouterr().out


def test_frames(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    result = lab.run(scenario(services=[service(3)], traffic=[poisson(50)]), tmp_path / "run")
    frame = result.frame("balance")
    assert frame.columns[-3:] == ["max_over_mean", "cv", "jain"]
    assert frame["repeat"].dtype == polars.UInt64
    assert frame.height == 6
    written = polars.read_parquet(tmp_path / "run" / "balance.parquet")
    assert written.equals(frame)
    assert result.frame("seconds")["time"].to_list() == [float(n) for n in range(1, 11)]
    with pytest.raises(lab.LabError, match="no table xyz; there are balance, outcomes"):
        result.frame("xyz")
