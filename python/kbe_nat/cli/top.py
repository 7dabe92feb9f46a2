"""`kbe-nat top`: a live view of the endpoints and their load."""

import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from shutil import get_terminal_size
from typing import Annotated, TypeAlias

import msgspec

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import (
    DOCUMENT_FLAGS,
    SELECTION_FLAGS,
    DocumentSettings,
    SelectionSettings,
)
from kbe_nat.cli.flags.options import Socket, warn
from kbe_nat.cli.kinds import NAMES
from kbe_nat.cli.listing import selection_parameters
from kbe_nat.cli.output import UNCOUNTED, document_of, show, show_next, table, text_of
from kbe_nat.cli.table import Table
from kbe_nat.cli.terminal import is_drawn_on
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import EndpointRow
from kbe_nat.port_rows import PortRow, port_fields

_Key: TypeAlias = tuple[str, str]
"""Service port and backend."""


class EndpointLoadRow(PortRow, frozen=True):
    """The load of one backend of a service port between two looks."""

    backend: str
    """Address and port."""
    state: str
    """draining, gone (it has connections, but is no endpoint), or empty."""
    active: int
    """Connections now, without those that are over."""
    new_per_second: float
    """Connections that began."""
    packets_per_second: float | None
    """Both directions together; null where they are not counted."""
    bytes_per_second: float | None
    """As packets."""
    connect: float | None
    """Mean seconds from SYN to SYN-ACK; null where no connection was measured."""


class LoadRow(msgspec.Struct, frozen=True):
    """`top`: the load between two looks, one document a turn."""

    time: float
    """Of the second look, in seconds since 1970."""
    seconds: float
    """Between the looks."""
    active: int
    """Connections now, of all endpoints."""
    new_per_second: float
    """Connections that began."""
    packets_per_second: float | None
    """Both directions together; null where they are not counted."""
    bytes_per_second: float | None
    """As packets."""
    endpoints: list[EndpointLoadRow]
    """The busiest first, as many as --rows says."""


@verb(selection=SELECTION_FLAGS, document=DOCUMENT_FLAGS)
def top(
    names: Annotated[list[str], NAMES] = [],  # noqa: B006
    seconds: Annotated[
        float,
        Flag("--delay", "-d", min=0.1, is_duration=True, help="Time between two looks."),
    ] = 1.0,
    rows: Annotated[int, Flag("--rows", min=1, help="Endpoints that are shown, at most.")] = 30,
    looks: Annotated[
        int,
        Flag(
            "--iterations",
            min=0,
            help="Number of lists, which stay on the terminal; 0: one in place, until Ctrl-C.",
        ),
    ] = 0,
    *,
    selection: SelectionSettings,
    document: DocumentSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Show the busiest endpoints, again and again, until Ctrl-C: on a terminal in one place, into a
    pipe, and where --iterations says how many, one list behind the other, as `top -b` does. -o json
    prints one document a turn, on one line.

    Examples:
      kbe-nat top
      kbe-nat top web -n shop --rows 10
      kbe-nat top -l tier=front --iterations 1
      kbe-nat top -d 10s -o json >> load.ndjson
    """
    wanted = selection_parameters(selection, names)
    # Ahead of the other screen of the terminal, which goes.
    first = _look(socket, wanted)
    if not _is_counted(first):
        warn(UNCOUNTED)
    turns = _turns(first, lambda: _look(socket, wanted), seconds, rows, looks)
    if document.output.is_document:
        for load in turns:
            show_next(document_of(load), document.output)
        return
    # Lists that were counted are to be read afterwards, and the other screen takes its own away.
    if looks or not is_drawn_on():
        for place, load in enumerate(turns):
            show(*([""] if place else []), *_view(load))
            sys.stdout.flush()
        return
    _draw(turns)


def _draw(turns: Iterator[LoadRow]) -> None:
    """Each turn in the place of the one before."""
    # The other screen of the terminal, without a cursor: what was there before comes back.
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        for load in turns:
            lines = text_of(*_view(load)).splitlines()
            view = "\n".join(lines[: get_terminal_size().lines - 1])
            sys.stdout.write(f"\x1b[H\x1b[J{view}")
            sys.stdout.flush()
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _turns(
    before: dict[_Key, EndpointRow],
    look: Callable[[], dict[_Key, EndpointRow]],
    seconds: float,
    rows: int,
    looks: int,
) -> Iterator[LoadRow]:
    """The load from each look to the next; without `looks` there is no last one."""
    earlier = time.monotonic()
    for _ in range(looks) if looks else count():
        time.sleep(seconds)
        now, moment = look(), time.monotonic()
        yield _load(before, now, moment - earlier, rows)
        before, earlier = now, moment


def _look(socket: Socket, wanted: dict[str, object]) -> dict[_Key, EndpointRow]:
    rows = ask_rows(socket, "endpoints", EndpointRow, **wanted)
    return {(row.service, row.backend): row for row in rows}


def _is_counted(rows: dict[_Key, EndpointRow]) -> bool:
    return all(row.packets is not None for row in rows.values())


def _load(
    before: dict[_Key, EndpointRow], now: dict[_Key, EndpointRow], seconds: float, rows: int
) -> LoadRow:
    is_counted = _is_counted(now) and _is_counted(before)

    def growth(key: _Key, value: Callable[[EndpointRow], int]) -> float:
        return round((value(now[key]) - value(before.get(key, now[key]))) / seconds, 3)

    def total(value: Callable[[EndpointRow], int]) -> float:
        return round(sum(growth(key, value) for key in now), 3)

    busiest = sorted(now, key=lambda key: (-growth(key, _packets), -now[key].active, key))
    return LoadRow(
        time=time.time(),
        seconds=round(seconds, 3),
        active=sum(row.active for row in now.values()),
        new_per_second=total(_flows),
        packets_per_second=total(_packets) if is_counted else None,
        bytes_per_second=total(_bytes) if is_counted else None,
        endpoints=[
            EndpointLoadRow(
                **port_fields(now[key].service),
                backend=now[key].backend,
                state=now[key].state,
                active=now[key].active,
                new_per_second=growth(key, _flows),
                packets_per_second=growth(key, _packets) if is_counted else None,
                bytes_per_second=growth(key, _bytes) if is_counted else None,
                connect=_connect(before.get(key), now[key]),
            )
            for key in busiest[:rows]
        ],
    )


def _view(load: LoadRow) -> list[str | Table]:
    carried = "packets are not counted"
    if load.packets_per_second is not None and load.bytes_per_second is not None:
        megabits = load.bytes_per_second * 8 / 1e6
        carried = f"{load.packets_per_second:,.0f} packets/s, {megabits:,.1f} Mbit/s"
    active = "1 connection" if load.active == 1 else f"{load.active:,} connections"
    view = table(
        f"{carried}, {active}, {time.strftime('%H:%M:%S', time.localtime(load.time))}",
        "service",
        "backend",
        "state",
        "packets/s",
        "Mbit/s",
        "new/s",
        "active",
        "connect-ms",
        right=5,
        spare=("connect-ms", "Mbit/s", "new/s", "state", "packets/s"),
    )
    for row in load.endpoints:
        packets, octets = row.packets_per_second, row.bytes_per_second
        view.add_row(
            row.service,
            row.backend,
            row.state or "<none>",
            "-" if packets is None else f"{packets:,.0f}",
            "-" if octets is None else f"{octets * 8 / 1e6:,.1f}",
            f"{row.new_per_second:,.0f}",
            f"{row.active:,}",
            "-" if row.connect is None else f"{row.connect * 1000:,.2f}",
        )
    return [view] if load.endpoints else [view, "There are no endpoints."]


def _connect(before: EndpointRow | None, now: EndpointRow) -> float | None:
    """The mean time from SYN to SYN-ACK between two looks, in seconds."""
    if now.connect is None:
        return None
    earlier = before.connect if before else None
    measured = now.connect.count - (earlier.count if earlier else 0)
    seconds = now.connect.seconds - (earlier.seconds if earlier else 0.0)
    return round(seconds / measured, 9) if measured > 0 else None


def _packets(row: EndpointRow) -> int:
    return sum(row.packets or ())


def _bytes(row: EndpointRow) -> int:
    return sum(row.bytes or ())


def _flows(row: EndpointRow) -> int:
    return row.flows
