"""`kbe-nat get`: lists of the Services that the running daemon serves, and of its flows."""

import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import click
import msgspec

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket, refuse_on_command_line
from kbe_nat.cli.output import connect, seen, show, show_json, show_json_rows, table, traffic
from kbe_nat.cli.table import Table
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask, ask_rows
from kbe_nat.daemon.rows import EndpointRow, FlowRow, ServiceRow, StatsRow, StatusRow, WatchRow
from kbe_nat.kubeproxy.duration import SECOND, go_duration
from kbe_nat.model import join_address

_T = TypeVar("_T")


class Kind(StrEnum):
    """The lists."""

    SERVICES = "services"
    ENDPOINTS = "endpoints"
    FLOWS = "flows"
    RULES = "rules"
    STATS = "stats"
    STATUS = "status"


@verb()
def get(
    command: click.Context,
    kind: Annotated[Kind, Argument(help="What to list.")],
    service: Annotated[str, Flag(help="Only this service port, as namespace/name:port.")] = "",
    limit: Annotated[int, Flag(min=1, help="Flows, at most.")] = 1000,
    wide: Annotated[bool, Flag("--wide", help="More columns.")] = False,
    socket: Socket = DEFAULT_SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """List what the running daemon serves and carries."""
    if kind is not Kind.FLOWS:
        refuse_on_command_line(command, ["limit"], f"it has no effect on {kind}")
    if kind in (Kind.RULES, Kind.STATS, Kind.STATUS):
        refuse_on_command_line(command, ["service", "wide"], f"it has no effect on {kind}")
    if kind is Kind.RULES:
        _show_rules(socket, output)
    elif kind is Kind.STATS:
        (stats,) = ask(socket, kind, StatsRow)
        _show(stats, _stats_tables, output)
    elif kind is Kind.STATUS:
        (status,) = ask(socket, kind, StatusRow)
        _show(status, _status_tables, output)
    elif kind is Kind.SERVICES:
        services = ask_rows(socket, kind, ServiceRow)
        wanted = (row for row in services if not service or row.name == service)
        _show_rows(seen(wanted, service), lambda rows: _service_tables(rows, wide), output)
    elif kind is Kind.ENDPOINTS:
        endpoints = ask_rows(socket, kind, EndpointRow)
        chosen = (row for row in endpoints if not service or row.service == service)
        _show_rows(seen(chosen, service), lambda rows: _endpoint_tables(rows, wide), output)
    else:
        filters = {"service": service} if service else {}
        flows = ask_rows(socket, kind, FlowRow, limit=limit, **filters)
        _show_rows(seen(flows, service), lambda rows: _flow_tables(rows, wide), output)


def _show(row: _T, tables: Callable[[_T], list[Any]], output: Format) -> None:
    if output is Format.JSON:
        show_json(row)
    else:
        show(*tables(row))


def _show_rows(
    rows: Iterable[_T], tables: Callable[[Iterable[_T]], list[Any]], output: Format
) -> None:
    if output is Format.JSON:
        show_json_rows(rows)
    else:
        show(*tables(rows))


def _show_rules(socket: Path, output: Format) -> None:
    (rules,) = ask(socket, Kind.RULES, str)
    if output is Format.JSON:
        show_json(rules)
    else:
        print(rules, end="")


def _service_tables(rows: Iterable[ServiceRow], wide: bool) -> list[Any]:
    more = ("affinity", *TRAFFIC, *CONNECT, "refused") if wide else ()
    rows_table = table(
        "", "service", "protocol", "frontends", "strategy", "endpoints", "active", "flows", *more
    )
    for row in rows:
        cells = [row.name, row.protocol, ", ".join(row.frontends), row.strategy]
        cells += map(str, (row.backends, row.active, row.flows))
        if wide:
            seconds = row.affinity_seconds
            cells += ["" if seconds is None else f"{seconds} s", *traffic(row.packets, row.bytes)]
            cells += connect(row.connect)
            cells.append(str(sum(row.refused.values())))
        rows_table.add_row(*cells)
    return [rows_table]


def _endpoint_tables(rows: Iterable[EndpointRow], wide: bool) -> list[Any]:
    more = (*TRAFFIC, *CONNECT) if wide else ()
    rows_table = table("", "service", "backend", "weight", "state", "active", "flows", *more)
    for row in rows:
        cells = [row.service, row.backend, str(row.weight), row.state]
        cells += map(str, (row.active, row.flows))
        if wide:
            cells += [*traffic(row.packets, row.bytes), *connect(row.connect)]
        rows_table.add_row(*cells)
    return [rows_table]


def _flow_tables(rows: Iterable[FlowRow], wide: bool) -> list[Any]:
    more = ("age", *TRAFFIC) if wide else ()
    rows_table = table(
        "", "protocol", "state", "client", "frontend", "backend", "service", "timeout", *more
    )
    for row in rows:
        cells = [row.protocol, row.state or ("" if row.replied else "unreplied")]
        cells += [join_address(*end) for end in (row.source, row.destination, row.reply_source)]
        cells += [row.service, f"{row.timeout} s"]
        if wide:
            cells += [f"{row.age} s", *traffic(row.packets, row.bytes)]
        rows_table.add_row(*cells)
    return [rows_table]


def _stats_tables(stats: StatsRow) -> list[Any]:
    sizes = table("Tables", "what", "number", right=1)
    for name in ("flows", "assured", "affinities", "expired", "evicted", "truncated"):
        sizes.add_row(name, str(getattr(stats, name)))
    sizes.add_row("leased ports", str(stats.leased_ports))
    of_limit = f"{stats.most_leased_ports} of {stats.leasable_ports}"
    sizes.add_row("leased ports of one backend, at most", of_limit)
    causes = table("Packets", "cause", "number", right=1)
    for cause, number in stats.causes.items():
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
    for queue in stats.queues:
        fields = ("number", "waiting", "packets", "queue_dropped", "socket_dropped")
        queues.add_row(*(str(getattr(queue, name)) for name in fields))
    kernel = table("The kernel's flows", "what", "number", right=1)
    for name, number in stats.kernel.items():
        kernel.add_row(name, str(number))
    return [sizes, "", causes, "", queues, *(["", kernel] if stats.kernel else [])]


def _status_tables(status: StatusRow) -> list[Any]:
    rows_table = table("", "what", "how")
    for name, value in msgspec.to_builtins(status).items():
        if name != "watches":
            rows_table.add_row(name.replace("_", " "), _words(value))
    return [rows_table, _watch_table(status.watches)] if status.watches else [rows_table]


def _watch_table(watches: Iterable[WatchRow]) -> Table:
    """How far each watch of the API server is, and for how long."""
    watch_table = table("watches", *WATCH)
    for watch in watches:
        seconds = max(0, round(time.time() - watch.since))
        counts = (watch.objects, watch.lists, watch.events, watch.failures, watch.withheld)
        watch_table.add_row(
            watch.resource,
            watch.phase,
            go_duration(seconds * SECOND),
            *map(str, counts),
            watch.reason or "-",
        )
    return watch_table


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


WATCH: Final = (
    "resource",
    "phase",
    "for",
    "objects",
    "lists",
    "changes",
    "failures",
    "withheld",
    "why not in step",
)
TRAFFIC: Final = ("packets", "packets back", "bytes", "bytes back")
CONNECT: Final = ("connect p50", "connect p99")
"""From SYN to SYN-ACK."""
