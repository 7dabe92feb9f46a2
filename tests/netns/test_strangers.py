"""A daemon among processes that are not ours: users without a privilege, and one that does not
read.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.daemons import COMMANDS, NOBODY, Daemon, broken, kernel_rules, serves
from harness.programs import SQUATTER
from harness.stage import OFFLOADING_DAEMONS
from harness.waiting import eventually
from kbe_nat.rules.rule import DatapathKind

ANYBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def test_f08_a_user_without_privilege_cannot_keep_it_from_starting(daemon: Daemon) -> None:
    squatter = subprocess.Popen(
        [*daemon.cluster.node.prefix, *ANYBODY, sys.executable, "-c", SQUATTER.read_text()],
        stdin=-1,
        stdout=-1,
        text=True,
    )
    with squatter:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "ready\n"
        daemon.start()
        assert serves(daemon)
        assert (
            "another kbe-nat proxy runs in this network namespace"
            in daemon.run("--queue", "101").stderr
        )
        assert daemon.end() < 5
        squatter.kill()


def test_f08_one_that_is_killed_is_followed_at_once(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.start()
        assert daemon.process is not None
        daemon.process.kill()
        daemon.process.wait()
    daemon.start()
    assert [own["number"] for own in daemon.get("stats")["queues"]] == list(daemon.queues)
    assert serves(daemon)


def test_f08_of_two_that_start_at_once_one_serves(daemon: Daemon, tmp_path: Path) -> None:
    commands = [
        daemon.command("--queue", str(100 + own), "--socket", f"{tmp_path}/{own}")
        for own in range(3)
    ]
    started = [subprocess.Popen(own, stderr=-1, text=True) for own in commands]
    eventually(lambda: sum(own.poll() is None for own in started) == 1, 30)
    for own in started:
        if own.poll() is None:
            daemon.process = own
        else:
            assert own.stderr is not None
            assert "another kbe-nat proxy runs" in own.stderr.read()
            own.stderr.close()
    eventually(lambda: serves(daemon), 30)
    assert daemon.end() < 5
    assert daemon.process is not None and daemon.process.stderr is not None
    daemon.process.stderr.close()
    assert "kbe-nat" not in kernel_rules(daemon.cluster)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_f131_nobody_reads_what_it_says(daemon: Daemon, kind: str) -> None:
    """As systemd-journald when it is stopped, or `kbe-nat proxy 2>&1 | less`."""
    reader, writer = (
        os.pipe() if kind == "pipe" else tuple(own.detach() for own in socket.socketpair())
    )
    for number in range(3000):
        daemon.write(
            f"wrong-{number}.yaml",
            f"kind: Service\napiVersion: v1\nmetadata: {{name: W{number}}}\n",
        )
    daemon.process = subprocess.Popen(daemon.command(), stderr=writer, text=True)
    try:
        eventually(daemon.is_up, 60)
        assert len(daemon.get("status")["refused"]) == 3000
        daemon.write("nobody.yaml", NOBODY)
        eventually(lambda: "172.30.0.9" in kernel_rules(daemon.cluster), 30)
        assert serves(daemon)
        # Its last words are lost too.
        assert daemon.end() < 5
        assert daemon.process.returncode == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_f03_a_command_that_takes_long_is_no_reason_to_be_ended(
    daemon: Daemon, tmp_path: Path
) -> None:
    flag = tmp_path / "slow"
    environment = broken(tmp_path, COMMANDS[daemon.datapath], f"test -e {flag} && sleep 4")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        daemon.start(environment=environment)
        while listener.recv(1000) != b"WATCHDOG=1":
            pass
        flag.touch()
        before = kernel_rules(daemon.cluster)
        daemon.cluster.node.call("nft", "flush", "ruleset")
        listener.settimeout(2)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            listener.recv(1000)
        flag.unlink()
    eventually(lambda: kernel_rules(daemon.cluster) == before, 60)
    assert serves(daemon)


@OFFLOADING_DAEMONS
def test_a_user_with_few_privileges_is_enough(daemon: Daemon, tmp_path: Path) -> None:
    """iptables works for root alone, whose lock it takes: so does every-packet."""
    is_cached = daemon.datapath is DatapathKind.CACHED
    privileges = "+net_admin,+bpf,+perfmon" if is_cached else "+net_admin"
    for folder in (tmp_path, *(own for own in tmp_path.parents if own.is_relative_to("/tmp/"))):
        folder.chmod(0o755)
    owned = tmp_path / "owned"
    owned.mkdir()
    os.chown(owned, 65534, 65534)
    prefix = daemon.cluster.node.prefix
    own = ("--socket", str(owned / "socket"), "--state", str(owned / "state"))
    command = (
        *prefix,
        *ANYBODY,
        "--inh-caps",
        privileges,
        "--ambient-caps",
        privileges,
        *daemon.command()[len(prefix) :],
    )
    with (tmp_path / "log").open("a") as log:
        daemon.process = subprocess.Popen((*command, *own), stderr=log, text=True)
    eventually(lambda: "serving" in daemon.log, 30)
    assert serves(daemon)
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    # What the cache of flows takes is given up once its programs are loaded.
    assert f"CapEff:\t{1 << 12:016x}" in status and "NoNewPrivs:\t1" in status
    assert daemon.end() < 5
    assert "kbe-nat" not in kernel_rules(daemon.cluster)
