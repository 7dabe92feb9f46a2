"""`kbe-nat decisions`: what became of first packets, after the fact."""

import time
from collections.abc import Iterable
from typing import Annotated, Final

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket, parse
from kbe_nat.cli.output import seen, show, show_json, show_json_rows, table
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask_rows
from kbe_nat.daemon.rows import DecisionAction, DecisionRow
from kbe_nat.kubeproxy.duration import duration
from kbe_nat.model import join_address


@verb()
def decisions(
    service: Annotated[
        str,
        Flag(
            "--service",
            help="Only this service port, as namespace/name:port, or all ports of namespace/name.",
        ),
    ] = "",
    client: Annotated[str, Flag("--client", help="Only this client's address.")] = "",
    verdict: Annotated[DecisionAction | None, Flag("--verdict", help="Only this verdict.")] = None,
    since: Annotated[str, Flag("--since", help="Only as old as that, such as 90s, 5m or 2h.")] = "",
    limit: Annotated[
        int, Flag("--limit", "-n", min=0, help="The newest so many; with -f before these.")
    ] = 100,
    follow: Annotated[
        bool, Flag("--follow", "-f", help="Show new ones, too, until Ctrl-C.")
    ] = False,
    socket: Socket = DEFAULT_SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Show the latest decisions of the running daemon about first packets: which backend a
    connection got, or why it was refused, with the endpoints as they were then.
    """
    wanted: dict[str, object] = {"limit": limit, "is_followed": follow}
    if since:
        wanted["seconds"] = parse(_age, since, "--since")
    filters = {"service": service, "client": client, "verdict": verdict}
    wanted |= {name: value for name, value in filters.items() if value}
    rows = ask_rows(socket, "decisions", DecisionRow, **wanted)
    if not follow:
        rows = seen(rows, service)
    if follow:
        for row in rows:
            if output is Format.JSON:
                show_json(row, indent=None)
            else:
                print("  ".join(cells(row)), flush=True)
    elif output is Format.JSON:
        show_json_rows(rows)
    else:
        _show_table(rows)


def _age(text: str) -> float:
    seconds = duration(text)
    if seconds < 0:
        raise ValueError(f"{text!r} is less than nothing")
    return seconds


def cells(row: DecisionRow) -> list[str]:
    """A decision as text, by column."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
    return [
        f"{moment}.{int(row.time % 1 * 10)}",
        row.protocol,
        join_address(*row.client),
        join_address(*row.frontend),
        row.service or "-",
        join_address(*row.backend) if row.backend else f"{row.verdict}: {row.cause}",
        row.choice or "-",
        "-" if row.endpoint_count is None else str(row.endpoint_count),
    ]


def _show_table(rows: Iterable[DecisionRow]) -> None:
    view = table("", *COLUMNS, right=1)
    for row in rows:
        view.add_row(*cells(row))
    show(view)


COLUMNS: Final = (
    "time",
    "proto",
    "client",
    "frontend",
    "service port",
    "backend, or why none",
    "chosen by",
    "endpoints then",
)
