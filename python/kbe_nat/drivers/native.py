"""A kernel queue by way of our own netlink code: batches of packets and verdicts, super-packets, no
Python per packet.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kbe_nat._native import BackendIdMap, KernelQueue
from kbe_nat.field_docs import documented
from kbe_nat.rules.rule import Marks

SPIN_SECONDS: Final = 100e-6


class NativeQueue(KernelQueue):
    """One queue of the network namespace in which the calling thread is.

    A `Loop` that runs has the queue for itself, and the GIL is not needed for as long as it runs.
    """

    def __new__(
        cls,
        number: int,
        *,
        marks: Marks | None = None,
        backend_ids: BackendIdMap | None = None,
        max_length: int = 16_384,
        gso: bool = True,
        fail_open: bool = False,
        socket_buffer: int = 64 << 20,
        spin: float = SPIN_SECONDS,
    ) -> Self:
        """Bind queue `number`, in which the kernel keeps at most `max_length` packets for us. With
        `backend_ids` packets are not translated here: their marks tell the kernel how to translate
        their flows.

        With `gso` super-packets of up to 64 kB arrive whole. With `fail_open` a full queue lets
        packets go on untranslated, which for a virtual IP means into the void. At most
        `socket_buffer` bytes wait at our socket. A wait looks again for up to `spin` seconds before
        it sleeps. Raises `QueueError` without CAP_NET_ADMIN, when another process has the queue, or
        when the kernel has no queues.
        """
        bits = marks or Marks()
        return super().__new__(
            cls,
            number,
            marks=(bits.flow, bits.reject, bits.masquerade),
            backend_ids=backend_ids,
            max_length=max_length,
            gso=gso,
            fail_open=fail_open,
            socket_buffer=socket_buffer,
            spin=spin,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def queues_for_processors() -> int:
    """Queues with which each processor has its own, as far as there are not too many. Packets come
    on any processor of the machine, whichever of them this process may use.
    """
    return min(os.cpu_count() or 1, MOST_QUEUES)


def processors_of(place: int, count: int) -> frozenset[int]:
    """The processors whose packets come to the queue at this place of `count`, where each goes to
    the queue of its processor: those of them that this thread may use. A thread that runs there is
    woken where the packet is, and no other processor has to wake up.
    """
    return frozenset(cpu for cpu in os.sched_getaffinity(0) if cpu % count == place)


@documented
@dataclass(frozen=True, slots=True)
class QueueCounters:
    """The kernel's counters of one queue (/proc/net/netfilter/nfnetlink_queue)."""

    number: int
    """Of the queue."""
    waiting: int
    """Packets in the queue now."""
    queue_dropped: int
    """Dropped because the queue was full."""
    socket_dropped: int
    """Dropped because our socket was."""
    packets: int
    """Ever queued."""


def queue_counters() -> dict[int, QueueCounters]:
    """The kernel's counters by queue number, in the network namespace of this thread."""
    try:
        lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
    except FileNotFoundError:
        return {}
    rows = ([int(word) for word in line.split()] for line in lines)
    return {row[0]: QueueCounters(row[0], *(row[field] for field in FIELDS)) for row in rows}


MOST_QUEUES: Final = 16
FIELDS: Final = (2, 5, 6, 7)
"""Columns behind the number: waiting, queue dropped, user dropped, sequence of the last packet."""
