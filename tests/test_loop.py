"""The loop with queues that are written in Python."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kbe_nat
from kbe_nat._native import ACTIONS
from kbe_nat.drivers import thread
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.drivers.queue import VERDICT, Batch
from kbe_nat.drivers.thread import LoopThread, NativeThread, Persistent
from kbe_nat.errors import ConntrackError


@dataclass
class Script:
    """A driver with batches that are given."""

    batches: list[Batch]
    verdicts: list[tuple[str, ...]] = field(default_factory=list)

    def receive(self) -> Batch | None:
        return self.batches.pop(0) if self.batches else None

    def set_verdicts(self, batch: Batch, verdicts: bytes, released: object) -> None:
        self.verdicts.append(tuple(ACTIONS[record[0]] for record in VERDICT.iter_unpack(verdicts)))


def batch(now: int, *packets: bytes) -> Batch:
    made = Batch(now)
    for packet in packets:
        made.append(packet)
    return made


class Work:
    """Work that goes round when a test says so."""

    def __init__(self) -> None:
        self.turns = 0
        self._is_over = threading.Event()

    def run(self) -> None:
        self._is_over.wait()

    def stop(self) -> None:
        self._is_over.set()


def test_f03_work_that_goes_round_no_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("kbe_nat.drivers.thread.time.monotonic", lambda: now)
    work = Work()
    with NativeThread(work, "work") as own:
        for turns, seconds, expected in (
            (0, 4, True),
            (0, 2, False),
            (1, 0, True),
            (1, 4.9, True),
            (1, 5.1, False),
        ):
            work.turns = turns
            now += seconds
            assert own.is_turning(5) is expected, (turns, seconds)
    assert own.ended.is_set() and own.failure is None


def test_every_packet_gets_its_verdict() -> None:
    queue = Script([batch(1, b"\xff", b""), batch(2), batch(3, b"\x45")])
    loop = kbe_nat.Loop(kbe_nat.Engine(), queue)
    loop.run()
    assert queue.verdicts == [("drop", "drop"), (), ("drop",)]
    assert (loop.packets, loop.batches, loop.panics) == (3, 2, 0)


def test_a_loop_tells_its_queue(tmp_path: Path) -> None:
    capture, copy = "examples/traffic.pcap", tmp_path / "copy.pcap"
    with CaptureQueue(capture, copy) as queue:
        loop = kbe_nat.Loop(kbe_nat.Engine(), queue)
        loop.run()
        assert repr(queue) == f"<CaptureQueue {capture} -> {copy}>"
        assert repr(loop) == f"<Loop of {queue}: {loop.packets} packets>"
    assert repr(CaptureQueue(capture)) == f"<CaptureQueue {capture}>"


def test_what_a_queue_raises_ends_the_loop() -> None:
    class Broken(Script):
        def receive(self) -> Batch | None:
            raise OSError("the cable is out")

    with pytest.raises(OSError, match="cable"):
        kbe_nat.Loop(kbe_nat.Engine(), Broken([])).run()
    with pytest.raises(OSError, match="cable"), LoopThread(kbe_nat.Engine(), Broken([])) as thread:
        thread.ended.wait(5)


@pytest.mark.parametrize("offsets", [[0, 5], [2, 1], []])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    wrong = batch(1, b"\x45")
    del wrong.offsets[:]
    wrong.offsets.extend(offsets)
    with pytest.raises(kbe_nat.ArgumentError, match="offsets"):
        kbe_nat.Loop(kbe_nat.Engine(), Script([wrong])).run()


def test_a_stopped_loop_takes_nothing() -> None:
    queue = Script([batch(1, b"")])
    loop = kbe_nat.Loop(kbe_nat.Engine(), queue)
    loop.stop()
    loop.run()
    assert len(queue.batches) == 1


def test_f128_work_that_the_kernel_lacks_memory_for_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(thread, "AGAIN_SECONDS", 0.0)

    class Work:
        def __init__(self, failures: int) -> None:
            self.turns = 0
            self.failures = failures
            self.stopped = False

        def run(self) -> None:
            self.turns += 1
            if self.turns <= self.failures:
                raise ConntrackError("the kernel's connection tracking: Cannot allocate memory")

        def stop(self) -> None:
            self.stopped = True

    work = Work(5)
    with NativeThread(Persistent(work), "work") as own:
        assert own.ended.wait(30)
    assert (own.failure, work.turns, work.stopped) == (None, 6, True)
    assert caplog.text.count("Cannot allocate memory") == 1
    with NativeThread(Persistent(endless := Work(1 << 60)), "work") as own:
        pass
    assert own.ended.wait(30), "it can be stopped meanwhile"
    assert own.failure is None and endless.stopped
