"""What somebody outside, or want on the node, does to a daemon that serves: it goes on, says so,
and recovers.
"""

import re
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from harness.daemons import (
    BALANCED,
    COMMANDS,
    NOBODY,
    Daemon,
    broken,
    counted,
    kernel_rules,
    patched,
    pid,
    serves,
    until_pages_answer,
)
from harness.programs import CONNECTION_FLOOD, FAILING_QUEUE, HANGING_QUEUE
from harness.waiting import eventually

HTTP_STATUS = ("curl", "-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}")


@pytest.mark.parametrize("greeting", ["", "GET / HTTP/1.1\\r\\nX: "], ids=["idle", "slow"])
def test_f127_a_stranger_opens_thousands_of_connections(daemon: Daemon, greeting: str) -> None:
    daemon.write("balanced.yaml", BALANCED)
    daemon.start("--node", "here")
    resource.prlimit(pid(daemon), resource.RLIMIT_NOFILE, (1024, 1024))
    eventually(
        lambda: daemon.cluster.client.call(*HTTP_STATUS, "http://10.0.2.15:30200/") == "503", 30
    )
    flood = daemon.cluster.client.start((sys.executable, str(CONNECTION_FLOOD), greeting))
    assert flood.stdout is not None
    worst = [0, 0]
    opened = 0
    while opened < 4000:
        opened = int(flood.stdout.readline())
        worst = [
            max(old, counted(daemon, name)) for old, name in zip(worst, ("fd", "task"), strict=True)
        ]
        assert serves(daemon)
        # Another client's question.
        assert daemon.cluster.node.call(*HTTP_STATUS, "http://10.0.2.15:30200/") == "503"
    flood.kill()
    assert worst[0] < 600 and worst[1] < 10, worst
    assert daemon.end() < 5


def test_f128_descriptors_run_out_and_are_there_again(daemon: Daemon) -> None:
    daemon.start()
    # The last that it opens.
    until_pages_answer(daemon)
    before = resource.prlimit(pid(daemon), resource.RLIMIT_NOFILE)
    # Some may be of conversations that are just ending.
    in_use = counted(daemon, "fd") - 4
    resource.prlimit(pid(daemon), resource.RLIMIT_NOFILE, (in_use, before[1]))
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: "Too many open files" in daemon.log, 30)
    # Long enough for every task to have met it twice.
    for _ in range(4):
        time.sleep(3)
        assert serves(daemon)
    said = [
        line.partition("ERROR")[2]
        for line in daemon.log.splitlines()
        if "Too many open files" in line
    ]
    assert len(said) == len(set(said)) < 10
    resource.prlimit(pid(daemon), resource.RLIMIT_NOFILE, before)
    eventually(lambda: len(daemon.get("services")) == 2, 30)
    eventually(lambda: "172.30.0.9" in kernel_rules(daemon.cluster), 30)
    assert daemon.end() < 5


def test_f128_memory_runs_out_and_is_there_again(daemon: Daemon) -> None:
    daemon.start()
    # The last of its threads. One that finds no memory when it begins hangs the thread that starts
    # it (CPython, `Thread.start`).
    until_pages_answer(daemon)
    before = resource.prlimit(pid(daemon), resource.RLIMIT_AS)
    [size] = re.findall(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid(daemon)}/status").read_text())
    resource.prlimit(pid(daemon), resource.RLIMIT_AS, (int(size) << 10, before[1]))
    for number in range(4):
        daemon.write("nobody.yaml", NOBODY.replace("81", str(90 + number)))
        time.sleep(2)
        assert serves(daemon)
    resource.prlimit(pid(daemon), resource.RLIMIT_AS, before)
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: len(daemon.get("services")) == 2, 30)
    eventually(lambda: "172.30.0.9" in kernel_rules(daemon.cluster), 30)
    assert daemon.end() < 5


def test_f131_commands_that_hang_are_killed_and_tried_again(daemon: Daemon, tmp_path: Path) -> None:
    names = COMMANDS[daemon.datapath]
    daemon.start(environment=broken(tmp_path, names, f"test -e {tmp_path}/hang && sleep 600"))
    before = len(daemon.get("services"))
    (tmp_path / "hang").touch()
    if daemon.datapath.offloads:
        daemon.cluster.node.call("nft", "delete", "table", "ip", "kbe-nat-translation-0")
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: re.search(r"ERROR .*: not done after \d+ s, and killed", daemon.log), 30)
    eventually(lambda: len(daemon.get("services")) == before + 1, 30)
    (tmp_path / "hang").unlink()
    eventually(lambda: "172.30.0.9" in kernel_rules(daemon.cluster), 30)
    eventually(lambda: serves(daemon), 30)
    errors = [
        line.partition("ERROR")[2] for line in daemon.log.splitlines() if "and killed" in line
    ]
    assert len(errors) < 6


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2], ids=str
)
def test_f131_whoever_is_to_end_ends_though_commands_hang(
    daemon: Daemon, tmp_path: Path, number: signal.Signals
) -> None:
    environment = broken(
        tmp_path,
        COMMANDS[daemon.datapath],
        f"test -e {tmp_path}/hang && touch {tmp_path}/hangs && sleep 600",
    )
    daemon.start(environment=environment)
    (tmp_path / "hang").touch()
    if daemon.datapath.offloads:
        daemon.cluster.node.call("nft", "delete", "table", "ip", "kbe-nat-translation-0")
    daemon.write("nobody.yaml", NOBODY)
    eventually(lambda: (tmp_path / "hangs").exists(), 30)
    assert daemon.end(number) < 8
    assert not daemon.socket.exists()
    if daemon.datapath.offloads and number != signal.SIGUSR2:
        assert "kbe-nat" not in kernel_rules(daemon.cluster)


def test_a_terminal_that_closes_ends_it_as_sigterm_does(daemon: Daemon) -> None:
    before = kernel_rules(daemon.cluster)
    daemon.start()
    assert daemon.end(signal.SIGHUP) < 5
    assert daemon.process is not None and daemon.process.returncode == 0
    assert kernel_rules(daemon.cluster) == before
    # As nohup(1) starts it.
    daemon.process = subprocess.Popen(
        ("nohup", *daemon.command()), stderr=subprocess.DEVNULL, text=True
    )
    eventually(daemon.is_up, 30)
    daemon.process.send_signal(signal.SIGHUP)
    assert len(daemon.get("services")) == 1
    assert daemon.end() < 5


def test_f131_a_device_may_be_named_by_bytes(daemon: Daemon) -> None:
    daemon.start()
    device = b"x\xff\xfe"
    for command in (
        ("link", "add", device, "type", "bridge"),
        ("address", "add", "192.0.2.77/32", "dev", device),
    ):
        subprocess.run([*daemon.cluster.node.prefix, "ip", *command], check=True)
    # Node ports are served on it, so it has been looked at.
    daemon.write("balanced.yaml", BALANCED)
    eventually(lambda: "192.0.2.77" in kernel_rules(daemon.cluster), 30)
    assert serves(daemon)
    assert "ERROR" not in daemon.log


def test_f03_the_watchdog_hears_nothing_while_a_loop_hangs(daemon: Daemon, tmp_path: Path) -> None:
    """The control loop goes round all the time."""
    flag = tmp_path / "hang"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        environment = patched(tmp_path, HANGING_QUEUE)
        environment |= {
            "FLAG": str(flag),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "600000",
        }
        daemon.start("--driver", "netfilterqueue", environment=environment)
        while listener.recv(1000) != b"WATCHDOG=1":
            pass
        flag.touch()
        listener.settimeout(3)
        end = time.monotonic() + 30
        with pytest.raises(TimeoutError):
            while time.monotonic() < end:
                listener.recv(1000)
        assert daemon.get("status")["pid"] == pid(daemon), "it answers"
        flag.unlink()
        listener.settimeout(30)
        while listener.recv(1000) != b"WATCHDOG=1":
            pass
        met = tmp_path / "hang-met"
        met.unlink()
        flag.touch()
        eventually(met.exists)
        assert daemon.end() < 8, "and it ends all the same"
        assert "kbe-nat" not in kernel_rules(daemon.cluster)


def test_f02_rules_stay_when_a_loop_fails(daemon: Daemon, tmp_path: Path) -> None:
    """Nothing passes untranslated until somebody has started it again."""
    flag = tmp_path / "fail"
    daemon.start(
        "--driver",
        "netfilterqueue",
        environment={**patched(tmp_path, FAILING_QUEUE), "FLAG": str(flag)},
    )
    before = kernel_rules(daemon.cluster)
    assert serves(daemon)
    flag.touch()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 2
    assert "the cable is out" in daemon.log.splitlines()[-1]
    assert kernel_rules(daemon.cluster) == before
    flag.unlink()
    daemon.start()
    assert serves(daemon)


@pytest.mark.parametrize("spare", [0, 1 << 20], ids=["none", "little"])
def test_f128_who_asks_while_memory_is_short_is_answered_when_it_is_not(
    daemon: Daemon, spare: int
) -> None:
    """A thread that starts may find no memory to begin with; nobody may wait for it."""
    daemon.start()
    # The last of its threads. One that finds no memory when it begins hangs the thread that starts
    # it (CPython, `Thread.start`).
    until_pages_answer(daemon)
    before = resource.prlimit(pid(daemon), resource.RLIMIT_AS)
    for _ in range(3):
        daemon.get("status")
        size = (
            int(Path(f"/proc/{pid(daemon)}/statm").read_text().split()[0]) * resource.getpagesize()
        )
        resource.prlimit(pid(daemon), resource.RLIMIT_AS, (size + spare, before[1]))
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(3)
                client.connect(str(daemon.socket))
                client.sendall(b'{"verb": "status"}\n')
                with suppress(TimeoutError, ConnectionResetError):
                    client.recv(1)
        resource.prlimit(pid(daemon), resource.RLIMIT_AS, before)
    assert daemon.get("status")["pid"] == pid(daemon)
    assert "Traceback" not in daemon.log
    assert serves(daemon)
    assert daemon.end() < 5
