"""The Rust engine. Import its names from `kbe_nat`, not from here.

Addresses are text (`"10.0.0.1"`, `"fd00::1"`); objects of `ipaddress` are taken, too. Times are
nanoseconds of any monotonic clock, packets start at the IP header.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Final, Literal, Protocol, Self, SupportsBytes, TypeAlias, final

from typing_extensions import disjoint_base

from kbe_nat import words
from kbe_nat.model import Strategy

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    from typing_extensions import Buffer

__all__ = [
    "ACTIONS",
    "BATCH_SIZES",
    "CAUSES",
    "CONNECT_BOUNDS",
    "EXPIRY_BUDGET",
    "REVISION",
    "STRATEGIES",
    "TIMEOUTS",
    "AnswerWatch",
    "Assignment",
    "Backend",
    "BackendIdMap",
    "BackendStats",
    "CacheSync",
    "CachedFlow",
    "CaptureBatch",
    "CaptureReader",
    "CaptureWriter",
    "ConnectTimes",
    "ConntrackEntry",
    "ConntrackEvents",
    "ConntrackSync",
    "Decision",
    "Engine",
    "Explanation",
    "Flow",
    "FlowCache",
    "FlowTable",
    "Frontend",
    "HeldConnections",
    "HeldFlows",
    "KernelQueue",
    "LabCell",
    "Limits",
    "Loop",
    "NftElements",
    "NftRule",
    "NftTable",
    "NftTables",
    "NodeAddresses",
    "NodePorts",
    "NodeView",
    "PanicException",
    "PortUse",
    "ProtobufDocument",
    "ProtobufFrames",
    "ProtobufList",
    "ProtobufRefusal",
    "QueuedPacket",
    "RawQueue",
    "ServicePort",
    "ServiceStats",
    "Snat",
    "Stats",
    "Timeouts",
    "TrafficServer",
    "Transaction",
    "Verdict",
    "__version__",
    "_restore",
    "conntrack_entries",
    "probe_flows",
    "protobuf_event",
    "reject",
    "traffic_bulk",
    "traffic_connect",
    "traffic_ping",
    "uncached_devices",
]

class _Array(Protocol):
    """An array of numpy. It is a buffer, which numpy's own types say for 3.12 and newer only."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...

_Buffer: TypeAlias = Buffer | _Array
_Packet: TypeAlias = _Buffer | SupportsBytes
_Strategy: TypeAlias = words.StrategyName | Strategy
_Address: TypeAlias = str | IPv4Address | IPv6Address
_Ends: TypeAlias = tuple[tuple[_Address, int], tuple[_Address, int]]
_Proposal: TypeAlias = tuple[str, _Ends, _Ends]
_Network: TypeAlias = _Address | IPv4Network | IPv6Network

class PanicException(BaseException):
    """A defect of the engine. It is no `Exception`, so a handler for those does not hide it."""

__version__: Final[str]
REVISION: Final[str | None]
"""Of the Rust sources that this module was built of: the last commit that changed them, with + when
files differed from it; None where nothing told."""

ACTIONS: Final[tuple[words.Action, ...]]
"""Names of the actions by number, as in the first byte of a verdict record."""
CAUSES: Final[tuple[words.Cause, ...]]
"""Names of the causes by number, as in the second byte of a verdict record."""
STRATEGIES: Final[tuple[words.StrategyName, ...]]
"""Names of all strategies; `kbe_nat.Strategy` has the same."""
TIMEOUTS: Final[Mapping[str, float]]
"""Names and default values, in seconds, of all flow timeouts (nf_conntrack's names and values)."""

CONNECT_BOUNDS: Final[tuple[float, ...]]
"""Seconds by which `ConnectTimes.counts` counts."""
BATCH_SIZES: Final[tuple[int, ...]]
"""Sizes by which `Loop.batch_sizes` counts."""
EXPIRY_BUDGET: Final[int]
"""Flows that a `Loop` looks at for expiry after each batch."""

@final
class BackendIdMap:
    """The identifiers of backends, in the bits `mask` of the packet mark. By them a queue tells the
    kernel where to translate a flow to. Queues may use a map while it is updated.
    """

    def __new__(cls, mask: int) -> BackendIdMap: ...
    def update(
        self,
        added: Iterable[tuple[tuple[_Address, int], int]],
        removed: Sequence[tuple[_Address, int]],
    ) -> None:
        """Remove backends (address, port), then enter others, each with its identifier."""

    def mark_of(self, packet: bytes) -> int | None:
        """The bits of the mark for the backend to which this packet was translated; None, and
        counted, when the backend has no identifier.
        """

    @property
    def unknown(self) -> int:
        """Packets whose backend had no identifier."""

@disjoint_base
class KernelQueue:
    """A netfilter queue of the kernel; see `kbe_nat.drivers.native.NativeQueue`."""

    def __new__(
        cls,
        number: int,
        *,
        marks: tuple[int, int, int],
        backend_ids: BackendIdMap | None,
        max_length: int,
        gso: bool,
        fail_open: bool,
        socket_buffer: int,
        spin: float,
    ) -> Self: ...
    @property
    def truncated(self) -> int:
        """Packets of which the kernel handed out only the first 65,531 bytes. With `backend_ids`
        they are served like any other. Without it they are dropped, because they could not be given
        new bytes.
        """

    def close(self) -> None:
        """Unbind the queue; packets in it are dropped. Waits for a running loop."""

@final
class Loop:
    """The loop that passes every packet of a queue through an engine, and its verdict back.

    `queue` is a `kbe_nat.drivers.queue.PacketQueue`, native or written in Python. Several loops,
    each with a queue and a thread, may share an engine.
    """

    def __new__(cls, engine: Engine, queue: object) -> Loop: ...
    def run(self) -> None:
        """Run until the queue ends or `stop` is called. A batch that was received gets its verdicts
        first.

        A defect of the engine costs the packets of one batch, not the loop: its tables are
        consistent between packets. Raises `QueueError`, or what a queue written in Python raises.
        """

    def stop(self) -> None:
        """End `run` soon, within 0.1 s for a native queue. It cannot be started again."""

    @property
    def packets(self) -> int:
        """Packets so far."""

    @property
    def batches(self) -> int:
        """Batches with packets so far."""

    @property
    def batch_sizes(self) -> list[int]:
        """The same by their sizes: a count for each of `BATCH_SIZES`, those of the smaller sizes
        left out, and one for larger batches.
        """

    @property
    def turns(self) -> int:
        """How often it went round: more often from one moment to the next, unless it hangs."""

    @property
    def panics(self) -> int:
        """Batches that were dropped because the engine failed on them: a defect that should be
        reported.
        """

@final
class QueuedPacket:
    """A packet that waits in a queue of the kernel for its verdict."""
    @property
    def id(self) -> int:
        """The number by which `RawQueue.set_verdict` names it."""
    @property
    def protocol(self) -> int:
        """Its `EtherType`."""
    @property
    def hook(self) -> int:
        """The hook of netfilter, from 0, PREROUTING, to 4, POSTROUTING."""
    @property
    def mark(self) -> int:
        """The packet mark."""
    @property
    def in_device(self) -> int:
        """Index of the device it came in by; 0 without one."""
    @property
    def out_device(self) -> int:
        """Index of the device it is to leave by; 0 without one."""
    @property
    def bridge_ports(self) -> tuple[int, int]:
        """Indexes of the bridge's ports that it came in by and is to leave by; 0 without one."""
    @property
    def hardware_address(self) -> bytes | None:
        """The sender's link-layer address."""
    @property
    def time(self) -> int | None:
        """When it was received, in microseconds since 1970; None for one that was not."""
    @property
    def payload(self) -> bytes:
        """Its bytes from the IP header on, as many as the queue hands out."""
    @property
    def length(self) -> int:
        """Its length, however many bytes are handed out."""
    @property
    def is_checksum_missing(self) -> bool:
        """Whether the transport checksum is yet to be computed."""

@final
class RawQueue:
    """A queue of the kernel in the network namespace of the thread that makes this object, packet
    by packet; see `kbe_nat.compat.netfilterqueue`. A `Loop` serves packets ten times as fast.

    The kernel keeps at most `max_length` packets, and hands out at most `copy_range` bytes of each.
    With `gso` super-packets of up to 64 kB come whole, and their checksums are yet to be computed.
    Raises `QueueError` without CAP_NET_ADMIN, and when another process has the queue.
    """
    def __new__(
        cls, number: int, *, max_length: int, copy_range: int, gso: bool, socket_buffer: int
    ) -> RawQueue: ...
    def receive(self, timeout: float) -> list[QueuedPacket]:
        """The packets that wait, 64 at most. Waits for the first one, at most `timeout` seconds;
        there may be none then. Raises `QueueError`.
        """
    def set_verdict(
        self,
        id: int,
        verdict: words.QueueVerdict,
        *,
        mark: int | None = None,
        payload: _Buffer | None = None,
    ) -> None:
        """Decide about a packet: "accept", "drop" or "repeat", with another mark, and with other
        bytes in the place of all of its own. Raises `QueueError`, `ArgumentError` for another
        verdict.
        """
    def fileno(self) -> int:
        """The descriptor of its socket, which is readable while packets wait."""
    def close(self) -> None:
        """Unbind the queue; packets in it are dropped."""

@final
class ConntrackEntry:
    """A flow that the kernel tracks, in its default zone. Ends are addresses and ports; ports are 0
    where the protocol has none.
    """

    @property
    def protocol(self) -> str:
        """Its name, or its number where it has no name here."""

    @property
    def source(self) -> tuple[str, int]:
        """The client."""

    @property
    def destination(self) -> tuple[str, int]:
        """Where the client sends to."""

    @property
    def reply_source(self) -> tuple[str, int]:
        """The server."""

    @property
    def reply_destination(self) -> tuple[str, int]:
        """As whom the server sees the client."""

    @property
    def replied(self) -> bool:
        """Whether an answer was seen."""
    @property
    def assured(self) -> bool:
        """Whether both sides have confirmed it."""
    @property
    def state(self) -> words.State | None:
        """The name of a TCP or SCTP state, else None."""
    @property
    def id(self) -> int | None:
        """The kernel's own number of it; None where it tells none."""
    @property
    def mark(self) -> int | None:
        """The connmark; None for a kernel without connmarks."""
    @property
    def uses(self) -> int | None:
        """References that the kernel has to it; None in an event."""
    @property
    def timeout(self) -> int | None:
        """Seconds until it ends if no packet comes; None for one that has ended."""

@final
class ConntrackEvents:
    """Hears of flows that begin, in the network namespace of the thread that makes this object. At
    most `socket_buffer` bytes of events wait in the kernel. Raises `ConntrackError`.
    """

    def __new__(cls, *, socket_buffer: int) -> ConntrackEvents: ...
    def receive(self, timeout: float) -> tuple[list[ConntrackEntry], bool]:
        """Wait for flows that begin, at most `timeout` seconds. Also returns whether the kernel
        dropped events because too many waited. Raises `ConntrackError`.
        """

@final
class AnswerWatch:
    """Tells an engine when the kernel has seen the SYN-ACKs of connections that the engine has
    decided about, in the network namespace of the thread that makes this object. It listens until
    the kernel has made 5,000 events within a second, whoever's flows they are about: those of 800
    connections. At most `socket_buffer` bytes of events wait; more are lost. Raises
    `ConntrackError`.
    """

    def __new__(cls, engine: Engine, *, socket_buffer: int) -> AnswerWatch: ...
    def run(self) -> None:
        """Run until `stop` is called. Raises `ConntrackError`."""

    def stop(self) -> None:
        """End `run` soon."""

    @property
    def turns(self) -> int:
        """How often it went round: more often from one moment to the next, unless it hangs."""

    @property
    def updates(self) -> int:
        """Events that the kernel has made so far, about, also of other programs' flows."""

    @property
    def pauses(self) -> int:
        """Seconds of which a part was not listened to."""

@final
class ConntrackSync:
    """Keeps an engine's flows in step with the kernel's connection tracking, in the network
    namespace of the thread that makes this object. Flows are identified by their ends, whatever
    their connmark. They leave `cache` before they end, and what it has carried is counted.
    """

    def __new__(
        cls, engine: Engine, cache: CacheSync | None = None, *, socket_buffer: int
    ) -> ConntrackSync: ...
    def run(self) -> None:
        """Run until `stop` is called. Raises `ConntrackError`."""

    def resync(self) -> None:
        """Compare all flows soon, and end those that do not go where their frontends lead."""

    def resync_frontends(self, frontends: Sequence[tuple[str, _Address, int]]) -> None:
        """Compare the flows to these frontends soon: protocol, address and port of each. Cost: for
        a few frontends of a protocol a pass of the kernel over its flows for each; for many one
        pass, in which the kernel shows all flows of the protocol.
        """

    def statistics(self) -> tuple[int, int]:
        """Flows that the kernel could not enter, above all for want of a port to masquerade with,
        and packets that its connection tracking has dropped, since the network namespace was made.
        Raises `ConntrackError`.
        """

    def entries(self, flows: Sequence[Flow], *, ended: bool = False) -> list[ConntrackEntry | None]:
        """The kernel's entry of each of these flows; None where it has none, or one that leads to
        another backend. With `ended` they are over: then it is the entry that a flow had, if
        `watch_flows` was on. Cost: a question to the kernel for each, some microseconds. Raises
        `ConntrackError`.
        """
    def watch_flows(self, watched: bool) -> None:
        """From now on tell the engine of changes of states as they happen, up to 5,000 events a
        second, and keep the kernel's entries of flows that end, for `entries`; or do so no more.
        """
    def stop(self) -> None:
        """End `run` soon."""

    def resync_within(self, timeout: float) -> bool:
        """Compare all flows now, and return whether that was done within `timeout` seconds."""

    @property
    def changes(self) -> int:
        """Flows that began or ended so far, those of other programs included."""

    @property
    def overruns(self) -> int:
        """How often the kernel dropped events because we were too slow; a full resync followed, one
        for several where there were many.
        """

    @property
    def resyncs(self) -> int:
        """Full resyncs so far."""
    @property
    def delayed_resyncs(self) -> int:
        """Losses of events whose resync had to wait, because losses were too many."""
    @property
    def ended(self) -> int:
        """Flows that were ended in the kernel because they did not go where their frontends led, or
        because an operator asked for it.
        """

    @property
    def forgotten(self) -> int:
        """Flows that other programs have deleted from the kernel's table while both ends were
        talking.
        """

    @property
    def turns(self) -> int:
        """How often it went round: more often from one moment to the next, unless it hangs."""

@final
class NodeAddresses:
    """The addresses in the network namespace of the thread that makes this object. All methods
    raise `RulesError`.
    """

    def __new__(cls) -> NodeAddresses: ...
    def has_changed(self) -> bool:
        """Whether addresses or devices have changed since this was asked last, or may have, because
        the kernel had too much to say. Cost: a system call.
        """

    def globals(self) -> list[str]:
        """All addresses but loopback's and link-local ones."""

@final
class NftTable:
    """A table of nf_tables: its family, 4 or 6, and its name. Raises `ArgumentError`."""

    def __new__(cls, family: int, name: str) -> NftTable: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def name(self) -> str:
        """Its name, as `nft list tables` shows it."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class NftElements:
    """Elements of a set or map: lengths of a key and of a value, and all keys with their values, as
    the kernel lays them out. Those of sets have values of length 0. Raises `ArgumentError` for
    lengths that do not fit.
    """

    def __new__(cls, key_length: int, value_length: int, elements: bytes) -> NftElements: ...
    @property
    def fingerprint(self) -> int:
        """A sum over the elements, whatever their order. Sums of several may be added, modulo
        2**64. Cost: linear in the elements.
        """

    def __len__(self) -> int: ...

@final
class NftRule:
    """A rule that `nft` cannot write."""

    @staticmethod
    def queue(first: int, total: int, *, bypass: bool, fanout: bool, native: bool) -> NftRule:
        """Packets go to `total` queues from number `first` on. With `bypass` they go on while no
        process listens. With `fanout` each goes to the queue of the processor that carries it, else
        they are spread by their addresses. `native` says whether nf_tables' own expression is used,
        or iptables' target: many kernels have only one of them.
        """

    @staticmethod
    def dnat_by_mark(map: str, *, key: int, keep: int) -> NftRule:
        """The destination becomes the value that a map has for the bits `key` of the packet mark.
        Of the mark the bits `keep` stay.
        """

    @staticmethod
    def dnat_by_slot(map: str, *, size: int, first: int, hash_seed: int | None = None) -> NftRule:
        """The destination becomes the value that a map has for it, its protocol and port, and the
        number of one of `size` slots from `first` on: one that is drawn at random, or by a hash of
        the source address with the seed `hash_seed`.
        """

@final
class Transaction:
    """Steps that the kernel takes all together or not at all, in the order in which they were
    added.
    """

    def __new__(cls) -> Transaction: ...
    def append(self, table: NftTable, chain: str, rule: NftRule) -> None:
        """Add a rule at the end of a chain."""

    def insert(self, table: NftTable, chain: str, rule: NftRule) -> None:
        """Add a rule at the beginning of a chain."""

    def add(self, table: NftTable, set: str, elements: NftElements) -> None:
        """Add elements to a set or map."""

    def remove(self, table: NftTable, set: str, elements: NftElements) -> None:
        """Remove the elements with these keys. The kernel refuses keys that are not there."""

    def delete_table(self, table: NftTable) -> None:
        """Delete a table with everything in it."""

    def activate(self, table: NftTable) -> None:
        """Put the chains of a dormant table in force."""

    @property
    def steps(self) -> list[str]:
        """What each step does, in words."""

@final
class NftTables:
    """Tables of nf_tables in the network namespace of the thread that makes this object. All
    methods raise `RulesError`.
    """

    def __new__(cls) -> NftTables: ...
    def generation(self) -> int:
        """Grows by one with each transaction of any program."""

    def names(self, family: int) -> list[tuple[str, bool]]:
        """All tables of a family, and whether each is dormant."""

    def rules(self, table: NftTable) -> dict[str, int]:
        """The chains, each with a number that changes with its rules, its hook and its policy;
        nothing for a table that is not there.
        """

    def fingerprint(self, table: NftTable, set: str) -> int | None:
        """The fingerprint of what a set or map holds, as of `NftElements`; None when the kernel
        does not have it.
        """

    def contents(self, table: NftTable, set: str) -> bytes | None:
        """What a set or map holds: keys with their values as the kernel lays them out, in any
        order. None when the kernel does not have it.
        """

    def addresses(self, table: NftTable, set: str) -> list[tuple[str, float | None]]:
        """What is in a set of addresses, each with the seconds after which it leaves the set, if it
        does. Nothing for a set that the kernel does not have.
        """

    def counted_packets(self, table: NftTable, counter: str) -> int | None:
        """The packets that a counter has counted; None when the kernel does not have it."""
    def commit(self, transaction: Transaction) -> None:
        """Take all steps, or none. The error names the step that the kernel refused. Nothing is
        sent for a transaction without steps.
        """

@final
class Backend:
    """One endpoint: where packets of a service port may go. `address` is that of one host: not
    0.0.0.0, broadcast or multicast. `weight`, from 0 to 65,535, is its share of new flows against
    the weights of the others; 0 drains. Its connections to itself are masqueraded, without which
    they get no answer, unless `hairpin` is false. Raises `ArgumentError`.
    """

    def __new__(
        cls, address: _Address, port: int, weight: int = 1, *, hairpin: bool = True
    ) -> Backend: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def address(self) -> str:
        """The IP address, as text."""
    @property
    def port(self) -> int:
        """The port."""
    @property
    def weight(self) -> int:
        """The weight; 0 drains: no new flows come to it."""
    @property
    def hairpin(self) -> bool:
        """Whether its connections to itself are masqueraded."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Frontend:
    """An address and port under which a service port is reached.

    `kind` is "cluster-ip", "external-ip", "load-balancer" or "node-port"; a node port has the
    address "" and stands for every address of `NodeView`'s `node_ports`. Raises `ArgumentError`.
    """

    def __new__(
        cls, address: _Address, port: int, kind: words.FrontendKind = "cluster-ip"
    ) -> Frontend: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def address(self) -> str:
        """The IP address, as text; empty for a node port."""
    @property
    def port(self) -> int:
        """The port."""
    @property
    def kind(self) -> words.FrontendKind:
        """ "cluster-ip", "external-ip", "load-balancer" or "node-port"."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ServicePort:
    """One port of a Service in one address family, ready for the engine; immutable.

    `family`, 4 or 6, is that of its addresses. Without it the first address tells the family, and a
    service port without addresses is of IPv4. `local_backends` are those of this node. They serve
    where `is_internal_local` or `is_external_local` ask for it (internalTrafficPolicy,
    externalTrafficPolicy). `affinity_seconds` is the timeout of ClientIP affinity. `source_ranges`
    bind load-balancer frontends, with `source_ranges_apply_to_all` external IPs and node ports too.
    `strategy` is one of `kbe_nat.Strategy`. Its parameters: for "mh" `table_size`, a prime; for
    "ring" and "bounded" `virtual_nodes`, points of a backend of weight 1 (100); for "bounded"
    `epsilon`, the part of its share that a backend may have beyond it (0.25); for "peak-ewma"
    `decay`, seconds in which a connect time fades to 1/e (10). Cost: the building of the balancer,
    for "mh" linear in its table, for "ring" and "bounded" in their points. A backend or frontend
    that is there twice, a backend that is a frontend, and one on loopback behind other addresses
    are errors unless `validate` is false: Kubernetes' objects may say such. Raises `ArgumentError`.
    """

    def __new__(
        cls,
        name: str,
        frontends: Sequence[Frontend],
        cluster_backends: Sequence[Backend],
        *,
        family: int | None = None,
        protocol: words.Protocol = "tcp",
        local_backends: Sequence[Backend] = (),
        serving_backends: Sequence[Backend] = (),
        is_internal_local: bool = False,
        is_external_local: bool = False,
        affinity_seconds: int | None = None,
        source_ranges: Sequence[_Network] = (),
        source_ranges_apply_to_all: bool = False,
        strategy: _Strategy = "random",
        table_size: int | None = None,
        virtual_nodes: int | None = None,
        epsilon: float | None = None,
        decay: float | None = None,
        validate: bool = True,
    ) -> ServicePort: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def name(self) -> str:
        """The name, as namespace/name or namespace/name:port."""
    @property
    def family(self) -> int:
        """The address family, 4 or 6."""
    @property
    def protocol(self) -> words.Protocol:
        """ "tcp", "udp" or "sctp"."""
    @property
    def frontends(self) -> list[Frontend]:
        """The addresses and ports under which it is reached."""
    @property
    def cluster_backends(self) -> list[Backend]:
        """The backends that serve with the traffic policy Cluster."""
    @property
    def local_backends(self) -> list[Backend]:
        """The backends of this node, which serve with the traffic policy Local."""
    @property
    def strategy(self) -> words.StrategyName:
        """The name of the strategy, one of `kbe_nat.Strategy`."""
    @property
    def affinity_seconds(self) -> int | None:
        """The timeout of ClientIP affinity in seconds; None without affinity."""

@final
class NodePorts:
    """Where node ports are reached on a node.

    `addresses` serve them. With 4 among `wildcard_families`, families in which every local address
    serves them, all of 127.0.0.0/8 serves what 127.0.0.1 does; else its other addresses are closed.
    On `reject_addresses` node ports without endpoints are refused. With `loopback` packets from
    other addresses to 127.0.0.0/8 are dropped where no service port serves them. Raises
    `ArgumentError`.
    """

    def __new__(
        cls,
        addresses: Sequence[_Address] = (),
        *,
        wildcard_families: Sequence[int] = (),
        reject_addresses: Sequence[_Address] = (),
        loopback: bool = False,
    ) -> NodePorts: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def addresses(self) -> list[str]:
        """The addresses that serve node ports."""
    @property
    def wildcard_families(self) -> list[int]:
        """The families, 4 and 6, in which every local address serves node ports."""
    @property
    def reject_addresses(self) -> list[str]:
        """The addresses at which node ports without endpoints are refused."""
    @property
    def loopback(self) -> bool:
        """Whether packets from other addresses to 127.0.0.0/8 are dropped where no service port
        serves them.
        """
    def __eq__(self, other: object, /) -> bool: ...

@final
class NodeView:
    """What the engine knows of the node it works for.

    `pod_ranges` and `pod_interfaces` (indexes) tell pods from the outside; without either nobody's
    source is masqueraded for not being a pod. `node_ports` says where node ports are reached: at
    `addresses`, when it is None. `unknown_port` is what becomes of packets to a port that a cluster
    IP does not have: "pass", "reject" or "drop"; those to cluster IPs of the ranges `unallocated`
    that no service port has are dropped. `mode` is "iptables" or "nftables": which of kube-proxy's
    modes is followed where they differ. Raises `ArgumentError`.
    """

    def __new__(
        cls,
        *,
        addresses: Sequence[_Address] = (),
        node_ports: NodePorts | None = None,
        pod_ranges: Sequence[_Network] = (),
        pod_interfaces: Sequence[int] | None = None,
        masquerade_all: bool = False,
        unknown_port: words.UnknownPort = "pass",
        unallocated: Sequence[_Network] = (),
        mode: words.Mode = "iptables",
    ) -> NodeView: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def addresses(self) -> list[str]:
        """The addresses of the node."""

@final
class Verdict:
    """What is to be done with one packet.

    `action` is one of ACTIONS: "pass" (untouched), "translate" (`packet` holds the new bytes),
    "drop", "reject" (answer with `reject(packet)`), "hold" (a fragment that waits for the first
    one; see `Engine.released`).
    """

    @property
    def action(self) -> words.Action:
        """ "pass", "translate", "drop", "reject" or "hold"."""
    @property
    def cause(self) -> words.Cause:
        """Why, in a word, such as "new", "established" or "no-endpoints"."""
    @property
    def packet(self) -> bytes | None:
        """The bytes to send on; None where the packet is not sent."""
    @property
    def masquerade(self) -> bool:
        """Whether the node still has to masquerade the source when it sends the packet on, as
        kube-proxy's MASQUERADE does.
        """
    @property
    def direction(self) -> words.Direction | None:
        """ "original" (towards the backend), "reply", or None where no flow is concerned."""
    @property
    def is_new(self) -> bool:
        """This packet opened its flow."""
    @property
    def ticket(self) -> int | None:
        """Number under which `Engine.released` will return a held fragment."""

@final
class Flow:
    """A connection as the engine sees it at one moment. Ages and timeouts in seconds."""

    @property
    def protocol(self) -> words.Protocol:
        """ "tcp", "udp" or "sctp"."""
    @property
    def state(self) -> words.State | None:
        """nf_conntrack's name of a TCP or SCTP state, else None."""
    @property
    def assured(self) -> bool:
        """Whether both ends have talked, so that the flow makes no room for new ones."""
    @property
    def replied(self) -> bool:
        """Whether the backend has answered."""
    @property
    def source(self) -> tuple[str, int]:
        """The client."""
    @property
    def destination(self) -> tuple[str, int]:
        """The frontend, as the client addressed it."""
    @property
    def reply_source(self) -> tuple[str, int]:
        """The backend."""
    @property
    def reply_destination(self) -> tuple[str, int]:
        """Where the backend answers to: the client, or the leased address and port of a masqueraded
        flow.
        """
    @property
    def service(self) -> str:
        """The name of the service port."""
    @property
    def masquerade(self) -> bool:
        """Whether the client's address is replaced by the node's."""
    @property
    def packets(self) -> tuple[int, int]:
        """Packets towards the backend, and back."""
    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of the IP packets towards the backend, and back."""
    @property
    def age(self) -> float:
        """Seconds since its first packet."""
    @property
    def timeout(self) -> float:
        """Seconds until it ends if no packet comes."""
    def _asdict(self) -> dict[str, Any]:
        """All of these by their names."""

@final
class CachedFlow:
    """One direction of a flow in the cache."""
    @property
    def protocol(self) -> str:
        """ "tcp" or "udp"."""
    @property
    def source(self) -> tuple[str, int]:
        """Where packets come from."""
    @property
    def destination(self) -> tuple[str, int]:
        """Where they are going when they come."""
    @property
    def leaving_source(self) -> tuple[str, int]:
        """Where they come from when they leave."""
    @property
    def leaving_destination(self) -> tuple[str, int]:
        """Where they are going when they leave."""
    @property
    def packets(self) -> int:
        """Packets that the cache has sent on. Segments that the kernel handles as one count as
        many; processors that count at once may lose a few.
        """
    @property
    def bytes(self) -> int:
        """Their bytes from the IP header on."""
    @property
    def device(self) -> int:
        """The number of the device by which they leave."""
    @property
    def arrival(self) -> int:
        """The number of the device by which they come."""
    @property
    def is_current(self) -> bool:
        """Whether it would send on a packet that comes now, as far as leases go."""
    @property
    def is_ended(self) -> bool:
        """Whether a FIN, SYN or RST has ended it: it is not current again until it is entered
        anew.
        """
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class CacheSync:
    """Decides which flows a cache carries, in the network namespace of the thread that makes this
    object: established ones that the engine has, `max_flows` at most, none with an address in
    `excluded_ranges`. While `run` runs, the cache stands on all Ethernet devices that are neither
    ports of another one nor among `excluded_devices`. At most `socket_buffer` bytes of events wait.
    Raises `ConntrackError`.
    """
    def __new__(
        cls,
        engine: Engine,
        cache: FlowCache,
        *,
        max_flows: int,
        excluded_ranges: Sequence[str] = (),
        excluded_devices: Sequence[str] = (),
        socket_buffer: int,
    ) -> CacheSync: ...
    def run(self) -> None:
        """Run until `stop` is called; then the cache stands nowhere. Raises `ConntrackError`."""
    def stop(self) -> None:
        """End `run` soon."""
    def exclude_frontends(self, frontends: Sequence[tuple[str, _Address, int]]) -> None:
        """The frontends whose flows are not cached, in place of those before: protocol, address and
        port of each. Raises `ConntrackError`.
        """
    def standing(
        self, protocol: str, source: tuple[_Address, int], destination: tuple[_Address, int]
    ) -> tuple[str, bool, bool, tuple[str, str] | None]:
        """Where the flow stands that a client has begun: "proposed", or why it is not; whether the
        cache carries the client's packets, and the backend's; and a device of the flow, if there is
        one, that the cache does not stand on, with the reason. Raises `ConntrackError`.
        """
    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Devices that the cache does not stand on, but for loopback and ports of others, each with
        the reason.
        """
    def counters(self) -> dict[str, int]:
        """What was counted so far, by name. Raises `ConntrackError`."""
    @property
    def turns(self) -> int:
        """How often it went round: more often from one moment to the next, unless it hangs."""

@final
class FlowCache:
    """A cache of translated flows: programs on devices send packets of flows that they know out at
    once, past the kernel's stack. Only a packet that has gone the kernel's whole way, and left,
    makes or renews an entry. There is room for `max_flows` directions of each family, and as many
    are proposed at most; each takes about 300 bytes. All methods raise `FlowCacheError`.
    """
    def __new__(cls, *, max_flows: int = 65536) -> FlowCache: ...
    @staticmethod
    def probe() -> None:
        """Ask whether there can be a cache here: raises `FlowCacheError` with what is missing.
        Cost: a millisecond.
        """
    def attach(self, device: int) -> None:
        """Put the programs on a device of this thread's network namespace, by its number; where
        they stand already nothing happens. They leave it with this object.
        """
    def detach(self, device: int) -> None:
        """Take the programs off a device. Entries that lead to it stay until `void`."""
    @property
    def devices(self) -> list[int]:
        """The devices that the programs stand on, without those that are gone."""
    def set_peer(self, device: int, is_peer: bool) -> None:
        """Hand packets for this device to the network namespace at its other end at once, or not
        any more; its entries are void then. For the host's end of a pod's veth pair alone, while
        both ends are up: elsewhere packets are lost.
        """
    def beat(self, seconds: float) -> None:
        """Say that the caller lives: without another call entries are void after this many
        seconds.
        """
    def void(self) -> None:
        """Make all entries void at once. Each comes back with the next packet of its flow that
        leaves.
        """
    def void_device(self, device: int) -> None:
        """Make the entries void at once whose packets come or leave by this device, by its
        number.
        """

    @property
    def generation(self) -> int:
        """How often `void` was called."""
    def propose(self, proposals: Sequence[_Proposal]) -> None:
        """Propose translations, each as protocol, source and destination of packets as they come,
        and both as they leave; the two directions of a flow are two. The next packet of each that
        leaves so makes an entry. Cost: 0.4 us each.
        """
    def remove(self, proposals: Sequence[_Proposal]) -> list[CachedFlow]:
        """Take back proposals, take out their entries, and return these with what they had counted.
        Cost: 1 us each.
        """
    def flows(self) -> list[CachedFlow]:
        """All entries, current or not. Those that come or go meanwhile may be missing. Cost: 0.3 us
        each, and as much again for Python's objects.
        """
    def find(
        self, protocol: str, source: tuple[_Address, int], destination: tuple[_Address, int]
    ) -> CachedFlow | None:
        """The entry for packets with these ends, as they come."""
    def counters(self) -> dict[str, int]:
        """Packets by what became of them, and entries by what was done to them, by name."""

@final
class FlowTable:
    """Flows as columns, in a table of Arrow: `polars.DataFrame(table)`, `pyarrow.table(table)`,
    `pandas.DataFrame.from_arrow(table)`. It does not change any more.
    """
    def _repr_html_(self) -> str:
        """What notebooks show: the first ten flows."""
    @property
    def columns(self) -> list[str]:
        """The names of the columns, in their order."""
    def __len__(self) -> int: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...

@final
class ConnectTimes:
    """How long backends took from a client's first SYN to their SYN-ACK. Refused and unanswered
    connections are not counted.
    """

    @property
    def counts(self) -> list[int]:
        """Connections for each of `CONNECT_BOUNDS`, those of the shorter ones left out; the longer
        ones last.
        """
    @property
    def count(self) -> int:
        """Connections that were measured."""
    @property
    def seconds(self) -> float:
        """Of all together."""
    def quantile(self, share: float) -> float | None:
        """The seconds within which this share of the connections was answered, reckoned from the
        counts; at most the last bound. None without connections.
        """

@final
class BackendStats:
    """Counters of one backend of one service port since the engine started."""

    @property
    def address(self) -> str:
        """The IP address, as text."""
    @property
    def port(self) -> int:
        """The port."""
    @property
    def active(self) -> int:
        """Flows alive now, without those that are over."""
    @property
    def inactive(self) -> int:
        """Of these, those that are being closed: as in IPVS, TCP from the first FIN on, and SCTP
        that is not established.
        """
    @property
    def over(self) -> int:
        """Beside these, TCP that is over and only remembered for a while: TIME_WAIT and CLOSE."""
    @property
    def flows(self) -> int:
        """Flows that it got."""
    @property
    def packets(self) -> tuple[int, int]:
        """Packets towards the backend, and back."""
    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of the IP packets towards the backend, and back."""
    @property
    def connects(self) -> ConnectTimes | None:
        """None if none was measured."""
    @property
    def is_gone(self) -> bool:
        """No longer in the tables; kept while flows still use it."""

@final
class ServiceStats:
    """Counters of one service port in one family, 4 or 6; of backends that are gone too."""

    @property
    def name(self) -> str:
        """The name, as namespace/name or namespace/name:port."""
    @property
    def family(self) -> int:
        """The address family, 4 or 6."""
    @property
    def active(self) -> int:
        """Flows alive now, without those that are over."""
    @property
    def flows(self) -> int:
        """Flows that began."""
    @property
    def packets(self) -> tuple[int, int]:
        """Packets towards the backends, and back."""
    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of the IP packets towards the backends, and back."""
    @property
    def refused(self) -> Mapping[str, int]:
        """Packets that were dropped or rejected at this service port, by cause."""
    @property
    def connects(self) -> ConnectTimes | None:
        """Of all its backends; None if none was measured."""
    @property
    def backends(self) -> list[BackendStats]:
        """The counters of each backend, of those that are gone too."""

@final
class Stats:
    """All counters at one moment."""

    @property
    def actions(self) -> Mapping[str, int]:
        """Packets by action."""
    @property
    def causes(self) -> Mapping[str, int]:
        """Packets by cause, those that did not occur left out."""
    @property
    def flows(self) -> int:
        """Flows alive now."""
    @property
    def assured(self) -> int:
        """Of these, flows whose both ends have talked."""
    @property
    def affinities(self) -> int:
        """Clients whose backend is remembered (ClientIP affinity)."""
    @property
    def leased_ports(self) -> int:
        """Source ports that flows have got from `Snat`, by all backends and addresses."""
    @property
    def most_leased_ports(self) -> int:
        """Of these, the ones towards the backend that most are leased towards, from one address."""
    @property
    def leasable_ports(self) -> int:
        """Source ports that can be leased towards one backend, from one address."""
    @property
    def port_use(self) -> PortUse:
        """How masqueraded flows got their source ports."""
    @property
    def held_fragments(self) -> int:
        """Fragments that wait for the first one of their datagram."""
    @property
    def expired(self) -> int:
        """Flows that have timed out."""
    @property
    def evicted(self) -> int:
        """Flows that made room for others."""
    @property
    def services(self) -> list[ServiceStats]:
        """The counters of each service port."""

@final
class Decision:
    """A decision about the first packet of a flow, as it was when it was made."""

    @property
    def sequence(self) -> int:
        """Counts the decisions of an engine, from 1."""
    @property
    def time(self) -> int:
        """In nanoseconds of the caller's clock, up to 70 ms early."""
    @property
    def protocol(self) -> words.Protocol:
        """ "tcp", "udp" or "sctp"."""
    @property
    def client(self) -> tuple[str, int]:
        """Address and port that the packet came from."""
    @property
    def frontend(self) -> tuple[str, int]:
        """Address and port that it was sent to."""
    @property
    def service(self) -> str | None:
        """Name of the service port; None where no one has the frontend."""
    @property
    def backend(self) -> tuple[str, int] | None:
        """None when it was not served."""
    @property
    def action(self) -> words.Decided:
        """ "translate", "drop" or "reject"."""
    @property
    def cause(self) -> words.Cause:
        """Why, in a word, as of a `Verdict`."""
    @property
    def choice(self) -> str | None:
        """How the backend was chosen: a strategy, "affinity", or "consistent" in mid-stream."""
    @property
    def generation(self) -> int:
        """How many times services had been replaced or updated."""
    @property
    def endpoint_count(self) -> int | None:
        """How many endpoints of the service port got flows; None when that is remembered no
        more.
        """
    def endpoints(self, limit: int | None = None) -> list[str]:
        """The first of them, in the order of addresses."""

@final
class Explanation:
    """Why a packet gets its verdict. Nothing was changed to find out."""

    def _repr_html_(self) -> str:
        """What notebooks show."""
    @property
    def action(self) -> words.Action:
        """What `process` would do, as the action of a `Verdict`."""
    @property
    def cause(self) -> words.Cause:
        """Why, in a word, as of a `Verdict`."""
    @property
    def service(self) -> str | None:
        """The name of the service port; None where no one has the destination."""
    @property
    def frontend(self) -> str | None:
        """How its destination is meant, as the `kind` of a `Frontend`; None when it belongs to a
        known flow, or to nobody.
        """
    @property
    def scope(self) -> Literal["cluster", "local"] | None:
        """ "cluster" or "local": which endpoints serve it, when it opens a flow."""
    @property
    def backend(self) -> str | None:
        """The backend that the next such packet gets, as "address:port"."""
    @property
    def candidates(self) -> list[str]:
        """Every backend that it may be sent to, sorted as text."""
    @property
    def refused(self) -> list[tuple[str, str, str]]:
        """Backends that may be chosen, too, but their address is a frontend at which it is refused;
        each with action and cause.
        """
    @property
    def masquerade(self) -> bool:
        """Whether the source would be replaced by the node's, for the `backend` given."""
    @property
    def masqueraded(self) -> list[str]:
        """Candidates for which the source is masqueraded."""
    @property
    def steps(self) -> list[tuple[str, str]]:
        """What was checked, in order, and what was found."""

@final
class Limits:
    """How many entries an engine's tables have at most, per address family.

    `max_unassured` bounds flows that were not answered yet (default: `max_flows`),
    `max_flows_per_source` those of one client, `max_affinities` clients whose backend is
    remembered, `max_fragments` datagrams in fragments. `max_decisions`, of both families together,
    bounds what `Engine.decisions` tells; 0 turns that off. Raises `ArgumentError`.
    """

    def __new__(
        cls,
        *,
        max_flows: int = 262_144,
        max_unassured: int | None = None,
        max_flows_per_source: int | None = None,
        max_affinities: int = 1_048_576,
        max_fragments: int = 4096,
        max_decisions: int = 65_536,
    ) -> Limits: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def max_flows(self) -> int:
        """Flows at most."""
    @property
    def max_unassured(self) -> int:
        """Flows at most that were not answered yet."""
    @property
    def max_flows_per_source(self) -> int | None:
        """Flows of one client at most; None for no such limit."""
    @property
    def max_affinities(self) -> int:
        """Clients at most whose backend is remembered."""
    @property
    def max_fragments(self) -> int:
        """Datagrams in fragments at most."""
    @property
    def max_decisions(self) -> int:
        """Decisions that are remembered, of both families together; 0 for none."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class PortUse:
    """How source ports were given since the start, of all addresses."""

    @property
    def allocations(self) -> int:
        """Flows that got a port."""
    @property
    def collisions(self) -> int:
        """Of these, flows whose first choice of a port was not free, or none that may be leased."""
    @property
    def probes(self) -> int:
        """Ports that were looked at for them, up to those that they got."""
    @property
    def log_lines(self) -> int:
        """Lines that a log needs, by which the client behind a port is found again: one when a
        mapping or a block begins, and one when it ends (RFC 6888, REQ-12).
        """

@final
class Snat:
    """The sources of masqueraded flows: addresses, at most one of each family, and ports that are
    leased from the range `ports` less those in `reserved` (the node ports).

    `allocation` says which port a new mapping gets: "preserve" (the client's own while it is free,
    else a random one), "random", "sequential", "hashed" (RFC 6056, algorithm 3), "blocks" (each
    client has up to `blocks_per_client` blocks of `block_size` ports for itself; 4 of 512) or
    "deterministic" (the block of the client's place in the networks `clients`; RFC 7422). `mapping`
    says whether a client's port has a port for each backend ("endpoint-dependent": a port serves as
    many flows as there are backends) or one towards all ("endpoint-independent", RFC 4787). Flows
    whose source stays their own keep their port, whatever these say.

    Raises `ArgumentError`, also for a parameter that does not belong to the allocation.
    """

    def __new__(
        cls,
        addresses: Sequence[_Address],
        *,
        ports: tuple[int, int] = (1024, 65535),
        reserved: tuple[int, int] = (30000, 32767),
        allocation: words.Allocation = "preserve",
        mapping: words.Mapping = "endpoint-dependent",
        block_size: int | None = None,
        blocks_per_client: int | None = None,
        clients: Sequence[_Network] = (),
    ) -> Snat: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def addresses(self) -> list[str]:
        """The addresses, at most one of each family."""
    @property
    def ports(self) -> tuple[int, int]:
        """The range of ports that are leased: the lowest and the highest."""
    @property
    def reserved(self) -> tuple[int, int]:
        """The range of ports that are never leased: the lowest and the highest."""
    @property
    def allocation(self) -> words.Allocation:
        """Which port a new mapping gets."""
    @property
    def mapping(self) -> words.Mapping:
        """Whether a client's port has a port for each backend, or one towards all."""
    @property
    def block_size(self) -> int | None:
        """Ports of a block; None where there are no blocks."""
    @property
    def blocks_per_client(self) -> int | None:
        """Blocks of a client at most; None where there are no blocks, or each client has one."""
    @property
    def clients(self) -> list[str]:
        """The networks of clients, where blocks follow from addresses."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class Timeouts:
    """How long flows live without packets, in seconds: `TIMEOUTS`, but for those that are named.
    Raises `ArgumentError` for a name that there is not, and for less than 0 or more than a year.
    """

    def __new__(cls, **seconds: float) -> Timeouts: ...
    def __replace__(self, **changes: object) -> Self: ...
    @property
    def seconds(self) -> dict[str, float]:
        """By name, all of them."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class Engine:
    """Service NAT without input or output: tables and packets in, verdicts out. Safe to share
    between threads.

    `seed` makes the random choices repeatable; without one they are unpredictable. Without `snat` a
    masqueraded flow is only marked (`Verdict.masquerade`); with it the engine rewrites the source
    itself. `midstream` is what becomes of a TCP packet without a flow: "consistent" (picked up by
    hash of its client), "reject" or "drop"; `invalid` is that of one outside the window:
    "translate" or "drop"; `offloaded` that of one whose flow the kernel carries: "decide" (the
    kernel has it no more), or "pass" where the kernel's turn comes behind the engine's. Raises
    `ArgumentError`.
    """

    def __new__(
        cls,
        *,
        seed: int | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        snat: Snat | None = None,
        midstream: words.Midstream = "consistent",
        invalid: words.InvalidTcp = "translate",
        offloaded: words.Offloaded = "decide",
    ) -> Engine: ...
    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Let flows live so long without packets, each from its next packet on."""

    def replace_services(
        self, services: Sequence[ServicePort], node: NodeView | None = None
    ) -> None:
        """Serve these and no others, from the next packet on; `node` stays as it was when None.

        Flows and affinities stay, but those to backends that are gone: UDP flows are decided anew,
        unanswered TCP is dropped, established TCP goes on. Cost: a look-up per service port while
        packets go on, and more for those that differ from the ones in force; packets wait for the
        books of the latter alone. Raises `ServiceError` when two have one name, or claim one
        frontend or node port; nothing is changed then.
        """

    def update_services(
        self,
        changed: Sequence[ServicePort],
        removed: Sequence[tuple[str, int]] = ...,
        node: NodeView | None = None,
    ) -> None:
        """Serve `changed` in the place of the service ports of their names, or beside the others,
        and no longer those in `removed`, by name and address family (4 or 6).

        Afterwards all is as if the whole had been given to `replace_services`. A service port may
        be in both: it is changed. Cost: what is touched, whatever the number of the others; packets
        wait no longer than for a look-up per backend of what changed. Raises `ServiceError` as
        `replace_services` does, and when none has the name of one to be removed, and
        `ArgumentError` for another family; nothing is changed then.
        """

    def update_service(self, service: ServicePort) -> None:
        """Set one service port, in the place of the one of its name and family, or beside the
        others: `update_services` with one.
        """
    def remove_service(self, name: str, family: int = 4) -> None:
        """Serve a service port no longer, by its name and address family (4 or 6). Raises
        `ServiceError` when none has this name.
        """
    @property
    def services(self) -> list[ServicePort]:
        """The service ports in force, in the order of their names and families."""
    def process(
        self,
        packet: _Packet,
        now: int,
        *,
        interface: int = 0,
        incomplete_checksum: bool = False,
        captured: bool = False,
    ) -> Verdict:
        """What is to be done with one packet, at `now` nanoseconds of a monotonic clock. A packet
        begins with its IP header: an Ethernet frame is `malformed`.

        `interface` is the index of the device it came in by, 0 for the node's own. With
        `incomplete_checksum` the transport checksum is computed in full (a packet from a local
        sender, CHECKSUM_PARTIAL). With `captured`, for packets of captures, an IP length of 0
        stands for the length of the bytes (the sending host had not yet cut this segment), and no
        byte for a frame without an IP packet. Without it both are malformed. Cost: one lookup; for
        the first packet of a flow also the decision.
        """

    def process_batch(
        self,
        packets: _Buffer | Sequence[_Buffer],
        now: int,
        *,
        offsets: Sequence[int] | _Buffer | None = None,
        interface: int = 0,
        incomplete_checksum: bool = False,
        captured: bool = False,
    ) -> bytes:
        """`process` for many packets, rewritten in place; the GIL is released, no object is made
        per packet.

        `packets` is one writable buffer whose packet i lies at `offsets[i]:offsets[i + 1]` (n + 1
        numbers of 64 bits, such as `array("Q")`), or without `offsets` a sequence of writable
        buffers. Returns one record of 8 bytes per packet, `kbe_nat.drivers.queue.VERDICT`. Raises
        `ArgumentError` for bad offsets, TypeError for a buffer that is read-only.
        """

    def released(self) -> list[tuple[int, str, bytes | None]]:
        """Held fragments whose datagram is decided meanwhile: ticket, action and, where it is sent,
        packet.
        """

    def expire(self, now: int, budget: int = 4096) -> int:
        """Forget what timed out, looking at no more than `budget` entries; returns how many flows
        ended.
        """

    def next_expiry(self) -> int | None:
        """When `expire` will next find something, in nanoseconds; None when there is nothing to
        wait for.
        """

    def flows(
        self,
        *,
        protocol: str | None = None,
        service: str | None = None,
        source: _Network | None = None,
        destination: _Network | None = None,
        backend: _Network | None = None,
        state: words.State | None = None,
        limit: int | None = None,
    ) -> Iterator[Flow]:
        """The flows to which all given filters apply, each as it is when it comes.

        One that lives throughout comes exactly once; one that begins after the call is left out.
        Cost: one walk of the table, page by page; packets are processed between two pages.

        `source` (the client), `destination` (the frontend) and `backend` are an address or a range
        of them, such as "10.0.0.0/8". Raises `ArgumentError` for a filter that is no protocol,
        state or range. A service port that is not there has no flows; one that was removed keeps
        those that it had.
        """

    def flows_table(
        self,
        *,
        protocol: str | None = None,
        service: str | None = None,
        source: _Network | None = None,
        destination: _Network | None = None,
        backend: _Network | None = None,
        state: words.State | None = None,
    ) -> FlowTable:
        """The flows to which all given filters apply as a table of Arrow, for data frames: one row
        a flow, as of `flows`, with addresses and ports in columns of their own. Cost: one walk of
        the table, and some 200 bytes for each flow; packets are processed between two pages.

        Raises `ArgumentError` as `flows` does.
        """
    def decisions(
        self,
        *,
        service: str | None = None,
        client: _Network | None = None,
        verdict: words.Decided | None = None,
        since: int | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Decision]:
        """The newest decisions to which all filters apply, `limit` at most, oldest first.

        `service` is a service port, or a Service with all of its ports; `client` an address or a
        range of them, such as "10.0.0.0/8"; `verdict` an action; `since` a moment of the caller's
        clock in nanoseconds; `after` a sequence number. Cost: a look at each decision that is
        remembered; packets are processed between two pages of them. Raises `ArgumentError`.
        """

    def delete_flows(
        self,
        *,
        protocol: str | None = None,
        service: str | None = None,
        source: _Network | None = None,
        destination: _Network | None = None,
        backend: _Network | None = None,
        state: words.State | None = None,
    ) -> int:
        """End the flows to which all given filters apply, and return how many they were. A later
        packet of one is decided anew. Cost: one walk of the table.

        Raises `ArgumentError` as `flows` does.
        """

    def end_flows(
        self, flows: Iterable[tuple[str, tuple[_Address, int], tuple[_Address, int]]]
    ) -> int:
        """End these flows, each by protocol, client and frontend, and return how many of them were
        alive. A later packet of one is decided anew. Cost: a look-up for each.

        Raises `ArgumentError`.
        """

    def watch(self, capacity: int) -> None:
        """From now on note what happens to flows: at most `capacity` events of each family are kept
        until they are taken, and the oldest are lost. 0 notes nothing.
        """

    def take_events(self) -> tuple[list[tuple[words.Event, Flow]], int]:
        """What happened since the last call, oldest first by family: "NEW", "UPDATE" (another
        state) or "DESTROY", and the flow as it was then; and how many events were lost.
        """

    def stats(self) -> Stats:
        """All counters. Cost: linear in flows, service ports and their backends; packets wait for
        the flows and a copy of the backends' counters at most, and not for the rest.
        """

    def explain(
        self,
        packet: _Packet,
        now: int,
        *,
        interface: int = 0,
        incomplete_checksum: bool = False,
        captured: bool = False,
    ) -> Explanation:
        """What `process` would do with the packet and why, from the same code, changing nothing."""

    def checkpoint(self, now: int) -> bytes:
        """Flows, affinities and balancer state in one versioned, checksummed format; times are
        relative.
        """

    @property
    def checkpoint_limit(self) -> int:
        """Bytes that a checkpoint of an engine with these limits can have, at most."""

    def bind_client(
        self,
        service: str,
        client: _Address,
        backend: tuple[_Address, int],
        now: int,
        *,
        seconds: float,
    ) -> bool:
        """Remember that a client of a service port with session affinity has this backend for so
        many seconds more, as another proxy has bound it; not longer than the affinity lasts. False
        where the service port has no affinity, no such backend, or has bound the client itself.
        Raises `ArgumentError`.
        """

    def restore(self, checkpoint: _Buffer, now: int, *, away: int = 0) -> int:
        """Take over what a checkpoint holds, in an engine without flows; returns how many flows.

        `away` is how many nanoseconds ago it was written: what must have ended since then is left
        out. Services are set before, with `replace_services`. Raises `CheckpointError` for what is
        damaged, or of a newer version; nothing is restored then.
        """

@final
class CaptureReader:
    """Reads a pcap or pcapng file in batches; memory does not grow with the file.

    Ethernet (with VLAN tags), raw IP, NULL, LOOP and Linux "cooked" frames are understood; others
    hold no packet. Raises OSError and `CaptureError`.
    """

    def __new__(cls, path: str) -> CaptureReader: ...
    @property
    def position(self) -> int:
        """Bytes of the file that were read so far."""

    @property
    def unread(self) -> dict[int, int]:
        """Frames so far whose link type is not read, by its number: they have no packet."""

    @property
    def cut(self) -> str | None:
        """The packet or block within which the file ends, once met; None for a whole file."""

    def read_batch(self, max_packets: int, max_span: int) -> CaptureBatch | None:
        """The next frames, at most `max_packets` of them and all within `max_span` nanoseconds of
        the first; None at the end, and where the file ends within a packet (`cut`). Raises
        `CaptureError` with the number and place of the packet or block that is damaged.
        """

@final
class CaptureBatch:
    """Frames that were read together."""

    def take(self) -> bytearray:
        """The IP packets of the frames, back to back. A frame that is no IP packet has none: zero
        bytes.
        """

    def offsets(self) -> bytes:
        """Where each packet starts in `take()`, and where the last ends: 64-bit numbers."""

    def times(self) -> bytes:
        """When each frame was captured, in nanoseconds since 1970: 64-bit numbers."""

@final
class CaptureWriter:
    """Writes a capture of the same format and link type as the one that `reader` reads, to the file
    with this name, or to standard output.
    """

    def __new__(
        cls, path: str | None, reader: CaptureReader, answer: words.Answer = "icmp"
    ) -> CaptureWriter: ...
    def write(self, frames: CaptureBatch, packets: _Buffer, verdicts: bytes) -> None:
        """Write what is sent on: frames with the `packets` that `process_batch` left, refusals
        (`answer` as of `reject`) in place of refused ones, and frames without an IP packet as they
        are. Held fragments keep their place until they are released, at most 4096 frames.
        """

    def write_released(self, released: list[tuple[int, str, bytes | None]]) -> None:
        """What became of held fragments, as `Engine.released` returns it."""

    def close(self) -> None:
        """Write what still waits and flush. Raises OSError."""

@final
class LabCell:
    """A cell of the lab while it runs; see `kbe_nat.lab`. `spec` is its description in JSON, and
    `strategy` the class of a strategy named "python". Raises `ArgumentError`.
    """

    def __new__(cls, spec: bytes, strategy: object | None = None) -> LabCell: ...
    def advance(self, until: float) -> bytes:
        """Run until `until` seconds of the driven clock, or the end. Returns the rows since the
        last call in JSON. Raises `ArgumentError`, and what a strategy in Python raises.
        """

    def finish(self) -> bytes:
        """The results of the whole run in JSON."""

@final
class TrafficServer:
    """Servers of the lab's live runs in the network namespace of this thread, for both families;
    `kbe_nat.lab.live.traffic` has words for it, and for what follows. `ports` are those for
    datagrams, streams, short connections and requests. Raises `ArgumentError` for a name of more
    than 16 bytes, `LabError` when a port is taken.
    """

    def __new__(cls, name: str, ports: tuple[int, int, int, int]) -> TrafficServer: ...
    def counts(self) -> bytes:
        """`Counts` in JSON. Raises `ArgumentError` when it has stopped."""

    def stop(self) -> None:
        """End all of them. Idempotent."""

@final
class HeldConnections:
    """Open connections from the network namespace of this thread, opened one after the other until
    one does not answer within `wait` seconds. Raises `LabError`.
    """

    def __new__(cls, address: _Address, port: int, count: int, wait: float) -> HeldConnections: ...
    def opened(self) -> bytes:
        """How opening went, in JSON."""

    def close(self) -> bytes:
        """Let the server close them. Returns `Connections` in JSON. Idempotent."""

@final
class HeldFlows:
    """Flows of datagrams from the network namespace of this thread, at least one, of which a packet
    is answered now and then until they are as old as `settle` seconds. Raises `LabError`.
    """
    def __new__(cls, address: _Address, port: int, count: int, settle: float) -> HeldFlows: ...
    def flood(self, packets: int, rate: float | None, burst: int, payload: int) -> bytes:
        """Send datagrams, a batch over each flow in turn. Returns `Flood` in JSON. Raises
        `ArgumentError` for a rate that is none.
        """

@final
class Assignment:
    """A balancing strategy by itself; `kbe_nat.lab.Assignment` has words for it."""

    def __new__(cls, spec: bytes, seed: int, strategy: object | None) -> Assignment: ...
    def set_backends(self, backends: Sequence[Backend]) -> None:
        """List these backends in the place of those before. Raises `ArgumentError`."""

    def assign(self, keys: Sequence[int] | _Buffer) -> list[int | None]:
        """The position of the backend of each key."""

    def throw(self, keys: Sequence[int] | _Buffer) -> list[int | None]:
        """The same for connections, which stay and add to the loads."""

    def memory_bytes(self) -> int | None:
        """Bytes of its tables; None of a strategy in Python."""

    def loads(self) -> list[int]:
        """Connections of each backend."""

def conntrack_entries() -> list[ConntrackEntry]:
    """The flows that the kernel tracks, in the network namespace of this thread. Flows that begin
    or end meanwhile may be missing. Cost: a million flows take some seconds, and 300 MB. Raises
    `ConntrackError`.
    """

def probe_flows() -> None:
    """Ask whether the kernel shows the flows that it tracks, in the network namespace of this
    thread; none of them is looked at. Raises `ConntrackError`.
    """

def uncached_devices() -> list[tuple[str, str]]:
    """The devices of this thread's network namespace, but for loopback and ports of others, on
    which a flow cache would not stand now if none were excluded, each with the reason. Raises
    `FlowCacheError`.
    """

def reject(packet: _Packet, answer: words.Answer = "icmp") -> bytes | None:
    """The packet that rejects `packet`: an ICMP port unreachable (RFC 792, RFC 4443), or with
    `answer="tcp-reset"` a RST for TCP (RFC 9293, 3.10.7).

    None where none may be sent: to an ICMP error, a RST, a later fragment, or a group (RFC 1122,
    3.2.2).
    """

@final
class ProtobufDocument:
    """An answer of an API server in protobuf with one object in it, a Status among others. Raises
    `EncodingError` when the bytes are no such answer.
    """

    def __new__(cls, answer: bytes) -> ProtobufDocument: ...
    @property
    def version(self) -> str:
        """Group and version, such as "v1"."""
    @property
    def kind(self) -> str:
        """The kind of the object, such as "Service"."""
    def json(self) -> bytes | ProtobufRefusal:
        """The fields that kbe-nat reads, as the JSON that the server would have written. Cost:
        linear in the answer.
        """

@final
class ProtobufList:
    """An answer of an API server in protobuf with a list in it: an iterator over the items.

    An item is the JSON that the server would have written, without kind and version, of the fields
    that kbe-nat reads. Cost: linear in the answer; in memory the answer and one item.

    Raises `EncodingError` when the bytes are no list in protobuf, or not the whole of it.
    """

    def __new__(cls, answer: bytes) -> ProtobufList: ...
    @property
    def version(self) -> str:
        """Group and version of the items, such as "v1"."""
    @property
    def kind(self) -> str:
        """The kind of the items, such as "Service"."""
    @property
    def resource_version(self) -> str:
        """The version of the state; empty where the server says none."""
    @property
    def continue_token(self) -> str:
        """The token of the next page; empty where this is the last one."""
    @property
    def remaining(self) -> int | None:
        """Items after this page, where the server says it."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> bytes | ProtobufRefusal: ...

@final
class ProtobufFrames:
    """Splits the bytes of a watch in protobuf into frames.

    Memory: an unfinished frame of at most `limit` bytes, 4 MiB unless said, and what `feed` is
    called with.
    """

    def __new__(cls, limit: int | None = None) -> ProtobufFrames: ...
    @property
    def pending(self) -> int:
        """Bytes of the unfinished frame. A stream that ends with any was cut off."""
    def feed(self, bytes: bytes) -> list[bytes]:
        """The frames that these bytes complete, for `protobuf_event`. Cost: linear in the bytes.

        Raises `EncodingError` when a frame is longer than the limit, then and ever after: where the
        next one begins is unknown.
        """

def protobuf_event(frame: bytes) -> tuple[str, bytes | ProtobufRefusal]:
    """The event in a frame of a watch: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR, and the object
    as `ProtobufDocument.json` gives it, a Status for an ERROR. Cost: linear in the frame.

    Raises `EncodingError` when it is no event.
    """

@final
class ProtobufRefusal:
    """An object that cannot be read; others of its answer can."""

    @property
    def kind(self) -> str:
        """The kind of the object, such as "Service"."""
    @property
    def namespace(self) -> str:
        """Empty where the kind has none, or where it cannot be read."""
    @property
    def name(self) -> str:
        """Empty where it cannot be read."""
    @property
    def resource_version(self) -> str:
        """The version of the object; empty where it cannot be read."""
    @property
    def path(self) -> str:
        """The field, such as "spec.ports[0].port"; empty when the object as a whole is meant."""
    @property
    def reason(self) -> str:
        """Why the object cannot be read."""

def traffic_bulk(
    address: _Address, port: int, megabytes: int, streams: int, settle: float
) -> bytes:
    """`Bulk` in JSON. The clients of traffic run in the network namespace of this thread, and raise
    `ArgumentError` for an address, a time or a rate that is none, `LabError` for traffic that
    cannot be made.
    """

def traffic_connect(
    address: _Address, port: int, span: float, threads: int, wait: float, validate: bool
) -> bytes:
    """`Connections` in JSON."""

def traffic_ping(
    address: _Address,
    port: int,
    count: int,
    rate: float | None,
    wait: float,
    fresh: bool,
    settle: float,
) -> bytes:
    """`Pings` in JSON."""

def _restore(name: str, state: object, /) -> object:
    """The value of this class with the state that its `__reduce__` gave: for pickles and copies."""
