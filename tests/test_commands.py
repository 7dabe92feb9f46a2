"""System commands that hang, print anything, or cannot be started; each is one line for people."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kbe_nat import commands
from kbe_nat.commands import GracePeriod, output_of
from kbe_nat.errors import KbeNatError, PlaygroundError, RulesError
from kbe_nat.playground import namespaces
from kbe_nat.rules import commands as execution
from kbe_nat.rules.commands import Commands

FULL = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EACCES, errno.ENOEXEC)


def is_alive(pid: int) -> bool:
    """Whether it still runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_written_is_read_and_what_is_printed_comes_back() -> None:
    text = "héllo\n" * 100_000
    assert output_of(("cat",), RulesError, text=text, seconds=30) == text
    assert output_of(("me",), RulesError, prefix=("echo", "it", "is"), seconds=30) == "it is me\n"
    # One that does not read what it gets.
    assert output_of(("true",), RulesError, text=text, seconds=30) == ""


def test_f131_a_command_that_hangs_is_killed_with_all_that_it_has_started(tmp_path: Path) -> None:
    script = (
        f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; trap '' TERM; wait"
    )
    started = time.monotonic()
    with pytest.raises(RulesError, match=r"^sh -c .*: not done after \d s, and killed$"):
        output_of(("sh", "-c", script), RulesError, seconds=3)
    assert time.monotonic() - started < 20
    for name in ("child", "self"):
        pid = int((tmp_path / name).read_text())
        deadline = time.monotonic() + 30
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(pid), name


def test_f131_one_that_leaves_its_output_open_is_not_waited_for() -> None:
    started = time.monotonic()
    assert output_of(("setsid", "-f", "sleep", "20"), RulesError, seconds=30) == ""
    assert time.monotonic() - started < 15


def test_f131_one_that_prints_without_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_BYTES", 1 << 24)
    # It has an end all the same, lest a test that fails takes all memory.
    endless = "head -c 100000000 /dev/zero; sleep 60"
    for script in (endless, f"({endless}) >&2"):
        with pytest.raises(RulesError, match=r"it prints more than 16 MB, and killed$"):
            output_of(("sh", "-c", script), RulesError, seconds=10)


def test_f131_a_grace_period_ends_what_runs_and_bounds_what_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "ENDING_SECONDS", 5.0)
    grace = GracePeriod()
    runner = Commands(grace=grace)
    begin = threading.Timer(0.3, grace.start)
    begin.start()
    started = time.monotonic()
    with pytest.raises(RulesError, match="sleep 600: not done"):
        runner.run(("sleep", "600"))
    assert time.monotonic() - started < 4.5
    begin.join()
    assert runner.run(("echo", "rules")) == "rules\n", "there is still time to take rules away"
    for _ in range(3):
        with pytest.raises(RulesError, match="sleep 600: not done"):
            runner.run(("sleep", "600"))
    assert time.monotonic() - started < 10, "for all of them together"


def test_f131_signal_handlers_may_start_a_grace_period(monkeypatch: pytest.MonkeyPatch) -> None:
    grace = GracePeriod()
    before = signal.signal(signal.SIGUSR1, lambda *_: grace.start())
    try:
        # By another process: the handler runs in this thread, in the middle of its wait.
        asking = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -USR1 {os.getpid()}"])
        started = time.monotonic()
        with pytest.raises(RulesError, match="not done"):
            output_of(("sleep", "600"), RulesError, seconds=60, grace=grace)
        assert time.monotonic() - started < 10
        asking.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_f131_what_is_no_utf8_is_read_all_the_same() -> None:
    shout = (sys.executable, "-c", r"import os; os.write(1, b'x\xff\xfe'); os.write(2, b'\xff')")
    assert output_of(shout, RulesError, seconds=30) == "x��"
    with pytest.raises(RulesError, match=r"�: no$"):
        output_of(("sh", "-c", r"printf '\377: no\n' >&2; exit 1"), RulesError, seconds=30)


CALLS: list[tuple[type[KbeNatError], Callable[[], object]]] = [
    (RulesError, lambda: Commands().run(("nft", "list", "tables"))),
    (PlaygroundError, lambda: namespaces.call("ip", "link")),
    (PlaygroundError, lambda: namespaces.Namespace("kbe-none").start(("true",))),
]


@pytest.mark.parametrize(("failure", "call"), CALLS)
@pytest.mark.parametrize("number", FULL, ids=lambda number: errno.errorcode[number])
def test_f128_whatever_the_system_lacks_is_our_error(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    failure: type[KbeNatError],
    call: Callable[[], object],
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(failure, match=os.strerror(number)):
        call()


def test_f131_every_caller_has_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nft", "ip"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(execution, "LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(namespaces, "LIMIT_SECONDS", 0.3)
    for failure, call in CALLS[:2]:
        with pytest.raises(failure, match="not done"):
            call()


def test_f131_what_got_much_to_read_has_longer_and_so_has_what_lists_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "LIMIT_SECONDS", 0.3)
    runner = Commands()
    with pytest.raises(RulesError, match="not done"):
        runner.run(("sleep", "2"))
    text = "add kbe-nat-frontends-4 172.30.0.1,tcp:80\n" * 50_000
    assert runner.run(("sh", "-c", "cat > /dev/null; sleep 1; echo restored"), text) == "restored\n"
    assert runner.run(("sh", "-c", "sleep 1; echo saved")) == "saved\n"


def test_f131_there_is_something_to_do_meanwhile() -> None:
    grace = GracePeriod()
    turns: list[float] = []
    grace.while_waiting = lambda: turns.append(time.monotonic())
    Commands(grace=grace).run(("sleep", "3"))
    assert len(turns) >= 3


def test_f131_a_command_that_reads_slowly_gets_everything() -> None:
    """More than a pipe holds, and longer than the wait for it is cut into."""
    text = "line\n" * 100_000
    command = ("sh", "-c", "sleep 0.5; wc -c")
    assert output_of(command, RulesError, text=text, seconds=30) == f"{len(text)}\n"
