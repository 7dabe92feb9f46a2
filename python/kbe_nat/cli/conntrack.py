"""`kbe-nat conntrack`: connections in the words of conntrack-tools (conntrack(8))."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

import typer

from kbe_nat.cli.flags.options import SOCKET, Format, OutputFormat, Socket, refuse_given
from kbe_nat.cli.output import show_json, show_json_rows
from kbe_nat.daemon.control_socket import ask, rows

Row = dict[str, Any]


def conntrack(
    command: typer.Context,
    list_them: Annotated[
        bool, typer.Option("--list", "-L", help="List connections; the default.")
    ] = False,
    events: Annotated[
        bool, typer.Option("--event", "-E", help="Show what happens, until Ctrl-C.")
    ] = False,
    count: Annotated[bool, typer.Option("--count", "-C", help="Count connections.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", "-D", help="End the connections that match.")
    ] = False,
    flush: Annotated[bool, typer.Option("--flush", "-F", help="End all connections.")] = False,
    protocol: Annotated[str, typer.Option("--proto", "-p", help="Protocol.")] = "",
    source: Annotated[str, typer.Option("--src", "-s", help="Client's address.")] = "",
    destination: Annotated[str, typer.Option("--dst", "-d", help="Frontend's address.")] = "",
    reply_source: Annotated[str, typer.Option("--reply-src", "-r", help="Backend's address.")] = "",
    sport: Annotated[int | None, typer.Option(help="Client's port.")] = None,
    dport: Annotated[int | None, typer.Option(help="Frontend's port.")] = None,
    state: Annotated[str, typer.Option(help="State, such as ESTABLISHED.")] = "",
    service: Annotated[str, typer.Option(help="Service port, as namespace/name:port.")] = "",
    socket: Socket = SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """List, watch, count or end connections, in the format of conntrack-tools."""
    if sum((list_them, events, count, delete, flush)) > 1:
        raise typer.BadParameter(
            "only one of -L, -E, -C, -D and -F can be done", param_hint="conntrack"
        )
    if flush:
        refuse_given(
            command, FILTERS, "it has no effect: -F ends all connections; -D ends those that match"
        )
    filters = {
        "protocol": protocol,
        "source": source,
        "destination": destination,
        "backend": reply_source,
        "state": state,
        "service": service,
    }
    stated = {name: value for name, value in filters.items() if value}
    ports = {"source": sport, "destination": dport}

    def matches(row: Row) -> bool:
        return all(port is None or row[end][1] == port for end, port in ports.items())

    if events:
        _watch(socket, lambda row: matches(row) and _fits(row, stated), output)
    elif delete or flush:
        if sport is not None or dport is not None:
            raise typer.BadParameter(
                "connections are ended by address, not by port", param_hint="-D"
            )
        if delete and not stated:
            raise typer.BadParameter("say which; -F ends all of them", param_hint="-D")
        (ended,) = ask(socket, "delete", **({} if flush else stated))
        print(f"{ended} flow entries have been deleted.")
    else:
        flows = (row for row in rows(socket, "flows", **stated) if matches(row))
        if count:
            print(sum(1 for _ in flows))
        elif output is Format.JSON:
            show_json_rows(flows)
        else:
            for row in flows:
                print(line(row))


def line(row: Row, event: str = "") -> str:
    """A connection as `conntrack -L` prints it; one that has ended has no timeout."""
    return " ".join(_words(row, event))


def _words(row: Row, event: str) -> Iterator[str]:
    protocol = row["protocol"]
    if event:
        yield f"{f'[{event}]':>9}"
    yield f"{protocol:<8}"
    yield str(NUMBERS.get(protocol, protocol))
    if event != "DESTROY":
        yield str(row["timeout"])
    if row["state"]:
        yield row["state"]
    yield from _side(row, "source", "destination", 0)
    if not row["replied"]:
        yield "[UNREPLIED]"
    yield from _side(row, "reply_source", "reply_destination", 1)
    if row["assured"]:
        yield "[ASSURED]"
    yield "mark=0"
    yield "use=1"


def _side(row: Row, source: str, destination: str, direction: int) -> Iterator[str]:
    (src, sport), (dst, dport) = row[source], row[destination]
    yield f"src={src}"
    yield f"dst={dst}"
    if row["protocol"] in ECHO:
        yield f"type={ECHO[row['protocol']][direction]} code=0 id={sport or dport}"
    elif sport or dport:
        yield f"sport={sport}"
        yield f"dport={dport}"
    # As in the kernel's own list, which has no counters where accounting is off.
    if row["packets"] is not None:
        yield f"packets={row['packets'][direction]}"
        yield f"bytes={row['bytes'][direction]}"


def _watch(socket: Socket, wanted: Callable[[Row], bool], output: Format) -> None:
    for event in ask(socket, "events"):
        # The daemon sends an empty event as a sign of life.
        if event and wanted(event["flow"]):
            if output is Format.JSON:
                show_json(event, indent=None)
            else:
                print(line(event["flow"], event["event"]), flush=True)


def _fits(row: Row, filters: dict[str, str]) -> bool:
    values = {
        "protocol": row["protocol"],
        "source": row["source"][0],
        "destination": row["destination"][0],
        "backend": row["reply_source"][0],
        "state": row["state"],
        "service": row["service"],
    }
    return all(values[name] == text for name, text in filters.items())


NUMBERS: Final = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
ECHO: Final = {"icmp": (8, 0), "icmpv6": (128, 129)}
"""Types of echo request and reply."""
FILTERS: Final = (
    *("protocol", "source", "destination", "reply_source", "sport", "dport", "state", "service"),
)
