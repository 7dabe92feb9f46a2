"""A packet that has passed the rules before they change, and leaves after that, proves nothing."""

import socket
import time
from functools import partial

from harness.cached_router import skip_without_cache
from harness.programs import UDP_ECHO
from harness.stage import VIPS, served, stage
from harness.waiting import eventually
from kbe_nat._native import FlowCache
from kbe_nat.compat.netfilterqueue import NetfilterQueue, Packet
from kbe_nat.datapath.cached import Cached
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.rule import DatapathKind

QUEUE = 900
TABLE = """table ip strangers {
  chain before { type filter hook prerouting priority -350; policy accept; }
}
"""
ATTEMPTS = 20


class Delay:
    """A flow that is cached, and a queue in which its packets wait behind all rules."""

    def __init__(self, cluster: Cluster, client: socket.socket, cache: FlowCache) -> None:
        self.client = client
        self.cache = cache
        self._runner = Commands(cluster.node.prefix)
        self._runner.run(("nft", "-f", "-"), TABLE)
        for words in (("-N", "late"), ("-A", "POSTROUTING", "-j", "late")):
            self._runner.run(("iptables", "-t", "mangle", *words))
        self._port = str(client.getsockname()[1])
        self._held = list[Packet]()
        self._queue = NetfilterQueue()
        inside(cluster.node.path, partial(self._queue.bind, QUEUE, self._held.append))

    @property
    def hits(self) -> int:
        return self.cache.counters()["hits"]

    @property
    def entered(self) -> int:
        """Entries made and renewed."""
        counters = self.cache.counters()
        return counters["entered"] + counters["renewed"]

    def is_cached(self) -> bool:
        before = self.hits
        for _ in range(20):
            self.client.send(b"hello")
            self.client.recv(100)
        return self.hits - before >= 20

    def is_voided(self, generation: int) -> bool:
        return self.cache.generation == generation

    def is_at_rest(self) -> bool:
        """Whether the second void of the last rule is over, which comes 50 ms after the first."""
        generation = self.cache.generation
        time.sleep(0.2)
        return self.is_voided(generation)

    def is_held(self) -> bool:
        self._queue.run(block=False)
        return bool(self._held)

    def hold(self) -> None:
        """The client's packets wait in the queue from now on."""
        words = ("-p", "udp", "--sport", self._port, "-j", "NFQUEUE", "--queue-num", str(QUEUE))
        self._runner.run(("iptables", "-t", "mangle", "-A", "late", *words))

    def drop(self) -> None:
        """The client's packets are dropped before all other rules from now on."""
        words = ("udp", "sport", self._port, "drop")
        self._runner.run(("nft", "add", "rule", "ip", "strangers", "before", *words))

    def pass_on(self) -> None:
        """Neither, any more."""
        self._runner.run(("nft", "flush", "table", "ip", "strangers"))
        self._runner.run(("iptables", "-t", "mangle", "-F", "late"))

    def is_released_between_voids(self) -> bool:
        """Has a packet leave after the first void of a rule that drops it, and tells whether it was
        ahead of the second one.
        """
        eventually(self.is_at_rest)
        eventually(self.is_cached)
        start = self.cache.generation
        self.hold()
        eventually(lambda: self.cache.generation >= start + 2)
        self.client.send(b"late")
        eventually(self.is_held)
        entered = self.entered
        self.drop()
        # Not `eventually`: there are 50 ms.
        deadline = time.monotonic() + 10
        while self.is_voided(start + 2) and time.monotonic() < deadline:
            pass
        self._held.pop().accept()
        if self.entered == entered:
            return False
        # By which packets pass the new rule, but for the second void.
        before, is_between = self.hits, False
        self.client.send(b"late")
        while self.is_voided(start + 3) and not is_between:
            is_between = self.hits > before
        eventually(lambda: self.cache.generation >= start + 4)
        return is_between


def test_a_packet_that_passed_former_rules_makes_no_entry_that_lasts(cluster: Cluster) -> None:
    skip_without_cache()
    for pod in cluster.pods:
        served(pod, UDP_ECHO, "4")
    with (
        stage(cluster, DatapathKind.CACHED) as own,
        own.client(socket.SOCK_DGRAM, Family.IPV4, (VIPS[Family.IPV4], 7)) as client,
    ):
        datapath = own.serving.datapath
        assert isinstance(datapath, Cached)
        delay = Delay(cluster, client, datapath._cache)
        for _ in range(ATTEMPTS):
            if delay.is_released_between_voids():
                break
            # The machine was busy.
            delay.pass_on()
        else:
            raise AssertionError("no attempt was in time")
        before = delay.hits
        for _ in range(10):
            client.send(b"late")
        assert delay.hits == before
