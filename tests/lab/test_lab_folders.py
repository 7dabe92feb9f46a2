"""Folders of runs that are damaged, full, in use, or were left by a process that was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.scenarios import poisson, scenario
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab import machine
from kbe_nat.lab.folder import RunFolder, write_whole
from kbe_nat.lab.live.tables import CELL, MEASURES, MEDIANS, MISSING


def only_cell(folder: Path) -> Path:
    return next((folder / "cells").glob("*.json"))


def without_a_fact(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["machine"]["cpu"]
    path.write_text(json.dumps(manifest))


def truncated(folder: Path) -> None:
    path = folder / "balance.csv"
    path.write_text(path.read_text()[:-20])


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("report", lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json: "),
    ("report", without_a_fact, "manifest.json: machine: cpu is missing"),
    ("report", lambda folder: (folder / "balance.csv").write_text(""), "balance.csv: it is empty"),
    ("report", lambda folder: (folder / "balance.csv").write_bytes(b"\xff"), "balance.csv: "),
    ("report", truncated, "balance.csv: line 7 is damaged"),
    (
        "run",
        lambda folder: only_cell(folder).write_text("{}"),
        "-0.json: the result of a cell is damaged; delete this file, and lab run measures its cell",
    ),
    (
        "run",
        lambda folder: only_cell(folder).write_text("{"),
        "-0.json: Input data was truncated; delete this file, and lab run measures its cell anew",
    ),
    (
        "run",
        lambda folder: next((folder / "cells").glob("*-seconds.csv")).unlink(),
        "-seconds.csv is missing; delete this file, and lab run measures its cell anew",
    ),
]


@pytest.mark.parametrize(("verb", "damage", "message"), DAMAGE)
def test_a_damaged_folder_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    file, folder = tmp_path / "x.yaml", tmp_path / "run"
    file.write_text(json.dumps(scenario()))
    lab.run(file, folder)
    damage(folder)
    monkeypatch.setattr(machine, "REVISION", None)
    arguments = (
        ["report", str(folder)] if verb == "report" else ["run", str(file), "-d", str(folder)]
    )
    assert main(["lab", *arguments]) == 2
    err = capsys.readouterr().err
    # A run that finds all cells says so first.
    *notes, error = err.splitlines()
    assert error.startswith("kbe-nat: ")
    assert [note for note in notes if "was finished before" not in note] == []
    assert message in err


def test_results_of_a_module_of_other_sources_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run(scenario(), tmp_path)
    only_cell(tmp_path).write_text("{}")
    monkeypatch.setattr(machine, "REVISION", "a" * 40)
    monkeypatch.setattr(machine, "_revision", lambda paths=(): "b" * 40)
    words = f"other fields. The native module was built of Rust sources at {'a' * 40}"
    with pytest.raises(lab.LabError, match=words):
        lab.run(scenario(), tmp_path)


def test_what_is_missing_of_a_folder_is_made_anew(tmp_path: Path) -> None:
    first = lab.run(scenario(), tmp_path / "run")
    table = first.folder.table("balance").read_bytes()
    for path in [*(tmp_path / "run" / "cells").iterdir(), first.folder.table("balance")]:
        path.unlink()
    (tmp_path / "run" / "cells").rmdir()
    assert lab.run(scenario(), tmp_path / "run").folder.table("balance").read_bytes() == table


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).lock(),
        pytest.raises(lab.LabError, match="another run is at work in this folder"),
    ):
        lab.run(scenario(), tmp_path)
    lab.run(scenario(), tmp_path)


def test_a_process_that_was_begun_meanwhile_keeps_no_run_out(tmp_path: Path) -> None:
    """Between fork and exec it has all descriptors; here for longer."""
    with RunFolder(tmp_path).lock():
        held = [each for each in Path("/proc/self/fd").iterdir() if leads_to(each, tmp_path)]
        process = subprocess.Popen(["sleep", "60"], pass_fds=[int(each.name) for each in held])
    try:
        lab.run(scenario(), tmp_path)
    finally:
        process.kill()
        process.wait()


def leads_to(descriptor: Path, folder: Path) -> bool:
    return descriptor.exists() and descriptor.resolve() == folder.resolve()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    folder.mkdir()
    (folder / "x.yaml").write_text(json.dumps(scenario()))
    assert main(["lab", "run", str(folder / "x.yaml"), "-d", str(folder / "run")]) == 0
    assert main(["lab", "reproduce", str(folder / "run")]) == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_ended_goes_on(tmp_path: Path, kind: signal.Signals) -> None:
    """Its finished cells are kept, no half of a file counts, and no traceback is written."""
    values = scenario(traffic=[poisson(2000)], duration=20, strategies=["rr", "mh"], repeats=15)
    (tmp_path / "x.yaml").write_text(json.dumps(values))
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "kbe_nat", "lab", "run", "x.yaml", "-d", str(folder)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A shell lets what it runs in the background ignore Ctrl-C, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob("cells/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -9)
    assert b"Traceback" not in err
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*.json")}
    assert 0 < len(finished) < 30
    result = lab.run(values, folder)
    assert all(path.stat().st_mtime_ns == moment for path, moment in finished.items())
    assert lab.differences(result, lab.run(values, tmp_path / "whole")) == []


def test_a_full_disk_is_told_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x.yaml").write_text(json.dumps(scenario()))
    monkeypatch.setattr(os, "fsync", full)
    assert main(["lab", "run", str(tmp_path / "x.yaml"), "-d", str(tmp_path / "run")]) == 2
    file = tmp_path / "run/manifest.json"
    assert capsys.readouterr().err == f"kbe-nat: {file}: No space left on device\n"
    monkeypatch.undo()
    lab.run(tmp_path / "x.yaml", tmp_path / "run")


def test_a_file_takes_the_place_of_no_device_and_no_link(tmp_path: Path) -> None:
    pipe, link, named = (tmp_path / name for name in ("pipe", "link.html", "named.html"))
    os.mkfifo(pipe)
    # Also writable, so that neither end waits for the other.
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_whole(pipe, b"page")
    assert os.read(descriptor, 100) == b"page"
    os.close(descriptor)
    assert pipe.is_fifo()
    named.write_text("before")
    link.symlink_to(named.name)
    write_whole(link, b"page")
    assert link.is_symlink() and named.read_bytes() == b"page"


def test_a_file_that_is_written_leaves_those_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "page.part"
    other.write_text("mine")
    write_whole(tmp_path / "page.html", b"page")
    assert other.read_text() == "mine"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"page2\.html"):
        write_whole(tmp_path / "page2.html", b"page")
    assert {path.name for path in tmp_path.iterdir()} == {"page.part", "page.html"}


def test_a_folder_is_told_where_a_file_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for folder in (tmp_path / "run", Path(), Path("/")):
        with pytest.raises(IsADirectoryError) as error:
            write_whole(folder, b"page")
        assert error.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


@pytest.mark.parametrize("kind", ["offline", "live"])
def test_every_column_of_every_table_has_its_unit_and_a_sentence(tmp_path: Path, kind: str) -> None:
    """In the run's dictionary, and in the code that no scenario of the tests reaches."""
    if kind == "offline":
        values = scenario(
            source_nat=["random"],
            timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 3}],
            sweep=[{"field": "services[0].count", "values": [1, 2]}],
        )
        folder = lab.run(values, tmp_path / "run").folder.path
        with (folder / "dictionary.csv").open(newline="") as lines:
            dictionary = {(row["table"], row["column"]): row for row in csv.DictReader(lines)}
        for path in folder.glob("*.csv"):
            if path.stem == "dictionary":
                continue
            with path.open(newline="") as lines:
                header = next(csv.reader(lines))
            assert header == [name for table, name in dictionary if table == path.stem], path.stem
            if path.with_suffix(".parquet").exists():
                import polars

                assert polars.read_parquet(path.with_suffix(".parquet")).columns == header
        tables = lab.Result(folder).catalogue.tables
    else:
        tables = {**MEASURES, "medians": MEDIANS, "missing": MISSING, "cell": CELL}
    for table, columns in tables.items():
        for column in columns:
            place = (table, column.name)
            assert len(column.meaning) >= 3 and column.meaning == column.meaning.strip(), place
            assert column.type in ("text", "integer", "number"), place
            if column.type == "number" and column.name not in ("median", "low", "high"):
                assert column.unit, place
            if column.type == "text":
                assert not column.unit, place
            elif not column.unit:
                assert column.name in UNITLESS or "." in column.name, place


NAMING = ("repeat", "seed", "backend", "round", "run", "trial", "change")
ANSWERS = ("settled", "passed")
COUNTED = ("rounds", "work_count")
UNITLESS = frozenset((*NAMING, *ANSWERS, *COUNTED, "median", "low", "high"))
"""Numbers that name something, answer yes or no, are counts of what they are called by, or have
their unit in a column.
"""
