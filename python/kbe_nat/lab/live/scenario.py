"""Live scenarios: ways through a node, and what is measured of them on real packets.

They are written as the offline ones are, and told from them by `mode: live`. Types and ranges are
checked by msgspec, what refers to other fields by `violations`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from kbe_nat.field_docs import documented
from kbe_nat.lab.scenario import Name, Positive
from kbe_nat.spelling import none_of

Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=3600)]
Rate: TypeAlias = Annotated[float, Meta(ge=1, le=1e9)]
Share: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]
Attempts: TypeAlias = Annotated[int, Meta(ge=1, le=1000)]
Connections: TypeAlias = Annotated[int, Meta(ge=1, le=1_000_000)]


@documented
class Measure(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="measure", tag=str.lower
):
    """One of several measures, told by the field `measure`."""


@documented
class Throughput(Measure, frozen=True):
    """The highest rate of UDP packets at which no more are lost than is tolerated (RFC 2544, 26.1),
    by a search that says how sure it is.
    """

    loss: Annotated[tuple[Share, ...], Meta(min_length=1)] = (0.0, 0.005)
    """Shares of packets that may be lost; each is searched for."""
    seconds: Seconds = 1.0
    """Length of a trial, in seconds."""
    precision: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """The search ends when its interval is so narrow, as a share of the rate."""
    trials: Attempts = 20
    """Trials at most; a search that ends by it says that it is not settled."""


@documented
class Cpu(Measure, frozen=True):
    """Processor time of a packet: the sender's thread, in which the kernel's work runs up to a
    queue or the receiver, and the threads of the way.
    """

    packets: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 100_000
    """Packets that are sent."""
    rate: Rate = 150_000.0
    """Packets a second, in bursts: less than the way can carry."""
    saturate: bool = True
    """Measure too how many packets a way's own processes carry in a second of their time while more
    come than they can carry.
    """


@documented
class Connects(Measure, frozen=True, tag="connections"):
    """Short TCP connections, one after the other: how many a second, and how long their opening
    takes.
    """

    seconds: Seconds = 1.0
    """Seconds for which connections are opened."""
    validate: bool = True
    """Whether a request must be answered with the same bytes, or nothing is sent before the close.
    """


@documented
class Establishment(Measure, frozen=True):
    """The highest rate of new UDP flows at which each one is answered (RFC 9693), by a search that
    says how sure it is.
    """

    seconds: Seconds = 1.0
    """Length of a trial in seconds, unless source ports end before: a search has 50,000 of them."""
    precision: Annotated[float, Meta(gt=0, le=1)] = 0.1
    """The search ends when its interval is so narrow, as a share of the rate."""
    trials: Attempts = 12
    """Trials at most; a search that ends by it says that it is not settled."""


@documented
class Capacity(Measure, frozen=True):
    """How many connections are alive at once and validated, up to a limit, and how fast they are
    closed (RFC 9693).
    """

    limit: Connections = 10_000
    """Connections at once, at most."""


@documented
class Latency(Measure, frozen=True):
    """Times that packets take, as histograms: round trips of established flows, and the opening of
    flows by their first packets, beside a steady load.
    """

    kinds: Annotated[tuple[Literal["round-trip", "first-packet"], ...], Meta(min_length=1)] = (
        "round-trip",
        "first-packet",
    )
    """What is timed."""
    loads: Annotated[tuple[Annotated[float, Meta(ge=0, le=1e9)], ...], Meta(min_length=1)] = (0.0,)
    """Packets a second of the load beside."""
    count: Annotated[int, Meta(ge=100, le=10_000_000)] = 2000
    """Packets or flows that are timed, one after the other."""


@documented
class Bulk(Measure, frozen=True):
    """One TCP connection that sends as fast as it can; the receiver says how much came."""

    megabytes: Annotated[int, Meta(ge=1, le=1_000_000)] = 2000
    """Payload that is sent, in units of 2^20 bytes."""


@documented
class Programming(Measure, frozen=True):
    """From the objects to the first answer, and from an endpoint's change to the first connection
    that reaches the new endpoint.
    """

    changes: Annotated[int, Meta(ge=0, le=10_000)] = 3
    """Changes of the endpoint that are timed."""


AnyMeasure: TypeAlias = (
    Throughput | Cpu | Connects | Establishment | Capacity | Latency | Bulk | Programming
)


@documented
class WayChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way with settings of its own."""

    way: str
    """Its name."""
    services: Annotated[tuple[Annotated[int, Meta(ge=1, le=30_000)], ...], Meta(min_length=1)] | (
        None
    ) = None
    """Numbers of Services, in the place of the scenario's."""
    measures: Annotated[tuple[AnyMeasure, ...], Meta(min_length=1)] | None = None
    """What is measured, in the place of the scenario's."""


@documented
class LiveScenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario on real packets. Its cells are all combinations of ways, numbers of Services,
    families and rounds; an idle control and a second run of the baseline are in each round.
    """

    name: Name
    """Reports call it so."""
    mode: Literal["live"]
    """Scenarios without it are simulated."""
    ways: Annotated[tuple[str | WayChoice, ...], Meta(min_length=1)]
    """Names, or names with settings. One that this machine cannot run is skipped with its reason.
    """
    measures: Annotated[tuple[AnyMeasure, ...], Meta(min_length=1)]
    """What is measured of each way."""
    question: str = ""
    """The question that it asks, in a sentence."""
    expect: str = ""
    """The answer to expect, and why."""
    services: Annotated[tuple[Annotated[int, Meta(ge=1, le=30_000)], ...], Meta(min_length=1)] = (
        1,
    )
    """Numbers of Services that the node has; clients use one of them."""
    endpoints: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Endpoints of each of the Services that clients do not use."""
    families: Annotated[tuple[Literal["ipv4", "ipv6"], ...], Meta(min_length=1)] = ("ipv4",)
    """Families of addresses, of which each makes cells."""
    baseline: str | None = None
    """The way that others are compared with, and that runs twice in each round; the first one,
    when it is null.
    """
    rounds: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Rounds: each way is measured once in each, in an order of the round's own."""
    idle: Positive = 0.5
    """Seconds of the idle control of each round."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1
    """Seed of the orders within rounds, and of the bootstrap."""

    @property
    def choices(self) -> tuple[WayChoice, ...]:
        """The ways, each with its settings."""
        return tuple(WayChoice(way) if isinstance(way, str) else way for way in self.ways)

    @property
    def base(self) -> str:
        """The name of the baseline."""
        return self.baseline or self.choices[0].way

    def measures_of(self, way: str) -> tuple[AnyMeasure, ...]:
        """What is measured of a way."""
        choice = next(choice for choice in self.choices if choice.way == way)
        return choice.measures or self.measures


def violations(scenario: LiveScenario) -> Iterator[tuple[str, str]]:
    """Path and reason of each contradiction. Names of ways are checked where ways are known."""
    names: list[str] = []
    for place, way in enumerate(scenario.ways):
        path = f"ways[{place}]"
        choice = WayChoice(way) if isinstance(way, str) else way
        if choice.way in names:
            yield path, f"{choice.way} is there twice"
        names.append(choice.way)
        yield from _twice(f"{path}.services", choice.services or ())
        yield from _measures(f"{path}.measures", choice.measures or ())
    yield from _measures("measures", scenario.measures)
    yield from _twice("services", scenario.services)
    yield from _twice("families", scenario.families)
    if scenario.base not in names:
        yield "baseline", none_of(scenario.base, names)


def _measures(path: str, measures: tuple[AnyMeasure, ...]) -> Iterator[tuple[str, str]]:
    seen: set[type] = set()
    for place, measure in enumerate(measures):
        if type(measure) in seen:
            yield f"{path}[{place}].measure", "is there twice"
        seen.add(type(measure))
        match measure:
            case Throughput(loss=loss):
                yield from _twice(f"{path}[{place}].loss", loss)
            case Latency(loads=loads, kinds=kinds):
                yield from _twice(f"{path}[{place}].loads", loads)
                yield from _twice(f"{path}[{place}].kinds", kinds)


def _twice(path: str, values: tuple[object, ...]) -> Iterator[tuple[str, str]]:
    for place, value in enumerate(values):
        if value in values[:place]:
            yield f"{path}[{place}]", f"{value} is there twice"
