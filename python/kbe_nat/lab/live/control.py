"""The idle control of a round: how steady the machine is when nothing is measured.

The same piece of work is done again and again on the idle machine. What its times spread by is
noise that no way is to blame for. What others took of the processors meanwhile, and what the
hypervisor took, is told beside.
"""

import hashlib
import time
from pathlib import Path
from typing import Final

from kbe_nat.lab.live.methods import Rows


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
    busy, stolen, capacity = (new - old for new, old in zip(processor_ticks(), before, strict=True))
    times.sort()
    middle, late = times[len(times) // 2], times[len(times) * 9 // 10]
    shares: tuple[float | None, float | None] = (None, None)
    if capacity > 0:
        mine_share = mine / elapsed / _processors()
        shares = (max(0.0, busy / capacity - mine_share), stolen / capacity)
    return {"control": [(len(times), middle / 1e3, late / middle - 1, *shares)]}


def processor_ticks() -> tuple[int, int, int]:
    """Ticks of all processors since the boot: busy, stolen, and all (/proc/stat)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, idle, wait, hard, soft, steal = map(int, words)
    busy = user + nice + system + hard + soft
    return busy, steal, busy + idle + wait + steal


def _processors() -> int:
    return sum(
        line.startswith("cpu") and line[3].isdigit()
        for line in Path("/proc/stat").read_text().splitlines()
    )


WORK_BYTES: Final = 200_000
"""Some hundred microseconds of hashing."""
LEAST: Final = 20
