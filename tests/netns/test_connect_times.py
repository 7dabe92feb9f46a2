"""Connect times on real packets: backends whose SYN-ACKs are held back, and SYNs that are lost."""

import re
import select
import socket
import time
from contextlib import suppress

import pytest

from harness.daemons import Daemon, curl
from harness.late_answers import late_answers, put_rule
from harness.programs import SHORT_SERVER, UDP_ECHO
from harness.stage import DATAPATHS, FAMILIES, OFFLOADING_DATAPATHS, VIPS, Stage, served, stage
from harness.waiting import eventually
from kbe_nat._native import CONNECT_BOUNDS, AnswerWatch, ConnectTimes
from kbe_nat.drivers.thread import NativeThread
from kbe_nat.family import Family
from kbe_nat.metrics.catalog import SERVICE_CONNECTS
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.rule import DatapathKind

DELAY = 0.06
"""Seconds; with what the way takes it lies between the bounds of 50 and of 100 ms."""
PLACE = 5002
STAMPS = "/proc/sys/net/netfilter/nf_conntrack_timestamp"


def times(own: Stage, family: Family) -> ConnectTimes | None:
    """Of the service port that is asked here."""
    stats = own.engine.stats().services
    [service] = [each for each in stats if each.name == f"default/short{family}"]
    return service.connects


def beyond(connects: ConnectTimes, bound: float) -> int:
    """Connections that took longer."""
    return sum(connects.counts[CONNECT_BOUNDS.index(bound) + 1 :])


def is_writable(client: socket.socket) -> bool:
    return bool(select.select([], [client], [], 0)[1])


def connect_until(own: Stage, family: Family, count: int) -> tuple[ConnectTimes, int, float]:
    """Connects, one after the other, until so many connections are measured: the kernel's events
    that wait for a busy machine are not. Connect times, connections, and the seconds that the
    client has waited for them.
    """
    connections, waited = 0, 0.0

    def is_measured() -> bool:
        nonlocal connections, waited
        begun = time.monotonic()
        with own.client(socket.SOCK_STREAM, family, (VIPS[family], PLACE)) as client:
            waited += time.monotonic() - begun
            client.send(b"x")
            client.recv(1)
        connections += 1
        connects = times(own, family)
        return connects is not None and connects.count >= count

    eventually(is_measured)
    connects = times(own, family)
    assert connects is not None
    return connects, connections, waited


STAMPED = pytest.mark.parametrize("stamp", ["0", "1"], ids=["arrivals", "stamps"])
"""Whether the kernel tells the times of its events, where it can."""


@DATAPATHS
@FAMILIES
@STAMPED
def test_a_late_answer_is_in_the_bucket_of_its_delay(
    cluster: Cluster, datapath: DatapathKind, family: Family, stamp: str
) -> None:
    cluster.node.write(STAMPS, stamp)
    with stage(cluster, datapath) as own:
        for pod in cluster.pods:
            served(pod, SHORT_SERVER)
        prompt, connections, _ = connect_until(own, family, 5)
        assert prompt.count <= connections, "each once"
        with (
            late_answers(cluster.pods[0], family, DELAY),
            late_answers(cluster.pods[1], family, DELAY),
        ):
            late, connections, waited = connect_until(own, family, prompt.count + 6)
        measured = late.count - prompt.count
        assert 6 <= measured <= connections + 1, "the last of the prompt ones may come behind"
        assert beyond(late, 0.05) - beyond(prompt, 0.05) >= 5
        assert 5 * DELAY <= late.seconds - prompt.seconds <= waited + 0.2, "as the client waited"


def dropped(pod: Namespace, family: Family) -> int:
    """Packets that the one rule of a pod for what comes in has dropped."""
    command = "ip6tables" if family == Family.IPV6 else "iptables"
    *_, rule = pod.call(command, "-nvxL", "INPUT").splitlines()
    return int(rule.split()[0])


@DATAPATHS
@FAMILIES
def test_a_lost_syn_is_waited_for_from_its_first_try(
    cluster: Cluster, datapath: DatapathKind, family: Family
) -> None:
    # There is one answer, and without its stamp one that waits for a busy machine is not measured.
    cluster.node.write(STAMPS, "1")
    with stage(cluster, datapath) as own:
        for pod in own.cluster.pods:
            served(pod, SHORT_SERVER)
            syn = ("INPUT", "-p", "tcp", "--syn", "-j", "DROP")
            put_rule(pod, family, "-A", *syn)
        client = own.client(socket.SOCK_STREAM, family)
        client.setblocking(False)
        begun = time.monotonic()
        with suppress(BlockingIOError):
            client.connect((VIPS[family], PLACE))
        # The engine knows the flow before its packet is there, and it is to be lost.
        eventually(lambda: sum(dropped(pod, family) for pod in own.cluster.pods) >= 1)
        for pod in own.cluster.pods:
            put_rule(pod, family, "-D", *syn)
        eventually(lambda: is_writable(client))
        waited = time.monotonic() - begun
        connects = eventually(lambda: times(own, family))
        assert connects is not None and connects.count == 1
        assert beyond(connects, 0.5) == 1, "the client repeats its SYN after a second"
        assert connects.seconds <= waited + 0.1
        client.close()


@DATAPATHS
@FAMILIES
def test_a_refused_connection_has_no_connect_time(
    cluster: Cluster, datapath: DatapathKind, family: Family
) -> None:
    with stage(cluster, datapath) as own:
        with pytest.raises(ConnectionRefusedError):
            own.client(socket.SOCK_STREAM, family, (VIPS[family], PLACE))
        for pod in own.cluster.pods:
            served(pod, SHORT_SERVER)
        connects, connections, _ = connect_until(own, family, 1)
        assert connects.count <= connections, "those that were answered"


@OFFLOADING_DATAPATHS
def test_changes_that_are_no_answers_wake_nobody(cluster: Cluster, datapath: DatapathKind) -> None:
    with stage(cluster, datapath) as own:
        for pod in cluster.pods:
            served(pod, UDP_ECHO, "4")
        watch = inside(cluster.node.path, lambda: AnswerWatch(own.engine, socket_buffer=1 << 20))
        with NativeThread(watch, "answer watch"):
            eventually(lambda: watch.turns > 0)
            begun, before = time.monotonic(), watch.turns
            for _ in range(400):
                with own.client(socket.SOCK_DGRAM, Family.IPV4, (VIPS[Family.IPV4], 7)) as client:
                    client.send(b"x")
                    client.recv(1)
            # One in 64 passes, and a turn ends without any after a second.
            assert watch.turns - before < 60 + time.monotonic() - begun


def test_operators_see_connect_times(daemon: Daemon) -> None:
    daemon.start()

    def row() -> dict[str, float]:
        [web] = [each for each in daemon.get("services") if each["name"] == "simpleservice"]
        return web["connect"] or {"count": 0}

    def is_measured() -> bool:
        curl(daemon.cluster)
        return row()["count"] >= 4

    with (
        late_answers(daemon.cluster.pods[0], Family.IPV4, DELAY),
        late_answers(daemon.cluster.pods[1], Family.IPV4, DELAY),
    ):
        eventually(is_measured)
    assert row()["p50"] >= 0.05
    described = daemon.ask("describe", "service", "default/simpleservice")
    assert re.search(r"Connect Time: +\d+ms, 99 % within \d+ms", described)
    assert re.search(r"answers in \d+ms, 99 % within \d+ms", described)
    metrics = daemon.cluster.node.call("curl", "-sS", "http://127.0.0.1:10249/metrics")
    labels = 'namespace="default",service="simpleservice",port="",ip_family="IPv4"'
    name = SERVICE_CONNECTS.name
    assert f'{name}_bucket{{{labels},le="0.05"}} 0\n' in metrics
    assert re.search(rf"{name}_count{{{labels}}} [4-9]\n", metrics)
    columns = daemon.ask("top", "-d", "0.1", "--iterations", "1")
    assert "connect-ms" in columns
