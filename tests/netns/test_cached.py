"""What becomes of flows that the cache carries, when something changes or fails: every row of the
table in docs/datapaths.md, on real packets.
"""

import hashlib
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.cached import (
    BULK,
    PROTOCOLS,
    TABLE,
    Begin,
    Talk,
    await_backend,
    cached_daemon,
    counters,
    heeded,
    hits,
    serve,
    serve_bulk,
    steadily,
    talk,
)
from harness.clients import FAMILIES, PORT, VIPS, endpoints, service
from harness.daemons import Daemon
from harness.programs import SHA256_SINK
from harness.tracked import invalid, kernel_sees, rows, tracked
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import NODE_ADDRESS, NODE_ADDRESS_6
from kbe_nat.rules.rule import DatapathKind

NODES = {Family.IPV4: NODE_ADDRESS, Family.IPV6: NODE_ADDRESS_6}
NODE_PORT = 30053
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
PORTS = f"""  type: NodePort
  externalTrafficPolicy: Cluster
  ports:
  - {{name: dns, port: {PORT}, targetPort: 9953, nodePort: {NODE_PORT}, protocol: UDP}}
  - {{name: tcp, port: {PORT}, targetPort: 9953, nodePort: {NODE_PORT}, protocol: TCP}}
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It serves one pod in both families."""
    with cached_daemon(tmp_path) as made:
        yield made


@FAMILIES
@PROTOCOLS
def test_a_flow_is_cached_and_its_packets_are_counted(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own = cached(family, protocol)
    with steadily(own):
        eventually(lambda: "cached: packets of the flow" in own.explained())
    for _ in range(50):
        own.ask()

    def is_counted() -> bool:
        [row] = daemon.get("flows")
        # A connection has its handshake and acknowledgements beside the questions.
        least = [own.asked, own.asked]
        return all(count >= asked for count, asked in zip(row["packets"], least, strict=True))

    eventually(is_counted)
    if protocol == "udp":
        [row] = daemon.get("flows")
        assert row["packets"] == [own.asked, own.asked]
    daemon.cluster.node.call("conntrack", "-F")


@FAMILIES
@PROTOCOLS
def test_flows_go_on_when_the_daemon_is_killed_hangs_and_comes_back(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own = cached(family, protocol)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGSTOP)
    # Nobody can ask it now: conntrack counts what goes the kernel's way.
    eventually(lambda: kernel_sees(own))
    daemon.process.send_signal(signal.SIGCONT)
    own.await_cache()
    daemon.end(signal.SIGKILL)
    assert kernel_sees(own), "its programs are gone with it"
    daemon.start()
    own.await_cache()
    daemon.end(signal.SIGUSR2)
    assert kernel_sees(own)
    daemon.datapath = DatapathKind.FIRST_PACKET
    daemon.start()
    assert kernel_sees(own), "downgraded"
    daemon.end(signal.SIGUSR2)
    daemon.datapath = DatapathKind.CACHED
    daemon.start()
    own.await_cache()


@FAMILIES
@PROTOCOLS
def test_f141_a_rule_that_drops_stops_a_cached_flow_at_once(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own = cached(family, protocol)
    rule = f"meta l4proto {protocol} th dport 9953 drop"
    (daemon.folder / "rules").write_text(TABLE % rule)
    with heeded(daemon):
        daemon.cluster.node.call("nft", "-f", str(daemon.folder / "rules"))
    before = hits(daemon)
    assert own.is_silent()
    assert all(own.is_silent(0.2) for _ in range(10)), "nor is it ever entered again"
    assert hits(daemon) - before <= 1, "at most an acknowledgement was on its way"
    daemon.cluster.node.call("nft", "delete", "table", "inet", "strangers")
    if protocol == "udp":
        own.await_cache()


@FAMILIES
@PROTOCOLS
def test_f141_a_pods_link_address_and_a_devices_mtu_change(
    daemon: Daemon, cached: Begin, family: Family, protocol: str
) -> None:
    own = cached(family, protocol)
    node, pod = daemon.cluster.node, daemon.cluster.pods[0]
    pod.call("ip", "link", "set", "eth0", "address", "02:00:00:00:07:01")
    node.call("ip", "neigh", "flush", "dev", "docker0")
    own.await_cache()
    node.call("ip", "link", "set", "docker0", "mtu", "1300")
    own.await_cache()
    before = counters(daemon)["cache-device-voids"]
    node.call("ip", "link", "set", "eth0", "mtu", "1400")
    eventually(lambda: counters(daemon)["cache-device-voids"] > before)
    own.await_cache()


@PROTOCOLS
def test_a_device_goes_down_and_comes_back(daemon: Daemon, cached: Begin, protocol: str) -> None:
    own = cached(Family.IPV4, protocol)
    node = daemon.cluster.node
    generations = counters(daemon)["cache-generations"]
    node.call("ip", "link", "set", "docker0", "down")
    eventually(lambda: counters(daemon)["cache-generations"] > generations)
    # The kernel sends what has no other way back to the client, and so may the cache.
    assert own.is_silent()
    node.call("ip", "link", "set", "docker0", "up")
    own.socket.settimeout(30)
    if protocol == "udp":
        own.await_cache()


def test_a_device_that_comes_is_used_and_one_that_goes_is_left(daemon: Daemon) -> None:
    node = daemon.cluster.node
    before = counters(daemon)["cache-devices"]
    node.call("ip", "link", "add", "more", "type", "veth", "peer", "name", "other")
    eventually(lambda: counters(daemon)["cache-devices"] == before + 2)
    node.call("ip", "link", "set", "more", "master", "docker0")
    eventually(lambda: counters(daemon)["cache-devices"] == before + 1)
    node.call("ip", "link", "set", "more", "nomaster")
    eventually(lambda: counters(daemon)["cache-devices"] == before + 2)
    voids = counters(daemon)["cache-device-voids"]
    node.call("ip", "link", "delete", "more")
    eventually(lambda: counters(daemon)["cache-devices"] == before)
    # Of both ends, although the kernel had taken the programs off before it told of them.
    eventually(lambda: counters(daemon)["cache-device-voids"] >= voids + 2)


@FAMILIES
def test_datagrams_that_conntrack_forgets_go_on_to_their_backend(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    own = cached(family, "udp")
    name = own.ask()
    serve(daemon, "a", "b")
    await_backend(daemon, "172.17.0.4:9953")
    daemon.cluster.node.call("conntrack", "-F")
    # A datagram ahead of the daemon's hearing would begin anew.
    eventually(lambda: rows(daemon.cluster, own))
    assert {own.ask() for _ in range(20)} == {name}
    own.await_cache()


@FAMILIES
def test_a_hundred_megabytes_pass_conntrack_by_and_no_packet_is_invalid(
    daemon: Daemon, family: Family
) -> None:
    cluster = daemon.cluster
    serve_bulk(daemon, family, SHA256_SINK)
    (daemon.folder / "rules").write_text(TABLE % "ct state invalid counter drop")
    cluster.node.call("nft", "-f", str(daemon.folder / "rules"))
    assert cluster.node.call("sysctl", "-n", LIBERAL) == "0\n"
    before, digest, block = invalid(cluster), hashlib.sha256(), bytes(range(256)) * 4096
    with talk(daemon, family, "tcp", (BULK[family], PORT)) as own:
        own.socket.settimeout(60)
        # A little until it is cached, and then as fast as it goes.
        eventually(lambda: is_sent_past(own, digest))
        cached, by_conntrack = hits(daemon), tracked(cluster, own).packets
        sent = 0
        while sent < 100 << 20:
            sent += send(own, block, digest)
        own.socket.shutdown(socket.SHUT_WR)
        with own.socket.makefile() as answer:
            assert answer.readline().strip() == digest.hexdigest()
        assert hits(daemon) - cached > 10 * (tracked(cluster, own).packets - by_conntrack)
        # The end of the connection ends its entries, and conntrack sees it.
        eventually(lambda: "the connection is ending" in own.explained())
        assert invalid(cluster) == before


def is_sent_past(own: Talk, digest: "hashlib._Hash") -> bool:
    """Sends a little; whether the cache has carried most of it."""
    before = hits(own.daemon)
    for _ in range(20):
        send(own, b"x" * 10_000, digest)
    return hits(own.daemon) - before >= 20


def send(own: Talk, content: bytes, digest: "hashlib._Hash") -> int:
    digest.update(content)
    own.socket.sendall(content)
    return len(content)


@FAMILIES
@PROTOCOLS
def test_f141_a_flow_that_a_rule_drops_is_never_cached(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    with talk(daemon, family, protocol) as own:
        own.ask()
        # Before it is proposed.
        (daemon.folder / "rules").write_text(TABLE % f"meta l4proto {protocol} th dport 9953 drop")
        daemon.cluster.node.call("nft", "-f", str(daemon.folder / "rules"))
        if protocol == "tcp":
            eventually(lambda: counters(daemon)["cache-proposed"] >= 1)
        before = hits(daemon)
        assert all(own.is_silent(0.2) for _ in range(10))
        assert hits(daemon) == before


@FAMILIES
def test_a_packet_now_and_then_keeps_conntracks_entry(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    daemon.cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream", "4")
    own = cached(family, "udp")
    before = hits(daemon)
    with steadily(own):
        number = tracked(daemon.cluster, own).number
        # So many as take longer than the timeout, which the count of renewals tells.
        renewals = counters(daemon)["cache-renewals"]
        eventually(lambda: counters(daemon)["cache-renewals"] - renewals >= 16, 60)
        assert tracked(daemon.cluster, own).number == number, "it is the same entry still"
    assert hits(daemon) > before


@FAMILIES
def test_datagrams_leave_a_backend_that_is_removed_and_connections_stay(
    daemon: Daemon, cached: Begin, family: Family
) -> None:
    datagrams, connection = cached(family, "udp"), cached(family, "tcp")
    serve(daemon, "b")
    await_backend(daemon, "172.17.0.4:9953")
    # What was on its way as they moved may be lost.
    eventually(lambda: not datagrams.is_silent(0.5) and datagrams.ask() == "b")
    assert {datagrams.ask() for _ in range(50)} == {"b"}
    assert connection.ask() == "a"
    datagrams.await_cache()
    assert datagrams.ask() == "b"


@FAMILIES
@PROTOCOLS
def test_masqueraded_and_hairpin_flows_are_cached(
    daemon: Daemon, family: Family, protocol: str
) -> None:
    serve(daemon, "a", more=PORTS)
    eventually(
        lambda: (
            len(daemon.get("services")) == 4
            and "NodePort" in daemon.ask("get", "services", "-o", "wide")
        )
    )
    to = (NODES[family], NODE_PORT)
    pod = daemon.cluster.pods[0]
    with talk(daemon, family, protocol, to) as outside:
        outside.await_cache()
        assert outside.ask() == "a"
    with talk(daemon, family, protocol, where=pod) as itself:
        itself.await_cache()
        assert itself.ask() == "a"


def test_the_nodes_own_clients_are_not_cached(daemon: Daemon) -> None:
    with talk(daemon, Family.IPV4, "udp", where=daemon.cluster.node) as own:
        # Long enough for another client's flow to be cached.
        with talk(daemon, Family.IPV4, "udp") as other:
            eventually(lambda: own.ask() and other.is_cached())
        assert not own.is_cached()
        assert "the node itself" in own.explained()


def test_what_is_excluded_is_never_cached(daemon: Daemon) -> None:
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-exclude", f"{VIPS[Family.IPV6]}/128", "--cache-flows", "1")
    with ExitStack() as stack:
        one = stack.enter_context(talk(daemon, Family.IPV4, "udp"))
        one.await_cache()
        excluded = stack.enter_context(talk(daemon, Family.IPV6, "udp"))
        late = stack.enter_context(talk(daemon, Family.IPV4, "udp"))
        eventually(lambda: excluded.ask() and late.ask() and counters(daemon)["cache-no-room"])
        assert "--cache-exclude names" in excluded.explained()
        assert not excluded.is_cached()
        assert not late.is_cached(), "there is no room"
        annotated = service(Family.IPV4).replace(
            "metadata: {name: dns4}",
            'metadata: {name: dns4, annotations: {kbe-nat.io/cache: "off"}}',
        )
        daemon.write("dns.yaml", annotated + endpoints(Family.IPV4, "a"))
        eventually(lambda: "kbe-nat.io/cache" in one.explained())
        assert not one.is_cached()
        daemon.write("dns.yaml", service(Family.IPV4) + endpoints(Family.IPV4, "a"))
        # Both wait for the one place.
        eventually(lambda: one.is_cached() or late.is_cached())


def test_packets_of_an_excluded_device_go_the_kernels_way(daemon: Daemon) -> None:
    daemon.end(signal.SIGUSR2)
    daemon.start("--cache-exclude-device", "docker0")
    with talk(daemon, Family.IPV4, "udp") as own:
        eventually(lambda: own.ask() and counters(daemon)["cache-proposed"])
        # What comes by the other device has no entry: none was made where it leaves.
        assert not own.is_cached()
        assert counters(daemon)["cache-devices"] == 1
