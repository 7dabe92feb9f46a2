"""The native driver on real packets: whole, fast, counted, in both families."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

import kbe_nat
from kbe_nat.datapath.native import NativeQueue, QueueCounters
from kbe_nat.datapath.thread import LoopThread
from kbe_nat.errors import QueueError
from kbe_nat.model import IPV4, IPV6
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy import Listener, Options, Plan, PortPolicy, Target
from kbe_nat.rules import installed, rule_sets
from kbe_nat.rules.execution import Commands
from kbe_nat.rules.iptables import Iptables
from kbe_nat.tables import Tables

VIPS = {IPV4: "172.30.228.255", IPV6: "fd00:30::ff"}
PODS = {IPV4: ("172.17.0.3", "172.17.0.4"), IPV6: ("fd00:17::3", "fd00:17::4")}
FAMILIES = pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])


def port(name: str, number: int, protocol: str, family: int, pods: int = 2) -> PortPolicy:
    targets = tuple(Target(address, number) for address in PODS[family][:pods])
    listener = Listener("cluster-ip", VIPS[family], number)
    return PortPolicy("default", f"{name}{family}", "", protocol, family, (listener,), targets, ())


def plan_of(pods: int = 2) -> Plan:
    ports = [
        port(name, number, protocol, family, 0 if name == "nobody" else pods)
        for family in (IPV4, IPV6)
        for name, number, protocol in (
            ("bulk", 5001, "tcp"),
            ("echo", 7, "udp"),
            ("nobody", 81, "tcp"),
            ("short", 5002, "tcp"),
        )
    ]
    return Plan(tuple(ports), ("10.0.2.15", "fd00:2::15"), (), (), options=Options())


@dataclass
class Stage:
    """A cluster of both families with the native driver."""

    cluster: Cluster
    engine: kbe_nat.Engine
    queues: tuple[int, int] = (7, 7)
    loops: list[LoopThread] = field(default_factory=list)

    def serve(self, plan: Plan) -> None:
        self.engine.replace_services(*Tables().native(plan))

    def client(
        self, kind: int, family: int, to: tuple[str, int] | None = None, where: Namespace | None = None
    ) -> socket.socket:
        def connected() -> socket.socket:
            own = socket.socket(socket.AF_INET6 if family == IPV6 else socket.AF_INET, kind)
            own.settimeout(10)
            if to is not None:
                own.connect(to)
            return own

        return inside((where or self.cluster.client).path, connected)


@contextmanager
def stage(
    cluster: Cluster, queues: tuple[int, int] = (7, 7), engine: kbe_nat.Engine | None = None
) -> Iterator[Stage]:
    _add_ipv6(cluster)
    made = Stage(cluster, engine or kbe_nat.Engine(seed=1), queues)
    made.serve(plan_of())
    with ExitStack() as stack:
        for number in range(queues[0], queues[1] + 1):
            queue = inside(cluster.node.path, lambda number=number: NativeQueue(number))  # type: ignore[misc]
            stack.enter_context(queue)
            made.loops.append(stack.enter_context(LoopThread(made.engine, queue)))
        rules = rule_sets(plan_of(), queues)
        stack.enter_context(installed(Iptables(Commands(cluster.node.prefix)), rules))
        errors = checksum_errors(cluster)
        yield made
        assert checksum_errors(cluster) == errors, "no receiver has seen a wrong checksum"
        assert all(loop.failure is None and loop.loop.panics == 0 for loop in made.loops)


def _add_ipv6(cluster: Cluster) -> None:
    node, client = cluster.node, cluster.client
    with suppress(FileNotFoundError):
        node.write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0")
    node.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
    node.call("ip", "address", "add", "fd00:2::15/64", "dev", "eth0", "nodad")
    node.call("ip", "address", "add", "fd00:17::1/64", "dev", "docker0", "nodad")
    client.call("ip", "address", "add", "fd00:2::100/64", "dev", "eth0", "nodad")
    client.call("ip", "route", "add", "default", "via", "fd00:2::15")
    node.call("ip", "route", "add", "default", "via", "fd00:2::100")
    for pod, address in zip(cluster.pods, PODS[IPV6], strict=True):
        pod.call("ip", "address", "add", f"{address}/128", "dev", "eth0", "nodad")
        pod.call("ip", "route", "add", "fd00:17::1", "dev", "eth0")
        pod.call("ip", "route", "add", "default", "via", "fd00:17::1")


def checksum_errors(cluster: Cluster) -> int:
    """What all receivers have counted (InCsumErrors of TCP, UDP and ICMP)."""
    total = 0
    for own in (cluster.node, cluster.client, *cluster.pods):
        lines = [line.split() for line in own.call("cat", "/proc/net/snmp").splitlines()]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            total += sum(int(v) for n, v in zip(names, values, strict=True) if n == "InCsumErrors")
        for line in own.call("cat", "/proc/net/snmp6").splitlines():
            total += int(line.split()[1]) if "InCsumErrors" in line else 0
    return total


def served(pod: Namespace, program: str, *arguments: str) -> subprocess.Popen[str]:
    """A server in a pod, ended with it."""
    process = pod.start((sys.executable, "-c", program, *arguments))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def transfer(own: Stage, family: int, size: int) -> None:
    """Sends so many bytes through the virtual IP, and compares what the pod has got."""
    servers = [served(pod, SINK) for pod in own.cluster.pods]
    block = os.urandom(1 << 20)
    digest = hashlib.sha256()
    with own.client(socket.SOCK_STREAM, family, (VIPS[family], 5001)) as connection:
        connection.settimeout(60)
        for number in range(size >> 20):
            part = number.to_bytes(4) + block[4:]
            digest.update(part)
            connection.sendall(part)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile().readline().strip() == digest.hexdigest()
    for server in servers:
        server.terminate()


@FAMILIES
def test_a_gigabyte_arrives_byte_for_byte(cluster: Cluster, family: int) -> None:
    with stage(cluster) as own:
        transfer(own, family, int(os.environ.get("KBE_NAT_BULK", 1 << 30)))
        [flow] = own.engine.flows()
        assert flow.bytes[0] > 1 << 29


def test_nothing_is_lost_over_a_path_that_loses(cluster: Cluster) -> None:
    with stage(cluster) as own:
        for chain in ("INPUT", "OUTPUT"):
            loss = ("-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.01", "-j", "DROP")
            cluster.pods[0].call("iptables", "-A", chain, *loss)
            cluster.pods[1].call("iptables", "-A", chain, *loss)
        transfer(own, IPV4, 50 << 20)


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1400, 9000, 60_000])
def test_datagrams_of_any_size(cluster: Cluster, family: int, size: int) -> None:
    with stage(cluster) as own, own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as connection:
        for pod in cluster.pods:
            served(pod, ECHO, str(family))
        content = os.urandom(size)
        connection.send(content)
        assert connection.recv(1 << 16) == content
        with own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7), cluster.node) as local:
            local.send(content)
            assert local.recv(1 << 16) == content, "from the node itself"


@FAMILIES
def test_no_endpoints_refuse_at_once(cluster: Cluster, family: int) -> None:
    with stage(cluster) as own:
        for where in (cluster.client, cluster.node):
            started = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                own.client(socket.SOCK_STREAM, family, (VIPS[family], 81), where)
            assert time.monotonic() - started < 1


def test_ten_thousand_short_connections_are_answered_and_shared(cluster: Cluster) -> None:
    with stage(cluster, (7, 8)) as own:
        for pod in cluster.pods:
            served(pod, SHORT)
        count = 10_000
        said = cluster.client.call(sys.executable, "-c", ASK_SHORT, VIPS[IPV4], str(count))
        assert said == f"{count} answered\n"
        [service] = [one for one in own.engine.stats().services if one.name == "default/short4"]
        shares = [backend.flows for backend in service.backends]
        assert sum(shares) == count
        # Binomial: outside this the chance is below one in a million.
        assert all(4750 < share < 5250 for share in shares), shares
        assert all(loop.loop.packets > count for loop in own.loops), "both queues carry their part"
        counters = counters_of(cluster)
        assert [counters[number].queue_dropped + counters[number].socket_dropped for number in (7, 8)] == [
            0,
            0,
        ]


def test_endpoints_change_under_load(cluster: Cluster) -> None:
    with stage(cluster) as own:
        for pod in cluster.pods:
            served(pod, SHORT)
        is_over = threading.Event()

        def change() -> None:
            while not is_over.wait(0.02):
                for pods in (1, 2):
                    own.serve(plan_of(pods))

        changer = threading.Thread(target=change)
        changer.start()
        try:
            assert (
                cluster.client.call(sys.executable, "-c", ASK_SHORT, VIPS[IPV4], "2000") == "2000 answered\n"
            )
        finally:
            is_over.set()
            changer.join()


def test_the_path_mtu_is_told_to_the_client(cluster: Cluster) -> None:
    with stage(cluster) as own:
        # Neither end knows that the path is narrow in between: the node must tell the client, about the packet
        # that it has sent and not about the translated one.
        cluster.node.call("ip", "link", "set", "docker0", "mtu", "1300")
        transfer(own, IPV4, 8 << 20)
        assert own.engine.stats().causes["related"] > 0
        assert "mtu 1300" in cluster.client.call("ip", "route", "get", VIPS[IPV4])


def test_f04_a_full_queue_drops_and_counts(cluster: Cluster) -> None:
    _add_ipv6(cluster)
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*Tables().native(plan_of()))
    for pod in cluster.pods:
        served(pod, ECHO, "4")
    with (
        inside(cluster.node.path, lambda: NativeQueue(7, max_length=10)) as queue,
        installed(Iptables(Commands(cluster.node.prefix)), rule_sets(plan_of(), (7, 7))),
        inside(cluster.client.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client,
    ):
        client.settimeout(0.5)
        for number in range(50):
            client.sendto(bytes([number]), (VIPS[IPV4], 7))
        counters = counters_of(cluster)[7]
        assert (counters.waiting, counters.queue_dropped, counters.socket_dropped) == (10, 40, 0)
        with LoopThread(engine, queue):
            answers = []
            with suppress(TimeoutError):
                while True:
                    answers.append(client.recv(10)[0])
        assert sorted(answers) == list(range(10)), (
            "what was in the queue is served, what was dropped is dropped"
        )


def flood(cluster: Cluster, count: int) -> socket.socket:
    """Sends numbered datagrams to the virtual IP; the socket for the answers."""
    client = inside(cluster.client.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.settimeout(0.5)
    for number in range(count):
        client.sendto(bytes([number]), (VIPS[IPV4], 7))
    return client


def answers(client: socket.socket) -> list[int]:
    found = []
    with suppress(TimeoutError):
        while True:
            found.append(client.recv(10)[0])
    return sorted(found)


@contextmanager
def diverted(cluster: Cluster) -> Iterator[None]:
    """The rules, and servers behind them."""
    _add_ipv6(cluster)
    for pod in cluster.pods:
        served(pod, ECHO, "4")
    with installed(Iptables(Commands(cluster.node.prefix)), rule_sets(plan_of(), (7, 7))):
        yield


def test_f01_rules_without_a_reader_drop(cluster: Cluster) -> None:
    with diverted(cluster), flood(cluster, 20) as client:
        assert answers(client) == []
        assert "--queue-bypass" not in cluster.node.call("iptables-save"), (
            "F02: packets would go on untranslated"
        )


def test_f05_fail_open_passes_on_what_does_not_fit(cluster: Cluster) -> None:
    seen = ("-A", "FORWARD", "-d", VIPS[IPV4])
    cluster.node.call("iptables", *seen)
    with inside(cluster.node.path, lambda: NativeQueue(7, max_length=8, fail_open=True)), diverted(cluster):
        with flood(cluster, 20):
            counters = counters_of(cluster)[7]
            assert (counters.waiting, counters.queue_dropped) == (8, 0)
        assert "[12:" in cluster.node.call("iptables-save", "-c", "-t", "filter"), "12 passed on untranslated"


def test_f06_a_full_socket_is_counted_and_no_error(cluster: Cluster) -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*Tables().native(plan_of()))
    with (
        inside(cluster.node.path, lambda: NativeQueue(7, socket_buffer=4096)) as queue,
        diverted(cluster),
        flood(cluster, 100) as client,
    ):
        counters = counters_of(cluster)[7]
        assert counters.socket_dropped > 50
        assert counters.waiting + counters.socket_dropped == 100
        with LoopThread(engine, queue) as loop:
            assert len(answers(client)) == counters.waiting
        assert loop.failure is None


def test_f17_f18_verdicts_on_packets_that_are_gone_are_no_error(cluster: Cluster) -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*Tables().native(plan_of()))
    with (
        inside(cluster.node.path, lambda: NativeQueue(7)) as queue,
        diverted(cluster),
        flood(cluster, 20),
    ):
        # The kernel drops what came in by a device that is gone.
        cluster.client.call("ip", "link", "set", "eth0", "down")
        cluster.node.call("ip", "link", "set", "eth0", "down")
        with LoopThread(engine, queue) as loop:
            time.sleep(0.3)
            assert loop.is_turning(0.2)
        assert loop.failure is None


def test_a_queue_that_cannot_be_had_says_why(cluster: Cluster) -> None:
    with inside(cluster.node.path, lambda: NativeQueue(7)) as queue:
        with pytest.raises(QueueError, match="queue 7 is taken by another process"):
            inside(cluster.node.path, lambda: NativeQueue(7))
        queue.close()
        with pytest.raises(RuntimeError, match="closed"):
            kbe_nat.Loop(kbe_nat.Engine(), queue).run()
    plain = (
        *cluster.node.prefix,
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        sys.executable,
        "-c",
    )
    program = "from kbe_nat.datapath.native import NativeQueue; NativeQueue(7)"
    done = subprocess.run([*plain, program], capture_output=True, text=True, check=False)
    assert "queue 7 cannot be bound without CAP_NET_ADMIN" in done.stderr


def counters_of(cluster: Cluster) -> dict[int, QueueCounters]:
    text = cluster.node.call(sys.executable, "-c", COUNTERS)
    return {int(row.split()[0]): QueueCounters(*map(int, row.split())) for row in text.splitlines()}


COUNTERS = """
from dataclasses import astuple
from kbe_nat.datapath.native import queue_counters
for own in queue_counters().values():
    print(*astuple(own))
"""
SINK = """
import hashlib, socket
with socket.create_server(("::", 5001), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        digest = hashlib.sha256()
        while content := connection.recv(1 << 20):
            digest.update(content)
        connection.sendall((digest.hexdigest() + "\\n").encode())
        connection.close()
"""
ECHO = """
import socket, sys
is_six = sys.argv[1] == "6"
with socket.socket(socket.AF_INET6 if is_six else socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("", 7))
    print("ready", flush=True)
    while True:
        content, peer = server.recvfrom(1 << 16)
        server.sendto(content, peer)
"""
SHORT = """
import socket
with socket.create_server(("", 5002), backlog=1024) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        connection.sendall(connection.recv(100))
        connection.close()
"""
ASK_SHORT = """
import socket, sys
answered = 0
for number in range(int(sys.argv[2])):
    with socket.create_connection((sys.argv[1], 5002), timeout=5) as connection:
        connection.sendall(b"hello")
        answered += connection.recv(100) == b"hello"
print(answered, "answered")
"""
