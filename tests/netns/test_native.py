"""The native driver on real packets: whole, fast, counted, in both families."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

import kbe_nat
from harness.programs import SHA256_SINK, SHORT_CLIENT, SHORT_SERVER, UDP_ECHO
from harness.stage import (
    DATAPATHS,
    DRIVERS,
    FAMILIES,
    VIPS,
    Driver,
    Stage,
    add_ipv6,
    counters_of,
    plan_of,
    served,
    stage,
)
from harness.waiting import eventually
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import QueueError
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import installation
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.rule import DatapathKind


def transfer(own: Stage, family: Family, size: int) -> None:
    """Sends so many bytes through the virtual IP, and compares what the pod has got."""
    servers = [served(pod, SHA256_SINK) for pod in own.cluster.pods]
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


@DATAPATHS
@FAMILIES
def test_a_gigabyte_arrives_byte_for_byte(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath) as own:
        transfer(own, family, int(os.environ.get("KBE_NAT_BULK", 1 << 30)))
        [flow] = own.flows()
        assert flow.bytes[0] > 1 << 29


@FAMILIES
def test_the_other_driver_is_slower_and_as_exact(cluster: Cluster, family: Family) -> None:
    with stage(cluster, driver=NetfilterQueue) as own:
        transfer(own, family, 64 << 20)


@DATAPATHS
def test_nothing_is_lost_over_a_path_that_loses(cluster: Cluster, datapath: DatapathKind) -> None:
    with stage(cluster, datapath) as own:
        for chain in ("INPUT", "OUTPUT"):
            loss = (
                "-p",
                "tcp",
                "-m",
                "statistic",
                "--mode",
                "random",
                "--probability",
                "0.01",
                "-j",
                "DROP",
            )
            cluster.pods[0].call("iptables", "-A", chain, *loss)
            cluster.pods[1].call("iptables", "-A", chain, *loss)
        transfer(own, Family.IPV4, 50 << 20)


@DATAPATHS
@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1400, 9000, 60_000])
def test_datagrams_of_any_size(
    cluster: Cluster, family: Family, size: int, datapath: DatapathKind
) -> None:
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as connection,
    ):
        for pod in cluster.pods:
            served(pod, UDP_ECHO, str(family))
        content = os.urandom(size)
        connection.send(content)
        assert connection.recv(1 << 16) == content
        with own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7), cluster.node) as local:
            local.send(content)
            assert local.recv(1 << 16) == content, "from the node itself"


@DATAPATHS
def test_no_redirect_leads_a_pod_around_the_node(cluster: Cluster, datapath: DatapathKind) -> None:
    """Pods on one bridge; IPv6 has no send_redirects."""
    for pod in cluster.pods:
        served(pod, SHORT_SERVER)
    with stage(cluster, datapath) as own:
        for pod in cluster.pods:
            for _ in range(20):
                with own.client(
                    socket.SOCK_STREAM, Family.IPV6, (VIPS[Family.IPV6], 5002), pod
                ) as client:
                    client.send(b"hello")
                    assert client.recv(100) == b"hello"
        for pod in cluster.pods:
            lines = pod.call("cat", "/proc/net/snmp6").splitlines()
            assert ["Icmp6InRedirects", "0"] in map(str.split, lines)


@DATAPATHS
@FAMILIES
def test_f20_f81_f140_the_largest_datagrams(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    """The kernel hands out at most 65,531 bytes of a packet: a mark is set, bytes stay."""
    for pod in cluster.pods:
        served(pod, UDP_ECHO, str(family))
    headers, largest = (28, 65_507) if family == Family.IPV4 else (48, 65_527)
    whole = 65_531 - headers
    with stage(cluster, datapath) as own:
        [queue] = own.serving.queues
        for size in (whole, whole + 1, largest):
            content = os.urandom(size)
            with own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as connection:
                before = queue.truncated
                connection.send(content)
                if datapath.offloads or size == whole:
                    assert connection.recv(1 << 16) == content
                eventually(lambda: queue.truncated == before + (size > whole))  # noqa: B023
                connection.send(b"small")
                assert connection.recv(1 << 16) == b"small"
        assert "malformed" not in own.engine.stats().causes


@DATAPATHS
@DRIVERS
@FAMILIES
def test_f65_no_endpoints_refuse_at_once(
    cluster: Cluster, family: Family, driver: Driver, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath, driver=driver) as own:
        for where in (cluster.client, cluster.node):
            started = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                own.client(socket.SOCK_STREAM, family, (VIPS[family], 81), where)
            # Not by running out of time; a busy machine may lose a packet of the neighbours'
            # protocol.
            assert time.monotonic() - started < 3
            datagrams = own.client(socket.SOCK_DGRAM, family, (VIPS[family], 82), where)
            with datagrams, pytest.raises(ConnectionRefusedError):
                datagrams.send(b"from the node this fails at once")
                datagrams.recv(100)


def test_first_packets_come_to_the_queue_of_their_processor(cluster: Cluster) -> None:
    usable = os.sched_getaffinity(0)
    for pod in cluster.pods:
        served(pod, UDP_ECHO, "4")
    with stage(cluster, DatapathKind.FIRST_PACKET, (7, 8)) as own:
        for cpu in sorted(usable):
            before = [loop.loop.packets for loop in own.loops]
            os.sched_setaffinity(0, {cpu})
            try:
                for _ in range(20):
                    to = (VIPS[Family.IPV4], 7)
                    with own.client(socket.SOCK_DGRAM, Family.IPV4, to) as client:
                        client.send(b"question")
                        assert client.recv(100) == b"question"
            finally:
                os.sched_setaffinity(0, usable)
            own.serving.settle()
            grown = [
                loop.loop.packets - count for loop, count in zip(own.loops, before, strict=True)
            ]
            assert grown == [20 * (cpu % 2 == place) for place in (0, 1)]


@DATAPATHS
def test_f92_ten_thousand_short_connections_are_answered_and_shared(
    cluster: Cluster, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath, (7, 8)) as own:
        for pod in cluster.pods:
            served(pod, SHORT_SERVER)
        count = 10_000
        # Queues are chosen by addresses, by a hash that is another one after each start of the
        # machine.
        sources = [f"10.0.2.{number}" for number in range(101, 121)]
        for source in sources:
            cluster.client.call("ip", "address", "add", f"{source}/24", "dev", "eth0")
        # Each call has its time limit.
        for _ in range(5):
            said = cluster.client.call(
                sys.executable, str(SHORT_CLIENT), VIPS[Family.IPV4], str(count // 5), *sources
            )
            assert said == f"{count // 5} answered\n"
        [service] = [one for one in own.engine.stats().services if one.name == "default/short4"]
        shares = [backend.flows for backend in service.backends]
        assert sum(shares) == count
        # Binomial: outside this the chance is below one in a million.
        assert all(4750 < share < 5250 for share in shares), shares
        packets = [loop.loop.packets for loop in own.loops]
        if datapath.offloads:
            assert sum(packets) == count, "one of each connection"
        else:
            assert all(packets), "both queues carry their part"
        counters = counters_of(cluster)
        assert [
            counters[number].queue_dropped + counters[number].socket_dropped for number in (7, 8)
        ] == [
            0,
            0,
        ]


@DATAPATHS
@DRIVERS
def test_endpoints_change_under_load(
    cluster: Cluster, driver: Driver, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath, driver=driver) as own:
        for pod in cluster.pods:
            served(pod, SHORT_SERVER)
        is_over = threading.Event()

        def change() -> None:
            while not is_over.wait(0.02):
                for pods in (1, 2):
                    own.serve(plan_of(pods))

        changer = threading.Thread(target=change)
        changer.start()
        try:
            assert (
                cluster.client.call(sys.executable, str(SHORT_CLIENT), VIPS[Family.IPV4], "2000")
                == "2000 answered\n"
            )
        finally:
            is_over.set()
            changer.join()


@DATAPATHS
@FAMILIES
def test_f82_the_path_mtu_is_told_to_the_client(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    with stage(cluster, datapath) as own:
        # Neither end knows that the path is narrow in between: the node must tell the client, about
        # the packet that it has sent and not about the translated one.
        cluster.node.call("ip", "link", "set", "docker0", "mtu", "1300")
        transfer(own, family, 8 << 20)
        assert datapath.offloads or own.engine.stats().causes["related"] > 0
        assert "mtu 1300" in cluster.client.call("ip", "route", "get", VIPS[family])


@DATAPATHS
@FAMILIES
def test_f82_datagrams_hear_of_the_path_mtu(
    cluster: Cluster, family: Family, datapath: DatapathKind
) -> None:
    for pod in cluster.pods:
        served(pod, UDP_ECHO, str(family))
    with (
        stage(cluster, datapath) as own,
        own.client(socket.SOCK_DGRAM, family, (VIPS[family], 7)) as client,
    ):
        cluster.node.call("ip", "link", "set", "docker0", "mtu", "1300")
        level, option = (
            (socket.IPPROTO_IP, 10) if family == Family.IPV4 else (socket.IPPROTO_IPV6, 23)
        )
        client.setsockopt(level, option, PMTUDISC_DO)
        # every-packet learns of no path by a flow's first datagram, see docs/differences.md.
        client.send(b"small")
        assert client.recv(10) == b"small"

        def is_told() -> bool:
            with suppress(OSError):
                client.send(bytes(1400))
                client.settimeout(0.2)
                client.recv(2000)
            return "mtu 1300" in cluster.client.call("ip", "route", "get", VIPS[family])

        eventually(is_told)
        client.settimeout(10)
        client.send(bytes(1200))
        assert client.recv(2000) == bytes(1200)


def test_f04_a_full_queue_drops_and_counts(cluster: Cluster) -> None:
    add_ipv6(cluster)
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(plan_of()))
    for pod in cluster.pods:
        served(pod, UDP_ECHO, "4")
    with (
        inside(cluster.node.path, lambda: NativeQueue(7, max_length=10)) as queue,
        installation(Iptables(Commands(cluster.node.prefix)), rule_sets(plan_of(), (7, 7))),
        inside(
            cluster.client.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ) as client,
    ):
        for number in range(50):
            client.sendto(bytes([number]), (VIPS[Family.IPV4], 7))
        counters = counters_of(cluster)[7]
        assert (counters.waiting, counters.queue_dropped, counters.socket_dropped) == (10, 40, 0)
        with LoopThread(engine, queue):
            assert answers(client, 10) == list(range(10)), (
                "what was in the queue is served, what was dropped is dropped"
            )


def flood(cluster: Cluster, count: int) -> socket.socket:
    """Sends numbered datagrams to the virtual IP; the socket for the answers."""
    client = inside(cluster.client.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    for number in range(count):
        client.sendto(bytes([number]), (VIPS[Family.IPV4], 7))
    return client


def answers(client: socket.socket, count: int) -> list[int]:
    """The numbers that come back: so many, as soon as they do, and what comes beside them."""
    found: list[int] = []
    with suppress(TimeoutError):
        while True:
            client.settimeout(10 if len(found) < count else 0.5)
            found.append(client.recv(10)[0])
    return sorted(found)


@contextmanager
def diverted(cluster: Cluster) -> Iterator[None]:
    """The rules, and servers behind them."""
    add_ipv6(cluster)
    for pod in cluster.pods:
        served(pod, UDP_ECHO, "4")
    with installation(Iptables(Commands(cluster.node.prefix)), rule_sets(plan_of(), (7, 7))):
        yield


def test_f01_rules_without_a_reader_drop(cluster: Cluster) -> None:
    with diverted(cluster), flood(cluster, 20) as client:
        assert answers(client, 0) == []
        diverted_to = [
            line for line in cluster.node.call("iptables-save").splitlines() if "NFQUEUE" in line
        ]
        bypassing = [line for line in diverted_to if "--queue-bypass" in line]
        assert len(bypassing) == 2 and all("-p icmp" in line for line in bypassing), (
            "F02: packets to virtual IPs would go on untranslated"
        )


def test_f05_fail_open_passes_on_what_does_not_fit(cluster: Cluster) -> None:
    seen = ("-A", "FORWARD", "-d", VIPS[Family.IPV4])
    cluster.node.call("iptables", *seen)
    with (
        inside(cluster.node.path, lambda: NativeQueue(7, max_length=8, fail_open=True)),
        diverted(cluster),
    ):
        with flood(cluster, 20):
            counters = counters_of(cluster)[7]
            assert (counters.waiting, counters.queue_dropped) == (8, 0)
        assert "[12:" in cluster.node.call("iptables-save", "-c", "-t", "filter"), (
            "12 passed on untranslated"
        )


def test_f06_a_full_socket_is_counted_and_no_error(cluster: Cluster) -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(plan_of()))
    with (
        inside(cluster.node.path, lambda: NativeQueue(7, socket_buffer=4096)) as queue,
        diverted(cluster),
        flood(cluster, 100) as client,
    ):
        counters = counters_of(cluster)[7]
        assert counters.socket_dropped > 50
        assert counters.waiting + counters.socket_dropped == 100
        with LoopThread(engine, queue) as loop:
            assert len(answers(client, counters.waiting)) == counters.waiting
        assert loop.failure is None


def test_f17_f18_verdicts_on_packets_that_are_gone_are_no_error(cluster: Cluster) -> None:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(plan_of()))
    with (
        inside(cluster.node.path, lambda: NativeQueue(7)) as queue,
        diverted(cluster),
        flood(cluster, 20),
    ):
        # The kernel drops what came in by a device that is gone.
        cluster.client.call("ip", "link", "set", "eth0", "down")
        cluster.node.call("ip", "link", "set", "eth0", "down")
        with LoopThread(engine, queue) as loop:
            eventually(lambda: loop.loop.turns > 2)
        assert loop.failure is None


def test_a_queue_that_cannot_be_had_says_why(cluster: Cluster) -> None:
    with inside(cluster.node.path, lambda: NativeQueue(7)) as queue:
        assert repr(queue) == "<NativeQueue 7>"
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
    program = "from kbe_nat.drivers.native import NativeQueue; NativeQueue(7)"
    done = subprocess.run([*plain, program], capture_output=True, text=True, check=False)
    assert "queue 7 cannot be bound without CAP_NET_ADMIN" in done.stderr


PMTUDISC_DO = 2
"""IP_PMTUDISC_DO and IPV6_PMTUDISC_DO: never in fragments."""
