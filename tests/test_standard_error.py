"""A standard error that nobody reads: it costs a moment, and lines, and never the process."""

import fcntl
import json
import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.programs import LOGGER
from kbe_nat.daemon.standard_error import NonBlockingText

LINE = "x" * 99 + "\n"
LIMIT = 3.0


def drained(descriptor: int) -> bytes:
    """Everything that waits to be read."""
    content = b""
    while select.select([descriptor], [], [], 2.0)[0]:
        try:
            read = os.read(descriptor, 1 << 16)
        except OSError:
            break
        if not read:
            break
        content += read
    return content


@pytest.fixture(params=["pipe", "socket", "terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """Where to read, and where to write."""
    if request.param == "pipe":
        reader, writer = os.pipe()
    elif request.param == "socket":
        reader, writer = (own.detach() for own in socket.socketpair())
    else:
        reader, writer = pty.openpty()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_a_reader_that_stops_is_waited_for_once(ends: tuple[int, int]) -> None:
    reader, writer = ends
    stream = NonBlockingText(writer)
    started = time.monotonic()
    taken = [stream.write(f"{number:09} {LINE}") for number in range(20_000)]
    assert time.monotonic() - started < LIMIT + 10
    assert taken[0] and not taken[-1]
    started = time.monotonic()
    assert not any(stream.write(LINE) for _ in range(100))
    assert time.monotonic() - started < LIMIT, "not again for each line"
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK, (
        "others who have it wait as before"
    )
    read = drained(reader)
    stream.write("again\n")
    read += drained(reader)
    lines = read.replace(b"\r", b"").splitlines()
    assert lines[-1] == b"again"
    assert [int(line[:9]) for line in lines[:-1]] == list(range(len(lines) - 1)), (
        "whole lines, in order"
    )
    assert len(lines) - 1 == sum(map(bool, taken))


def test_a_reader_that_is_gone_is_no_matter() -> None:
    reader, writer = os.pipe()
    stream = NonBlockingText(writer)
    os.close(reader)
    stream.write(LINE)
    stream.write(LINE)
    os.close(writer)


def test_files_are_written_where_others_have_stopped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        file.write("before\n")
        file.flush()
        NonBlockingText(file.fileno()).write("ours\n")
        os.write(file.fileno(), b"after\n")
    assert path.read_text() == "before\nours\nafter\n"


def test_the_log_counts_what_nobody_has_read() -> None:
    with subprocess.Popen(
        (sys.executable, LOGGER), stdin=-1, stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert select.select([process.stdout], [], [], 30)[0], "it waits for its reader"
        assert process.stdout.readline() == "done\n"
        first = drained(process.stderr.fileno()).decode()
        process.stdin.write("\n")
        process.stdin.flush()
        messages = [
            json.loads(line)["message"] for line in (first + process.stderr.read()).splitlines()
        ]
    lost = 3000 - (len(messages) - 1)
    assert 0 < lost < 3000
    assert messages[-1] == f"again ({lost} lines before this one were lost: nobody read them)"
