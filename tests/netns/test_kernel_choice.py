"""Services whose endpoints the kernel always chooses: what clients and operators see is the same as
where the engine chooses, and nobody waits for a daemon.
"""

import json
import math
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from harness import traffic
from harness.associations import associations
from harness.choices import chosen, queued
from harness.clients import FAMILIES, NAMES, Clients, named, sources
from harness.daemons import Daemon, patched
from harness.flow_events import EVENTS, KINDS, steps, watch
from harness.programs import PEER_TELLER, SOON_BUSY_AND_CALM
from harness.stage import OFFLOADING, add_ipv6, served
from harness.tracked import set_timeout
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import end_parts, join_address
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.rule import DatapathKind

DRAWS = 300
NODE = {Family.IPV4: "10.0.2.15", Family.IPV6: "fd00:2::15"}
PODS = "172.17.0.0/16,fd00:17::/64"
NUMBERS = {"even": 11, "heavy": 12, "own": 13, "turn": 14, "stays": 15, "peer": 16}
"""The last part of the cluster IP of each Service."""
SPECS = {"stays": "sessionAffinity: ClientIP", "peer": "type: NodePort"}
ANNOTATIONS = {"own": "kbe-nat.io/choice: engine", "turn": "kbe-nat.io/strategy: rr"}
CHOSEN = ("even", "heavy", "peer")
TARGETS = {"peer": 5009}
OWN_PORTS = (61000, 65535)
"""Of clients beside a flood, which leaves these out."""


def address(family: Family, name: str) -> str:
    number = NUMBERS[name]
    return f"fd00:30::{number:x}" if family == Family.IPV6 else f"172.30.0.{number}"


def objects(family: Family, name: str, pods: str = "ab") -> str:
    """A Service with a slice for each of these pods."""
    target, is_node_port = TARGETS.get(name, 9953), name == "peer"
    kinds = ("TCP", "UDP", "SCTP")
    ports = [f"{{name: {kind.lower()}, port: %d, protocol: {kind}%s}}" for kind in kinds]
    more = f", targetPort: {target}" + (f", nodePort: 3010{family}" if is_node_port else "")
    listed = ", ".join(port % (80, more) for port in ports)
    spec = SPECS.get(name, "type: ClusterIP")
    text = f"""apiVersion: v1
kind: Service
metadata: {{name: {name}{family}, annotations: {{{ANNOTATIONS.get(name, "")}}}}}
spec: {{clusterIP: "{address(family, name)}", ports: [{listed}], {spec}}}
---
"""
    for pod in pods:
        weight = 3 if (name, pod) == ("heavy", "a") else 1
        text += f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}{family}-{pod}
  labels: {{kubernetes.io/service-name: {name}{family}}}
  annotations: {{kbe-nat.io/weight: "{weight}"}}
addressType: IPv{family}
ports: [{", ".join(port % (target, "") for port in ports)}]
endpoints: [{{addresses: ["{NAMES[pod][family]}"]}}]
---
"""
    return text


def everything(without: str = "") -> str:
    """All Services; those of `without` lack the endpoint in pod a."""
    return "".join(
        objects(family, name, "b" if name == without else "ab")
        for family in Family
        for name in NUMBERS
    )


@pytest.fixture(params=OFFLOADING, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    add_ipv6(cluster)
    (tmp_path / "objects").mkdir()
    named(cluster)
    for pod, name in zip(cluster.pods, NAMES, strict=True):
        served(pod, PEER_TELLER, NAMES[name][4], NAMES[name][6])
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("objects.yaml", everything())
        yield made


def start(
    daemon: Daemon, choice: str = "kernel", environment: dict[str, str] | None = None
) -> None:
    daemon.start("--choice", choice, "--cluster-cidr", PODS, environment=environment)
    eventually(lambda: len(daemon.get("services")) >= len(NUMBERS))


def names(
    cluster: Cluster, family: Family, name: str, kind: socket.SocketKind, count: int = DRAWS
) -> Counter[str]:
    with Clients(cluster, family, count, kind, (address(family, name), 80)) as clients:
        return Counter(clients.asked())


def is_within(count: int, share: float) -> bool:
    return abs(count - DRAWS * share) <= 5 * math.sqrt(DRAWS * share * (1 - share))


@FAMILIES
def test_nobody_waits_for_a_daemon_that_hangs(daemon: Daemon, family: Family) -> None:
    start(daemon)
    # Of each family three protocols of three Services; one of these has a node port, and on an
    # address of the loopback too, where the engine chooses.
    assert chosen(daemon) >= 2 * 3 * len(CHOSEN)
    before = queued(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        for name, share in (("even", 1 / 2), ("heavy", 3 / 4)):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                counts = names(daemon.cluster, family, name, kind)
                assert counts.total() == DRAWS and is_within(counts["a"], share), (name, counts)
        counts = associations(daemon.cluster, family, address(family, "heavy"), DRAWS)
        assert counts.total() == DRAWS and is_within(counts["a"], 3 / 4), counts
        assert queued(daemon) == before
        for name in ("own", "turn", "stays"):
            with pytest.raises(TimeoutError):
                inside(
                    daemon.cluster.client.path,
                    lambda: socket.create_connection((address(family, name), 80), 0.5),  # noqa: B023
                )
        assert queued(daemon) > before
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    daemon.end(signal.SIGKILL)
    assert is_within(names(daemon.cluster, family, "heavy", socket.SOCK_STREAM)["a"], 3 / 4)


TELL = """import socket, sys
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for _ in range(count):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, kind) as own:
            own.settimeout(5)
            own.connect((address, port))
            own.send(b"who am I?")
            print(own.recv(100).decode(), own.getsockname()[0])
"""


def told(where: Namespace, to: str, port: int, count: int = 24) -> set[str]:
    """The addresses under which pods see these connections and datagrams; "own" is the client's."""
    lines = where.call(sys.executable, "-c", TELL, to, str(port), str(count)).splitlines()
    return {"own" if seen == own else seen for seen, own in map(str.split, lines)}


@FAMILIES
def test_clients_are_masqueraded_as_by_the_engine(daemon: Daemon, family: Family) -> None:
    cluster, seen = daemon.cluster, {}
    places = {"client": cluster.client, "pod": cluster.pods[0], "node": cluster.node}
    for choice in ("engine", "kernel"):
        start(daemon, choice)
        assert bool(chosen(daemon)) == (choice == "kernel")
        seen[choice] = {
            (name, to): told(where, to, port)
            for name, where in places.items()
            for to, port in (
                (address(family, "peer"), 80),
                (NODE[family], int(f"3010{family}")),
            )
        }
        daemon.end()
    assert seen["kernel"] == seen["engine"]
    # A pod sees another one's address, and the node's where it reached itself.
    assert len(seen["kernel"]["pod", address(family, "peer")]) == 2
    assert "own" not in seen["kernel"]["client", address(family, "peer")]


@FAMILIES
def test_the_engine_hears_of_the_flows(daemon: Daemon, family: Family) -> None:
    """Lists, loads, counters, drains, and datagrams whose endpoint is gone."""
    start(daemon)
    to = (address(family, "even"), 80)
    with (
        Clients(daemon.cluster, family, 20, socket.SOCK_STREAM, to) as connections,
        Clients(daemon.cluster, family, 20, socket.SOCK_DGRAM, to) as datagrams,
    ):
        answers = {
            kind: clients.asked() for kind, clients in (("tcp", connections), ("udp", datagrams))
        }

        def flows() -> dict[str, Counter[str]]:
            rows: list[dict[str, Any]] = daemon.get("flows")
            rows = [row for row in rows if row["destination"] == join_address(*to)]
            pods = {NAMES[name][family]: name for name in NAMES}
            return {
                kind: Counter(
                    pods[end_parts(row["reply_source"])[0]]
                    for row in rows
                    if row["protocol"] == kind
                )
                for kind in answers
            }

        eventually(lambda: flows() == {kind: Counter(each) for kind, each in answers.items()})
        daemon.ask("drain", NAMES["a"][family], "--no-wait")
        assert names(daemon.cluster, family, "even", socket.SOCK_STREAM, 40) == {"b": 40}
        assert connections.asked() == answers["tcp"], "those that were there go on"
        daemon.ask("drain", NAMES["a"][family], "--undo")
        assert names(daemon.cluster, family, "even", socket.SOCK_STREAM, 40).keys() == {"a", "b"}
        daemon.write("objects.yaml", everything(without="even"))
        eventually(lambda: datagrams.asked() == ["b"] * 20)
        assert connections.asked() == answers["tcp"]
        assert names(daemon.cluster, family, "even", socket.SOCK_DGRAM, 40) == {"b": 40}


@FAMILIES
def test_the_kernel_tells_of_beginnings_and_ends_alone(daemon: Daemon, family: Family) -> None:
    """Messages about the changes between hold up whoever opens a connection."""
    start(daemon)

    def changes(name: str) -> tuple[int, int]:
        """Beginnings and ends, and other changes, that 200 connections make known."""
        before = daemon.get("stats")["kernel"]
        names(daemon.cluster, family, name, socket.SOCK_STREAM, 200)
        eventually(lambda: daemon.get("stats")["kernel"]["events"] - before["events"] >= 200)
        after = daemon.get("stats")["kernel"]
        return after["events"] - before["events"], after["updates"] - before["updates"]

    _, by_engine = changes("own")
    begun, by_kernel = changes("even")
    # An estimate: of the messages that nobody reads one in some dozens is counted.
    assert by_engine > 200
    # The cache hears of all changes: it enters a flow once both ends have talked.
    assert (by_kernel <= 100) == (daemon.datapath is DatapathKind.FIRST_PACKET)
    assert begun >= 200
    assert daemon.get("stats")["kernel"]["updates-paused"] == 0


@FAMILIES
@pytest.mark.parametrize("kind", EVENTS)
def test_who_watches_connections_sees_what_becomes_of_them(
    daemon: Daemon, family: Family, kind: str, tmp_path: Path
) -> None:
    start(daemon)
    events, to = tmp_path / "events", (address(family, "even"), 80)

    def connect() -> str:
        with Clients(daemon.cluster, family, 1, KINDS[kind], to) as clients:
            assert set(clients.asked()) <= {"a", "b"}
            return str(clients.sockets[0].getsockname()[1])

    def is_quiet() -> bool:
        listed = daemon.cluster.node.call("nft", "list", "ruleset")
        return "elements = { tcp, udp, sctp }" in listed.replace("6, 17, 132", "tcp, udp, sctp")

    assert is_quiet() == (daemon.datapath is DatapathKind.FIRST_PACKET)
    with watch(daemon, events):
        eventually(lambda: not is_quiet())
        eventually(lambda: connect() and steps(events))
        port = connect()
        eventually(lambda: steps(events).get(port) == EVENTS[kind])
    eventually(lambda: is_quiet() == (daemon.datapath is DatapathKind.FIRST_PACKET))


def test_packets_in_the_middle_of_a_connection_go_to_the_engine(daemon: Daemon) -> None:
    """It may know where the connection went, and else chooses as every node does."""
    start(daemon)
    before, to = queued(daemon), address(Family.IPV4, "even")

    def send(*flags: int) -> None:
        def raw() -> socket.socket:
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

        with inside(daemon.cluster.client.path, raw) as own:
            for number, each in enumerate(flags):
                body = traffic.tcp(3000 + number, 80, each, 1, 1)
                own.sendto(traffic.ip("10.0.2.100", to, traffic.TCP, body), (to, 0))

    send(*[traffic.SYN] * 5)
    eventually(lambda: len(daemon.get("flows")) >= 5)
    assert queued(daemon) == before
    send(*[traffic.SYN] * 5, *[traffic.ACK] * 5)
    eventually(lambda: queued(daemon) == before + 5)


@FAMILIES
def test_no_endpoint_is_claimed_for_what_the_kernel_will_draw(
    daemon: Daemon, family: Family
) -> None:
    start(daemon)
    vip = address(family, "even")
    own = "fd00:2::64" if family == Family.IPV6 else "10.0.2.100"
    to = join_address(vip, 80)
    pods = sorted(join_address(NAMES[name][family], 9953) for name in "ab")

    def explained(port: int, *flags: str) -> str:
        ends = ("--from", join_address(own, port), "--to", to)
        return daemon.ask("explain", "--live", *ends, *flags)

    text = explained(40000)
    headline, _, rest = text.partition("\n")
    assert f"is sent to one of 2 endpoints, which the kernel draws ({', '.join(pods)})" in headline
    assert "the kernel chooses for new connections here" in rest
    for claim in ("  chosen", "strategy", "number in the packet's mark", "KUBE-SEP"):
        assert claim not in text, claim
    assert "by its own rules, without a mark" in " ".join(text.split())
    told = json.loads(explained(40000, "-o", "json"))
    assert (told["verdict"], told["backend"], told["destinations"]) == ("translate", None, pods)

    # The connection that there is went to one of them, and that is told.
    with Clients(daemon.cluster, family, 1, socket.SOCK_STREAM, (vip, 80)) as clients:
        [pod] = clients.asked()

        def flows() -> list[dict[str, Any]]:
            return [row for row in daemon.get("flows") if end_parts(row["destination"])[0] == vip]

        eventually(lambda: len(flows()) == 1)
        [flow] = flows()
        backend = join_address(NAMES[pod][family], 9953)
        ends = ("--from", flow["source"], "--to", to)
        assert f"is sent to {backend} by" in daemon.ask("explain", "--live", *ends)
        told = json.loads(daemon.ask("explain", "--live", *ends, "-o", "json"))
        assert (told["backend"], told["destinations"]) == (backend, [backend])
        assert not any("mark" in text for text in told["kernel"].values())

    # Where nothing is drawn, there is no doubt.
    daemon.write("objects.yaml", everything(without="even"))
    eventually(lambda: json.loads(explained(40000, "-o", "json"))["destinations"] == pods[1:])
    assert f"is sent to {pods[1]} by" in explained(40000)


def test_decisions_say_that_the_kernel_made_others(daemon: Daemon) -> None:
    said = "those connections are not among the decisions"
    start(daemon, "engine")
    assert said not in daemon.ask_all("decisions").stderr
    daemon.end()
    start(daemon)
    names(daemon.cluster, Family.IPV4, "even", socket.SOCK_STREAM, 1)
    shown = daemon.ask_all("decisions", "even4")
    assert (shown.returncode, shown.stdout) == (0, "")
    assert f"the kernel chooses for {chosen(daemon)} frontends: {said}" in shown.stderr
    # What is refused is the engine's.
    assert said not in daemon.ask_all("decisions", "--verdict", "reject").stderr


def test_a_service_says_who_chooses(daemon: Daemon) -> None:
    text = everything()
    daemon.write("objects.yaml", text)
    start(daemon, "engine")
    assert chosen(daemon) == 0
    node = daemon.cluster.node
    draw, tables = "numgen random mod 2 offset", node.call("nft", "list", "tables")
    assert draw not in node.call("nft", "list", "ruleset"), "nobody pays for what nothing needs"
    daemon.write("objects.yaml", text.replace("choice: engine", "choice: kernel"))
    eventually(lambda: chosen(daemon) == 2 * 3)
    assert node.call("nft", "list", "ruleset").count(draw) == 2, "for each family"
    assert node.call("nft", "list", "tables") == tables, "and no new tables for that"
    before = queued(daemon)
    assert names(daemon.cluster, Family.IPV4, "own", socket.SOCK_STREAM, 40).keys() == {"a", "b"}
    assert queued(daemon) == before
    daemon.ask("strategy", "set", "default/own4", "lc")
    assert chosen(daemon) == 3
    names(daemon.cluster, Family.IPV4, "own", socket.SOCK_STREAM, 5)
    assert queued(daemon) == before + 5


@contextmanager
def flood(cluster: Cluster, family: Family, to: str) -> Iterator[None]:
    """First datagrams for two minutes at most, by two threads: each is a flow of its own for the
    engine, until the ports begin anew.
    """
    is_over = threading.Event()

    def send(source: str) -> None:
        domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
        deadline = time.monotonic() + 120
        with inside(
            cluster.client.path,
            lambda: socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_UDP),
        ) as own:
            own.bind((source, 0))
            while time.monotonic() < deadline and not is_over.is_set():
                # With more the node runs out of ports to masquerade with, and drops packets.
                for number in range(1024, 46000):
                    with suppress(BlockingIOError, OSError):
                        own.sendto(traffic.udp(number, 80, b"first"), (to, 0))
                    if is_over.is_set():
                        break

    made = sources(cluster, family, 2)
    senders = [threading.Thread(target=send, args=(source,)) for source in made]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        is_over.set()
        for sender in senders:
            sender.join()


@FAMILIES
def test_a_service_whose_connections_fill_the_queue_goes_to_the_kernel_and_back(
    daemon: Daemon, family: Family, tmp_path: Path
) -> None:
    ports = " ".join(map(str, OWN_PORTS))
    daemon.cluster.client.write("/proc/sys/net/ipv4/ip_local_port_range", ports)
    set_timeout(daemon.cluster, "udp_timeout", 600)
    start(daemon, "auto", patched(tmp_path, SOON_BUSY_AND_CALM))
    assert chosen(daemon) == 0
    to = address(family, "even")
    ends = ("--from", NODE[family], "--to", join_address(to, 80))
    note = "the kernel chooses for new connections here"

    def handed() -> int:
        count: int = daemon.get("stats")["kernel"]["ports-handed-to-kernel"]
        return count

    def opened() -> Clients:
        return Clients(daemon.cluster, family, 20, socket.SOCK_DGRAM, (to, 80))

    with ExitStack() as stack:
        with flood(daemon.cluster, family, to):
            eventually(lambda: handed() == 1)
            assert chosen(daemon) == 1
            assert f"default/even{family}:udp: the kernel chooses from now on" in daemon.log
            before = queued(daemon)
            eventually(lambda: daemon.get("stats")["entries"] > 0)
            assert queued(daemon) - before < 5000, "what still waited"
            clients = stack.enter_context(opened())
            answers = clients.asked()
            assert {*answers} == {"a", "b"}
            assert note in daemon.ask("explain", "--live", *ends, "-p", "udp")
            # The Service's other port has no flood.
            assert note not in daemon.ask("explain", "--live", *ends, "-p", "tcp")
        # Nobody calls any more but for these clients, whose connections live on.
        eventually(lambda: handed() == 0, 60)
        assert f"default/even{family}:udp: the engine chooses again" in daemon.log
        assert chosen(daemon) == 0
        assert note not in daemon.ask("explain", "--live", *ends, "-p", "udp")
        before = queued(daemon)
        assert clients.asked() == answers
        assert queued(daemon) == before
        assert {*stack.enter_context(opened()).asked()} == {"a", "b"}
        assert queued(daemon) - before == 20


@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_connections_live_on_when_the_engine_chooses_again(
    daemon: Daemon, family: Family, kind: socket.SocketKind
) -> None:
    """Those that the kernel has drawn are counted with those that the engine chooses."""
    text = everything()
    daemon.write("objects.yaml", text.replace("choice: engine", "choice: kernel"))
    start(daemon, "engine")
    assert chosen(daemon) == 2 * 3
    before, service = queued(daemon), f"own{family}"
    port = f"default/{service}:{'tcp' if kind == socket.SOCK_STREAM else 'udp'}"

    def opened(count: int) -> Clients:
        return Clients(daemon.cluster, family, count, kind, (address(family, "own"), 80))

    def counts(field: str) -> dict[str, int]:
        """Of the Service's endpoints, by the names of their pods."""
        rows = {row["backend"]: row for row in daemon.get("endpoints") if row["service"] == port}
        return {name: rows[join_address(own[family], 9953)][field] for name, own in NAMES.items()}

    with ExitStack() as stack:
        drawn = stack.enter_context(opened(24))
        answers = drawn.asked()
        assert counts("active") == counts("flows") == Counter(answers)
        assert queued(daemon) == before, "the kernel has chosen"
        daemon.write("objects.yaml", text)
        eventually(lambda: chosen(daemon) == 0)
        assert drawn.asked() == answers
        assert queued(daemon) == before, "no packet of theirs asks for another choice"
        assert counts("active") == counts("flows") == Counter(answers)
        chosen_answers = stack.enter_context(opened(12)).asked()
        assert queued(daemon) == before + 12
        shown = json.loads(daemon.ask("decisions", service, "-o", "json"))["items"]
        assert Counter(row["backend"] for row in shown) == {
            join_address(NAMES[name][family], 9953): count
            for name, count in Counter(chosen_answers).items()
        }
        assert counts("active") == Counter(answers) + Counter(chosen_answers)
        if kind == socket.SOCK_STREAM:
            # The end of a connection that the kernel has drawn is noticed by the engine.
            drawn.sockets[0].close()
            eventually(lambda: sum(counts("over").values()) == 1)
            assert counts("over")[answers[0]] == 1
