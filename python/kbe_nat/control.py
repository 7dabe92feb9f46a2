"""The one control loop: packets from a driver, verdicts from the engine, upkeep in between."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kbe_nat._native import ACTIONS, CAUSES, Engine, PanicException
from kbe_nat.datapath import VERDICT, PacketQueue

EXPIRY_BUDGET: Final = 1024
"""Flows that are looked at for expiry after each batch."""
DROPPED: Final = VERDICT.pack(ACTIONS.index("drop"), CAUSES.index("malformed"), 0, 0)


@dataclass(slots=True)
class Run:
    """What the loop itself counted; packets are counted by the engine."""

    panics: int = 0
    """Batches that were dropped because the engine failed on them: a defect that should be reported."""


def run(engine: Engine, queue: PacketQueue, stopped: Callable[[], bool] = lambda: False) -> Run:
    """Pass every packet of `queue` through `engine` until the queue ends or `stopped()` is true.

    A batch that was received gets its verdicts before the loop looks at `stopped` again. A defect of the engine
    costs the packets of one batch, not the loop: its tables are consistent between packets.
    """
    result = Run()
    while not stopped():
        batch = queue.receive()
        if batch is None:
            break
        try:
            verdicts = engine.process_batch(
                batch.packets, batch.now, offsets=batch.offsets, interface=batch.interface
            )
        except PanicException:
            result.panics += 1
            verdicts = DROPPED * len(batch)
        queue.verdict(batch, verdicts, engine.released())
        engine.expire(batch.now, EXPIRY_BUDGET)
    return result
