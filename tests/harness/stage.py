"""A cluster of both families that a driver of ours serves, with programs for its pods and its
client.
"""

import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import kbe_nat
from harness.programs import QUEUE_COUNTERS
from harness.waiting import eventually
from kbe_nat._native import FlowCache, NftTables
from kbe_nat.datapath.cached import Cached, CacheSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import NativeQueue, QueueCounters
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.engine_tables import EngineTables
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster, wire_ipv6
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.rule import DatapathKind, Marks

QUEUES = Path("/proc/thread-self/net/netfilter/nfnetlink_queue")
VIPS = {Family.IPV4: "172.30.228.255", Family.IPV6: "fd00:30::ff"}
PODS = {Family.IPV4: ("172.17.0.3", "172.17.0.4"), Family.IPV6: ("fd00:17::3", "fd00:17::4")}
POD, OTHER = Backend("172.17.0.3", 9876), Backend("172.17.0.4", 9876)
Driver = type[NativeQueue] | type[NetfilterQueue]
DRIVERS = pytest.mark.parametrize(
    "driver", [NativeQueue, NetfilterQueue], ids=["native", "netfilterqueue"]
)
OFFLOADING = [kind for kind in DatapathKind if kind.offloads]
"""The datapaths in which the kernel carries established flows."""
DATAPATHS = pytest.mark.parametrize("datapath", list(DatapathKind), ids=str)
OFFLOADING_DATAPATHS = pytest.mark.parametrize("datapath", OFFLOADING, ids=str)
OFFLOADING_DAEMONS = pytest.mark.parametrize("daemon", OFFLOADING, indirect=True, ids=str)
ONE_QUEUE = Diversion((7, 7))
FAMILIES = pytest.mark.parametrize("family", [Family.IPV4, Family.IPV6], ids=["ipv4", "ipv6"])


def port(name: str, number: int, protocol: str, family: Family, pods: int = 2) -> PlannedPort:
    targets = tuple(Backend(address, number) for address in PODS[family][:pods])
    frontend = Frontend("cluster-ip", VIPS[family], number)
    return PlannedPort("default", f"{name}{family}", "", protocol, family, (frontend,), targets, ())


def plan_of(pods: int = 2) -> Plan:
    ports = [
        port(name, number, protocol, family, 0 if name in ("nobody", "silent") else pods)
        for family in (Family.IPV4, Family.IPV6)
        for name, number, protocol in (
            ("bulk", 5001, "tcp"),
            ("echo", 7, "udp"),
            ("nobody", 81, "tcp"),
            ("silent", 82, "udp"),
            ("short", 5002, "tcp"),
        )
    ]
    return Plan(tuple(ports), ("10.0.2.15", "fd00:2::15"), options=Options())


@dataclass
class Serving:
    """An engine, its datapath and its loops in a namespace."""

    engine: kbe_nat.Engine
    datapath: EveryPacket | FirstPacket | Cached
    node: Namespace
    plan: Plan
    loops: list[LoopThread] = field(default_factory=list)
    queues: list[NativeQueue | NetfilterQueue] = field(default_factory=list)

    def serve(self, plan: Plan) -> None:
        delta = PlanDelta.between(self.plan, plan)
        self.plan = plan
        self.datapath.apply(delta)
        self.datapath.prepare()
        EngineTables(self.engine).apply(delta)
        self.datapath.update()

    def settle(self) -> None:
        """Waits until all packets that were ever queued have gone where their verdicts say."""

        def is_settled() -> bool:
            # The last field counts packets that were queued; a loop counts those whose verdicts are
            # given.
            queues = inside(self.node.path, QUEUES.read_text).splitlines()
            return sum(int(line.split()[7]) for line in queues) == sum(
                own.loop.packets for own in self.loops
            )

        eventually(is_settled)


@contextmanager
def serving(
    node: Namespace,
    engine: kbe_nat.Engine,
    plan: Plan,
    kind: DatapathKind,
    diversion: Diversion = ONE_QUEUE,
    driver: Driver = NativeQueue,
) -> Iterator[Serving]:
    """Serves a plan on a node."""
    runner, queues = Commands(node.prefix), diversion.queues
    datapath: EveryPacket | FirstPacket | Cached
    if kind is DatapathKind.EVERY_PACKET:
        datapath = EveryPacket(diversion, Iptables(runner))
    else:
        datapath = FirstPacket(diversion, runner, inside(node.path, NftTables))
        if kind is DatapathKind.CACHED:
            datapath = Cached(datapath, FlowCache(max_flows=1 << 16), CacheSettings())
    made = Serving(engine, datapath, node, plan)
    with ExitStack() as stack:
        for number in range(queues[0], queues[1] + 1):
            opened: Callable[[], NativeQueue | NetfilterQueue] = partial(
                driver, number, backend_ids=datapath.backend_ids, marks=diversion.marks
            )
            queue = inside(node.path, opened)
            stack.enter_context(queue)
            made.queues.append(queue)
            made.loops.append(stack.enter_context(LoopThread(engine, queue)))
        follower = datapath.following(engine)
        inside(node.path, follower.__enter__)
        stack.push(follower)
        datapath.rebuild(plan)
        datapath.prepare()
        EngineTables(engine).rebuild(plan)
        stack.callback(datapath.remove)
        datapath.install()
        yield made


@dataclass
class Stage:
    """A cluster of both families, served by one of the datapaths."""

    cluster: Cluster
    engine: kbe_nat.Engine
    serving: Serving

    @property
    def loops(self) -> list[LoopThread]:
        return self.serving.loops

    def serve(self, plan: Plan) -> None:
        self.serving.serve(plan)
        # By now the kernel has ended what it carries to backends that are gone.
        self.serving.datapath.refresh()

    def flows(self) -> list[kbe_nat.Flow]:
        """As they are now."""
        self.serving.datapath.refresh()
        return list(self.engine.flows())

    def client(
        self,
        kind: int,
        family: Family,
        to: tuple[str, int] | None = None,
        where: Namespace | None = None,
    ) -> socket.socket:
        def connected() -> socket.socket:
            own = socket.socket(socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET, kind)
            if to is not None:
                connect(own, to, 10)
            own.settimeout(10)
            return own

        return inside((where or self.cluster.client).path, connected)


@contextmanager
def stage(
    cluster: Cluster,
    datapath: DatapathKind = DatapathKind.EVERY_PACKET,
    queues: tuple[int, int] = (7, 7),
    plan: Plan | None = None,
    driver: Driver = NativeQueue,
    marks: Marks | None = None,
) -> Iterator[Stage]:
    """Serves a plan, `plan_of()` unless given; at its end no receiver has seen a wrong checksum."""
    plan = plan or plan_of()
    add_ipv6(cluster)
    engine = kbe_nat.Engine(seed=1)
    with serving(
        cluster.node, engine, plan, datapath, Diversion(queues, marks or Marks()), driver
    ) as own:
        made = Stage(cluster, engine, own)
        errors = checksum_errors(cluster)
        yield made
        assert checksum_errors(cluster) == errors, "no receiver has seen a wrong checksum"
        assert all(loop.failure is None and loop.loop.panics == 0 for loop in made.loops)


def add_ipv6(cluster: Cluster) -> None:
    """The second family on all wires."""
    # Bytes of what the kernel carries.
    cluster.node.write("/proc/sys/net/netfilter/nf_conntrack_acct", "1")
    pods = dict(zip(PODS[Family.IPV6], cluster.pods, strict=True))
    wire_ipv6(cluster.node, cluster.client, pods)


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


def connect(own: socket.socket, to: tuple[str, int], seconds: float) -> None:
    """Connects, and lets the kernel wait, not Python.

    Of 4,000 refusals by a busy node poll reported one before SO_ERROR knew of it: Python took the
    closed socket for a connected one.
    """
    own.settimeout(None)
    patience = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    try:
        own.connect(to)
    except BlockingIOError:
        raise TimeoutError(f"no answer from {to} within {seconds} s") from None


def served(pod: Namespace, program: Path, *arguments: str) -> subprocess.Popen[str]:
    """A server in a pod, ended with it, that prints "ready" first."""
    process = pod.start((sys.executable, str(program), *arguments))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def counters_of(cluster: Cluster) -> dict[int, QueueCounters]:
    text = cluster.node.call(sys.executable, str(QUEUE_COUNTERS))
    return {int(row.split()[0]): QueueCounters(*map(int, row.split())) for row in text.splitlines()}


FOREIGN = """table ip foreign {
  map addresses {
    type mark : ipv4_addr
    elements = { 0x00004000 : 192.0.2.7 }
  }
  chain pre {
    type nat hook prerouting priority -101; policy accept;
    ip daddr 192.0.2.1 dnat to meta mark map @addresses
  }
}
"""
"""Rules of somebody else, with a map as ours have."""
