"""Scenarios: Services, traffic, events and strategies.

These are the values of a YAML file, or of Python objects. Times are seconds of the driven clock,
sizes are bytes. Values are checked in two steps: types and ranges by msgspec, what refers to other
fields by `kbe_nat.lab.validation`. Both name the field's path.

`kbe_nat.lab.fields` makes the JSON schema and docs/lab-scenario.md of the docstring of each field,
which says the unit, and of its type and default. A docstring must not repeat these.
"""

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from kbe_nat.field_docs import documented

NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$(?!\n)"
YEAR: Final = 31_536_000
BLOCK_SIZE: Final = 512
BLOCKS_PER_CLIENT: Final = 4
"""Defaults, as those of `kbe_nat.Snat`."""
MAX_TABLE: Final = 4_194_301
"""Slots of Maglev's table at most: the last prime below 2^22."""
Positive: TypeAlias = Annotated[float, Meta(gt=0, le=1e12)]
NotNegative: TypeAlias = Annotated[float, Meta(ge=0, le=1e12)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]
Place: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 24)]
Weight: TypeAlias = Annotated[int, Meta(ge=0, le=65_535)]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65_535)]
Name: TypeAlias = Annotated[str, Meta(pattern=NAME, max_length=63)]


@documented
class Kind(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower
):
    """One of several kinds of a value, told by the field `kind`."""


@documented
class Uniform(Kind, frozen=True):
    """Evenly between two values."""

    low: NotNegative
    """Least value, in the unit of the field that it is drawn for."""
    high: NotNegative
    """Greatest value, in the same unit."""


@documented
class Exponential(Kind, frozen=True):
    """Without memory."""

    mean: Positive
    """The mean, in the unit of the field that it is drawn for."""


@documented
class Pareto(Kind, frozen=True):
    """A heavy tail: P(X > x) = (minimum / x) ** shape."""

    shape: Positive
    """A number without unit: the mean is infinite up to 1, the variance up to 2."""
    minimum: Positive
    """Least value, in the unit of the field that it is drawn for."""


@documented
class Samples(Kind, frozen=True, tag="trace"):
    """Drawn with replacement from a column of a CSV file, or from these values."""

    file: str = ""
    """CSV file beside the scenario's file, unless the path is absolute."""
    column: str = ""
    """The column of `file`, by its name in the first line."""
    values: tuple[NotNegative, ...] = ()
    """The values, in the unit of the field that they are drawn for, where there is no `file`."""


Distribution: TypeAlias = NotNegative | Uniform | Exponential | Pareto | Samples
"""A number stands for itself."""


@documented
class Poisson(Kind, frozen=True):
    """Independent connections, so many a second in the mean."""

    rate: Positive
    """Connections a second in the mean, over all Services of the stream."""


@documented
class Paced(Kind, frozen=True):
    """Connections at equal distances."""

    rate: Positive
    """Connections a second, over all Services of the stream."""


@documented
class Bursty(Kind, frozen=True):
    """Poisson while it is on; times on and off are exponential with these means."""

    rate: Positive
    """Connections a second in the mean while it is on, over all Services of the stream."""
    seconds_on: Positive
    """Mean length of the times that it is on, in seconds."""
    seconds_off: Positive
    """Mean length of the times that it is off, in seconds."""


@documented
class Closed(Kind, frozen=True):
    """A closed loop: each client has one connection at a time, and thinks before the next, a
    millisecond at least.
    """

    think: Distribution
    """Seconds from the end of a client's connection to the begin of its next one."""


@documented
class Trace(Kind, frozen=True):
    """The connections of a file, by their times: CSV with the columns time, client, bytes and
    lifetime, or a capture (`.pcap`, `.pcapng`), whose clients are numbered as they come.
    """

    file: str
    """CSV or capture beside the scenario's file, unless the path is absolute. Its times are seconds
    from its beginning, which is `start` of the stream.
    """


Arrivals: TypeAlias = Poisson | Paced | Bursty | Closed | Trace


@documented
class Clients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The clients that open connections."""

    count: Annotated[int, Meta(ge=1, le=16_000_000)] = 1000
    """Clients, each with an address of its own."""
    zipf: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Exponent of Zipf's law, a number without unit; 0: all alike."""


@documented
class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of connections to one Service."""

    service: Name
    """Name of the Service that they go to."""
    arrivals: Arrivals
    """When connections begin."""
    kind: Literal["tcp", "sctp", "udp", "udp-one-way", "syn-flood"] = "tcp"
    """The packets of a connection; docs/research.md describes them."""
    clients: Clients = Clients()
    """Who opens them. A trace has clients of its own."""
    size: Distribution = 10_000.0
    """Bytes that a connection is answered with."""
    lifetime: Distribution = 1.0
    """Seconds from its opening to its close; requests, and datagrams of a one-way flow, are spread
    over them.
    """
    requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Requests of a connection, or datagrams of a one-way flow."""
    start: NotNegative = 0.0
    """Seconds from the scenario's start to the first connection at the earliest."""
    stop: NotNegative | None = None
    """Seconds from the scenario's start, from which on no connection begins; null: its end."""


@documented
class Backends(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Backends alike."""

    count: Annotated[int, Meta(ge=0, le=100_000)] = 1
    """How many there are."""
    weight: Weight = 1
    """Share of new connections that each should get, against the weights of the others."""
    capacity: Positive | None = None
    """Connections that one serves at once; with more its latency grows in proportion. Null: any
    number.
    """
    latency: NotNegative = 0.001
    """Seconds until it answers."""


@documented
class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Service, or several alike."""

    name: Name
    """Traffic and events call it so."""
    backends: tuple[Backends, ...]
    """Groups of backends, in this order; a backend is told by its position, from 0."""
    count: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """How many there are; traffic spreads evenly over them, events hit all."""
    family: Literal["ipv4", "ipv6"] = "ipv4"
    """Family of its address, of its backends and of its clients."""
    affinity: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    """Seconds for which a client keeps its backend (ClientIP); null: none."""


@documented
class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A balancing strategy and its parameters. Null stands for the strategy's default."""

    name: str
    """One of the engine's (`kbe_nat.Strategy`), of the lab's, or `python`."""
    table_size: Annotated[int, Meta(ge=2, le=MAX_TABLE)] | None = None
    """mh: slots, a prime, at least one for each backend with weight (the first of 2,039, 16,381,
    65,537, 655,373 and 4,194,301 with 100 for each).
    """
    virtual_nodes: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    """ring, bounded: points of a backend of weight 1 (100)."""
    epsilon: Annotated[float, Meta(ge=1e-6, le=1000)] | None = None
    """bounded: the load above the mean that is allowed, as a share (0.25)."""
    draws: Annotated[int, Meta(ge=1, le=1000)] | None = None
    """lcd: backends that are compared (2)."""
    buckets: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    """anchor: units of weight at most, which are backends where weights are equal (4096)."""
    decay: Annotated[float, Meta(ge=0.001, le=86_400)] | None = None
    """peak-ewma: seconds after which a connect time fades to 1/e (10)."""
    class_name: str | None = msgspec.field(name="class", default=None)
    """python: `module:Class`, which is searched for beside the scenario's file too; or a name that
    `kbe_nat.lab.run` was called with.
    """

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


@documented
class Change(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="event", tag=str.lower
):
    """Something that happens to a Service or a node, told by the field `event`."""

    at: NotNegative
    """Seconds from the scenario's start."""


@documented
class Scale(Change, frozen=True, tag="scale"):
    """The Service has so many backends from now on: the last of the list leave, or living former
    ones return with the weight that they had, and then new ones like the last come. Backends that
    are away then return by no failure or flapping; those that a rolling update has replaced and
    drains do not count.
    """

    service: Name
    """Name of the Service."""
    backends: Annotated[int, Meta(ge=0, le=100_000)]
    """Backends from now on."""


@documented
class Reweight(Change, frozen=True, tag="weight"):
    """A backend gets another weight."""

    service: Name
    """Name of the Service."""
    backend: Place
    """Its position, from 0."""
    weight: Weight
    """Its weight from now on."""


@documented
class Drain(Change, frozen=True, tag="drain"):
    """A backend gets no new connections, and is removed after some time, unless a scale has removed
    it and brought it back by then.
    """

    service: Name
    """Name of the Service."""
    backend: Place
    """Its position, from 0."""
    removed_after: NotNegative | None = None
    """Seconds from the drain to its removal; null: it stays."""


@documented
class Failure(Change, frozen=True, tag="failure"):
    """Backends die. They stay in the tables until this is detected, unless they return earlier. One
    that a scale or a rolling update removed meanwhile lives again, but is not listed.
    """

    service: Name
    """Name of the Service."""
    backends: Annotated[tuple[Place, ...], Meta(min_length=1)]
    """Their positions, from 0."""
    detected_after: NotNegative = 0.0
    """Seconds from their death until they leave the tables."""
    returns_after: Positive | None = None
    """Seconds from their death to their return; null: never."""


@documented
class RollingUpdate(Change, frozen=True, tag="rolling-update"):
    """Every backend is replaced by a new one, one after the other: the new one comes, and the old
    one is drained and removed. These are the backends at its begin, those that are drained or away
    for a time included; one that was removed for good before its turn has no successor.
    """

    service: Name
    """Name of the Service."""
    interval: Positive
    """Seconds between two replacements."""
    drain: NotNegative = 0.0
    """Seconds from a backend's drain to its removal."""


@documented
class Flapping(Change, frozen=True, tag="flapping"):
    """A backend leaves the list and returns, again and again; it is alive all the time."""

    service: Name
    """Name of the Service."""
    backend: Place
    """Its position, from 0."""
    period: Positive
    """Seconds between two departures; it is away for half of them."""
    times: Annotated[int, Meta(ge=1, le=10_000)]
    """Departures."""


@documented
class NewStrategy(Change, frozen=True, tag="strategy"):
    """The Service gets another strategy."""

    service: Name
    """Name of the Service."""
    strategy: StrategyChoice
    """A name, or a name with parameters."""


@documented
class NodeLoss(Change, frozen=True, tag="node-loss"):
    """A node behind the routers is lost with its memory of connections."""

    node: Place
    """Its position, from 0."""
    returns_after: Positive | None = None
    """Seconds from its loss to its return, with empty tables; null: never."""


Event: TypeAlias = (
    Scale | Reweight | Drain | Failure | RollingUpdate | Flapping | NewStrategy | NodeLoss
)


@documented
class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes that share each Service's address behind routers (ECMP). Their engines have one
    seed.
    """

    count: Annotated[int, Meta(ge=1, le=64)] = 1
    """How many there are."""
    ecmp: Literal["modulo", "resilient"] = "modulo"
    """Whether all flows are hashed anew when a node leaves, or only its own."""


@documented
class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of an engine's tables, as `kbe_nat.Limits`."""

    max_flows: Annotated[int, Meta(ge=1, le=1 << 24)] = 1_048_576
    """Flows at most."""
    max_unassured: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    """Unanswered flows at most; null: as many as flows."""
    max_flows_per_source: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    """Flows of one client at most; null: no limit of its own."""


Allocation: TypeAlias = Literal[
    "preserve", "random", "sequential", "hashed", "blocks", "deterministic"
]


@documented
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
    def block(self) -> int:
        """Ports of a block, as those of `kbe_nat.Snat`: no more than the range has by default."""
        return self.block_size or min(BLOCK_SIZE, self.ports[1] - self.ports[0] + 1)

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


@documented
class Sweep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field that is varied: the cells are run with each of its values."""

    field: str
    """The path of the field from the top of the scenario: names with dots between them, and behind
    a list a position from 0 in brackets, such as `duration`, `services[0].backends[0].count`,
    `traffic[0].arrivals.rate`, `limits.max_flows` or `strategies[0].table_size`. The fields `name`,
    `question`, `expect`, `seed`, `repeats`, `sweep` and `outputs` cannot be varied.
    """
    values: Annotated[tuple[float | int | str, ...], Meta(min_length=1)]
    """Its values, in its unit and within its range; each makes cells."""


Memory: TypeAlias = Literal["conntrack", "none", "jet"]
Table: TypeAlias = Literal["seconds", "tables", "backends"]


@documented
class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario. Its cells are all combinations of strategies, memories, ways of source NAT,
    values of sweeps and repeats.
    """

    name: Name
    """Reports call it so."""
    duration: Annotated[float, Meta(ge=1, le=1e7)]
    """Seconds in which connections begin and events happen."""
    services: Annotated[tuple[Service, ...], Meta(min_length=1)]
    """The Services, with their backends."""
    traffic: Annotated[tuple[Traffic, ...], Meta(min_length=1)]
    """Streams of connections to them."""
    strategies: Annotated[tuple[StrategyChoice, ...], Meta(min_length=1)]
    """Balancing strategies, each a name, or a name with parameters. Others are compared with the
    first one.
    """
    mode: Literal["offline"] = "offline"
    """Live scenarios have another one."""
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
    """Events, in any order. Where they overlap, their steps are done in the order of time, each
    with the list as it is then.
    """
    nodes: Nodes = Nodes()
    """Nodes that serve."""
    limits: Limits = Limits()
    """Sizes of the tables of each node's engine."""
    timeouts: dict[str, float] = {}
    """Seconds of the engine's timeouts, such as `udp_stream`; names are of `kbe_nat.TIMEOUTS`."""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1
    """The seed of each repeat follows from it."""
    repeats: Annotated[int, Meta(ge=1, le=10_000)] = 5
    """Seeds that follow from `seed`; every strategy meets the same ones."""
    sweep: tuple[Sweep, ...] = ()
    """Fields that are varied; several make a grid."""
    outputs: tuple[Table, ...] = ("seconds", "tables", "backends")
    """Large tables that are kept; the others always are."""
