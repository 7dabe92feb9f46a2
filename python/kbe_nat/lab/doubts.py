"""What a scenario says without effect: it can be run, and may not be what its author meant."""

from collections.abc import Iterator
from pathlib import Path

from kbe_nat.lab.scenario import (
    Change,
    Clients,
    Drain,
    Failure,
    Flapping,
    NodeLoss,
    RollingUpdate,
    Scenario,
    Trace,
    Traffic,
)
from kbe_nat.lab.traces import Connection, connections, cut
from kbe_nat.lab.validation import source_nat_choice


def doubts(scenario: Scenario, folder: Path) -> Iterator[str]:
    """A line for each, with the field's path. Traces that cannot be read are no doubt, but errors
    of others.
    """
    clients = 0
    for place, traffic in enumerate(scenario.traffic):
        rows = _rows(traffic, folder)
        yield from _trace(f"traffic[{place}]", scenario, traffic, rows)
        if isinstance(traffic.arrivals, Trace) and (part := cut(folder / traffic.arrivals.file)):
            yield f"traffic[{place}].arrivals.file: it ends within {part}; what is before it counts"
        count = max(row[1] for row in rows) + 1 if rows else traffic.clients.count
        clients = max(clients, count)
    for place, event in enumerate(scenario.timeline):
        last = _last(event, scenario)
        if last > scenario.duration:
            end = f"its last change is due at {last:g} s, and the scenario ends at"
            yield f"timeline[{place}]: {end} {scenario.duration:g} s"
    for place, value in enumerate(scenario.source_nat):
        way = source_nat_choice(value)
        if way is None or way.allocation not in ("blocks", "deterministic"):
            continue
        blocks = (way.ports[1] - way.ports[0] + 1) // way.block
        idle = clients - blocks
        if idle <= 0:
            continue
        fate = f"{idle:,} clients never get a port"
        if way.allocation == "blocks":
            fate = "while so many have one, no other client gets a port"
        yield (
            f"source_nat[{place}]: {clients:,} clients, and blocks of ports for {blocks:,}: {fate}"
        )


def _rows(traffic: Traffic, folder: Path) -> list[Connection]:
    """The connections of a trace; none where there is no trace, or none that can be read."""
    if not isinstance(traffic.arrivals, Trace):
        return []
    rows = connections(folder / traffic.arrivals.file)
    return [] if isinstance(rows, str) else rows


def _trace(
    path: str, scenario: Scenario, traffic: Traffic, rows: list[Connection]
) -> Iterator[str]:
    if not rows:
        return
    stop = scenario.duration if traffic.stop is None else traffic.stop
    late = sum(traffic.start + row[0] >= stop for row in rows)
    if late:
        yield (
            f"{path}.arrivals: {late:,} of {len(rows):,} connections of the trace would begin "
            f"after {stop:g} s, and are left out"
        )
    # The same as the default says nothing.
    for field, value, default in (
        ("clients", traffic.clients, Clients()),
        ("size", traffic.size, SIZE),
        ("lifetime", traffic.lifetime, LIFETIME),
    ):
        if value != default:
            yield f"{path}.{field}: has no effect: the trace has its own"


def _last(event: Change, scenario: Scenario) -> float:
    """Seconds from the start to the last change of an event."""
    match event:
        case Drain(removed_after=seconds) | NodeLoss(returns_after=seconds):
            return event.at + (seconds or 0.0)
        case Failure(detected_after=seconds, returns_after=late):
            return event.at + max(seconds, late or 0.0)
        case Flapping(period=period, times=times):
            return event.at + (times - 0.5) * period
        case RollingUpdate(interval=interval, drain=drain, service=name):
            service = next(each for each in scenario.services if each.name == name)
            count = sum(group.count for group in service.backends)
            return event.at + (count - 1) * interval + drain
    return event.at


_DEFAULT = Traffic(service="x", arrivals=Trace(file="x"))
SIZE, LIFETIME = _DEFAULT.size, _DEFAULT.lifetime
