"""How much work and memory the traffic of a scenario asks for, before any of it is simulated.

These are means, of which a cell keeps within a few percent where rates are high: enough to refuse
what would take hours of each cell, or all memory, because of a number with three zeros too many.
"""

from collections.abc import Iterator
from typing import Final

from kbe_nat.lab.scenario import (
    Bursty,
    Closed,
    Distribution,
    Exponential,
    Paced,
    Pareto,
    Poisson,
    Samples,
    Scenario,
    Traffic,
    Uniform,
)


def excesses(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Path and reason of traffic that is too much for one cell. The rows of traces do not count:
    their files bound them.
    """
    packets = alive = 0.0
    for place, traffic in enumerate(scenario.traffic):
        path, count = f"traffic[{place}]", connections(traffic, scenario.duration)
        each = packets_of(traffic)
        if count * each > MAX_PACKETS:
            words = f"{_whole(count)} connections of {each:,} packets each"
            if traffic.kind == "syn-flood":
                words = f"{_whole(count)} packets"
            few = packets_of(traffic, requests=1)
            field = "requests" if count * few <= MAX_PACKETS else _rate_field(traffic)
            yield f"{path}.{field}", f"{words} in a cell; {MAX_PACKETS:,} packets at most"
            return
        at_once = alive_at_once(traffic, scenario.duration)
        if at_once > MAX_ALIVE:
            words = f"{_whole(at_once)} connections alive at once in a cell"
            yield f"{path}.{_rate_field(traffic)}", f"{words}; {MAX_ALIVE:,} at most"
            return
        packets, alive = packets + count * each, alive + at_once
    if packets > MAX_PACKETS:
        yield "traffic", f"{_whole(packets)} packets in a cell; {MAX_PACKETS:,} at most"
    elif alive > MAX_ALIVE:
        words = f"{_whole(alive)} connections alive at once in a cell"
        yield "traffic", f"{words}; {MAX_ALIVE:,} at most"


def connections(traffic: Traffic, duration: float) -> float:
    """Connections that a stream begins, or packets of a flood, in the mean; 0 of a trace."""
    stop = duration if traffic.stop is None else min(traffic.stop, duration)
    seconds = max(stop - traffic.start, 0.0)
    match traffic.arrivals:
        case Poisson(rate=rate) | Paced(rate=rate):
            return rate * seconds
        case Bursty(rate=rate, seconds_on=on, seconds_off=off):
            return rate * seconds * on / (on + off)
        case Closed(think=think):
            pause = max(typical(think), LEAST_PAUSE)
            return traffic.clients.count * seconds / (pause + typical(traffic.lifetime))
    return 0.0


def alive_at_once(traffic: Traffic, duration: float) -> float:
    """Connections of a stream at once, in the mean when as many end as begin (Little's law)."""
    if traffic.kind == "syn-flood":
        return 0.0
    count = connections(traffic, duration)
    if isinstance(traffic.arrivals, Closed):
        return min(count, traffic.clients.count)
    return count * min(typical(traffic.lifetime) / duration, 1.0)


def packets_of(traffic: Traffic, requests: int | None = None) -> int:
    """Packets of one connection."""
    requests = traffic.requests if requests is None else requests
    match traffic.kind:
        case "tcp":
            return 6 + 2 * requests
        case "sctp":
            return 7 + 2 * requests
        case "udp":
            return 2 * requests
        case "udp-one-way":
            return requests
    return 1


def typical(distribution: Distribution) -> float:
    """The mean of a distribution; the median where the mean has no bound, and 0 where a file has
    the values.
    """
    match distribution:
        case Uniform(low=low, high=high):
            return (low + high) / 2
        case Exponential(mean=mean):
            return mean
        case Pareto(shape=shape, minimum=minimum):
            if shape > 1:
                return minimum * shape / (shape - 1)
            return minimum * 2 ** min(1 / shape, MAX_EXPONENT)
        case Samples(values=values):
            return sum(values) / len(values) if values else 0.0
        case number:
            return number


def _rate_field(traffic: Traffic) -> str:
    return "arrivals" if isinstance(traffic.arrivals, Closed) else "arrivals.rate"


def _whole(number: float) -> str:
    return f"{round(number):,}"


MAX_PACKETS: Final = 10**10
"""Of one cell: more than an hour of a core."""
MAX_ALIVE: Final = 10**8
"""Connections of one cell at once: some 20 GB."""
LEAST_PAUSE: Final = 0.001
"""Seconds that a client of a closed loop thinks at least, as in the simulation."""
MAX_EXPONENT: Final = 1000.0
"""Of 2 that a float can hold."""
