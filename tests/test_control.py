"""The control loop with drivers and engines that fail."""

from dataclasses import dataclass, field
from typing import Any, cast

import kbe_nat
from kbe_nat._native import ACTIONS, PanicException
from kbe_nat.control import run
from kbe_nat.datapath import VERDICT, Batch


@dataclass
class Script:
    """A driver with batches that are given."""

    batches: list[Batch]
    verdicts: list[tuple[str, ...]] = field(default_factory=list)

    def receive(self) -> Batch | None:
        return self.batches.pop(0) if self.batches else None

    def verdict(self, batch: Batch, verdicts: bytes, released: object) -> None:
        self.verdicts.append(tuple(ACTIONS[record[0]] for record in VERDICT.iter_unpack(verdicts)))


class Failing:
    """An engine that panics on a packet which begins with 0xff."""

    def __init__(self) -> None:
        self.engine = kbe_nat.Engine()
        self.expired: list[int] = []

    def process_batch(self, packets: bytearray, now: int, **beside: Any) -> bytes:
        if packets.startswith(b"\xff"):
            raise PanicException("a defect")
        return self.engine.process_batch(packets, now, **beside)

    def released(self) -> list[tuple[int, str, bytes | None]]:
        return self.engine.released()

    def expire(self, now: int, budget: int) -> int:
        self.expired.append(now)
        return self.engine.expire(now, budget)


def batch(now: int, *packets: bytes) -> Batch:
    made = Batch(now)
    for packet in packets:
        made.append(packet)
    return made


def test_f15_a_panic_costs_one_batch_and_is_counted() -> None:
    engine = Failing()
    queue = Script([batch(1, b"\xff", b""), batch(2, b""), batch(3, b"\xff")])
    result = run(cast(kbe_nat.Engine, engine), queue)
    assert result.panics == 2
    assert queue.verdicts == [("drop", "drop"), ("accept",), ("drop",)]
    assert engine.expired == [1, 2, 3]


def test_a_received_batch_gets_its_verdicts_before_the_loop_stops() -> None:
    queue = Script([batch(1, b""), batch(2, b"")])
    run(kbe_nat.Engine(), queue, stopped=lambda: bool(queue.verdicts))
    assert queue.verdicts == [("accept",)]
    assert len(queue.batches) == 1


def test_idle_batches_keep_time() -> None:
    engine = Failing()
    run(cast(kbe_nat.Engine, engine), Script([batch(5), batch(9)]))
    assert engine.expired == [5, 9]
