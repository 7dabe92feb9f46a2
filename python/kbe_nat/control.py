"""The one control loop: packets from a driver, verdicts from the engine, upkeep in between."""

from collections.abc import Callable
from typing import Final

from kbe_nat._native import Engine
from kbe_nat.datapath import PacketQueue

EXPIRY_BUDGET: Final = 1024
"""Flows that are looked at for expiry after each batch."""


def run(engine: Engine, queue: PacketQueue, stopped: Callable[[], bool] = lambda: False) -> None:
    """Pass every packet of `queue` through `engine` until the queue ends or `stopped()` is true.

    A batch that was received gets its verdicts before the loop looks at `stopped` again.
    """
    while not stopped():
        batch = queue.receive()
        if batch is None:
            return
        verdicts = engine.process_batch(
            batch.packets, batch.now, offsets=batch.offsets, interface=batch.interface
        )
        queue.verdict(batch, verdicts, engine.released())
        engine.expire(batch.now, EXPIRY_BUDGET)
