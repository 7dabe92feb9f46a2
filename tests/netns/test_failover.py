"""What connections notice of a daemon that dies, hangs, restarts or is replaced, with the kernel
carrying flows: established ones nothing, new ones that the kernel chooses their backend meanwhile.
Each under load.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.daemons import COMMAND, SEED, VIP, Daemon, kernel_rules
from harness.programs import DATAGRAM_FLOOD, STEADY_LOAD, TCP_ECHO
from harness.stage import OFFLOADING, served
from harness.waiting import eventually
from kbe_nat.model import end_parts
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside

SERVICES = """apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {clusterIP: 172.30.0.7, ports: [{port: 7, targetPort: 9999}]}
---
apiVersion: v1
kind: Service
metadata: {name: fenced}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.8
  loadBalancerSourceRanges: [10.0.2.0/24]
  ports: [{port: 7, targetPort: 9999, nodePort: 30007}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.8}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: echo-1, labels: {kubernetes.io/service-name: echo}}
addressType: IPv4
ports: [{port: 9999}]
endpoints: [{addresses: [172.17.0.3]}, {addresses: [172.17.0.4]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: fenced-1, labels: {kubernetes.io/service-name: fenced}}
addressType: IPv4
ports: [{port: 9999}]
endpoints: [{addresses: [172.17.0.3]}, {addresses: [172.17.0.4]}]
"""
ESTABLISHED = 20


class Load:
    """Connections that stay and connections that come and go, all the time."""

    def __init__(self, cluster: Cluster) -> None:
        command = (sys.executable, str(STEADY_LOAD), "172.30.0.7", "7", str(ESTABLISHED))
        self._process = subprocess.Popen(
            [*cluster.client.prefix, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def go_on(self) -> None:
        """Waits until more connections have come and gone, and all that stay have been used."""
        before = self._told()
        eventually(
            lambda: (
                (now := self._told())["new"] >= before["new"] + 50
                and now["rounds"] >= before["rounds"] + 5 * ESTABLISHED
            )
        )

    def end(self) -> dict[str, Any]:
        out, _ = self._process.communicate(timeout=60)
        told: dict[str, Any] = json.loads(out)
        return told

    def _told(self) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


def repeated_syns(cluster: Cluster) -> int:
    """How many the client has sent again: after a second without an answer."""
    rows = cluster.client.call("cat", "/proc/net/netstat").splitlines()
    names, numbers = (row.split() for row in rows if row.startswith("TcpExt:"))
    return int(numbers[names.index("TCPSynRetrans")])


class Supervisor:
    """Does with a daemon what systemd does with packaging/kbe-nat.service: hears its signs of life,
    kills it when it hangs, and starts it again.
    """

    def __init__(self, daemon: Daemon, *arguments: str) -> None:
        self.daemon = daemon
        self.arguments = arguments
        self.starts = 0
        self.killed = 0
        self._is_over = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = daemon.folder / "notify"
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)
        self._environment = {
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
        }
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        eventually(lambda: self.starts and daemon.socket.exists() and daemon.get("services"))

    def _run(self) -> None:
        while not self._is_over.is_set():
            with (self.daemon.folder / "log").open("a") as log:
                process = subprocess.Popen(
                    self.daemon.command(*self.arguments),
                    stderr=log,
                    env={**os.environ, **self._environment},
                )
            self.starts += 1
            self.daemon.process = process  # type: ignore[assignment]
            alive = None
            while process.poll() is None:
                try:
                    said = self._socket.recv(1000)
                except TimeoutError:
                    said = b""
                if b"READY=1" in said or (b"WATCHDOG=1" in said and alive):
                    alive = time.monotonic()
                if alive and time.monotonic() - alive > WATCHDOG_SECONDS:
                    process.kill()
                    process.wait()
                    self.killed += 1
            self._is_over.wait(0.2)

    def restarted(self, number: int) -> None:
        """Ends the daemon by a signal, and waits for the next one."""
        starts = self.starts
        assert self.daemon.process is not None
        self.daemon.process.send_signal(number)
        eventually(lambda: self.starts > starts)
        eventually(lambda: self.daemon.get("services"), 20)

    def end(self) -> None:
        self._is_over.set()
        assert self.daemon.process is not None
        self.daemon.process.terminate()
        self._thread.join()
        self._socket.close()


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "objects").mkdir()
    for pod in cluster.pods:
        served(pod, TCP_ECHO)
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("cluster.yaml", SEED)
        made.write("services.yaml", SERVICES)
        yield made


@contextmanager
def supervised(daemon: Daemon, *arguments: str) -> Iterator[Supervisor]:
    own = Supervisor(daemon, *arguments)
    try:
        yield own
    finally:
        own.end()


def kill(own: Supervisor) -> None:
    own.restarted(signal.SIGKILL)


def stop(own: Supervisor) -> None:
    """It hangs until the watchdog ends it."""
    own.restarted(signal.SIGSTOP)
    assert own.killed == 1


def restart(own: Supervisor) -> None:
    own.restarted(signal.SIGUSR2)


def upgrade(own: Supervisor) -> None:
    """The next one has other rules: as another version may."""
    own.arguments = ("--queue", "200", "--queues", "2")
    own.restarted(signal.SIGUSR2)
    assert own.daemon.get("status")["queues"] == [200, 201]


def crash_loop(own: Supervisor) -> None:
    for _ in range(8):
        starts = own.starts
        assert own.daemon.process is not None
        own.daemon.process.kill()
        eventually(lambda: own.starts > starts)  # noqa: B023
        # Not a wait for a state: it dies at other moments of its life each time, and needs about
        # half a second to serve.
        time.sleep(0.13 * own.starts)
    eventually(lambda: own.daemon.get("services"))


@pytest.mark.parametrize("fault", [kill, stop, restart, upgrade, crash_loop])
def test_connections_go_on(daemon: Daemon, fault: Callable[[Supervisor], None]) -> None:
    with supervised(daemon) as own:
        load = Load(daemon.cluster)
        load.go_on()
        before = repeated_syns(daemon.cluster)
        fault(own)
        load.go_on()
        told = load.end()
        assert (told["broken"], told["failed"]) == ([], [])
        # Nobody waits for a daemon; on a busy machine some wait for the processor.
        assert told["slowest_round"] < WATCHDOG_SECONDS / 2, told
        if fault in (restart, upgrade):
            assert repeated_syns(daemon.cluster) == before, "no packet is lost"
        # The daemon knows the connections that it did not decide about.
        own.daemon.get("services")
        chosen = {end_parts(flow["reply_source"])[0] for flow in own.daemon.get("flows")}
        assert chosen == {"172.17.0.3", "172.17.0.4"}


def connect(daemon: Daemon, address: str, port: int, timeout: float = 5) -> str:
    """What the answer is to a new connection of the client: "echo", or the error."""
    program = (
        "import socket, sys\n"
        "try:\n"
        "    server, timeout = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3])\n"
        "    with socket.create_connection(server, timeout=timeout) as connection:\n"
        "        connection.sendall(b'echo'); print(connection.recv(10).decode())\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )
    return daemon.cluster.client.call(
        sys.executable, "-c", program, address, str(port), str(timeout)
    ).strip()


def test_who_is_served_while_no_daemon_runs(daemon: Daemon) -> None:
    daemon.write("nobody.yaml", NOBODY)
    daemon.start()
    served = {("172.30.0.7", 7), ("172.30.0.8", 7), ("10.0.2.15", 30007), (VIP, 80)}
    for address, port in served | {("198.51.100.8", 7)}:
        assert port == 80 or connect(daemon, address, port) == "echo"
    daemon.end(signal.SIGKILL)
    for address, port in sorted(served):
        assert port == 80 or connect(daemon, address, port) == "echo", (address, port)
    # Somebody must not be let in there, and the kernel alone does not know whom.
    assert connect(daemon, "198.51.100.8", 7) == "ConnectionRefusedError"
    assert connect(daemon, "172.30.0.9", 81) == "ConnectionRefusedError", "nobody serves it"


def test_a_start_that_fails_leaves_what_serves(daemon: Daemon) -> None:
    before = kernel_rules(daemon.cluster)
    few = ("--mark-backend", "0x4000")
    assert daemon.run(*few).returncode == 2
    assert kernel_rules(daemon.cluster) == before, "nothing was there"
    daemon.start()
    daemon.end(signal.SIGKILL)
    done = daemon.run(*few)
    assert done.returncode == 2
    assert "(--mark-backend) count up to 1" in done.stderr
    assert connect(daemon, "172.30.0.7", 7) == "echo"


def test_who_waits_for_a_drain_hears_of_the_daemons_end(daemon: Daemon) -> None:
    daemon.start()
    own = inside(
        daemon.cluster.client.path, lambda: socket.create_connection(("172.30.0.7", 7), timeout=10)
    )
    with own:
        [flow] = daemon.get("flows")
        draining = subprocess.Popen(
            [*COMMAND, "drain", end_parts(flow["reply_source"])[0], "--socket", str(daemon.socket)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert draining.stdout is not None
        assert "1 connection left" in draining.stdout.readline()
        daemon.end(signal.SIGKILL)
        _, said = draining.communicate(timeout=10)
        assert draining.returncode == 2
        assert "the daemon ended before it had answered" in said


def test_on_death_refuse(daemon: Daemon) -> None:
    daemon.start("--on-death", "refuse")
    own = inside(
        daemon.cluster.client.path, lambda: socket.create_connection(("172.30.0.7", 7), timeout=10)
    )
    with own as connection:
        daemon.end(signal.SIGKILL)
        assert connect(daemon, "172.30.0.7", 7) == "ConnectionRefusedError"
        connection.sendall(b"still here")
        assert connection.recv(100) == b"still here"


def test_a_full_queue_is_relieved_by_the_kernel(daemon: Daemon) -> None:
    daemon.start("--queue-length", "4", "--queues", "1")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        held = [
            daemon.cluster.client.start(
                (
                    sys.executable,
                    "-c",
                    "import socket; socket.create_connection(('172.30.0.7', 7), timeout=20)",
                )
            )
            for _ in range(4)
        ]
        queue = "/proc/net/netfilter/nfnetlink_queue"

        def waiting() -> str:
            rows = map(str.split, daemon.cluster.node.call("cat", queue).splitlines())
            return next(row[2] for row in rows if row[0] == "100")

        eventually(lambda: waiting() == "4")
        assert connect(daemon, "172.30.0.7", 7) == "echo"
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    for process in held:
        assert process.wait(20) == 0


def test_f63_an_overrun_of_events_is_counted_and_repaired(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    cluster = daemon.cluster
    own = inside(
        cluster.client.path, lambda: socket.create_connection(("172.30.0.7", 7), timeout=10)
    )
    with own as connection:
        eventually(lambda: len(daemon.get("flows")) == 1)
        daemon.process.send_signal(signal.SIGSTOP)
        # Somebody else's flows fill what the kernel keeps for us.
        cluster.client.call(sys.executable, str(DATAGRAM_FLOOD), "172.17.0.3")
        cluster.node.call("conntrack", "-D", "-p", "tcp", "--orig-port-dst", "7")
        daemon.process.send_signal(signal.SIGCONT)
        eventually(lambda: daemon.get("stats")["kernel"]["events-lost"] > 0)
        eventually(lambda: not daemon.get("flows"))
        connection.close()


NOBODY = """apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 172.30.0.9, ports: [{port: 81}]}
"""
WATCHDOG_SECONDS = 6.0
