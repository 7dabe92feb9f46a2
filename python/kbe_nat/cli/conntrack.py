"""`kbe-nat conntrack`: connections in the words of conntrack-tools (conntrack(8)).

As there, a task is a capital letter, lists go to standard output and their count to standard error,
and a task that finds nothing to get or to delete ends with 1.
"""

import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import click

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import Output
from kbe_nat.cli.flags.options import Socket, refuse_on_command_line
from kbe_nat.cli.flags.parameters import Flags, TextFlag, flag_name, parameter_names
from kbe_nat.cli.flow_filter import FILTER_FLAGS, FlowFilter, family_of, with_any
from kbe_nat.cli.kinds import NAMES
from kbe_nat.cli.output import document_of, show_document, show_next, show_rows
from kbe_nat.cli.verb import HabitCommand, verb, version_option
from kbe_nat.client import DEFAULT_SOCKET, ask, ask_rows
from kbe_nat.daemon.rows import EventRow, FlowCountRow, FlowRow, StatsRow
from kbe_nat.errors import SettingError
from kbe_nat.family import Family
from kbe_nat.model import end_parts
from kbe_nat.packets import NUMBERS
from kbe_nat.spelling import none_of


@dataclass(frozen=True)
class TaskSettings:
    """What is to be done; nothing is a list."""

    list_them: bool = False
    get: bool = False
    events: bool = False
    count: bool = False
    delete: bool = False
    flush: bool = False
    statistics: bool = False
    mask: tuple[str, ...] = ()
    """Kinds of events; none: all."""
    output: frozenset[str] = frozenset()

    @property
    def document(self) -> Output | None:
        """How documents are written, where they are asked for."""
        return next((Output(form) for form in DOCUMENTS if form in self.output), None)


def parse_mask(text: str) -> tuple[str, ...]:
    """Kinds of events, with commas between. Raises ValueError."""
    words = text.split(",")
    for word in words:
        if word.upper() not in EVENTS:
            raise ValueError(none_of(word, EVENTS))
    return tuple(event for word in words for event in EVENTS[word.upper()])


def parse_form(text: str) -> frozenset[str]:
    """Forms of a line, with commas between. Raises ValueError."""
    words = frozenset(text.lower().split(",")) - {"text"}
    for word in sorted(words - {*FORMS}):
        if word in OTHER_FORMS:
            raise ValueError(f"{word}: {OTHER_FORMS[word]}")
        raise ValueError(none_of(word, ("text", *FORMS)))
    return words


EVENTS: Final = {
    "ALL": ("NEW", "UPDATE", "DESTROY"),
    "NEW": ("NEW",),
    "UPDATES": ("UPDATE",),
    "UPDATE": ("UPDATE",),
    "DESTROY": ("DESTROY",),
}
DOCUMENTS: Final = ("json", "yaml")
"""Forms that have all that there is."""
OTHER_FORMS: Final = {
    "save": "connections begin by packets, so there is nothing to load it into; -o json has all",
    "labels": "labels of connections are not read",
}
"""Of conntrack-tools."""
OTHER_TABLES: Final = {
    "expect": "expectations are not listed: no helper works on connections to Services",
    "dying": "connections that have ended are not listed; -E -e DESTROY shows them as they end",
    "unconfirmed": "connections are listed once their first packet has passed",
}
"""Of the kernel."""
FORMS: Final = ("extended", "timestamp", "ktimestamp", "id", *DOCUMENTS)
TASK_FLAGS: Final[Flags] = {
    "list_them": Flag("--list", "--dump", "-L", help="List connections; the default."),
    "get": Flag("--get", "-G", help="Show the connection of -p, -s, -d, --sport and --dport."),
    "events": Flag("--event", "-E", help="Show what happens, until Ctrl-C."),
    "count": Flag("--count", "-C", help="Count connections."),
    "delete": Flag("--delete", "-D", help="End the connections that match, and list them."),
    "flush": Flag("--flush", "-F", help="End all connections."),
    "statistics": Flag("--stats", "-S", help="Show the counters of the table."),
    "mask": TextFlag(
        Flag(
            "--event-mask",
            "-e",
            help="NEW, UPDATES or DESTROY, with commas between.",
            words=("NEW", "UPDATES", "DESTROY"),
        ),
        parse_mask,
    ),
    "output": TextFlag(
        Flag(
            "--output",
            "-o",
            metavar="FORM",
            help="json, yaml; or extended, timestamp (of an event), ktimestamp (when it began), id,"
            " with commas between.",
            words=FORMS,
        ),
        parse_form,
    ),
}
TASKS: Final = ("list_them", "get", "events", "count", "delete", "flush", "statistics")


class ConntrackCommand(HabitCommand):
    """`kbe-nat conntrack`, whose -n, -g and -j may stand without an address."""

    refused: Mapping[str, str] = {
        **dict.fromkeys(
            ("-U", "--update"),
            "marks and timeouts are the kernel's: conntrack -U of conntrack-tools changes them",
        ),
        **dict.fromkeys(
            ("-I", "--create", "-A", "--add", "-R", "--load-file"),
            "connections begin by packets; conntrack of conntrack-tools enters others",
        ),
        **dict.fromkeys(("-b", "--buffer-size"), "the daemon listens to the kernel, not we"),
        **dict.fromkeys(("-w", "--zone"), "Services are served in the default zone alone"),
        **dict.fromkeys(("-l", "--label"), "labels of connections are not read"),
        **dict.fromkeys(("-c", "--secmark"), "security marks of connections are not read"),
        "-z": "counters only grow, as /metrics needs them",
        "--zero": "counters only grow, as /metrics needs them",
    }

    def __init__(self, name: str, function: Callable[..., Any], tables: dict[str, Flags]) -> None:
        super().__init__(name, function, tables)
        self.params.append(version_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class."""
        return super().parse_args(ctx, with_any(args))


@verb(kind=ConntrackCommand, task=TASK_FLAGS, flows=FILTER_FLAGS)
def conntrack(
    command: click.Context,
    names: Annotated[list[str], NAMES] = [],  # noqa: B006
    *,
    task: TaskSettings,
    flows: FlowFilter,
    socket: Socket = DEFAULT_SOCKET,
) -> int:
    """List, watch, count or end connections, in the format of conntrack-tools.

    -E shows each event with the state of its moment. With first-packet and cached the daemon hears
    of up to 5,000 changes a second (UPDATE); it misses no beginning (NEW) and no end (DESTROY).

    Examples:
      kbe-nat conntrack -L -p tcp --dport 80
      kbe-nat conntrack -L -f ipv4 -s 10.0.0.0/8 -u ASSURED -o extended,id
      kbe-nat conntrack -E svc/web -e NEW,DESTROY -o timestamp
      kbe-nat conntrack -L -q 10.0.2.2
      kbe-nat conntrack -D -s 10.0.2.15 --dport 80
    """
    # conntrack-tools name a table there, of which there is one here.
    if names[:1] and names[0] in OTHER_TABLES:
        raise SettingError("TABLE", OTHER_TABLES[names[0]])
    names = names[1:] if names[:1] == ["conntrack"] else names
    flows = flows.of_services(names)
    _check(command, task, flows)
    if task.events:
        _watch(socket, flows, task)
        return 0
    if task.statistics:
        _print_statistics(socket, task)
        return 0
    if task.flush:
        (ended,) = ask(socket, "flush", int)
        if task.document:
            show_document(FlowCountRow(ended), task.document)
        _say(f"connection tracking table has been emptied: {ended} flow entries.")
        return 0
    if task.delete:
        return _delete(socket, flows, task)
    rows = filter(flows.matches, ask_rows(socket, "flows", FlowRow, **flows.parameters()))
    if task.count:
        count = sum(1 for _ in rows)
        if task.document:
            show_document(FlowCountRow(count), task.document)
        else:
            print(count)
        return 0
    if task.get:
        return _get(rows, flows, task)
    if task.document:
        show_rows(rows, "Flow", task.document)
        return 0
    shown = 0
    for row in rows:
        print(line(row, form=task.output))
        shown += 1
    _say(f"{shown} flow entries have been shown.")
    return 0


def _check(command: click.Context, task: TaskSettings, flows: FlowFilter) -> None:
    """Raises `SettingError` for flags that contradict each other or have no effect."""
    tasks = [name for name in TASKS if getattr(task, name)]
    if len(tasks) > 1:
        flag = TASK_FLAGS[tasks[-1]]
        assert isinstance(flag, Flag)
        raise SettingError(
            flag_name(tasks[-1], flag), "only one of -L, -G, -E, -C, -D, -F and -S can be done"
        )
    if task.mask and not task.events:
        raise SettingError("--event-mask", "it has no effect without -E")
    if task.document and len(task.output) > 1:
        raise SettingError(
            "--output", f"{task.document.form} has all that there is, and stands alone"
        )
    if "timestamp" in task.output and not task.events:
        reason = "timestamp is of events (-E); ktimestamp shows when a connection began"
        raise SettingError("--output", reason)
    if (task.flush or task.statistics or task.count) and task.output - {*DOCUMENTS}:
        raise SettingError("--output", "where connections are counted it is text, json or yaml")
    if task.flush or task.statistics:
        reason = "-F ends all connections; -D ends those that match" if task.flush else "-S counts"
        refuse_on_command_line(
            command, parameter_names(FILTER_FLAGS), f"it has no effect: {reason}"
        )
        if flows.names:
            raise SettingError("NAME", f"it has no effect: {reason}")


def _get(rows: Iterator[FlowRow], flows: FlowFilter, task: TaskSettings) -> int:
    if not (flows.protocol and flows.source and flows.destination):
        raise SettingError(
            "--get", "say -p, -s and -d, and --sport and --dport where there are any"
        )
    row = next(rows, None)
    if row is None:
        _say("Operation failed: such conntrack doesn't exist")
        return NOTHING
    if task.document:
        show_document(row, task.document)
    else:
        print(line(row, form=task.output))
        _say("1 flow entries have been shown.")
    return 0


def _delete(socket: Path, flows: FlowFilter, task: TaskSettings) -> int:
    """The connections that match end: what is shown is what was ended."""
    if flows.is_empty():
        raise SettingError("-D", "say which; -F ends all of them")
    rows = list(filter(flows.matches, ask_rows(socket, "flows", FlowRow, **flows.parameters())))
    ended = 0
    for start in range(0, len(rows), AT_ONCE):
        page = rows[start : start + AT_ONCE]
        ends = [(row.protocol, row.source, row.destination) for row in page]
        ended += sum(ask(socket, "delete", int, flows=ends))
    if task.document:
        show_rows(rows, "Flow", task.document)
    else:
        for row in rows:
            print(line(row, form=task.output))
    _say(f"{ended} flow entries have been deleted.")
    return 0 if ended else NOTHING


def _print_statistics(socket: Path, task: TaskSettings) -> None:
    """As conntrack -S, but the engine's tables are of all processors."""
    (stats,) = ask(socket, "stats", StatsRow)
    if task.document:
        show_document(stats, task.document)
        return
    causes = {name: stats.causes.get(name, 0) for name in ("established", "new", "invalid")}
    print(
        f"entries={stats.entries} assured={stats.assured} found={causes['established']}"
        f" insert={causes['new']} invalid={causes['invalid']} expired={stats.expired}"
        f" early_drop={stats.evicted} drop={stats.actions.get('drop', 0)}"
        f" reject={stats.actions.get('reject', 0)}"
    )


def _say(text: str) -> None:
    print(f"kbe-nat conntrack: {text}", file=sys.stderr)


def line(row: FlowRow, event: str = "", form: frozenset[str] = frozenset()) -> str:
    """A connection as `conntrack -L` prints it; one that has ended has no timeout."""
    stamp = f"[{time.time():.6f}]\t" if "timestamp" in form and event else ""
    return stamp + " ".join(_words(row, event, form))


def _words(row: FlowRow, event: str, form: frozenset[str]) -> Iterator[str]:
    if event:
        yield f"{f'[{event}]':>9}"
    if "extended" in form:
        yield "ipv6     10" if family_of(row) is Family.IPV6 else "ipv4     2"
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
    kernel = row.kernel
    # As in conntrack's own lines, what the kernel does not tell is left out.
    if kernel is not None:
        for name, number in (("mark", kernel.mark), ("use", kernel.uses)):
            if number is not None:
                yield f"{name}={number}"
    if "ktimestamp" in form:
        yield f"[start={time.ctime(time.time() - row.age)}]"
    if "id" in form:
        yield f"id={_identity(row)}"


def _identity(row: FlowRow) -> int:
    """A number that a connection keeps: the kernel's, or one of its ends."""
    if row.kernel is not None and row.kernel.id is not None:
        return row.kernel.id
    ends = (row.protocol, row.source, row.destination, row.reply_source)
    return zlib.crc32(repr(ends).encode())


def _side(row: FlowRow, source: str, destination: str, direction: int) -> Iterator[str]:
    source_address, source_port = end_parts(source)
    destination_address, destination_port = end_parts(destination)
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


def _watch(socket: Path, flows: FlowFilter, task: TaskSettings) -> None:
    for event in ask(socket, "events", EventRow, names=list(flows.names)):
        # The daemon sends an empty event as a sign of life.
        if event.flow is None or not flows.matches(event.flow):
            continue
        if task.mask and event.event not in task.mask:
            continue
        if task.document:
            show_next(document_of(event), task.document)
        else:
            print(line(event.flow, event.event, task.output), flush=True)


AT_ONCE: Final = 1000
"""Connections that one request ends."""
NOTHING: Final = 1
"""The exit code where nothing was there to get or to delete."""
ECHO: Final = {"icmp": (8, 0), "icmpv6": (128, 129)}
"""Types of echo request and reply."""
