"""The idle control of a round: how steady the machine is when nothing is measured.

The same piece of work is done again and again on the idle machine. What its times spread by is
noise that no way is to blame for. What others took of the processors meanwhile, and what the
hypervisor took, is told beside.
"""

import hashlib
import os
import time
from typing import Final

from kbe_nat.lab.live.methods import Rows
from kbe_nat.lab.machine import processor_ticks


def control(seconds: float) -> Rows:
    """Work for so long, and look at the times."""
    block = bytes(WORK_BYTES)
    before, spent, started = processor_ticks(), time.process_time(), time.monotonic()
    times: list[int] = []
    while time.monotonic() - started < seconds or len(times) < LEAST:
        since = time.perf_counter_ns()
        hashlib.blake2b(block).digest()
        times.append(time.perf_counter_ns() - since)
    elapsed, mine = time.monotonic() - started, time.process_time() - spent
    after = processor_ticks()
    total = after.total - before.total
    times.sort()
    middle, late = times[len(times) // 2], times[len(times) * 9 // 10]
    busy_share = steal_share = None
    if total:
        mine_share = mine / elapsed / (os.cpu_count() or 1)
        busy_share = max(0.0, (after.busy - before.busy) / total - mine_share)
        steal_share = (after.steal - before.steal) / total
    row = (len(times), middle / 1e3, late / middle - 1, busy_share, steal_share)
    return {"control": [row]}


WORK_BYTES: Final = 200_000
"""Some hundred microseconds of hashing."""
LEAST: Final = 20
