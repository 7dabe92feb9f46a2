"""`kbe-nat get`: lists of the Services that the running daemon serves, and of its flows."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from kbe_nat.cli.flags.options import SOCKET, Format, OutputFormat, Socket, refuse_given
from kbe_nat.cli.output import show, show_json, show_json_rows, table, traffic
from kbe_nat.daemon.control_socket import ask, rows
from kbe_nat.model import join_address


class Kind(StrEnum):
    """The lists."""

    SERVICES = "services"
    ENDPOINTS = "endpoints"
    FLOWS = "flows"
    RULES = "rules"
    STATS = "stats"
    STATUS = "status"


def get(
    command: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    service: Annotated[
        str, typer.Option(help="Only this service port, as namespace/name:port.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Flows, at most.")] = 1000,
    wide: Annotated[bool, typer.Option("--wide", help="More columns.")] = False,
    socket: Socket = SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """List what the running daemon serves and carries."""
    if kind is not Kind.FLOWS:
        refuse_given(command, ["limit"], f"it has no effect on {kind}")
    if kind in (Kind.RULES, Kind.STATS, Kind.STATUS):
        refuse_given(command, ["service", "wide"], f"it has no effect on {kind}")
    if kind in LISTS:
        parameters: dict[str, object] = {}
        if kind is Kind.FLOWS:
            parameters = {"limit": limit} | ({"service": service} if service else {})
        wanted = (
            row
            for row in rows(socket, kind, **parameters)
            if not service or row[LISTS[kind]] == service
        )
        if output is Format.JSON:
            show_json_rows(wanted)
        else:
            show(*TABLES[kind](list(wanted), wide))
        return
    (answer,) = ask(socket, kind)
    if output is Format.JSON:
        show_json(answer)
    elif kind is Kind.RULES:
        print(answer, end="")
    else:
        show(*TABLES[kind](answer, wide))


def _services(rows: list[dict[str, Any]], wide: bool) -> list[Any]:
    more = ("affinity", "packets", "packets back", "bytes", "bytes back", "refused") if wide else ()
    rows_table = table(
        "", "service", "protocol", "frontends", "strategy", "endpoints", "active", "flows", *more
    )
    for row in rows:
        cells = [row["name"], row["protocol"], ", ".join(row["frontends"]), row["strategy"]]
        cells += map(str, (row["backends"], row["active"], row["flows"]))
        if wide:
            seconds = row["affinity_seconds"]
            cells += ["" if seconds is None else f"{seconds} s", *traffic(row)]
            cells.append(str(sum(row["refused"].values())))
        rows_table.add_row(*cells)
    return [rows_table]


def _endpoints(rows: list[dict[str, Any]], wide: bool) -> list[Any]:
    more = ("packets", "packets back", "bytes", "bytes back") if wide else ()
    rows_table = table("", "service", "backend", "weight", "state", "active", "flows", *more)
    for row in rows:
        cells = [row["service"], row["backend"], str(row["weight"]), row["state"]]
        cells += map(str, (row["active"], row["flows"]))
        rows_table.add_row(*cells, *(traffic(row) if wide else ()))
    return [rows_table]


def _flows(rows: list[dict[str, Any]], wide: bool) -> list[Any]:
    more = ("age", "packets", "packets back", "bytes", "bytes back") if wide else ()
    rows_table = table(
        "", "protocol", "state", "client", "frontend", "backend", "service", "timeout", *more
    )
    for row in rows:
        cells = [row["protocol"], row["state"] or ("" if row["replied"] else "unreplied")]
        cells += [join_address(*row[end]) for end in ("source", "destination", "reply_source")]
        cells += [row["service"], f"{row['timeout']} s"]
        if wide:
            cells += [f"{row['age']} s", *traffic(row)]
        rows_table.add_row(*cells)
    return [rows_table]


def _stats(stats: dict[str, Any], wide: bool) -> list[Any]:
    sizes = table("Tables", "what", "number", right=1)
    for name in ("flows", "assured", "affinities", "expired", "evicted", "truncated"):
        sizes.add_row(name, str(stats[name]))
    causes = table("Packets", "cause", "number", right=1)
    for cause, number in stats["causes"].items():
        causes.add_row(cause, str(number))
    queues = table(
        "Queues",
        "queue",
        "waiting",
        "packets",
        "dropped: queue full",
        "dropped: socket full",
        right=4,
    )
    for queue in stats["queues"]:
        fields = ("number", "waiting", "packets", "queue_dropped", "socket_dropped")
        queues.add_row(*(str(queue[name]) for name in fields))
    kernel = table("The kernel's flows", "what", "number", right=1)
    for name, number in stats["kernel"].items():
        kernel.add_row(name, str(number))
    return [sizes, "", causes, "", queues, *(["", kernel] if stats["kernel"] else [])]


def _status(status: dict[str, Any], wide: bool) -> list[Any]:
    rows_table = table("", "what", "how")
    for name, value in status.items():
        rows_table.add_row(name.replace("_", " "), _words(value))
    return [rows_table]


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


LISTS: Final = {Kind.SERVICES: "name", Kind.ENDPOINTS: "service", Kind.FLOWS: "service"}
"""Kinds that come as rows, and the field with the service port's name."""
TABLES: Final[dict[Kind, Callable[[Any, bool], list[Any]]]] = {
    Kind.SERVICES: _services,
    Kind.ENDPOINTS: _endpoints,
    Kind.FLOWS: _flows,
    Kind.STATS: _stats,
    Kind.STATUS: _status,
}
