"""What `lab run` shows while it runs: on terminals of any width, for a log, and the time left."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from harness.scenarios import scenario
from kbe_nat.cli.lab_progress import duration, shorten
from kbe_nat.lab.standing import Standing

LONG = {"name": "ring", "virtual_nodes": 123}


def _screen(
    folder: Path, columns: int, *, term: str = "xterm", is_piped: bool = False
) -> tuple[str, str]:
    """What standard error shows on a terminal of this width, and standard output, which may be a
    file.
    """
    path = folder / "small.json"
    path.write_text(json.dumps(scenario(strategies=["rr", "modulo", LONG], repeats=2)))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "kbe_nat", "lab", "run", str(path), "-d", str(folder / "run")]
    variables = {n: v for n, v in os.environ.items() if n not in ("COLUMNS", "LINES")}
    with (folder / "out").open("w") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file if is_piped else theirs,
            stderr=theirs,
            env=variables | {"TERM": term, "NO_COLOR": "1"},
        )
    os.close(theirs)
    text = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        text += part
    os.close(ours)
    assert process.wait() == 0, text
    return text.decode(), (folder / "out").read_text()


@pytest.mark.parametrize("columns", [40, 80])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, columns: int) -> None:
    text, out = _screen(tmp_path, columns, is_piped=True)
    assert "Balance" in out and "\x1b" not in out
    lines = re.sub(r"\x1b\[\d*[AJ]", "", text).replace("\r", "").split("\n")
    assert max(map(len, lines)) < columns
    assert "\x1b[3" not in text and "\x1b[1m" not in text, "no colours"
    last = text.rpartition("\x1b[J")[0].rpartition("\x1b[J")[2]
    assert "6/6" in last and "left" not in last
    rows = [line for line in last.replace("\r", "").split("\n") if line.endswith("2/2")]
    if columns == 40:
        assert len(rows) == 3, "names are cut, and numbers never are"
    else:
        assert "ring(virtual_nodes=123) · conntrack" in last and "max over mean" in last


def test_a_terminal_that_cannot_move_up_gets_lines(tmp_path: Path) -> None:
    text, _ = _screen(tmp_path, 80, term="dumb", is_piped=True)
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"),
        (48.4, "48 s"),
        (89.6, "90 s"),
        (125, "2 min"),
        (3600 + 59, "61 min"),
        (12_000, "3 h 20 min"),
        (86_400, "1 d 0 h"),
        (200_000, "2 d 7 h"),
    ],
)
def test_the_time_left_in_two_digits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_names_are_shortened_in_their_middle() -> None:
    assert shorten("mh · conntrack", 20) == "mh · conntrack"
    assert shorten("blocks(ports=40000-59999,block_size=200)", 15) == "blocks(…ze=200)"
    assert [len(shorten("x" * 60, n)) for n in (0, 2, 3, 12)] == [0, 0, 3, 12]


def test_a_live_run_has_no_measures_that_are_dashes(tmp_path: Path) -> None:
    stored = Path(__file__).parent / "live-run"
    (tmp_path / "cells").mkdir()
    (tmp_path / "manifest.json").write_bytes((stored / "manifest.json").read_bytes())
    standing = Standing(tmp_path)
    rows = standing.rows()
    assert standing.measures == () and all(row.measures == [] for row in rows)
    assert rows[0].name == "idle", "and no empty family beside it"
