"""TCP connections: short ones, and many at once (RFC 9693, 4.5 and 4.6)."""

from typing import Final

from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.scenario import Capacity, Connects
from kbe_nat.lab.live.traffic import Latencies
from kbe_nat.lab.tables import Row


def connections(bench: Bench, measure: Connects) -> Rows:
    """One after the other, each closed by the server."""
    done = bench.network.traffic.connect(
        bench.address, seconds=measure.seconds, validate=measure.validate
    )
    rate = done.opened / done.seconds if done.seconds else None
    return {"connections": [(done.opened, done.failed, rate, *times(done.latencies))]}


def capacity(bench: Bench, measure: Capacity) -> Rows:
    """As many at once as are validated, up to the limit; then all are closed."""
    with bench.network.traffic.hold(bench.address, count=measure.limit, wait=PATIENCE) as held:
        opened, failed, seconds = held.opened, held.failed, held.seconds
        closed = held.close()
    open_rate = opened / seconds if seconds else None
    close_rate = closed.opened / closed.seconds if closed.seconds else None
    return {"capacity": [(measure.limit, opened, failed, open_rate, closed.opened, close_rate)]}


PATIENCE: Final = 4.0
"""Seconds. A SYN that was lost comes again after one and after three; what is full loses all."""


def times(latencies: Latencies) -> Row:
    """The columns of a histogram; empty without a sample."""
    if not latencies.count:
        return (None,) * 6
    return (
        latencies.mean_us,
        latencies.p50_us,
        latencies.p90_us,
        latencies.p99_us,
        latencies.p999_us,
        latencies.max_us,
    )
