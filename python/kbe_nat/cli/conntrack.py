"""`kbe-nat conntrack`: connections in the words of conntrack-tools (conntrack(8))."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import click

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket, refuse_on_command_line
from kbe_nat.cli.flags.parameters import Flags, parameter_names
from kbe_nat.cli.output import show_json, show_json_rows
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask, ask_rows
from kbe_nat.daemon.rows import End, EventRow, FlowRow
from kbe_nat.errors import SettingError
from kbe_nat.model import qualified
from kbe_nat.packets import NUMBERS


@dataclass(frozen=True)
class FlowFilter:
    """Connections that are meant; empty and None stand for any."""

    protocol: str = ""
    source: str = ""
    destination: str = ""
    backend: str = ""
    source_port: int | None = None
    destination_port: int | None = None
    state: str = ""
    service: str = ""

    def parameters(self) -> dict[str, object]:
        """The fields that the daemon filters by: all but ports."""
        values: dict[str, object] = {
            "protocol": self.protocol,
            "source": self.source,
            "destination": self.destination,
            "backend": self.backend,
            "state": self.state,
            "names": [self.service] if self.service else [],
        }
        return {name: value for name, value in values.items() if value}

    def has_ports(self) -> bool:
        """Whether a port is part of it."""
        return self.source_port is not None or self.destination_port is not None

    def matches_ports(self, row: FlowRow) -> bool:
        """Whether the ports of a connection fit."""
        return self.source_port in (None, row.source[1]) and self.destination_port in (
            None,
            row.destination[1],
        )

    def matches(self, row: FlowRow) -> bool:
        """Whether a connection fits in everything."""
        values = {
            "protocol": row.protocol,
            "source": row.source[0],
            "destination": row.destination[0],
            "backend": row.reply_source[0],
            "state": row.state,
            "names": self._names(row),
        }
        is_fit = all(values[name] == text for name, text in self.parameters().items())
        return is_fit and self.matches_ports(row)

    def _names(self, row: FlowRow) -> list[str]:
        """The name that was asked for, where it means the connection's service port."""
        name = qualified(self.service)
        is_meant = row.service == name or row.service.startswith(f"{name}:")
        return [self.service] if is_meant else []


FILTER_FLAGS: Final[Flags] = {
    "protocol": Flag("--proto", "-p", help="Protocol."),
    "source": Flag("--src", "-s", help="Client's address."),
    "destination": Flag("--dst", "-d", help="Frontend's address."),
    "backend": Flag("--reply-src", "-r", help="Backend's address."),
    "source_port": Flag("--sport", help="Client's port."),
    "destination_port": Flag("--dport", help="Frontend's port."),
    "state": Flag("--state", help="State, such as ESTABLISHED."),
    "service": Flag("--service", help="Service port, as namespace/name:port."),
}


@verb(flows=FILTER_FLAGS)
def conntrack(
    command: click.Context,
    list_them: Annotated[bool, Flag("--list", "-L", help="List connections; the default.")] = False,
    events: Annotated[bool, Flag("--event", "-E", help="Show what happens, until Ctrl-C.")] = False,
    count: Annotated[bool, Flag("--count", "-C", help="Count connections.")] = False,
    delete: Annotated[bool, Flag("--delete", "-D", help="End the connections that match.")] = False,
    flush: Annotated[bool, Flag("--flush", "-F", help="End all connections.")] = False,
    *,
    flows: FlowFilter,
    socket: Socket = DEFAULT_SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """List, watch, count or end connections, in the format of conntrack-tools.

    Examples:
      kbe-nat conntrack -L -p tcp --dport 80
      kbe-nat conntrack -E --service default/web
      kbe-nat conntrack -D -s 10.0.2.15
    """
    if sum((list_them, events, count, delete, flush)) > 1:
        raise SettingError("conntrack", "only one of -L, -E, -C, -D and -F can be done")
    if flush:
        refuse_on_command_line(
            command,
            parameter_names(FILTER_FLAGS),
            "it has no effect: -F ends all connections; -D ends those that match",
        )
    if events:
        _watch(socket, flows.matches, output)
    elif delete or flush:
        if flows.has_ports():
            raise SettingError("-D", "connections are ended by address, not by port")
        if delete and not flows.parameters():
            raise SettingError("-D", "say which; -F ends all of them")
        (ended,) = ask(socket, "delete", int, **flows.parameters())
        print(f"{ended} flow entries have been deleted.")
    else:
        listed = ask_rows(socket, "flows", FlowRow, **flows.parameters())
        matching = filter(flows.matches_ports, listed)
        if count:
            print(sum(1 for _ in matching))
        elif output is Format.JSON:
            show_json_rows(matching, "Flow")
        else:
            for row in matching:
                print(line(row))


def line(row: FlowRow, event: str = "") -> str:
    """A connection as `conntrack -L` prints it; one that has ended has no timeout."""
    return " ".join(_words(row, event))


def _words(row: FlowRow, event: str) -> Iterator[str]:
    if event:
        yield f"{f'[{event}]':>9}"
    yield f"{row.protocol:<8}"
    yield str(NUMBERS.get(row.protocol, row.protocol))
    if event != "DESTROY":
        yield str(row.timeout)
    if row.state:
        yield row.state
    yield from _side(row, row.source, row.destination, 0)
    if not row.replied:
        yield "[UNREPLIED]"
    yield from _side(row, row.reply_source, row.reply_destination, 1)
    if row.assured:
        yield "[ASSURED]"
    yield "mark=0"
    yield "use=1"


def _side(row: FlowRow, source: End, destination: End, direction: int) -> Iterator[str]:
    (source_address, source_port), (destination_address, destination_port) = source, destination
    yield f"src={source_address}"
    yield f"dst={destination_address}"
    if row.protocol in ECHO:
        echo = source_port or destination_port
        yield f"type={ECHO[row.protocol][direction]} code=0 id={echo}"
    elif source_port or destination_port:
        yield f"sport={source_port}"
        yield f"dport={destination_port}"
    # As in the kernel's own list, which has no counters where accounting is off.
    if row.packets is not None and row.bytes is not None:
        yield f"packets={row.packets[direction]}"
        yield f"bytes={row.bytes[direction]}"


def _watch(socket: Socket, matches: Callable[[FlowRow], bool], output: Format) -> None:
    for event in ask(socket, "events", EventRow):
        # The daemon sends an empty event as a sign of life.
        if event.flow is not None and matches(event.flow):
            if output is Format.JSON:
                show_json(event, indent=None)
            else:
                print(line(event.flow, event.event), flush=True)


ECHO: Final = {"icmp": (8, 0), "icmpv6": (128, 129)}
"""Types of echo request and reply."""
