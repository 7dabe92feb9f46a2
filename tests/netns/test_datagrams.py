"""Datagrams go where their frontend leads, in both datapaths: whoever began their flow and
whenever, as long as their endpoint serves, and over whatever becomes of the daemon.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.clients import (
    DATAPATHS,
    FAMILIES,
    NAMES,
    OFFLOADING_DATAPATHS,
    PORT,
    VIPS,
    Clients,
    answered,
    endpoints,
    named,
    service,
)
from harness.daemons import Daemon
from harness.stage import add_ipv6
from harness.tracked import set_timeout
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.model import end_parts
from kbe_nat.playground.cluster import Cluster
from kbe_nat.rules.rule import DatapathKind

FLOWS = 1000
NODE = {4: "10.0.2.15", 6: "fd00:2::15"}
GOING = "a conditions: {ready: false, serving: true, terminating: true}"
GONE = "a conditions: {ready: false, serving: false, terminating: true}"
HINTED = ("a hints: {forNodes: [{name: there}]}", "b hints: {forNodes: [{name: here}]}")


@pytest.fixture
def node(cluster: Cluster) -> Cluster:
    """A cluster of both families whose node, as nodes do, tracks connections before any proxy
    comes, and whose pods say who they are.
    """
    add_ipv6(cluster)
    named(cluster)
    for iptables in ("iptables", "ip6tables"):
        cluster.node.call(
            iptables,
            "-t",
            "nat",
            "-A",
            "POSTROUTING",
            "-d",
            "192.0.2.1" if iptables == "iptables" else "2001:db8::1",
            "-j",
            "MASQUERADE",
        )
    return cluster


@pytest.fixture
def made(node: Cluster, tmp_path: Path) -> Iterator[Callable[[DatapathKind], Daemon]]:
    """Makes a daemon, which ends with the test."""
    (tmp_path / "objects").mkdir()
    with ExitStack() as stack:
        yield lambda datapath: stack.enter_context(Daemon(node, tmp_path, datapath))


Make = Callable[[DatapathKind], Daemon]


def becomes(clients: Clients, wanted: set[str], seconds: float = 30) -> None:
    """Everybody is answered by these soon, and by nobody else."""
    eventually(lambda: set(clients.asked(1)) == wanted, seconds)


@DATAPATHS
@FAMILIES
def test_f64_f121_udp_flows_survive_whatever_becomes_of_the_daemon(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    daemon = made(datapath)
    # Nothing is to end by itself meanwhile.
    set_timeout(daemon.cluster, "udp_timeout", 600)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a", "b"))
    daemon.start()
    with Clients(daemon.cluster, family, FLOWS) as clients:
        before = clients.asked()
        assert set(before) == {"a", "b"}
        daemon.wait_for_checkpoint()
        for end, arguments in (
            (signal.SIGKILL, ()),
            (signal.SIGUSR2, ()),
            # As another version may, the next one has other rules.
            (signal.SIGUSR2, ("--queue", "200", "--queues", "2")),
        ):
            daemon.end(end)
            daemon.start(*arguments)
            assert clients.asked() == before, end


@OFFLOADING_DATAPATHS
@FAMILIES
def test_f121_no_datagram_is_lost_over_a_restart(
    made: Make, family: Family, datapath: DatapathKind
) -> None:
    daemon = made(datapath)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a", "b"))
    daemon.start()
    over, lost = threading.Event(), 0
    with (
        Clients(daemon.cluster, family, 20) as clients,
        Clients(daemon.cluster, family, 400) as fresh,
    ):
        before = clients.asked()

        def ask() -> None:
            nonlocal lost
            new = iter(fresh.sockets)
            while not over.is_set():
                some = [*clients.sockets, *([own] if (own := next(new, None)) else [])]
                lost += len(some) - len(answered(some, 10))
                time.sleep(0.02)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for _ in range(2):
                daemon.end(signal.SIGUSR2)
                daemon.start()
        finally:
            over.set()
            asking.join()
        assert lost == 0
        assert clients.asked() == before


@DATAPATHS
@FAMILIES
def test_f48_f62_f122_who_was_sending_before_is_served(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    cluster = (daemon := made(datapath)).cluster
    external = {4: "198.51.100.53", 6: "2001:db8:51::53"}[family]
    more = f'  externalIPs: ["{external}"]'
    with (
        Clients(cluster, family, 1) as to_cluster,
        Clients(cluster, family, 1, to=(external, PORT)) as to_external,
        Clients(cluster, family, 1, to=(NODE[family], 30053)) as to_node,
    ):
        everybody = (to_cluster, to_external, to_node)
        for own in everybody:
            # The node's kernel has entered the flow, whatever becomes of its datagrams.
            assert set(own.asked(1)) <= {"", "refused"}
        daemon.start()
        daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
        becomes(to_cluster, {"a"})
        daemon.write("dns.yaml", service(family, more=more) + endpoints(family, "a"))
        becomes(to_external, {"a"})
        ported = service(family, more=more + "\n  type: NodePort").replace(
            "UDP}", "UDP, nodePort: 30053}"
        )
        daemon.write("dns.yaml", ported + endpoints(family, "a"))
        becomes(to_node, {"a"})
        # And who begins while no daemon and none of its rules are there.
        daemon.end(signal.SIGTERM)
        with (
            Clients(cluster, family, 1) as late,
            Clients(cluster, family, 1, to=(NODE[family], 30053)) as late_to_node,
        ):
            for own in (late, late_to_node):
                assert set(own.asked(1)) <= {"", "refused"}
            daemon.start()
            for own in (late, late_to_node, *everybody):
                becomes(own, {"a"})
        # An address that comes to the node.
        address = {4: "10.0.2.77", 6: "fd00:2::77"}[family]
        cluster.client.call("ip", "route", "add", address, "via", NODE[family])
        with Clients(cluster, family, 1, to=(address, 30053)) as to_new:
            assert set(to_new.asked(1)) <= {"", "refused"}
            cluster.node.call("ip", "address", "add", address, "dev", "docker0")
            becomes(to_new, {"a"})


@DATAPATHS
@FAMILIES
def test_f48_a_syn_that_was_sent_before_is_served(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    daemon = made(datapath)
    daemon.start()
    # The node sends it back to the client's network, where nobody answers and nobody refuses.
    opened: list[Clients] = []
    asking = threading.Thread(
        target=lambda: opened.append(Clients(daemon.cluster, family, 1, socket.SOCK_STREAM))
    )
    asking.start()
    known = ("conntrack", "-L", "-f", f"ipv{family}", "-p", "tcp", "--orig-dst", VIPS[family])
    eventually(lambda: "SYN_SENT" in daemon.cluster.node.call(*known))
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    asking.join()
    with opened[0] as clients:
        assert clients.asked() == ["a"]


@DATAPATHS
@FAMILIES
def test_f123_who_leaves_one_of_two_services_loses_the_flows_of_that(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    daemon = made(datapath)
    other = {4: "172.30.0.54", 6: "fd00:30::54"}[family]
    stays = service(family, "stays", other) + endpoints(family, "a", name="stays")
    daemon.write("stays.yaml", stays)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start()
    with (
        Clients(daemon.cluster, family, 5) as left,
        Clients(daemon.cluster, family, 5, to=(other, PORT)) as kept,
    ):
        assert set(left.asked()) == set(kept.asked()) == {"a"}
        daemon.write(
            "stays.yaml", stays.replace('"]}', '"]}, {addresses: ["' + NAMES["b"][family] + '"]}')
        )
        daemon.write("dns.yaml", service(family) + endpoints(family, "b"))
        # Sooner than the next look at all flows.
        becomes(left, {"b"}, 15)
        assert set(kept.asked()) == {"a"}


@DATAPATHS
@FAMILIES
@pytest.mark.parametrize("then", [(GOING, "b"), HINTED], ids=["terminating", "hinted"])
def test_f124_flows_stay_with_an_endpoint_while_it_serves(
    made: Make, datapath: DatapathKind, family: Family, then: tuple[str, str]
) -> None:
    daemon = made(datapath)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start("--node", "here")
    with (
        Clients(daemon.cluster, family, 5) as clients,
        Clients(daemon.cluster, family, 30) as fresh,
    ):
        assert set(clients.asked()) == {"a"}
        daemon.write("dns.yaml", service(family) + endpoints(family, *then))
        eventually(lambda: new_flow_goes_to(daemon.cluster, family) == "b", 30)
        assert set(clients.asked()) == {"a"}
        assert set(fresh.asked()) == {"b"}
        daemon.write("dns.yaml", service(family) + endpoints(family, GONE, "b"))
        becomes(clients, {"b"}, 15)


def new_flow_goes_to(cluster: Cluster, family: Family) -> str:
    with Clients(cluster, family, 1) as one:
        return one.asked()[0]


RULES = {
    "none": (),
    "saved": ("-j", "CONNMARK", "--save-mark"),
    "set": ("-j", "CONNMARK", "--set-mark", "0x1"),
}


@OFFLOADING_DATAPATHS
@FAMILIES
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_f60_f94_f125_connmarks_of_others_pin_nothing(
    made: Make, family: Family, rule: tuple[str, ...], datapath: DatapathKind
) -> None:
    daemon = made(datapath)
    iptables = "iptables" if family == 4 else "ip6tables"
    if rule:
        daemon.cluster.node.call(iptables, "-t", "mangle", "-A", "POSTROUTING", *rule)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start()
    with Clients(daemon.cluster, family, 5) as clients:
        assert set(clients.asked()) == {"a"}
        assert len(daemon.get("flows")) == 5
        daemon.write("dns.yaml", service(family) + endpoints(family, "b"))
        becomes(clients, {"b"}, 15)
        served = {end_parts(flow["reply_source"])[0] for flow in daemon.get("flows")}
        assert served == {NAMES["b"][family]}


@DATAPATHS
@FAMILIES
def test_f61_f62_nobody_serves_and_somebody_again(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    daemon = made(datapath)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a"))
    daemon.start()
    with Clients(daemon.cluster, family, 1) as clients:
        assert clients.asked() == ["a"]
        for pods, answer in (((), "refused"), (("b",), "b"), ((), "refused"), (("a",), "a")):
            daemon.write("dns.yaml", service(family) + endpoints(family, *pods))
            becomes(clients, {answer}, 15)


@DATAPATHS
@FAMILIES
def test_a_port_that_is_renamed_keeps_its_flows(
    made: Make, datapath: DatapathKind, family: Family
) -> None:
    daemon = made(datapath)
    objects = service(family) + endpoints(family, "a", "b")
    daemon.write("dns.yaml", objects)
    daemon.start()
    with Clients(daemon.cluster, family, 50) as clients:
        before = clients.asked()
        assert set(before) == {"a", "b"}
        daemon.write("dns.yaml", objects.replace("name: dns,", "name: renamed,"))
        eventually(lambda: any(row["port_name"] == "renamed" for row in daemon.get("services")), 30)
        assert clients.asked() == before
        assert {flow["service"] for flow in daemon.get("flows")} == {f"default/dns{family}:renamed"}


@DATAPATHS
@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_f139_flows_that_the_kernel_was_made_to_forget_go_where_they_went(
    made: Make, datapath: DatapathKind, family: Family, kind: socket.SocketKind
) -> None:
    daemon = made(datapath)
    daemon.write("dns.yaml", service(family) + endpoints(family, "a", "b"))
    daemon.start()
    with Clients(daemon.cluster, family, 40, kind) as clients:
        before = clients.asked()
        assert set(before) == {"a", "b"}
        eventually(lambda: len(daemon.get("flows")) == 40)
        daemon.cluster.node.call("conntrack", "-F")
        if datapath.offloads:
            eventually(lambda: daemon.get("stats")["kernel"]["flows-forgotten"] == 40)
        assert clients.asked() == before
