"""How many queues there are, which packets come to each, and where their threads run."""

import os
import threading
from collections.abc import Sequence
from typing import Final

import pytest

from kbe_nat._native import NftTables
from kbe_nat.daemon.settings import DatapathSettings, Driver, QueueSettings, Settings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.drivers.native import processors_of
from kbe_nat.drivers.thread import NativeThread
from kbe_nat.family import Family
from kbe_nat.policy.plan import Plan
from kbe_nat.rules.rule import DatapathKind

FIRST_PACKET: Final = DatapathKind.FIRST_PACKET


@pytest.mark.parametrize(
    ("processors", "queues", "kind", "numbers"),
    [
        (4, QueueSettings(), FIRST_PACKET, range(100, 104)),
        (4, QueueSettings(), DatapathKind.CACHED, range(100, 104)),
        (64, QueueSettings(), FIRST_PACKET, range(100, 116)),
        (1, QueueSettings(), FIRST_PACKET, range(100, 101)),
        (4, QueueSettings(), DatapathKind.EVERY_PACKET, range(100, 101)),
        (4, QueueSettings(count=2), DatapathKind.EVERY_PACKET, range(100, 102)),
        (4, QueueSettings(count=1), FIRST_PACKET, range(100, 101)),
        # The last numbers that there are.
        (4, QueueSettings(first=65_533), FIRST_PACKET, range(65_533, 65_535)),
    ],
)
def test_each_processor_has_a_queue_where_packets_only_ask(
    monkeypatch: pytest.MonkeyPatch,
    processors: int,
    queues: QueueSettings,
    kind: DatapathKind,
    numbers: range,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert Settings(queues=queues).queue_numbers(kind) == numbers


def test_threads_of_python_have_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    datapath = DatapathSettings(driver=Driver.NETFILTERQUEUE)
    assert len(Settings(datapath=datapath).queue_numbers(FIRST_PACKET)) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16])
def test_each_processor_belongs_to_one_queue(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    places = [processors_of(place, count) for place in range(count)]
    assert sorted(cpu for place in places for cpu in place) == list(range(8))
    # As the kernel does it: packets of processor 7 go to the queue at place 7 modulo the count.
    assert all(cpu % count == place for place, cpus in enumerate(places) for cpu in cpus)


def test_a_thread_runs_anywhere_where_it_may_not_run_on_its_own_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2})
    assert [Settings().processors(FIRST_PACKET, place) for place in range(4)] == [
        frozenset(),
        {1},
        {2},
        frozenset(),
    ]
    chosen = Settings(queues=QueueSettings(cpus=(2,)))
    assert [chosen.processors(FIRST_PACKET, place) for place in range(2)] == [{2}, {2}]
    # One queue has the packets of all.
    assert Settings(queues=QueueSettings(count=1)).processors(FIRST_PACKET, 0) == frozenset()
    assert Settings().processors(DatapathKind.EVERY_PACKET, 0) == frozenset()


class Affinity:
    """Work that notes where it may run."""

    turns = 0

    def __init__(self) -> None:
        self.cpus: set[int] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        self.cpus = os.sched_getaffinity(0)
        self.ended.set()

    def stop(self) -> None:
        assert self.ended.wait(10)


def test_a_thread_is_pinned() -> None:
    usable = os.sched_getaffinity(0)
    for cpus in (frozenset((max(usable),)), frozenset[int]()):
        work = Affinity()
        with NativeThread(work, "affinity", cpus):
            pass
        assert work.cpus == (cpus or usable)
    assert os.sched_getaffinity(0) == usable


class Nothing:
    """Runs no command."""

    def run(self, command: Sequence[str], text: str = "") -> str:
        raise AssertionError(command)


@pytest.mark.parametrize(
    ("queues", "bypassed", "waited"),
    [
        ((100, 100), "queue flags bypass to 100", "queue to 100"),
        ((100, 103), "queue flags bypass,fanout to 100-103", "queue flags fanout to 100-103"),
    ],
)
def test_rules_send_packets_to_the_queue_of_their_processor(
    queues: tuple[int, int], bypassed: str, waited: str
) -> None:
    datapath = FirstPacket(Diversion(queues), Nothing(), NftTables())
    datapath.rebuild(Plan(served_families=Family))
    lines = [line.strip() for line in datapath.render().splitlines()]
    assert lines.count(bypassed) == lines.count(waited) == 2
