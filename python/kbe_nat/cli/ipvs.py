"""`kbe-nat ipvs`: service ports and backends in ipvsadm's format (ipvsadm(8))."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from kbe_nat import __version__
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import Socket
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import DescriptionRow, EndpointRow, FlowRow, Pair
from kbe_nat.errors import SettingError
from kbe_nat.model import join_address

Counts: TypeAlias = tuple[int | None, ...]
"""Connections, packets there and back, bytes there and back; None: not counted."""


@verb()
def ipvs(
    list_them: Annotated[bool, Flag("--list", "-L", "-l", help="The default.")] = False,
    numeric: Annotated[bool, Flag("--numeric", "-n", help="Numbers, as always here.")] = False,
    stats: Annotated[bool, Flag("--stats", help="Connections, packets and bytes so far.")] = False,
    rate: Annotated[bool, Flag("--rate", help="The same a second, over a second.")] = False,
    connections: Annotated[bool, Flag("--connection", "-c", help="List connections.")] = False,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """List service ports and their backends in the format of ipvsadm.

    Each frontend is a virtual server. Its counters are those of the whole service port. As with
    IPVS, InActConn has TCP from its first FIN on, SCTP that is not established, and all UDP.

    Examples:
      kbe-nat ipvs -Ln
      kbe-nat ipvs -Ln --stats
      kbe-nat ipvs -Ln --rate
      kbe-nat ipvs -Lnc
    """
    if stats + rate + connections > 1:
        flags = [name for name, is_given in (("--stats", stats), ("--rate", rate)) if is_given]
        raise SettingError(flags[-1], "only one of --stats, --rate and -c can be shown")
    if connections:
        _print_connections(socket)
        return
    # Asked for ahead of the headings: where nobody answers, nothing is written.
    rows = list(ask_rows(socket, "describe", DescriptionRow))
    print(f"IP Virtual Server version 1.2.1 (kbe-nat {__version__})")
    if stats or rate:
        _print_counters(socket, rows, is_rate=rate)
        return
    print("Prot LocalAddress:Port Scheduler Flags")
    print("  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")
    for row in rows:
        affinity = f" persistent {row.affinity_seconds}" if row.affinity_seconds else ""
        for frontend in _frontends(row):
            print(f"{row.protocol.upper():<4} {frontend} {row.strategy}{affinity}")
            for endpoint in row.endpoints:
                inactive = _inactive(row, endpoint)
                print(
                    f"  -> {endpoint.backend:<28} Masq    {endpoint.weight:<6} "
                    f"{endpoint.active - inactive:<10} {inactive}"
                )


def _inactive(row: DescriptionRow, endpoint: EndpointRow) -> int:
    """What IPVS counts so: all that is no TCP or SCTP, and those that are being closed."""
    if row.protocol in STATEFUL:
        return endpoint.inactive
    return endpoint.active


def _frontends(row: DescriptionRow) -> list[str]:
    """Address and port of each; a node port stands at every address of its family."""
    wildcard = "::" if row.family == IPV6 else "0.0.0.0"
    return [join_address(each.address or wildcard, each.port) for each in row.frontends]


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


def _print_counters(socket: Path, rows: list[DescriptionRow], *, is_rate: bool) -> None:
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
        for frontend in _frontends(row):
            for key, values in _look(row).items():
                name = key[2] or f"{row.protocol.upper():<4} {frontend}"
                label = f"  -> {name}" if key[2] else name
                growth = zip(values, before.get(key, values if is_rate else (0,) * 5), strict=True)
                numbers = [_growth(now, then, seconds) for now, then in growth]
                print(f"{label:<32}" + "".join(f"{number:>9}" for number in numbers))


def _look(row: DescriptionRow) -> dict[tuple[str, int, str], Counts]:
    """The counters of a port, and of each of its backends."""
    looks = {(row.name, row.family, ""): _Counters.of(row).values()}
    for each in row.endpoints:
        looks[row.name, row.family, each.backend] = _Counters.of(each).values()
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


def _print_connections(socket: Path) -> None:
    rows = list(ask_rows(socket, "flows", FlowRow))
    print("IPVS connection entries")
    print("pro expire state       source             virtual            destination")
    for row in rows:
        minutes, seconds = divmod(row.timeout, 60)
        ends = (row.source, row.destination, row.reply_source)
        places = " ".join(f"{join_address(*end):<18}" for end in ends)
        state = row.state or row.protocol.upper()
        print(f"{row.protocol.upper():<3} {minutes:02}:{seconds:02}  {state:<11} {places}".rstrip())


IPV6: Final = 6
STATEFUL: Final = ("tcp", "sctp")
"""Protocols whose connections have states; IPVS takes no other for active."""
UNKNOWN: Final = (None, None)
SECONDS: Final = 1.0
"""Between the two looks of --rate."""
TOTALS: Final = ("Conns", "InPkts", "OutPkts", "InBytes", "OutBytes")
RATES: Final = ("CPS", "InPPS", "OutPPS", "InBPS", "OutBPS")
