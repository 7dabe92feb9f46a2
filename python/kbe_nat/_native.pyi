"""The Rust engine. Import its names from `kbe_nat`, not from here.

Addresses are text (`"10.0.0.1"`, `"fd00::1"`), times are nanoseconds of any monotonic clock, packets start at the IP header.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias, final

Buffer: TypeAlias = bytes | bytearray | memoryview

ACTIONS: Final[tuple[str, ...]]
"""Names of the actions by number, as in the first byte of a verdict record."""
CAUSES: Final[tuple[str, ...]]
"""Names of the causes by number, as in the second byte of a verdict record."""
TIMEOUTS: Final[Mapping[str, float]]
"""Names and default values, in seconds, of all flow timeouts (nf_conntrack's names and values)."""

@final
class Backend:
    """One endpoint: where packets of a service port may go. Weight 0 drains."""

    def __new__(cls, address: str, port: int, weight: int = 1) -> Backend: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def weight(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Frontend:
    """An address and port under which a service port is reached.

    `kind` is "cluster-ip", "external-ip", "load-balancer" or "node-port"; a node port has the address "" and stands for every address in `NodeView.node_port_addresses`.
    """

    def __new__(cls, address: str, port: int, kind: str = "cluster-ip") -> Frontend: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def kind(self) -> str: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class ServicePort:
    """One port of a Service in one address family, ready for the engine; immutable. Building it builds the balancer."""

    def __new__(
        cls,
        name: str,
        frontends: Sequence[Frontend],
        backends: Sequence[Backend],
        *,
        protocol: str = "tcp",
        local_backends: Sequence[Backend] = (),
        internal_local: bool = False,
        external_local: bool = False,
        affinity_seconds: int | None = None,
        source_ranges: Sequence[str] = (),
        strategy: str = "random",
        maglev_size: int | None = None,
    ) -> ServicePort: ...
    @property
    def name(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def frontends(self) -> list[Frontend]: ...
    @property
    def backends(self) -> list[Backend]: ...
    @property
    def local_backends(self) -> list[Backend]: ...
    @property
    def strategy(self) -> str: ...
    @property
    def affinity_seconds(self) -> int | None: ...

@final
class NodeView:
    """What the engine knows of the node it works for."""

    def __new__(
        cls,
        *,
        addresses: Sequence[str] = (),
        node_port_addresses: Sequence[str] | None = None,
        pod_ranges: Sequence[str] = (),
        pod_interfaces: Sequence[int] = (),
        masquerade_all: bool = False,
        unknown_port: str = "pass",
    ) -> NodeView: ...
    @property
    def addresses(self) -> list[str]: ...

@final
class Verdict:
    """What is to be done with one packet.

    `action` is one of ACTIONS: "accept" (untouched), "translate" (`packet` holds the new bytes), "drop", "reject" (answer with
    `refusal(packet)`), "hold" (a fragment that waits for the first one; see `Engine.released`).
    """

    @property
    def action(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def packet(self) -> bytes | None: ...
    @property
    def masquerade(self) -> bool: ...
    @property
    def direction(self) -> str | None:
        """"original" (towards the backend), "reply", or None where no flow is concerned."""
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
    def protocol(self) -> str: ...
    @property
    def state(self) -> str | None:
        """nf_conntrack's name of a TCP or SCTP state, else None."""
    @property
    def assured(self) -> bool: ...
    @property
    def replied(self) -> bool: ...
    @property
    def source(self) -> tuple[str, int]: ...
    @property
    def destination(self) -> tuple[str, int]:
        """The frontend, as the client addressed it."""
    @property
    def reply_source(self) -> tuple[str, int]:
        """The backend."""
    @property
    def reply_destination(self) -> tuple[str, int]:
        """Where the backend answers to: the client, or the leased address and port of a masqueraded flow."""
    @property
    def service(self) -> str: ...
    @property
    def masquerade(self) -> bool: ...
    @property
    def packets(self) -> tuple[int, int]:
        """Packets towards the backend, and back."""
    @property
    def bytes(self) -> tuple[int, int]: ...
    @property
    def age(self) -> float: ...
    @property
    def timeout(self) -> float: ...

@final
class BackendStats:
    """Counters of one backend of one service port since the engine started."""

    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def active(self) -> int:
        """Flows alive now."""
    @property
    def flows(self) -> int: ...
    @property
    def packets(self) -> tuple[int, int]: ...
    @property
    def bytes(self) -> tuple[int, int]: ...
    @property
    def is_gone(self) -> bool:
        """No longer in the tables; kept while flows still use it."""

@final
class ServiceStats:
    """Counters of one service port; what backends that are gone have carried is included."""

    @property
    def name(self) -> str: ...
    @property
    def active(self) -> int: ...
    @property
    def flows(self) -> int: ...
    @property
    def packets(self) -> tuple[int, int]: ...
    @property
    def bytes(self) -> tuple[int, int]: ...
    @property
    def refused(self) -> Mapping[str, int]:
        """Packets that were dropped or rejected at this service port, by cause."""
    @property
    def backends(self) -> list[BackendStats]: ...

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
    def flows(self) -> int: ...
    @property
    def assured(self) -> int: ...
    @property
    def affinities(self) -> int: ...
    @property
    def held_fragments(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def services(self) -> list[ServiceStats]: ...

@final
class Explanation:
    """Why a packet gets its verdict. Nothing was changed to find out."""

    @property
    def action(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def service(self) -> str | None: ...
    @property
    def backend(self) -> str | None:
        """The backend that the next such packet gets, as "address:port"."""
    @property
    def candidates(self) -> list[str]:
        """Every backend that may be chosen, sorted as text."""
    @property
    def masquerade(self) -> bool: ...
    @property
    def masqueraded(self) -> list[str]:
        """Candidates for which the source is masqueraded."""
    @property
    def steps(self) -> list[tuple[str, str]]:
        """What was checked, in order, and what was found."""

@final
class Engine:
    """Service NAT without input or output: tables and packets in, verdicts out. Safe to share between threads.

    `seed` makes the random choices repeatable; without one they are unpredictable. Without `snat_addresses` a masqueraded flow is only marked
    (`Verdict.masquerade`); with them the engine rewrites the source itself, with ports leased from `snat_ports` less `snat_reserved`.
    """

    def __new__(
        cls,
        *,
        seed: int | None = None,
        max_flows: int = 262_144,
        max_unassured: int | None = None,
        max_flows_per_source: int | None = None,
        max_affinities: int = 1_048_576,
        max_fragments: int = 4096,
        timeouts: Mapping[str, float] | None = None,
        snat_addresses: Sequence[str] = (),
        snat_ports: tuple[int, int] = (1024, 65535),
        snat_reserved: tuple[int, int] = (30000, 32767),
        midstream: str = "consistent",
        invalid: str = "translate",
    ) -> Engine: ...
    def replace_services(self, services: Sequence[ServicePort], node: NodeView | None = None) -> None: ...
    def set_strategy(self, service: str, strategy: str) -> None: ...
    def process(
        self, packet: Buffer, now: int, *, interface: int = 0, incomplete_checksum: bool = False
    ) -> Verdict: ...
    def process_batch(
        self,
        packets: bytearray | memoryview | Sequence[bytearray],
        now: int,
        *,
        offsets: Sequence[int] | Buffer | None = None,
        interface: int = 0,
        incomplete_checksum: bool = False,
    ) -> bytes: ...
    def released(self) -> list[tuple[int, str, bytes | None]]: ...
    def expire(self, now: int, budget: int = 4096) -> int: ...
    def next_expiry(self) -> int | None: ...
    def flows(
        self,
        *,
        protocol: str | None = None,
        service: str | None = None,
        source: str | None = None,
        destination: str | None = None,
        backend: str | None = None,
        state: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Flow]: ...
    def stats(self) -> Stats: ...
    def explain(
        self, packet: Buffer, now: int, *, interface: int = 0, incomplete_checksum: bool = False
    ) -> Explanation: ...
    def checkpoint(self, now: int) -> bytes: ...
    def restore(self, checkpoint: Buffer, now: int) -> int: ...

def refusal(packet: Buffer, answer: str = "icmp", source: str | None = None) -> bytes | None:
    """The packet that refuses `packet`: an ICMP port unreachable (RFC 792, RFC 4443), or with `answer="tcp-reset"` a RST for TCP (RFC 9293, 3.10.7).

    None where none may be sent: to an ICMP error, a RST, a later fragment, or a group (RFC 1122, 3.2.2).
    """
