"""The messages of the live page's stream. They are between the page and its daemon, which come from
one package, and no interface for others: `-o json` is one.

A message holds what has changed since the last one to the same client; a field that has not is
absent.
"""

import msgspec

from kbe_nat.daemon.rows import ConnectRow, DecisionRow


class NodeRow(msgspec.Struct, frozen=True):
    """The daemon."""

    version: str
    """A page of another version loads itself again."""
    process: str
    """Another one after a restart."""
    started: float
    """In seconds since 1970."""
    node: str
    """Its name; empty without one."""
    datapath: str
    driver: str
    rules: str
    is_counted: bool
    """Whether packets and bytes of connections are counted."""
    is_serving: bool
    """Packet loops run."""
    is_current: bool
    """The kernel has what the objects want."""
    errors: list[str]
    """The first errors of files and objects."""
    error_count: int
    watches: list[tuple[str, str, float, str]]
    """Resource, phase, since when and why, of each watch that is not in step."""


class RateRow(msgspec.Struct, frozen=True):
    """Traffic of service ports together."""

    active: int
    """Connections now."""
    flows: float
    """New connections a second."""
    packets: float | None
    """A second, both directions together; null where they are not counted."""
    bytes: float | None
    """As packets."""
    refused: float
    """Packets a second that were refused."""


class PortRow(msgspec.Struct, frozen=True):
    """One service port in one family, as the table shows it."""

    key: str
    """Tells it from the others."""
    name: str
    protocol: str
    family: int
    frontends: list[str]
    """The first ones."""
    frontend_count: int
    strategy: str
    backends: int
    active: int
    flows: float | None
    """New connections a second; null before there are two moments to compare."""
    packets: float | None
    bytes: float | None
    refused: float | None
    refused_total: int
    is_new: bool
    """It has come while the page was open."""


class BackendRow(msgspec.Struct, frozen=True):
    """One backend of the service port that is open."""

    backend: str
    weight: int
    state: str
    """draining, gone, or empty."""
    active: int
    flows: float | None
    packets: float | None
    bytes: float | None
    flows_total: int
    connect: ConnectRow | None
    """How fast it answers."""


class PortDetail(msgspec.Struct, frozen=True):
    """The service port that is open."""

    row: PortRow
    frontends: list[str]
    affinity_seconds: int | None
    internal_traffic_policy: str
    external_traffic_policy: str
    source_ranges: list[str]
    refused: dict[str, int]
    """Packets by cause."""
    connect: ConnectRow | None
    """How fast its backends answer."""
    backends: list[BackendRow]
    """Those with most connections."""
    backend_count: int


class DrainingRow(msgspec.Struct, frozen=True):
    """A backend that is drained."""

    backend: str
    ports: int
    """Service ports that have it."""
    active: int
    """Connections that it still has."""


class CauseRow(msgspec.Struct, frozen=True):
    """Packets to service ports that were refused for one cause."""

    cause: str
    packets: int
    rate: float | None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """The changes since the last message."""

    time: float
    """Of the daemon, in seconds since 1970."""
    node: NodeRow | None = None
    rates: RateRow | None = None
    totals: tuple[int, int] | None = None
    """Service ports, and those that the search matches."""
    order: list[str] | None = None
    """Keys of the service ports in the table, from top to bottom."""
    ports: list[PortRow] = []
    """Those of them that have changed."""
    detail: PortDetail | None = None
    is_absent: bool = False
    """There is no such service port as the one that is open."""
    drains: list[DrainingRow] | None = None
    causes: list[CauseRow] | None = None
    problem: str | None = None
    """Why the view has no decisions; empty where nothing is wrong."""
    decisions: list[DecisionRow] = []
    """Those since the last message, oldest first."""
