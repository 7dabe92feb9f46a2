"""The rows of a daemon's answers: they travel through the control socket, and `-o json` prints
them. docs/json.md is made from this file.
"""

from enum import StrEnum
from typing import Any, TypeAlias, cast

import msgspec

from kbe_nat import words
from kbe_nat.port_rows import OptionalPortRow, PortRow

Pair: TypeAlias = tuple[int, int]
"""Of packets to backends, and of packets back."""
Document: TypeAlias = dict[str, Any]
"""A row with version and kind."""


class LoopRow(msgspec.Struct, frozen=True):
    """One packet loop."""

    packets: int
    """Packets with a verdict."""
    batches: int
    """Batches of them."""
    panics: int
    """Batches that met a defect of the engine."""


class WatchRow(msgspec.Struct, frozen=True):
    """One resource that is followed at the API server."""

    resource: str
    """Such as services."""
    phase: str
    """connecting, listing, in step or stale."""
    since: float
    """When the phase began, in seconds since 1970."""
    reason: str
    """Why it is not in step; empty when it is."""
    version: str
    """The newest resourceVersion."""
    objects: int
    """Objects that are known."""
    lists: int
    """Lists that were applied."""
    events: int
    """Changes after the lists."""
    failures: int
    """Requests that failed or were refused."""
    withheld: int
    """Answers that were not applied: empty, partial, malformed or older ones."""


class FileSourceRow(msgspec.Struct, frozen=True):
    """One path under which files of objects are followed."""

    path: str
    """A directory, a file, or "standard input", which is read once."""
    files: int
    """Files under it that count."""
    objects: int
    """Objects in these, refused ones too."""
    refused: int
    """Of these, those that are refused: `refused` of the status says why."""
    unread: int
    """Files under it that cannot be read; their objects stay as they were."""
    changed: float
    """When objects under it last changed, in seconds since 1970."""


class StatusRow(msgspec.Struct, frozen=True):
    """`get status`: how the daemon is."""

    datapath: str
    """every-packet, first-packet or cached."""
    datapath_reason: str
    """Why this one: as asked for, or what the kernel can do or lacks."""
    driver: str
    """The driver that takes packets out of the queues."""
    queues: list[int]
    """Numbers of the queues."""
    rules: str
    """The rule installer."""
    seed: int
    """Of random choices."""
    pid: int
    """The process."""
    version: str
    """Of kbe-nat."""
    seconds: int
    """Since it started."""
    generation: int
    """Of the newest objects that were planned."""
    service_ports: int
    """Service ports that are served."""
    refused: list[str]
    """Errors of files and objects, one line each."""
    rules_up_to_date: bool
    """Whether the kernel has what the objects want."""
    drains: list[str]
    """Backends that are drained."""
    loops: list[LoopRow]
    """Packet loops, one per queue."""
    files: list[FileSourceRow] = []
    """Paths under which files are followed; empty where all objects come from the API server."""
    watches: list[WatchRow] = []
    """Resources that are followed at the API server; empty without one."""


class ConnectRow(msgspec.Struct):
    """How long backends took from a client's first SYN to their SYN-ACK."""

    count: int
    """Connections that were measured."""
    seconds: float
    """Of all together."""
    p50: float
    """Seconds within which half of them were answered, reckoned from the buckets of /metrics."""
    p99: float
    """Seconds within which 99 of 100 were."""


class FrontendRow(msgspec.Struct, frozen=True):
    """An address and port under which a service port is reached."""

    kind: str
    """cluster-ip, external-ip, load-balancer or node-port."""
    address: str | None
    """Of the frontend; null for a node port, which every address of the node has."""
    port: int
    """Of the frontend."""


class ServiceRow(PortRow, frozen=True):
    """`get services`: one service port with its counters."""

    type: str
    """ClusterIP, NodePort or LoadBalancer, by its frontends."""
    cluster_ip: str | None
    """Of the Service in this family; null where it has none that is served."""
    labels: dict[str, str]
    """Of the Service."""
    protocol: str
    """tcp, udp or sctp."""
    family: int
    """4 or 6."""
    frontends: list[FrontendRow]
    """Under which it is reached."""
    strategy: str
    """How backends are chosen."""
    backends: int
    """Endpoints that may serve."""
    draining: int
    """Of these, those that get no new connections: they are drained, or their weight is 0."""
    affinity_seconds: int | None
    """How long a client keeps its backend; null without affinity."""
    active: int
    """Connections now, without those that are over and only remembered (TIME_WAIT, CLOSE)."""
    flows: int
    """Connections so far."""
    packets: Pair | None
    """There and back; null where they are not counted."""
    bytes: Pair | None
    """There and back; null where they are not counted."""
    connect: ConnectRow | None
    """How fast its backends answer; null where no connection was measured."""
    refused: dict[str, int]
    """Packets that were refused, by cause."""


class EndpointRow(PortRow, frozen=True):
    """`get endpoints`: one backend of one service port with its counters."""

    backend: str
    """Address and port."""
    weight: int
    """Its share of new connections; 0: none."""
    state: str
    """draining, gone (it has connections, but is no endpoint), or empty."""
    active: int
    """Connections now, without those that are over: what `drain` counts."""
    over: int
    """Connections that are over and only remembered for a while: TCP in TIME_WAIT and CLOSE."""
    inactive: int
    """Of those that are active, TCP that is being closed, and SCTP that is not established."""
    flows: int
    """Connections so far."""
    packets: Pair | None
    """There and back; null where they are not counted."""
    bytes: Pair | None
    """There and back; null where they are not counted."""
    connect: ConnectRow | None
    """How fast it answers; null where no connection was measured."""


class DescriptionRow(ServiceRow, frozen=True):
    """`describe service`: a service port with all that `get services` has of it, and more."""

    internal_traffic_policy: str
    """Cluster or Local."""
    external_traffic_policy: str
    """Cluster or Local."""
    source_ranges: list[str]
    """Clients that load balancers let in; empty: all."""
    endpoints: list[EndpointRow]
    """Its backends."""


class SliceRow(msgspec.Struct, frozen=True):
    """`get endpointslices`: one EndpointSlice of a Service."""

    namespace: str
    """Of the slice, and of its Service."""
    name: str
    """Of the slice."""
    service: str
    """The Service, as namespace/name."""
    family: int
    """4 or 6."""
    ports: list[str]
    """Number and protocol of each, such as 8080/tcp."""
    endpoints: list[str]
    """The addresses."""
    ready: int
    """How many of them are ready."""


class NodeRow(msgspec.Struct, frozen=True):
    """`get nodes`: one Node of the cluster."""

    name: str
    """Of the Node."""
    addresses: list[str]
    """The first of each family is its primary one."""
    zone: str | None
    """Its zone; null where it says none."""
    pod_ranges: list[str]
    """Ranges from which its Pods get addresses."""
    is_eligible: bool
    """Whether load balancers may send to it: false while it is deleted or about to be."""


class EntryRow(msgspec.Struct, frozen=True):
    """What only the kernel's connection tracking knows of a connection."""

    id: int | None
    """Its number; null where the kernel tells none."""
    mark: int | None
    """The connmark; null for a kernel without connmarks."""
    uses: int | None
    """References to it; null once it has ended."""


class FlowRow(PortRow, frozen=True):
    """`get flows`, `conntrack -L`: one connection."""

    protocol: str
    """tcp, udp, sctp, icmp or icmpv6."""
    state: str | None
    """Of the protocol, as conntrack calls it; null where it has none."""
    timeout: int
    """Seconds until it is forgotten."""
    age: int
    """Seconds since it began. If the kernel carried it ahead of the daemon: since the daemon's
    start, unless nf_conntrack_timestamp was 1.
    """
    source: str
    """The client: address and port, as of the other ends."""
    destination: str
    """The frontend."""
    reply_source: str
    """The backend."""
    reply_destination: str
    """Where the backend answers to."""
    assured: bool
    """Whether it stays when the table is full."""
    replied: bool
    """Whether the backend has answered."""
    masquerade: bool
    """Whether the source is masqueraded."""
    packets: Pair | None
    """There and back; null where they are not counted."""
    bytes: Pair | None
    """There and back; null where they are not counted."""
    kernel: EntryRow | None
    """The kernel's entry; null where the kernel has none, as with the datapath every-packet."""


class EventRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """`conntrack -E`: a change of a connection."""

    event: str = ""
    """NEW, UPDATE or DESTROY."""
    flow: FlowRow | None = None
    """The connection."""


class NameKind(StrEnum):
    """What a shell completes the names of."""

    SERVICES = "services"
    PORTS = "ports"
    BACKENDS = "backends"
    NODES = "nodes"
    NAMESPACES = "namespaces"


class DecisionAction(StrEnum):
    """What was done with a first packet."""

    TRANSLATE = "translate"
    DROP = "drop"
    REJECT = "reject"


def decided(action: DecisionAction | None) -> words.Decided | None:
    """The action as the engine takes it."""
    return cast(words.Decided | None, action)


class DecisionRow(OptionalPortRow, frozen=True):
    """`decisions`: a decision about the first packet of a connection."""

    sequence: int
    """Counts the decisions since the daemon started, from 1."""
    time: float
    """Seconds since 1970, up to 0.07 early."""
    protocol: str
    """tcp, udp, sctp, icmp or icmpv6."""
    client: str
    """Address and port that it came from."""
    frontend: str
    """Address and port that it went to."""
    backend: str | None
    """Address and port that it was sent to; null where it was refused."""
    verdict: DecisionAction
    """translate, drop or reject."""
    cause: str
    """The reason, as `get stats` names it."""
    choice: str | None
    """How the backend was chosen: a strategy, affinity, or consistent for a connection that was met
    in its middle under another strategy; null where it was refused.
    """
    generation: int
    """How many times the tables of the engine had changed."""
    endpoint_count: int | None
    """Endpoints of the service port that got new connections then; null where that is not known."""
    endpoints: list[str]
    """The first 64 of them, in the order of addresses."""


class QueueRow(msgspec.Struct, frozen=True):
    """The kernel's counters of one queue."""

    number: int
    """Of the queue."""
    waiting: int
    """Packets in it now."""
    packets: int
    """Packets so far."""
    queue_dropped: int
    """Dropped because the queue was full."""
    socket_dropped: int
    """Dropped because the socket's buffer was full."""


class StatsRow(msgspec.Struct, frozen=True):
    """`get stats`: all counters."""

    actions: dict[str, int]
    """Packets by verdict: translate, reject, drop, pass or hold."""
    causes: dict[str, int]
    """Packets by the reason."""
    entries: int
    """Flow entries: connections in the tables now."""
    assured: int
    """Of these, those that stay when a table is full."""
    affinities: int
    """Clients that keep their backend."""
    expired: int
    """Connections whose time was over."""
    evicted: int
    """Connections that made room for others."""
    truncated: int
    """Packets that a queue delivered in part."""
    leased_ports: int
    """Source ports that the engine has leased to flows whose own would clash."""
    most_leased_ports: int
    """Of these, the ones towards the backend that most are leased towards, from one address."""
    leasable_ports: int
    """Source ports that can be leased towards one backend, from one address."""
    kernel: dict[str, int]
    """Counters of the datapath alone, by name."""
    uncached_devices: dict[str, str]
    """Devices that the cache of flows does not stand on, each with the reason (cached)."""
    queues: list[QueueRow]
    """The queues that carry packets."""


class RulesRow(msgspec.Struct, frozen=True):
    """`get rules`: what the daemon has put into the kernel."""

    text: str
    """The rules, as lines of `nft` or `iptables-restore`."""


class WatchEventRow(msgspec.Struct, frozen=True):
    """`-w --output-watch-events`: a change of a row."""

    type: str
    """ADDED, MODIFIED or DELETED."""
    object: Document
    """The row, with `apiVersion` and `kind`; the last that was known of one that is gone."""


class VersionRow(msgspec.Struct, frozen=True):
    """`version`: of the command and of the running daemon."""

    client: str
    """That of the command."""
    daemon: str | None
    """That of the daemon; null where none answers."""


class FlowCountRow(msgspec.Struct, frozen=True):
    """`conntrack -C`, `conntrack -F`: how many connections there are, or were."""

    count: int
    """Connections."""


class DrainRow(msgspec.Struct, frozen=True, rename={"remaining": "left"}):
    """`drain`: how far it is."""

    backend: str
    """Address, address and port, or the name of a Service, whose backends are meant."""
    ports: int
    """Service ports that have it."""
    remaining: int
    """Connections that it still has, as `active` of `get endpoints` counts them."""
    seconds: float
    """Since the drain began."""
    unserved: list[str]
    """Service ports to which new connections are rejected: no other endpoint of theirs is left."""
    was_drained: bool
    """Whether it was drained before."""
