"""Scenarios: Services, traffic, events and strategies.

These are the values of a YAML file, or of Python objects; `kbe-nat lab schema` prints them as a
JSON schema. Times are seconds of the driven clock, sizes are bytes. Values are checked in two
steps: types and ranges by msgspec, what refers to other fields by `kbe_nat.lab.validation`. Both
name the field's path.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$(?!\n)"
Positive: TypeAlias = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]
Place: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 24)]
Weight: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
Name: TypeAlias = Annotated[str, Meta(pattern=NAME, max_length=63)]


class Kind(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower
):
    """One of several kinds of a value, told by the field `kind`."""


class Uniform(Kind, frozen=True):
    """Evenly between two values."""

    low: NotNegative
    high: NotNegative


class Exponential(Kind, frozen=True):
    """Without memory."""

    mean: Positive


class Pareto(Kind, frozen=True):
    """A heavy tail: P(X > x) = (minimum / x) ** shape."""

    shape: Positive
    minimum: Positive


class Samples(Kind, frozen=True, tag="trace"):
    """Drawn with replacement from a column of a CSV file, or from these values."""

    file: str = ""
    """Beside the scenario's file, unless the path is absolute."""
    column: str = ""
    """By its name in the first line."""
    values: tuple[NotNegative, ...] = ()


Distribution: TypeAlias = NotNegative | Uniform | Exponential | Pareto | Samples
"""A number stands for itself."""


class Poisson(Kind, frozen=True):
    """Independent connections, so many a second in the mean."""

    rate: Positive


class Paced(Kind, frozen=True):
    """Connections at equal distances."""

    rate: Positive


class Bursty(Kind, frozen=True):
    """Poisson while it is on; times on and off are exponential with these means."""

    rate: Positive
    """Connections a second while it is on."""
    seconds_on: Positive
    seconds_off: Positive


class Closed(Kind, frozen=True):
    """A closed loop: each client has one connection at a time, and thinks before the next, a
    millisecond at least.
    """

    think: Distribution


class Trace(Kind, frozen=True):
    """The connections of a file, in its order: CSV with the columns time, client, bytes and
    lifetime, or a capture (`.pcap`, `.pcapng`), whose clients are numbered as they come.
    """

    file: str
    """Beside the scenario's file, unless the path is absolute."""


Arrivals: TypeAlias = Poisson | Paced | Bursty | Closed | Trace


class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clients that open connections."""

    count: Annotated[int, Meta(ge=1, le=16_000_000)] = 1000
    zipf: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Exponent of Zipf's law; 0: all alike."""


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of connections to one Service."""

    service: Name
    arrivals: Arrivals
    kind: Literal["tcp", "sctp", "udp", "udp-one-way", "syn-flood"] = "tcp"
    clients: Clients = Clients()
    size: Distribution = 10_000.0
    """Bytes that a connection is answered with."""
    lifetime: Distribution = 1.0
    """Seconds from its opening to its close; requests, and datagrams of a one-way flow, are spread
    over them.
    """
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    start: NotNegative = 0.0
    stop: NotNegative | None = None
    """The scenario's end, when it is null."""


class Backends(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Backends alike."""

    count: Annotated[int, Meta(ge=0, le=100_000)] = 1
    weight: Weight = 1
    capacity: Positive | None = None
    """Connections that one serves at once; with more its latency grows in proportion."""
    latency: NotNegative = 0.001
    """Seconds until it answers."""


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Service, or several alike."""

    name: Name
    backends: tuple[Backends, ...]
    """In this order; a backend is told by its position, from 0."""
    count: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """How many there are; traffic spreads evenly over them, events hit all."""
    family: Literal["ipv4", "ipv6"] = "ipv4"
    """Of its address, its backends and its clients."""
    affinity: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    """Seconds for which a client keeps its backend (ClientIP)."""


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A balancing strategy and its parameters. Null stands for the strategy's default."""

    name: str
    """One of the engine's (`kbe_nat.Strategy`), of the lab's, or "python"."""
    table_size: Annotated[int, Meta(ge=1, le=1 << 26)] | None = None
    """mh: slots, a prime."""
    virtual_nodes: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """ring, bounded: points for each unit of weight (100)."""
    epsilon: Annotated[float, Meta(ge=1e-6, le=1000)] | None = None
    """bounded: the load above the mean that is allowed, as a share (0.25)."""
    draws: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """lcd: backends that are compared (2)."""
    buckets: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    """anchor: backends at most (4096)."""
    decay: Annotated[float, Meta(ge=0.001, le=86_400)] | None = None
    """peak-ewma: seconds after which a connect time fades to 1/e (10)."""
    class_name: str | None = msgspec.field(name="class", default=None)
    """python: module:Class, or a name that `kbe_nat.lab.run` was called with."""

    @property
    def label(self) -> str:
        """Its name with its parameters, as results call it."""
        values = {
            field: value
            for field in self.__struct_fields__
            if field != "name" and (value := getattr(self, field)) is not None
        }
        if not values:
            return self.name
        parts = (f"{field.replace('class_name', 'class')}={v}" for field, v in values.items())
        return f"{self.name}({','.join(parts)})"


StrategyChoice: TypeAlias = str | Strategy


class Change(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag=str.lower
):
    """Something that happens to a Service or a node, told by the field `event`."""

    at: NotNegative
    """Seconds from the start."""


class Scale(Change, frozen=True, tag="scale"):
    """The Service has so many backends from now on: the last ones leave, or new ones like the last
    come.
    """

    service: Name
    backends: Annotated[int, Meta(ge=0, le=100_000)]


class Reweight(Change, frozen=True, tag="weight"):
    """A backend gets another weight."""

    service: Name
    backend: Place
    weight: Weight


class Drain(Change, frozen=True, tag="drain"):
    """A backend gets no new connections, and is removed after some time."""

    service: Name
    backend: Place
    removed_after: NotNegative | None = None
    """Seconds; it stays when this is null."""


class Failure(Change, frozen=True, tag="failure"):
    """Backends die. They stay in the tables until this is detected."""

    service: Name
    backends: Annotated[tuple[Place, ...], Meta(min_length=1)]
    detected_after: NotNegative = 0.0
    returns_after: Positive | None = None
    """Seconds after their death."""


class RollingUpdate(Change, frozen=True, tag="rolling-update"):
    """Every backend is replaced by a new one, one after the other: the new one comes, and the old
    one is drained and removed.
    """

    service: Name
    interval: Positive
    """Seconds between two replacements."""
    drain: NotNegative = 0.0
    """Seconds from a backend's drain to its removal."""


class Flapping(Change, frozen=True, tag="flapping"):
    """A backend leaves the list and returns, again and again; it is alive all the time."""

    service: Name
    backend: Place
    period: Positive
    """Seconds between two departures; it is away for half of them."""
    times: Annotated[int, Meta(ge=1, le=10_000)]


class NewStrategy(Change, frozen=True, tag="strategy"):
    """The Service gets another strategy."""

    service: Name
    strategy: StrategyChoice


class NodeLoss(Change, frozen=True, tag="node-loss"):
    """A node behind the routers is lost with its memory of connections."""

    node: Place
    returns_after: Positive | None = None


Event: TypeAlias = (
    Scale | Reweight | Drain | Failure | RollingUpdate | Flapping | NewStrategy | NodeLoss
)


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes that share each Service's address behind routers (ECMP). Their engines have one
    seed.
    """

    count: Annotated[int, Meta(ge=1, le=64)] = 1
    ecmp: Literal["modulo", "resilient"] = "modulo"
    """Whether all flows are hashed anew when a node leaves, or only its own."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of an engine's tables, as `kbe_nat.Limits`."""

    max_flows: Annotated[int, Meta(ge=1, le=1 << 24)] = 1_048_576
    max_unassured: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    max_flows_per_source: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None


Allocation: TypeAlias = Literal[
    "preserve", "random", "sequential", "hashed", "blocks", "deterministic"
]


class SourceNat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Source NAT at the nodes: each replaces all clients by an address of its own, and gives ports,
    as `kbe_nat.Snat`. No port is reserved.
    """

    allocation: Allocation = "preserve"
    """Which port a new mapping gets."""
    mapping: Literal["endpoint-dependent", "endpoint-independent"] = "endpoint-dependent"
    """Whether a client's port has a port for each backend, or one towards all (RFC 4787)."""
    ports: tuple[Port, Port] = (1024, 65_535)
    """Lowest and highest port."""
    block_size: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """blocks, deterministic: ports of a block (512)."""
    blocks_per_client: Annotated[int, Meta(ge=1, le=65_535)] | None = None
    """blocks: blocks of one client at most (4)."""

    @property
    def label(self) -> str:
        """Its allocation with what is not the default, as results call it."""
        parts: list[str] = [] if self.mapping == "endpoint-dependent" else [self.mapping]
        if self.ports != (1024, 65_535):
            parts.append(f"ports={self.ports[0]}-{self.ports[1]}")
        for field in ("block_size", "blocks_per_client"):
            if (value := getattr(self, field)) is not None:
                parts.append(f"{field}={value}")
        return f"{self.allocation}({','.join(parts)})" if parts else self.allocation


SourceNatChoice: TypeAlias = Allocation | Literal["none"] | SourceNat


class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that is varied: the cells are run with each of its values."""

    field: str
    """Its path, such as services[0].backends[0].count."""
    values: Annotated[tuple[float | int | str, ...], Meta(min_length=1)]


Memory: TypeAlias = Literal["conntrack", "none", "jet"]
Table: TypeAlias = Literal["seconds", "tables", "backends"]


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario. Its cells are all combinations of strategies, memories, ways of source NAT,
    values of sweeps and repeats.
    """

    name: Name
    duration: Annotated[float, Meta(ge=1, le=1e7)]
    """Seconds."""
    services: Annotated[tuple[Service, ...], Meta(min_length=1)]
    traffic: Annotated[tuple[Traffic, ...], Meta(min_length=1)]
    strategies: Annotated[tuple[StrategyChoice, ...], Meta(min_length=1)]
    mode: Literal["offline"] = "offline"
    """Told from live ones by it."""
    question: str = ""
    """The question that it asks, in a sentence."""
    expect: str = ""
    """The answer to expect, and why."""
    memory: Annotated[tuple[Memory, ...], Meta(min_length=1)] = ("conntrack",)
    """Where connections are remembered: all, none, or those that a change could move (JET)."""
    source_nat: tuple[SourceNatChoice, ...] = ()
    """Ways of giving source ports, of which each makes cells; "none": clients keep their address,
    as they do when there is no way at all.
    """
    timeline: tuple[Event, ...] = ()
    nodes: Nodes = Nodes()
    limits: Limits = Limits()
    timeouts: dict[str, NotNegative] = {}
    """The engine's timeouts by nf_conntrack's names, in seconds, where not the defaults."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1
    repeats: Annotated[int, Meta(ge=1, le=10_000)] = 5
    """Seeds that follow from `seed`; every strategy meets the same ones."""
    sweep: tuple[Sweep, ...] = ()
    outputs: tuple[Table, ...] = ("seconds", "tables", "backends")
    """Large tables that are kept; the others always are."""
