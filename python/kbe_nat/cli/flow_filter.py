"""Which connections are meant, by conntrack's flags (conntrack(8))."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address, ip_network
from typing import Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.kinds import service_name
from kbe_nat.daemon.rows import FlowRow
from kbe_nat.family import Family
from kbe_nat.model import end_parts, qualified
from kbe_nat.packets import NUMBERS
from kbe_nat.spelling import none_of


def parse_range(text: str) -> str:
    """An address, or a range of them, as canonical text. Raises ValueError."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address, and no range such as 10.0.0.0/8") from None
    return str(network if network.num_addresses > 1 else network.network_address)


def parse_nat(text: str) -> str:
    """`ANY`, or as `parse_range`. Raises ValueError."""
    return ANY if text == ANY else parse_range(text)


def with_any(arguments: Sequence[str]) -> list[str]:
    """The words of a command line; behind -n, -g and -j that no address follows stands `ANY`."""
    words: list[str] = []
    for place, word in enumerate(arguments):
        words.append(word)
        following = arguments[place + 1] if place + 1 < len(arguments) else ""
        if word in NAT_FLAGS and not _is_range(following):
            words.append(ANY)
    return words


def _is_range(text: str) -> bool:
    try:
        parse_range(text)
    except ValueError:
        return False
    return True


def parse_protocol(text: str) -> str:
    """The name of a protocol, of its name or number. Raises ValueError."""
    names = {str(number): name for name, number in NUMBERS.items()}
    name = names.get(text, text.lower())
    if name not in NUMBERS:
        raise ValueError(none_of(text, NUMBERS))
    return name


def parse_state(text: str) -> str:
    """The name of a state. Raises ValueError."""
    if text.upper() not in STATES:
        raise ValueError(none_of(text, STATES))
    return text.upper()


def parse_family(text: str) -> Family:
    """A family of addresses. Raises ValueError."""
    if text not in FAMILIES:
        raise ValueError(none_of(text, FAMILIES))
    return FAMILIES[text]


def parse_mark(text: str) -> tuple[int, int]:
    """A connmark and the bits of it that count, all of them without a slash. Raises ValueError."""
    mark, slash, mask = text.partition("/")
    try:
        numbers = (int(mark, 0), int(mask, 0) if slash else MARK)
    except ValueError:
        numbers = (-1, 0)
    if not all(0 <= number <= MARK for number in numbers):
        raise ValueError(f"{text!r} is no mark of 32 bits, such as 0x10 or 0x10/0xff")
    return numbers


def parse_status(text: str) -> tuple[str, ...]:
    """Words of the status, with commas between. Raises ValueError."""
    words = text.split(",")
    for word in words:
        if word.upper() not in STATUS:
            raise ValueError(none_of(word, STATUS))
    return tuple(word.upper() for word in words)


@dataclass(frozen=True)
class FlowFilter:
    """Connections that are meant; empty and None stand for any."""

    family: Family | None = None
    protocol: str = ""
    source: str = ""
    destination: str = ""
    backend: str = ""
    reply_destination: str = ""
    source_port: int | None = None
    destination_port: int | None = None
    reply_source_port: int | None = None
    reply_destination_port: int | None = None
    state: str = ""
    status: tuple[str, ...] = ()
    source_nat: str = ""
    """ANY, or where the backend answers to."""
    destination_nat: str = ""
    """ANY, or the backend."""
    any_nat: str = ""
    """Either of these."""
    mark: tuple[int, int] | None = None
    """With a mask; connections without a connmark have none."""
    service: str = ""
    names: tuple[str, ...] = ()
    """Of Services and service ports, any of which a connection is to be of."""

    def of_services(self, names: Sequence[str]) -> "FlowFilter":
        """The same for connections of these Services, beside the one of --service."""
        first = [self.service] if self.service else []
        return replace(self, names=tuple(map(qualified, (*first, *names))))

    def parameters(self) -> dict[str, object]:
        """What the daemon filters by, its names above all; `matches` does the rest."""
        values: dict[str, object] = {
            "protocol": self.protocol,
            "source": _single(self.source),
            "destination": _single(self.destination),
            "backend": _single(self.backend),
            "state": self.state,
            "names": list(self.names),
        }
        return {name: value for name, value in values.items() if value}

    def is_empty(self) -> bool:
        """Whether it means all connections."""
        return all(getattr(self, each.name) in ("", (), None, False) for each in fields(self))

    def matches(self, row: FlowRow) -> bool:
        """Whether a connection fits in everything but the names."""
        ends = (
            (self.source, self.source_port, row.source),
            (self.destination, self.destination_port, row.destination),
            (self.backend, self.reply_source_port, row.reply_source),
            (self.reply_destination, self.reply_destination_port, row.reply_destination),
        )
        return (
            all(
                _is_end(end, addresses, port)
                for addresses, port, end in ends
                if addresses or port is not None
            )
            and self.family in (None, family_of(row))
            and self.protocol in ("", row.protocol)
            and self.state in ("", row.state)
            and all(_has_status(row, word) for word in self.status)
            and (not self.source_nat or _has_source_nat(row, self.source_nat))
            and (not self.destination_nat or _is_of(row.reply_source, self.destination_nat))
            and (
                not self.any_nat
                or _has_source_nat(row, self.any_nat)
                or _is_of(row.reply_source, self.any_nat)
            )
            and (self.mark is None or _has_mark(row, *self.mark))
        )


def family_of(row: FlowRow) -> Family:
    """The family of a connection's addresses."""
    return Family.IPV6 if row.source.startswith("[") else Family.IPV4


def _single(addresses: str) -> str:
    """The address; empty for a range."""
    return "" if "/" in addresses else addresses


def _is_within(address: str, addresses: str) -> bool:
    if "/" not in addresses:
        return address == addresses
    return ip_address(address) in ip_network(addresses)


def _is_end(end: str, addresses: str, port: int | None) -> bool:
    address, number = end_parts(end)
    return port in (None, number) and (not addresses or _is_within(address, addresses))


def _is_of(end: str, addresses: str) -> bool:
    return addresses == ANY or _is_within(end_parts(end)[0], addresses)


def _has_source_nat(row: FlowRow, addresses: str) -> bool:
    return row.masquerade and _is_of(row.reply_destination, addresses)


def _has_status(row: FlowRow, word: str) -> bool:
    values = {
        "ASSURED": row.assured,
        "SEEN_REPLY": row.replied,
        "UNREPLIED": not row.replied,
        "CONFIRMED": True,
        "DST_NAT": True,
        "SRC_NAT": row.masquerade,
    }
    return values[word]


def _has_mark(row: FlowRow, mark: int, mask: int) -> bool:
    value = row.kernel.mark if row.kernel else None
    return value is not None and value & mask == mark


TCP_STATES: Final = (
    "NONE",
    "SYN_SENT",
    "SYN_SENT2",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
)
SCTP_STATES: Final = (
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
)
STATES: Final = (*TCP_STATES, *SCTP_STATES)
STATUS: Final = ("ASSURED", "SEEN_REPLY", "UNREPLIED", "CONFIRMED", "DST_NAT", "SRC_NAT")
FAMILIES: Final = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}
ANY: Final = "any"
"""In place of an address."""
NAT_FLAGS: Final = ("-n", "--src-nat", "-g", "--dst-nat", "-j", "--any-nat")
PORT: Final = 65535
MARK: Final = 0xFFFF_FFFF
FILTER_FLAGS: Final[Flags] = {
    "family": TextFlag(
        Flag("--family", "-f", help="ipv4 or ipv6.", words=tuple(FAMILIES)), parse_family
    ),
    "protocol": TextFlag(
        Flag("--proto", "-p", help="Its name or number.", words=tuple(NUMBERS)), parse_protocol
    ),
    "source": TextFlag(
        Flag("--src", "--orig-src", "-s", metavar="CIDR", help="Client's address."), parse_range
    ),
    "destination": TextFlag(
        Flag("--dst", "--orig-dst", "-d", metavar="CIDR", help="Frontend's address."), parse_range
    ),
    "backend": TextFlag(
        Flag("--reply-src", "-r", metavar="CIDR", help="Backend's address."), parse_range
    ),
    "reply_destination": TextFlag(
        Flag("--reply-dst", "-q", metavar="CIDR", help="Where the backend answers to."),
        parse_range,
    ),
    "source_port": Flag(
        "--sport", "--orig-port-src", min=0, max=PORT, metavar="PORT", help="Client's port."
    ),
    "destination_port": Flag(
        "--dport", "--orig-port-dst", min=0, max=PORT, metavar="PORT", help="Frontend's port."
    ),
    "reply_source_port": Flag(
        "--reply-port-src", min=0, max=PORT, metavar="PORT", help="Backend's port."
    ),
    "reply_destination_port": Flag(
        "--reply-port-dst", min=0, max=PORT, metavar="PORT", help="That it answers to."
    ),
    "state": TextFlag(
        Flag("--state", help="State, such as ESTABLISHED.", words=STATES), parse_state
    ),
    "status": TextFlag(
        Flag(
            "--status",
            "-u",
            help=f"Words of {', '.join(STATUS)}, with commas between.",
            words=STATUS,
        ),
        parse_status,
    ),
    "source_nat": TextFlag(
        Flag(
            "--src-nat",
            "-n",
            metavar="[CIDR]",
            help="Those whose source is masqueraded; with a CIDR, as such an address.",
        ),
        parse_nat,
    ),
    "destination_nat": TextFlag(
        Flag(
            "--dst-nat",
            "-g",
            metavar="[CIDR]",
            help="Those whose destination is translated, which all are; with a CIDR, to such a"
            " backend.",
        ),
        parse_nat,
    ),
    "any_nat": TextFlag(
        Flag("--any-nat", "-j", metavar="[CIDR]", help="Those that -n or -g means."), parse_nat
    ),
    "mark": TextFlag(
        Flag("--mark", "-m", metavar="MARK[/MASK]", help="The kernel's connmark (first-packet)."),
        parse_mark,
    ),
    "service": TextFlag(Flag("--service", help="As a NAME.", names_of="services"), service_name),
    "names": None,
}
