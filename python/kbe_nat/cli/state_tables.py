"""The daemon's counters and its status as tables for people."""

import time
from collections.abc import Iterable
from itertools import chain
from typing import Any, Final

import msgspec

from kbe_nat.cli.output import table
from kbe_nat.cli.table import Table
from kbe_nat.daemon.rows import FileSourceRow, StatsRow, StatusRow, WatchRow
from kbe_nat.kubeproxy.duration import SECOND, go_duration


def stats_tables(stats: StatsRow) -> list[Any]:
    """All counters."""
    sizes = table("Tables", "counter", "value", right=1)
    for name in ("entries", "assured", "affinities", "expired", "evicted", "truncated"):
        sizes.add_row(TABLE_WORDS.get(name, name), str(getattr(stats, name)))
    sizes.add_row("leased-ports", str(stats.leased_ports))
    sizes.add_row("leased-ports-of-one-backend", str(stats.most_leased_ports))
    sizes.add_row("leasable-ports-of-one-backend", str(stats.leasable_ports))
    causes = table("Packets", "cause", "value", right=1)
    for cause, number in stats.causes.items():
        causes.add_row(cause, str(number))
    queues = table(
        "Queues",
        "queue",
        "waiting",
        "packets",
        "dropped-queue-full",
        "dropped-socket-full",
        right=4,
    )
    for queue in stats.queues:
        fields = ("number", "waiting", "packets", "queue_dropped", "socket_dropped")
        queues.add_row(*(str(getattr(queue, name)) for name in fields))
    kernel = table("The kernel's flows", "counter", "value", right=1)
    for name, number in stats.kernel.items():
        kernel.add_row(name, str(number))
    devices = table("Devices without the cache", "device", "because")
    for name, reason in stats.uncached_devices.items():
        devices.add_row(name, reason)
    others = [["", kernel]] * bool(stats.kernel) + [["", devices]] * bool(stats.uncached_devices)
    return [sizes, "", causes, "", queues, *chain.from_iterable(others)]


def status_tables(status: StatusRow) -> list[Any]:
    """The status, the paths of files, and how far watches of the API server are."""
    rows_table = table("", "field", "value", is_wrapped=True)
    for name, value in msgspec.to_builtins(status).items():
        if name not in ("files", "watches"):
            value = go_duration(value * SECOND) if name == "seconds" else value
            rows_table.add_row(STATUS_WORDS.get(name, name.replace("_", "-")), _words(value))
    parts: list[Any] = [rows_table]
    parts += ["", _file_table(status.files)] if status.files else []
    parts += ["", _watch_table(status.watches)] if status.watches else []
    return parts


def _file_table(files: Iterable[FileSourceRow]) -> Table:
    """What is read of each path, and how long ago it last changed."""
    file_table = table("Files", *FILES, right=len(FILES) - 1, spare=FILES[1:3])
    for each in files:
        counts = (each.files, each.objects, each.refused, each.unread)
        file_table.add_row(each.path, *map(str, counts), _duration_since(each.changed))
    return file_table


def _duration_since(moment: float) -> str:
    """In whole seconds; a dash for what has never been."""
    seconds = max(0, round(time.time() - moment))
    return go_duration(seconds * SECOND) if moment else "-"


def _watch_table(watches: Iterable[WatchRow]) -> Table:
    """How far each watch of the API server is, and for how long."""
    watch_table = table("Watches", *WATCH, spare=WATCH[-2:1:-1], is_wrapped=True)
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
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, dict):
        return " ".join(f"{name} {number}" for name, number in value.items())
    return str(value)


STATUS_WORDS: Final = {"seconds": "running-for"}
TABLE_WORDS: Final = {"entries": "flow-entries"}
FILES: Final = ("path", "files", "objects", "refused", "unread", "unchanged-for")
WATCH: Final = (
    "resource",
    "phase",
    "for",
    "objects",
    "lists",
    "changes",
    "failures",
    "withheld",
    "why-not-in-step",
)
