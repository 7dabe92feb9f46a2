"""`kbe-nat ipvs`: service ports and backends in ipvsadm's format (ipvsadm(8))."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from kbe_nat import __version__
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import Socket, warn
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.output import UNCOUNTED
from kbe_nat.cli.verb import HabitCommand, verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import DescriptionRow, EndpointRow, FlowRow, FrontendRow, Pair
from kbe_nat.errors import NotFoundError, SettingError
from kbe_nat.model import end_parts, join_address
from kbe_nat.sources.address import split_address, without_port

Counts: TypeAlias = tuple[int | None, ...]
"""Connections, packets there and back, bytes there and back; None: not counted."""


@dataclass(frozen=True)
class VirtualServer:
    """A frontend, as ipvsadm names one."""

    protocol: str
    address: str
    port: int

    def has(self, row: DescriptionRow, frontend: FrontendRow) -> bool:
        """Whether it is this frontend of a service port; a node port stands at every address."""
        is_there = frontend.address is None or ip_address(frontend.address) == ip_address(
            self.address
        )
        version = IPV6 if ":" in self.address else IPV4
        return (self.protocol, self.port, version) == (
            row.protocol,
            frontend.port,
            row.family,
        ) and is_there


@dataclass(frozen=True)
class ServerSettings:
    """The frontend that is meant; none: all."""

    tcp: tuple[str, int] | None = None
    udp: tuple[str, int] | None = None
    sctp: tuple[str, int] | None = None

    def chosen(self) -> VirtualServer | None:
        """The one that a flag names. Raises `SettingError` for two."""
        ends = {name: end for name in PROTOCOLS if (end := getattr(self, name)) is not None}
        if len(ends) > 1:
            raise SettingError(f"--{[*ends][-1]}-service", "one virtual server can be named")
        for name, (address, port) in ends.items():
            return VirtualServer(name, address, port)
        return None


def parse_server(text: str) -> tuple[str, int]:
    """Address and port. Raises ValueError."""
    address, port = split_address(text)
    if port is None:
        raise ValueError(without_port(text))
    return address, port


def _server_flag(protocol: str, *short: str) -> TextFlag:
    text = f"Only the frontend of {protocol.upper()} at this address and port."
    flag = Flag(f"--{protocol}-service", *short, metavar="HOST:PORT", help=text)
    return TextFlag(flag, parse_server)


PROTOCOLS: Final = ("tcp", "udp", "sctp")
SERVER_FLAGS: Final[Flags] = {
    "tcp": _server_flag("tcp", "-t"),
    "udp": _server_flag("udp", "-u"),
    "sctp": _server_flag("sctp"),
}


class IpvsCommand(HabitCommand):
    """`kbe-nat ipvs`, which lists and does no more."""

    refused: Mapping[str, str] = {
        **dict.fromkeys(
            ("-A", "-E", "-D", "-a", "-e", "-d", "-R", "--add-service", "--edit-service"),
            "Services and endpoints are those of the cluster: kubectl changes them, and kbe-nat"
            " drain and kbe-nat strategy what is done with them",
        ),
        **dict.fromkeys(
            ("-C", "--clear"),
            "Services are those of the cluster; kbe-nat conntrack -F ends all connections",
        ),
        **dict.fromkeys(
            ("-Z", "--zero"),
            "counters only grow, as /metrics needs them; --rate shows how fast they do",
        ),
        **dict.fromkeys(
            ("-S", "--save"), "kbe-nat get svc -o yaml writes what is served, -o json too"
        ),
        **dict.fromkeys(
            ("-f", "--fwmark-service"), "no Service is told by a firewall mark; -t and -u name one"
        ),
        **dict.fromkeys(
            ("--exact", "-X"), "numbers are exact up to 10,000,000; kbe-nat get svc -o wide has all"
        ),
        "--sort": "service ports and endpoints are sorted already",
        "--nosort": "service ports and endpoints are sorted, as get svc lists them",
        **dict.fromkeys(
            ("--persistent-conn", "--persistent"),
            "clients that keep their endpoint have no entries of connections; kbe-nat get svc -o"
            " wide shows for how long they do",
        ),
        "--timeout": "kbe-nat proxy has them from kube-proxy's section conntrack",
        "--daemon": "one node's connections are not sent to another's",
    }


@verb(kind=IpvsCommand, server=SERVER_FLAGS)
def ipvs(
    list_them: Annotated[bool, Flag("--list", "-L", "-l", help="The default.")] = False,
    numeric: Annotated[bool, Flag("--numeric", "-n", help="Numbers, as always here.")] = False,
    stats: Annotated[bool, Flag("--stats", help="Connections, packets and bytes so far.")] = False,
    rate: Annotated[bool, Flag("--rate", help="The same a second, over a second.")] = False,
    connections: Annotated[bool, Flag("--connection", "-c", help="List connections.")] = False,
    *,
    server: ServerSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """List service ports and their backends in the format of ipvsadm.

    Each frontend is a virtual server. A service port is counted as a whole, so its counters stand
    at the first of its frontends that is listed, and the others have dashes: sums are right. As
    with IPVS, InActConn has TCP from its first FIN on, SCTP that is not established, and all UDP.

    Examples:
      kbe-nat ipvs -Ln
      kbe-nat ipvs -Ln --stats
      kbe-nat ipvs -Ln --rate
      kbe-nat ipvs -Lnc
      kbe-nat ipvs -Ln -t 10.96.0.1:443
    """
    chosen = server.chosen()
    if stats + rate + connections > 1:
        flags = [name for name, is_given in (("--stats", stats), ("--rate", rate)) if is_given]
        raise SettingError(flags[-1], "only one of --stats, --rate and -c can be shown")
    if connections:
        _print_connections(socket, chosen)
        return
    # Asked for ahead of the headings: where nobody answers, nothing is written.
    rows = list(ask_rows(socket, "describe", DescriptionRow))
    if chosen and not any(chosen.has(row, each) for row in rows for each in row.frontends):
        raise NotFoundError("services", join_address(chosen.address, chosen.port))
    if (stats or rate) and any(row.packets is None for row in rows):
        warn(UNCOUNTED)
    print(f"IP Virtual Server version 1.2.1 (kbe-nat {__version__})")
    if stats or rate:
        _print_counters(socket, rows, chosen, is_rate=rate)
        return
    print("Prot LocalAddress:Port Scheduler Flags")
    print("  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")
    for row in rows:
        affinity = f" persistent {row.affinity_seconds}" if row.affinity_seconds else ""
        for place, frontend in enumerate(_frontends(row, chosen)):
            print(f"{row.protocol.upper():<4} {frontend} {row.strategy}{affinity}")
            for endpoint in row.endpoints:
                inactive = _inactive(row, endpoint)
                active = endpoint.active + endpoint.over - inactive
                counts = ("-", "-") if place else (active, inactive)
                print(
                    f"  -> {endpoint.backend:<28} Masq    {endpoint.weight:<6} "
                    f"{counts[0]:<10} {counts[1]}"
                )
    _say_where_counters_are(rows, chosen)


def _say_where_counters_are(rows: list[DescriptionRow], chosen: VirtualServer | None) -> None:
    """The engine counts by service port, and not by the frontend that a client has taken."""
    if any(len(row.frontends) > 1 and _frontends(row, chosen) for row in rows):
        warn("a service port is counted as a whole: at the first of its frontends that is listed")


def _inactive(row: DescriptionRow, endpoint: EndpointRow) -> int:
    """What IPVS counts so: all that is no TCP or SCTP, and those that are being closed."""
    if row.protocol in STATEFUL:
        return endpoint.inactive + endpoint.over
    return endpoint.active


def _frontends(row: DescriptionRow, chosen: VirtualServer | None) -> list[str]:
    """Address and port of those that are meant; a node port stands at every address of its
    family.
    """
    wildcard = "::" if row.family == IPV6 else "0.0.0.0"
    return [
        join_address(each.address or wildcard, each.port)
        for each in row.frontends
        if chosen is None or chosen.has(row, each)
    ]


@dataclass(frozen=True, slots=True)
class _Counters:
    flows: int
    packets: Pair | None
    bytes: Pair | None

    @classmethod
    def of(cls, row: DescriptionRow | EndpointRow) -> "_Counters":
        return cls(row.flows, row.packets, row.bytes)

    def values(self) -> Counts:
        return self.flows, *(self.packets or UNKNOWN), *(self.bytes or UNKNOWN)


def _print_counters(
    socket: Path, rows: list[DescriptionRow], chosen: VirtualServer | None, *, is_rate: bool
) -> None:
    names = RATES if is_rate else TOTALS
    print(f"{'Prot LocalAddress:Port':<32}" + "".join(f"{name:>9}" for name in names))
    print("  -> RemoteAddress:Port")
    before: dict[object, Counts] = {}
    started = time.monotonic()
    if is_rate:
        before = {key: values for row in rows for key, values in _look(row).items()}
        time.sleep(SECONDS)
        rows = list(ask_rows(socket, "describe", DescriptionRow))
    seconds = time.monotonic() - started if is_rate else 1.0
    for row in rows:
        for place, frontend in enumerate(_frontends(row, chosen)):
            for key, values in _look(row).items():
                name = key[2] or f"{row.protocol.upper():<4} {frontend}"
                label = f"  -> {name}" if key[2] else name
                earlier = before.get(key, values if is_rate else (0,) * len(values))
                growth = zip(values, earlier, strict=True)
                numbers = ["-" if place else _growth(now, then, seconds) for now, then in growth]
                print(f"{label:<32}" + "".join(f"{number:>9}" for number in numbers))
    _say_where_counters_are(rows, chosen)


def _look(row: DescriptionRow) -> dict[tuple[str, int, str], Counts]:
    """The counters of a port, and of each of its backends."""
    looks = {(row.service, row.family, ""): _Counters.of(row).values()}
    for each in row.endpoints:
        looks[row.service, row.family, each.backend] = _Counters.of(each).values()
    return looks


def _growth(now: int | None, then: int | None, seconds: float) -> str:
    """A dash where the kernel does not count."""
    return "-" if now is None or then is None else _short((now - then) / seconds)


def _short(value: float) -> str:
    """As ipvsadm writes large numbers: 12345K, 12M."""
    for unit, size in (("G", 10**11), ("M", 10**8)):
        if value >= size:
            return f"{value / {'G': 10**9, 'M': 10**6}[unit]:.0f}{unit}"
    return f"{value / 1000:.0f}K" if value >= 10**8 / 10 else f"{value:.0f}"


def _print_connections(socket: Path, chosen: VirtualServer | None) -> None:
    wanted: dict[str, str] = {}
    if chosen is not None:
        wanted = {"protocol": chosen.protocol, "destination": chosen.address}
    rows = [
        row
        for row in ask_rows(socket, "flows", FlowRow, **wanted)
        if chosen is None or end_parts(row.destination)[1] == chosen.port
    ]
    print("IPVS connection entries")
    print("pro expire state       source             virtual            destination")
    for row in rows:
        minutes, seconds = divmod(row.timeout, 60)
        ends = (row.source, row.destination, row.reply_source)
        places = " ".join(f"{end:<18}" for end in ends)
        state = row.state or row.protocol.upper()
        print(f"{row.protocol.upper():<3} {minutes:02}:{seconds:02}  {state:<11} {places}".rstrip())


IPV4: Final = 4
IPV6: Final = 6
STATEFUL: Final = ("tcp", "sctp")
"""Protocols whose connections have states; IPVS takes no other for active."""
UNKNOWN: Final = (None, None)
SECONDS: Final = 1.0
"""Between the two looks of --rate."""
TOTALS: Final = ("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
RATES: Final = ("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
