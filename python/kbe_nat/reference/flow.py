"""A connection of the reference NAT, and the verdict on one of its packets."""

from dataclasses import dataclass, field

from kbe_nat.reference.packet import Ends
from kbe_nat.reference.tables import Endpoint, Served
from kbe_nat.reference.tcp import Connection


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of a packet, with the words of `kbe_nat.Verdict`."""

    action: str
    cause: str
    packet: bytes | None = None
    masquerade: bool = False
    direction: str | None = None
    is_new: bool = False


@dataclass(slots=True)
class Flow:
    """A connection: the ends of its first packet, and those of the answers."""

    protocol: int
    original: Ends
    reply: Ends
    state: str
    deadline: int
    created: int
    service: Served
    backend: Endpoint
    generation: int
    is_marked: bool = False
    connection: Connection = field(default_factory=Connection)
    is_replied: bool = False
    is_assured: bool = False
    packets: list[int] = field(default_factory=lambda: [0, 0])
    octets: list[int] = field(default_factory=lambda: [0, 0])
