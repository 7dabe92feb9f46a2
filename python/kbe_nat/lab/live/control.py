"""The idle control of a round: how steady the machine is when nothing is measured.

The same piece of work is done again and again on the idle machine. What its times spread by is
noise that no way is to blame for: by the clock on the wall, and by the thread's processor time.
What others took of the processors meanwhile, and what the hypervisor took, is told beside.
"""

import hashlib
import os
import statistics
import time
from typing import Final

from kbe_nat.lab.live.methods import Rows
from kbe_nat.lab.machine import processor_ticks


def control(seconds: float) -> Rows:
    """Work for so long, and look at the times."""
    block = bytes(WORK_BYTES)
    before, spent, started = processor_ticks(), time.process_time(), time.monotonic()
    times: list[int] = []
    cpu_times: list[int] = []
    while time.monotonic() - started < seconds or len(times) < LEAST:
        since, cpu_since = time.perf_counter_ns(), time.thread_time_ns()
        hashlib.blake2b(block).digest()
        cpu_times.append(time.thread_time_ns() - cpu_since)
        times.append(time.perf_counter_ns() - since)
    elapsed, mine = time.monotonic() - started, time.process_time() - spent
    after = processor_ticks()
    total = after.total - before.total
    busy_share = steal_share = None
    if total:
        mine_share = mine / elapsed / (os.cpu_count() or 1)
        busy_share = max(0.0, (after.busy - before.busy) / total - mine_share)
        steal_share = (after.steal - before.steal) / total
    spreads = (_spread(times), _spread(cpu_times))
    row = (len(times), statistics.median(times) / 1e3, *spreads, busy_share, steal_share)
    return {"control": [row]}


def _spread(times: list[int]) -> float:
    return sorted(times)[len(times) * 9 // 10] / statistics.median(times) - 1


WORK_BYTES: Final = 200_000
"""Some hundred microseconds of hashing."""
LEAST: Final = 20
