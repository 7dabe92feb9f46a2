"""`kbe-nat top`: a live view of the endpoints and their load."""

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from kbe_nat.cli.flags.options import SOCKET, Socket
from kbe_nat.cli.output import show, table
from kbe_nat.daemon.control_socket import rows as ask_rows


def top(
    seconds: Annotated[
        float, typer.Option("--delay", "-d", min=0.1, help="Seconds between two looks.")
    ] = 1.0,
    rows: Annotated[
        int, typer.Option("--rows", "-n", min=1, help="Endpoints that are shown, at most.")
    ] = 30,
    looks: Annotated[
        int, typer.Option("--iterations", min=0, help="Looks, then end; 0: until Ctrl-C.")
    ] = 0,
    socket: Socket = SOCKET,
) -> None:
    """Show the busiest endpoints, again and again."""
    before = _look(socket)
    if not sys.stdout.isatty():
        for _ in range(looks or 1):
            time.sleep(seconds)
            now = _look(socket)
            show(_view(before, now, seconds, rows))
            before = now
        return
    remaining = looks or -1
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while remaining:
            time.sleep(seconds)
            now = _look(socket)
            live.update(_view(before, now, seconds, rows), refresh=True)
            before, remaining = now, remaining - 1


def _look(socket: Socket) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["service"], row["backend"]): row for row in ask_rows(socket, "endpoints")}


def _view(
    before: dict[tuple[str, str], dict[str, Any]],
    now: dict[tuple[str, str], dict[str, Any]],
    seconds: float,
    rows: int,
) -> Table:
    is_counted = all(row["packets"] is not None for row in (*now.values(), *before.values()))

    def rate(key: tuple[str, str], field: str) -> float:
        if not is_counted:
            return 0.0
        return float(sum(now[key][field]) - sum(before.get(key, now[key])[field])) / seconds

    def new_flows(key: tuple[str, str]) -> float:
        return float(now[key]["flows"] - before.get(key, now[key])["flows"]) / seconds

    total = sum(rate(key, "packets") for key in now)
    megabits = sum(rate(key, "bytes") for key in now) * 8 / 1e6
    active = sum(row["active"] for row in now.values())
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
        right=4,
    )
    for key in sorted(now, key=lambda key: (-rate(key, "packets"), -now[key]["active"], key))[
        :rows
    ]:
        row = now[key]
        view.add_row(
            *key,
            row["state"],
            f"{rate(key, 'packets'):,.0f}" if is_counted else "-",
            f"{rate(key, 'bytes') * 8 / 1e6:,.1f}" if is_counted else "-",
            f"{new_flows(key):,.0f}",
            f"{row['active']:,}",
        )
    return view
