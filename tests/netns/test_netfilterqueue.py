"""Real packets through the queue: what is translated, refused, never cut, and whose rules stay as
they were.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import kbe_nat
from harness.stage import OTHER, POD, connect
from harness.waiting import eventually
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.playground.cluster import NODE_ADDRESS, Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import installation
from kbe_nat.rules.iptables import Iptables

VIP = "172.30.228.255"
QUEUE = 3


def port(name: str, number: int, protocol: str, *targets: Backend) -> PlannedPort:
    frontend = Frontend("cluster-ip", VIP, number)
    return PlannedPort("default", name, "", protocol, Family.IPV4, (frontend,), targets, ())


PLAN = Plan(
    ports=(
        port("web", 80, "tcp", POD, OTHER),
        port("nobody", 81, "tcp"),
        port("echo", 53, "udp", Backend(POD.address, 5353)),
        port("closed", 54, "udp", Backend(POD.address, 5354)),
    ),
    addresses=(NODE_ADDRESS,),
    node_ports=NodePorts((NODE_ADDRESS,)),
    pod_ranges=(),
    options=Options(),
)


@contextmanager
def proxied(cluster: Cluster) -> Iterator[tuple[kbe_nat.Engine, NetfilterQueue]]:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(PLAN))
    with (
        inside(cluster.node.path, lambda: NetfilterQueue(QUEUE, timeout=0.05)) as queue,
        LoopThread(engine, queue),
        installation(Iptables(Commands(cluster.node.prefix)), rule_sets(PLAN, (QUEUE, QUEUE))),
    ):
        yield engine, queue


@contextmanager
def udp_echo(pod: Namespace, number: int) -> Iterator[None]:
    server = inside(pod.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("", number))
    server.settimeout(5)

    def answer() -> None:
        while True:
            try:
                content, client = server.recvfrom(65535)
            except OSError:
                return
            server.sendto(content, client)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        server.settimeout(0.01)
        server.close()
        thread.join()


def client_socket(namespace: Namespace, kind: socket.SocketKind) -> socket.socket:
    own = inside(namespace.path, lambda: socket.socket(socket.AF_INET, kind))
    own.settimeout(5)
    return own


def rules_of(namespace: Namespace) -> str:
    """All rules and sets, without counters and hashes' random seeds; sets have no order."""
    rules = [namespace.call(command) for command in ("iptables-save", "ip6tables-save")]
    kept = [line for line in "".join(rules).splitlines() if line.startswith(("-A", ":"))]
    sets = namespace.call("ipset", "save").splitlines()
    return "\n".join(kept + sorted(line.partition(" initval")[0] for line in sets))


def test_both_ways_and_from_the_node(cluster: Cluster) -> None:
    with proxied(cluster) as (engine, _):
        for namespace in (cluster.client, cluster.node):
            answer = namespace.call("curl", "-sS", "--max-time", "5", f"{VIP}:80/info")
            assert json.loads(answer)["host"] == VIP
        flows = list(engine.flows())
        assert {flow.destination for flow in flows} == {(VIP, 80)}
        # The kernel's connection tracking holds one consistent connection with the pod's address.
        assert (
            VIP not in cluster.node.call("conntrack", "-L", "-p", "tcp")
            if _has_conntrack(cluster)
            else True
        )


def _has_conntrack(cluster: Cluster) -> bool:
    try:
        cluster.node.call("conntrack", "-L")
    except kbe_nat.KbeNatError:
        return False
    return True


def test_a_service_without_endpoints_is_refused_at_once(cluster: Cluster) -> None:
    with proxied(cluster) as (engine, _):
        for namespace in (cluster.client, cluster.node):
            with (
                client_socket(namespace, socket.SOCK_STREAM) as own,
                pytest.raises(ConnectionRefusedError),
            ):
                connect(own, (VIP, 81), 5)
        assert engine.stats().causes["no-endpoints"] >= 2


def test_udp_and_an_icmp_error_of_the_pod(cluster: Cluster) -> None:
    pod = Namespace(f"kbe-pod0-{cluster.node.name.rsplit('-', 1)[1]}")
    with udp_echo(pod, 5353), proxied(cluster) as (engine, _):
        with client_socket(cluster.client, socket.SOCK_DGRAM) as own:
            own.connect((VIP, 53))
            own.send(b"question")
            assert own.recv(100) == b"question"
        with client_socket(cluster.client, socket.SOCK_DGRAM) as own:
            own.connect((VIP, 54))
            own.send(b"nobody listens")
            # The pod's port unreachable reaches the socket: its quoted packet is the client's own
            # again.
            with pytest.raises(ConnectionRefusedError):
                own.recv(100)
        assert engine.stats().causes["related"] == 1


def test_f20_a_packet_that_the_package_would_cut_is_dropped_and_counted(cluster: Cluster) -> None:
    pod = Namespace(f"kbe-pod0-{cluster.node.name.rsplit('-', 1)[1]}")
    with udp_echo(pod, 5353), proxied(cluster) as (engine, queue):
        with client_socket(cluster.client, socket.SOCK_DGRAM) as own:
            own.connect((VIP, 53))
            # Fragments, which connection tracking puts together ahead of the queue.
            own.send(bytes(3900))
            assert own.recv(4000) == bytes(3900)
            own.send(bytes(8000))
            eventually(lambda: queue.truncated == 1)
            own.settimeout(0.2)
            with pytest.raises(TimeoutError):
                own.recv(9000)
        [service] = [one for one in engine.stats().services if one.name == "default/echo"]
        assert service.packets == (1, 1)


def test_f08_a_second_daemon_is_told_and_the_first_goes_on(cluster: Cluster) -> None:
    with proxied(cluster):
        before = rules_of(cluster.node)
        with pytest.raises(kbe_nat.QueueError, match="queue 3 cannot be bound"):
            inside(cluster.node.path, lambda: NetfilterQueue(QUEUE))
        assert rules_of(cluster.node) == before
        assert cluster.client.call("curl", "-sS", "--max-time", "5", f"{VIP}:80/info")


def test_foreign_rules_stay_byte_identical(cluster: Cluster) -> None:
    node = cluster.node
    node.call(
        "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "MASQUERADE"
    )
    node.call("iptables", "-t", "raw", "-N", "FOREIGN")
    comment = ("-m", "comment", "--comment", "kbe-nat -j KBE-NAT-OUTPUT")
    node.call("iptables", "-t", "raw", "-A", "PREROUTING", *comment, "-j", "FOREIGN")
    for table in ("mangle", "filter"):
        node.call(
            "iptables",
            "-t",
            table,
            "-A",
            "INPUT",
            "-m",
            "mark",
            "--mark",
            "0x4000/0x4000",
            "-j",
            "ACCEPT",
        )
    node.call("ipset", "create", "foreign", "hash:ip")
    node.call("ipset", "add", "foreign", "192.0.2.1")
    # Looking makes the tables that were never used; they are there before and after.
    for command in ("iptables", "ip6tables"):
        for table in ("raw", "mangle", "nat", "filter"):
            node.call(command, "-t", table, "-L", "-n")
    before = rules_of(node)
    backend = Iptables(Commands(node.prefix))
    with installation(backend, rule_sets(PLAN, (QUEUE, QUEUE))):
        during = rules_of(node)
        assert "KBE-NAT-PREROUTING" in during
        own = set(before.splitlines()) ^ set(during.splitlines())
        foreign = [line for line in during.splitlines() if line not in own]
        assert all("KBE-NAT-" in line or "kbe-nat-" in line for line in own)
        assert "\n".join(foreign) == before
        # What a crash has left is replaced, not doubled.
        backend.install(rule_sets(PLAN, (QUEUE, QUEUE)))
        assert rules_of(node) == during
    assert rules_of(node) == before
    backend.remove()
    assert rules_of(node) == before


def test_a_refused_installation_leaves_nothing(cluster: Cluster) -> None:
    node = cluster.node
    before = rules_of(node)
    # There are 65536 queues.
    wrong = installation(Iptables(Commands(node.prefix)), rule_sets(PLAN, (70_000, 70_000)))
    with pytest.raises(kbe_nat.RulesError, match="iptables-restore"), wrong:
        pass
    assert [line for line in rules_of(node).splitlines() if "KBE" in line or "kbe" in line] == []
    assert before in rules_of(node)
