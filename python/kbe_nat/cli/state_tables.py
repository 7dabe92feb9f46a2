"""The daemon's counters and its status as tables for people."""

import time
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import msgspec

from kbe_nat.cli.output import table
from kbe_nat.cli.table import Table
from kbe_nat.daemon.rows import StatsRow, StatusRow, WatchRow
from kbe_nat.kubeproxy.duration import SECOND, go_duration


def stats_tables(stats: StatsRow) -> list[Any]:
    """All counters."""
    sizes = table("Tables", "what", "number", right=1)
    for name in ("entries", "assured", "affinities", "expired", "evicted", "truncated"):
        sizes.add_row(TABLE_WORDS.get(name, name), str(getattr(stats, name)))
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
    devices = table("Devices without the cache", "device", "because")
    for name, reason in stats.uncached_devices.items():
        devices.add_row(name, reason)
    others = [["", kernel]] * bool(stats.kernel) + [["", devices]] * bool(stats.uncached_devices)
    return [sizes, "", causes, "", queues, *chain.from_iterable(others)]


def status_tables(status: StatusRow) -> list[Any]:
    """The status, and how far watches of the API server are."""
    rows_table = table("", "what", "how", is_wrapped=True)
    for name, value in msgspec.to_builtins(status).items():
        if name != "watches":
            rows_table.add_row(name.replace("_", " "), _words(value))
    return [rows_table, _watch_table(status.watches)] if status.watches else [rows_table]


def _watch_table(watches: Iterable[WatchRow]) -> Table:
    """How far each watch of the API server is, and for how long."""
    watch_table = table("watches", *WATCH, spare=WATCH[-2:1:-1], is_wrapped=True)
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


TABLE_WORDS: Final = {"entries": "flow entries"}
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
