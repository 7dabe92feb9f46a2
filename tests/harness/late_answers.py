"""Pods whose SYN-ACKs are held back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import kbe_nat
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.drivers.queue import Batch
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside


class LateQueue(NetfilterQueue):
    """Holds all packets back."""

    delay = 0.0

    def set_verdicts(
        self, batch: Batch, verdicts: bytes, released: list[tuple[int, str, bytes | None]]
    ) -> None:
        if len(batch):
            time.sleep(self.delay)
        super().set_verdicts(batch, verdicts, released)


def put_rule(pod: Namespace, family: Family, *rule: str) -> None:
    pod.call("ip6tables" if family == Family.IPV6 else "iptables", *rule)


@contextmanager
def late_answers(pod: Namespace, family: Family, delay: float) -> Iterator[None]:
    """All SYN-ACKs of a pod leave it so many seconds late."""
    flags = ("-p", "tcp", "--tcp-flags", "SYN,ACK", "SYN,ACK")
    put_rule(pod, family, "-A", "OUTPUT", *flags, "-j", "NFQUEUE", "--queue-num", "9")
    with inside(pod.path, partial(LateQueue, 9, timeout=0.02)) as queue:
        queue.delay = delay
        with LoopThread(kbe_nat.Engine(), queue):
            yield
