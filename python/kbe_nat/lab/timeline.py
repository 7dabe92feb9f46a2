"""A scenario's timeline written out: which backends ever exist, and primitive changes at moments.

The simulation knows backends by position, and lists, weights and lives that change. A scenario
speaks of scale, rolling updates and flapping. Events overlap: each is a generator that is resumed
when its next step is due, so that every step meets the list as all earlier steps left it, whatever
the order in the file. `_Course` keeps the same list in mind as the simulation will have.
"""

import heapq
import math
from collections import deque
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
_Step: TypeAlias = float | tuple[str, list[Primitive]]
"""Seconds from the start at which an event is to be resumed; or what it does now, with its name."""


@dataclass
class _Course:
    """One Service through time."""

    place: int
    service: Service
    backends: list[Backends] = field(default_factory=list)
    """Every backend that ever exists, one by one."""
    listed: dict[int, None] = field(default_factory=dict)
    """Positions of those in the list, in its order: a dict, since lists are searched slowly."""
    weights: dict[int, int] = field(default_factory=dict)
    """Of those that got another one by an event of weights."""
    drained: dict[int, int] = field(default_factory=dict)
    """Those of weight 0, each with the number of the event that drains it."""
    failures: dict[int, set[int]] = field(default_factory=dict)
    """The dead, each with the numbers of the failures from which it has not returned."""
    retired: set[int] = field(default_factory=set)
    """Those that no event but a scale may list: removed for good, or with a successor."""

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

    def enter(self, backend: int) -> list[Primitive]:
        """The change that lists a backend; none where it is listed, dead or retired."""
        if backend in self.listed or backend in self.failures or backend in self.retired:
            return []
        self.listed[backend] = None
        return [{"list": [self.place, backend, True]}]

    def leave(self, backend: int) -> list[Primitive]:
        """The change that takes a backend off the list; none where it is not there."""
        if backend not in self.listed:
            return []
        del self.listed[backend]
        return [{"list": [self.place, backend, False]}]

    def drain(self, backend: int, event: int) -> Primitive:
        """The change that lets a backend get no new connections."""
        self.drained[backend] = event
        return {"weight": [self.place, backend, 0]}

    def recall(self, backend: int) -> list[Primitive]:
        """The changes that list a former backend as it was before it was drained."""
        self.retired.discard(backend)
        weight = self.weights.get(backend) or self.backends[backend].weight
        is_idle = self.drained.pop(backend, None) is not None or self.weights.get(backend) == 0
        restored = [{"weight": [self.place, backend, weight]}] if is_idle else []
        if is_idle:
            self.weights[backend] = weight
        return restored + self.enter(backend)


def expand(scenario: Scenario) -> tuple[list[list[Backends]], list[int], list[Moment]]:
    """For each Service all backends that ever exist, and how many of them are listed at the start;
    and all changes in the order of time, those behind the end left out.

    Raises `ScenarioError` for a backend that does not exist by then.
    """
    courses = {
        service.name: _Course(place, service) for place, service in enumerate(scenario.services)
    }
    # Of steps at one moment those of the event that began first come first.
    order = sorted(enumerate(scenario.timeline), key=lambda entry: entry[1].at)
    due: list[tuple[float, int, Iterator[_Step]]] = [
        (event.at, number, _steps(event, number, f"timeline[{place}]", scenario.name, courses))
        for number, (place, event) in enumerate(order)
    ]
    heapq.heapify(due)
    moments: list[Moment] = []
    while due:
        time, number, steps = heapq.heappop(due)
        for step in steps:
            if isinstance(step, float):
                heapq.heappush(due, (step, number, steps))
                break
            if time <= scenario.duration:
                moments.append((time, *step))
    services = list(courses.values())
    return [course.backends for course in services], [c.initial for c in services], moments


def _backends(event: Change) -> tuple[int, ...]:
    match event:
        case Drain(backend=backend) | Flapping(backend=backend) | Reweight(backend=backend):
            return (backend,)
        case Failure(backends=backends):
            return backends
    return ()


def _field(event: Change) -> str:
    return "backends" if isinstance(event, Failure) else "backend"


def _steps(
    event: Change, number: int, path: str, origin: str, courses: dict[str, _Course]
) -> Iterator[_Step]:
    """What an event does, from its begin on; `number` tells it from others."""
    if isinstance(event, NodeLoss):
        yield f"node {event.node} lost", [{"node": [event.node, False]}]
        if event.returns_after is not None:
            yield event.at + event.returns_after
            yield f"node {event.node} returns", [{"node": [event.node, True]}]
        return
    course = courses[getattr(event, "service")]  # noqa: B009
    course.check(f"{path}.{_field(event)}", _backends(event), origin)
    name, place = course.service.name, course.place
    match event:
        case Scale(backends=count):
            yield f"{name} scales to {count}", list(_scale(course, count))
        case Reweight(backend=backend, weight=weight):
            course.weights[backend] = weight
            label = f"{name}[{backend}] gets weight {weight}"
            yield label, [{"weight": [place, backend, weight]}]
        case Drain(backend=backend, removed_after=seconds):
            yield f"{name}[{backend}] drains", [course.drain(backend, number)]
            if seconds is not None:
                yield event.at + seconds
                yield from _removal(course, backend, number)
        case NewStrategy(strategy=value):
            strategy = choice(value)
            change = {"strategy": [place, strategy_values(strategy)]}
            yield f"{name} gets {strategy.label}", [change]
        case Failure():
            yield from _failure(event, number, course)
        case Flapping():
            yield from _flapping(event, course)
        case RollingUpdate():
            yield from _rolling_update(event, number, course)


def _scale(course: _Course, count: int) -> Iterator[Primitive]:
    # Those that a successor replaces go when they are drained, and do not count.
    staying = [backend for backend in course.listed if backend not in course.retired]
    for backend in staying[count:]:
        yield from course.leave(backend)
    # Former backends return first: they have their addresses. The dead do not.
    present = course.listed.keys() | course.failures.keys()
    absent = iter([n for n in range(len(course.backends)) if n not in present])
    for _ in range(count - len(staying)):
        backend = next(absent, -1)
        if backend < 0:
            backend = course.add(len(course.backends) - 1)
        yield from course.recall(backend)
    # The count holds from now on: whoever is away now is not waited for.
    course.retired.update(n for n in range(len(course.backends)) if n not in course.listed)


def _removal(course: _Course, backend: int, number: int) -> Iterator[_Step]:
    """The end of the drain by event `number`, unless a scale ended it."""
    if course.drained.get(backend) == number:
        course.retired.add(backend)
        if changes := course.leave(backend):
            yield f"{course.service.name}[{backend}] is removed", changes


def _failure(event: Failure, number: int, course: _Course) -> Iterator[_Step]:
    name, place, backends = course.service.name, course.place, event.backends
    words = ",".join(map(str, backends))
    deaths: list[Primitive] = [{"alive": [place, backend, False]} for backend in backends]
    for backend in backends:
        course.failures.setdefault(backend, set()).add(number)
    back = math.inf if event.returns_after is None else event.returns_after
    if event.detected_after == 0:
        deaths += _departures(course, backends)
    yield f"{name}[{words}] fails", deaths
    # Who is back by then is not found dead.
    if 0 < event.detected_after < back:
        yield event.at + event.detected_after
        if departures := _departures(course, backends):
            yield f"{name}[{words}] is found dead", departures
    if event.returns_after is None:
        course.retired.update(backends)
        return
    yield event.at + event.returns_after
    changes: list[Primitive] = []
    # In one event a backend may be named twice.
    for backend in dict.fromkeys(backends):
        course.failures[backend].discard(number)
        if not course.failures[backend]:
            del course.failures[backend]
            changes.append({"alive": [place, backend, True]})
    for backend in backends:
        changes += course.enter(backend)
    if changes:
        yield f"{name}[{words}] returns", changes


def _departures(course: _Course, backends: Iterable[int]) -> list[Primitive]:
    return [change for backend in backends for change in course.leave(backend)]


def _flapping(event: Flapping, course: _Course) -> Iterator[_Step]:
    label = f"{course.service.name}[{event.backend}]"
    for turn in range(event.times):
        time = event.at + turn * event.period
        yield time
        if changes := course.leave(event.backend):
            yield f"{label} leaves", changes
        yield time + event.period / 2
        if changes := course.enter(event.backend):
            yield f"{label} returns", changes


def _rolling_update(event: RollingUpdate, number: int, course: _Course) -> Iterator[_Step]:
    """The turns; drains end between them, in the order of turns."""
    name = course.service.name
    # Those that are away and may return are replaced as well, behind those in the list.
    away = (n for n in range(len(course.backends)) if n not in course.listed)
    order = [n for n in (*course.listed, *away) if n not in course.retired]
    ends: deque[tuple[float, int]] = deque()
    for turn, backend in enumerate(order):
        time = event.at + turn * event.interval
        while ends and ends[0][0] <= time:
            end, former = ends.popleft()
            yield end
            yield from _removal(course, former, number)
        yield time
        if backend in course.retired:
            continue
        successor = course.add(backend)
        course.retired.add(backend)
        changes = course.enter(successor)
        label = f"{name}[{successor}] replaces [{backend}]"
        if event.drain == 0:
            yield label, changes + course.leave(backend)
        else:
            yield label, [*changes, course.drain(backend, number)]
            ends.append((time + event.drain, backend))
    for end, former in ends:
        yield end
        yield from _removal(course, former, number)


def strategy_values(strategy: object) -> dict[str, Any]:
    """A strategy as the simulation reads it."""
    values = structs.asdict(strategy)  # type: ignore[arg-type]
    values.pop("class_name")
    return values
