"""`kbe-nat top`: a live view of the endpoints and their load."""

import sys
import time
from collections.abc import Callable
from shutil import get_terminal_size
from typing import Annotated, TypeAlias

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import SELECTION_FLAGS, SelectionSettings
from kbe_nat.cli.flags.options import Socket, warn
from kbe_nat.cli.kinds import NAMES
from kbe_nat.cli.listing import selection_parameters
from kbe_nat.cli.output import UNCOUNTED, show, table, text_of
from kbe_nat.cli.table import Table
from kbe_nat.cli.terminal import is_drawn_on
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import EndpointRow

_Key: TypeAlias = tuple[str, str]
"""Service port and backend."""


@verb(selection=SELECTION_FLAGS)
def top(
    names: Annotated[list[str], NAMES] = [],  # noqa: B006
    seconds: Annotated[
        float,
        Flag("--delay", "-d", min=0.1, is_duration=True, help="Time between two looks."),
    ] = 1.0,
    rows: Annotated[int, Flag("--rows", min=1, help="Endpoints that are shown, at most.")] = 30,
    looks: Annotated[
        int, Flag("--iterations", min=0, help="Number of refreshes; 0: until Ctrl-C.")
    ] = 0,
    *,
    selection: SelectionSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Show the busiest endpoints, again and again, until Ctrl-C: on a terminal in one place, into a
    pipe one list behind the other, as `top -b` does.

    Examples:
      kbe-nat top
      kbe-nat top web -n shop --rows 10
      kbe-nat top -l tier=front --iterations 1
      kbe-nat top -d 10s >> load.log
    """
    wanted = selection_parameters(selection, names)
    before = _look(socket, wanted)
    if not _is_counted(before):
        warn(UNCOUNTED)
    remaining = looks or -1
    if not is_drawn_on():
        gap: list[str] = []
        while remaining:
            time.sleep(seconds)
            now = _look(socket, wanted)
            show(*gap, _view(before, now, seconds, rows))
            sys.stdout.flush()
            before, remaining, gap = now, remaining - 1, [""]
        return
    # The other screen of the terminal, without a cursor: what was there before comes back.
    sys.stdout.write("\x1b[?1049h\x1b[?25l")
    try:
        while remaining:
            time.sleep(seconds)
            now = _look(socket, wanted)
            lines = text_of(_view(before, now, seconds, rows)).splitlines()
            view = "\n".join(lines[: get_terminal_size().lines - 1])
            sys.stdout.write(f"\x1b[H\x1b[J{view}")
            sys.stdout.flush()
            before, remaining = now, remaining - 1
    finally:
        sys.stdout.write("\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()


def _look(socket: Socket, wanted: dict[str, object]) -> dict[_Key, EndpointRow]:
    rows = ask_rows(socket, "endpoints", EndpointRow, **wanted)
    return {(row.service, row.backend): row for row in rows}


def _is_counted(rows: dict[_Key, EndpointRow]) -> bool:
    return all(row.packets is not None for row in rows.values())


def _view(
    before: dict[_Key, EndpointRow],
    now: dict[_Key, EndpointRow],
    seconds: float,
    rows: int,
) -> Table:
    is_counted = _is_counted(now) and _is_counted(before)

    def growth(key: _Key, value: Callable[[EndpointRow], int]) -> float:
        return (value(now[key]) - value(before.get(key, now[key]))) / seconds

    total = sum(growth(key, _packets) for key in now)
    megabits = sum(growth(key, _bytes) for key in now) * 8 / 1e6
    active = sum(row.active for row in now.values())
    carried = (
        f"{total:,.0f} packets/s, {megabits:,.1f} Mbit/s"
        if is_counted
        else "packets are not counted"
    )
    load = f"{carried}, {active:,} connections"
    view = table(
        f"{load}, {time.strftime('%H:%M:%S')}",
        "service",
        "backend",
        "state",
        "packets/s",
        "Mbit/s",
        "new/s",
        "connections",
        "connect ms",
        right=5,
        spare=("connect ms", "Mbit/s", "new/s", "state", "packets/s"),
    )
    busiest = sorted(now, key=lambda key: (-growth(key, _packets), -now[key].active, key))
    for key in busiest[:rows]:
        row = now[key]
        view.add_row(
            *key,
            row.state,
            f"{growth(key, _packets):,.0f}" if is_counted else "-",
            f"{growth(key, _bytes) * 8 / 1e6:,.1f}" if is_counted else "-",
            f"{growth(key, _flows):,.0f}",
            f"{row.active:,}",
            _connect(before.get(key), row),
        )
    return view


def _connect(before: EndpointRow | None, now: EndpointRow) -> str:
    """The mean time from SYN to SYN-ACK between two looks, in milliseconds."""
    if now.connect is None:
        return "-"
    earlier = before.connect if before else None
    count = now.connect.count - (earlier.count if earlier else 0)
    seconds = now.connect.seconds - (earlier.seconds if earlier else 0.0)
    return f"{seconds / count * 1000:,.2f}" if count > 0 else "-"


def _packets(row: EndpointRow) -> int:
    return sum(row.packets or ())


def _bytes(row: EndpointRow) -> int:
    return sum(row.bytes or ())


def _flows(row: EndpointRow) -> int:
    return row.flows
