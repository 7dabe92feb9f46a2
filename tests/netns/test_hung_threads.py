"""Each thread of a daemon that carries flows is watched: one that hangs alone is noticed."""

import signal
import socket
from pathlib import Path

from harness.daemons import Daemon, pid
from harness.hung import stopped
from harness.stage import OFFLOADING_DAEMONS
from harness.waiting import eventually
from kbe_nat.rules.rule import DatapathKind

THREADS = ["packet loop", "conntrack sync", "answer watch"]


@OFFLOADING_DAEMONS
def test_the_watchdog_hears_nothing_while_a_thread_hangs(daemon: Daemon, tmp_path: Path) -> None:
    threads = [*THREADS, *(["cache sync"] if daemon.datapath is DatapathKind.CACHED else [])]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"}
        daemon.start(environment=environment)

        def beats() -> bool:
            listener.settimeout(1.5)
            try:
                while listener.recv(1000) != b"WATCHDOG=1":
                    pass
            except TimeoutError:
                return False
            return True

        for name in threads:
            eventually(beats)
            with stopped(daemon, name):
                eventually(lambda: not beats())
                assert daemon.get("status")["pid"] == pid(daemon), "it answers"
        eventually(beats)
    assert daemon.end(signal.SIGTERM) < 5
