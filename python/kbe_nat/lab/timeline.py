"""A scenario's timeline written out: which backends ever exist, and primitive changes at moments.

The simulation knows backends by position, and lists, weights and lives that change. A scenario
speaks of scale, rolling updates and flapping. The steps here keep the same list in mind as the
simulation will have: `_Course.listed` follows the events in the order of time, whatever their
order in the file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from msgspec import structs

from kbe_nat.errors import ScenarioError
from kbe_nat.lab.scenario import (
    Backends,
    Change,
    Drain,
    Failure,
    Flapping,
    NewStrategy,
    NodeLoss,
    Reweight,
    RollingUpdate,
    Scale,
    Scenario,
    Service,
)
from kbe_nat.lab.validation import choice

Primitive: TypeAlias = dict[str, Any]
"""A change as the simulation reads it: its name with its arguments."""
Moment: TypeAlias = tuple[float, str, list[Primitive]]
"""Seconds, name and changes."""


@dataclass
class _Course:
    """One Service through time."""

    place: int
    service: Service
    backends: list[Backends] = field(default_factory=list)
    """Every backend that ever exists, one by one."""
    listed: dict[int, None] = field(default_factory=dict)
    """Positions of those in the list, in its order: a dict, since lists are searched slowly."""

    def __post_init__(self) -> None:
        for group in self.service.backends:
            self.backends += [group] * group.count
        self.listed = dict.fromkeys(range(len(self.backends)))
        self.initial = len(self.backends)

    def add(self, like: int) -> int:
        """The position of a new backend."""
        self.backends.append(self.backends[like])
        return len(self.backends) - 1

    def check(self, path: str, backends: Iterable[int], origin: str) -> None:
        """Raises `ScenarioError` when one of these backends has not existed by now."""
        if max(backends, default=0) >= len(self.backends):
            reason = f"{self.service.name} has had {len(self.backends)} backends by then, from 0"
            raise ScenarioError(origin, path, reason)

    def list(self, backend: int, is_listed: bool) -> Primitive:
        """The change that lists a backend, or takes it off the list."""
        if is_listed:
            self.listed.setdefault(backend)
        else:
            self.listed.pop(backend, None)
        return {"list": [self.place, backend, is_listed]}


def expand(scenario: Scenario) -> tuple[list[list[Backends]], list[int], list[Moment]]:
    """For each Service all backends that ever exist, and how many of them are listed at the start;
    and all changes in the order of time, those behind the end left out.

    Raises `ScenarioError` for a backend that does not exist by then.
    """
    courses = {
        service.name: _Course(place, service) for place, service in enumerate(scenario.services)
    }
    moments: list[Moment] = []
    for place, event in sorted(enumerate(scenario.timeline), key=lambda entry: entry[1].at):
        if not isinstance(event, NodeLoss):
            course = courses[event.service]
            course.check(f"timeline[{place}].{_field(event)}", _backends(event), scenario.name)
        moments += _moments(event, courses)
    moments.sort(key=lambda moment: moment[0])
    timely = [moment for moment in moments if moment[0] <= scenario.duration]
    order = list(courses.values())
    return [course.backends for course in order], [course.initial for course in order], timely


def _backends(event: Change) -> tuple[int, ...]:
    match event:
        case Drain(backend=backend) | Flapping(backend=backend) | Reweight(backend=backend):
            return (backend,)
        case Failure(backends=backends):
            return backends
    return ()


def _field(event: Change) -> str:
    return "backends" if isinstance(event, Failure) else "backend"


def _moments(event: Change, courses: dict[str, _Course]) -> Iterator[Moment]:
    if isinstance(event, NodeLoss):
        yield event.at, f"node {event.node} lost", [{"node": [event.node, False]}]
        if event.returns_after is not None:
            time = event.at + event.returns_after
            yield time, f"node {event.node} returns", [{"node": [event.node, True]}]
        return
    course = courses[getattr(event, "service")]  # noqa: B009
    name, place = course.service.name, course.place
    match event:
        case Scale(at=at, backends=count):
            yield at, f"{name} scales to {count}", list(_scale(course, count))
        case Reweight(at=at, backend=backend, weight=weight):
            label = f"{name}[{backend}] gets weight {weight}"
            yield at, label, [{"weight": [place, backend, weight]}]
        case Drain(at=at, backend=backend, removed_after=seconds):
            yield at, f"{name}[{backend}] drains", [{"weight": [place, backend, 0]}]
            if seconds is not None:
                label = f"{name}[{backend}] is removed"
                yield at + seconds, label, [course.list(backend, False)]
        case NewStrategy(at=at, strategy=value):
            strategy = choice(value)
            change = {"strategy": [place, strategy_values(strategy)]}
            yield at, f"{name} gets {strategy.label}", [change]
        case Failure():
            yield from _failure(event, course)
        case Flapping():
            yield from _flapping(event, course)
        case RollingUpdate():
            yield from _rolling_update(event, course)


def _scale(course: _Course, count: int) -> Iterator[Primitive]:
    for backend in tuple(course.listed)[count:]:
        yield course.list(backend, False)
    # Former backends return first: they have their addresses.
    absent = iter([n for n in range(len(course.backends)) if n not in course.listed])
    while len(course.listed) < count:
        backend = next(absent, -1)
        if backend < 0:
            backend = course.add(len(course.backends) - 1)
        yield course.list(backend, True)


def _failure(event: Failure, course: _Course) -> Iterator[Moment]:
    name, place = course.service.name, course.place
    words = ",".join(map(str, event.backends))
    deaths = [{"alive": [place, backend, False]} for backend in event.backends]
    departures = [course.list(backend, False) for backend in event.backends]
    if event.detected_after == 0:
        yield event.at, f"{name}[{words}] fails", deaths + departures
    else:
        yield event.at, f"{name}[{words}] fails", deaths
        yield event.at + event.detected_after, f"{name}[{words}] is found dead", departures
    if event.returns_after is not None:
        changes = [{"alive": [place, backend, True]} for backend in event.backends]
        changes += [course.list(backend, True) for backend in event.backends]
        yield event.at + event.returns_after, f"{name}[{words}] returns", changes


def _flapping(event: Flapping, course: _Course) -> Iterator[Moment]:
    label = f"{course.service.name}[{event.backend}]"
    for turn in range(event.times):
        time = event.at + turn * event.period
        yield time, f"{label} leaves", [course.list(event.backend, False)]
        yield time + event.period / 2, f"{label} returns", [course.list(event.backend, True)]


def _rolling_update(event: RollingUpdate, course: _Course) -> Iterator[Moment]:
    name, place = course.service.name, course.place
    for turn, backend in enumerate(tuple(course.listed)):
        time = event.at + turn * event.interval
        successor = course.add(backend)
        arrival = course.list(successor, True)
        departure = course.list(backend, False)
        label = f"{name}[{successor}] replaces [{backend}]"
        if event.drain == 0:
            yield time, label, [arrival, departure]
        else:
            yield time, label, [arrival, {"weight": [place, backend, 0]}]
            yield time + event.drain, f"{name}[{backend}] is removed", [departure]


def strategy_values(strategy: object) -> dict[str, Any]:
    """A strategy as the simulation reads it."""
    values = structs.asdict(strategy)  # type: ignore[arg-type]
    values.pop("class_name")
    return values
