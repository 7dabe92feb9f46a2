"""`kbe-nat drain`: let the connections of backends run out."""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Annotated

import click

from kbe_nat.cli.destination import is_name
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import (
    DOCUMENT_FLAGS,
    NAMESPACE_FLAG,
    DocumentSettings,
    Output,
)
from kbe_nat.cli.flags.options import Socket, refuse_on_command_line, warn
from kbe_nat.cli.kinds import ServiceName, in_namespace
from kbe_nat.cli.output import document_of, show_next
from kbe_nat.cli.table import cut
from kbe_nat.cli.terminal import is_drawn_on, terminal_width
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.counting import counted
from kbe_nat.daemon.rows import DrainRow


@verb(document=DOCUMENT_FLAGS)
def drain(
    command: click.Context,
    backends: Annotated[
        list[str],
        Argument(
            help="ADDRESS or ADDRESS:PORT; or a Service, as NAME or svc/NAME, of which all backends"
            " are meant.",
            metavar="BACKEND",
            type=ServiceName("backends"),
        ),
    ],
    deadline: Annotated[
        float | None,
        Flag(
            min=0,
            is_duration=True,
            help="After how long the connections that are left are ended. Default: never.",
        ),
    ] = None,
    no_wait: Annotated[bool, Flag("--no-wait", help="Do not wait until none is left.")] = False,
    undo: Annotated[bool, Flag("--undo", help="Give them new connections again.")] = False,
    namespace: Annotated[str, NAMESPACE_FLAG] = "",
    *,
    document: DocumentSettings,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Give backends no new connections, and count those that are left until there are none.

    The drain stays when the command ends, also by Ctrl-C: until --undo, or the end of the daemon.
    kbe-nat get status lists what is drained, get svc says how many endpoints of a Service are, and
    get endpoints says it of each backend. Where no other endpoint is left, new connections are
    rejected. Where one of several names is of nothing, none is drained. --undo of an address is for
    all its ports, and of what is not drained no error.

    Examples:
      kbe-nat drain 172.17.0.3 --deadline 60s
      kbe-nat drain 172.17.0.3:8080 172.17.0.4:8080 --no-wait
      kbe-nat drain svc/web -o json
      kbe-nat get status -o jsonpath='{.drains}'
      kbe-nat drain 172.17.0.3 --undo
    """
    output = document.output
    names = [in_namespace(each, namespace) if is_name(each) else each for each in backends]
    names = list(dict.fromkeys(names))
    if not any(map(is_name, backends)):
        refuse_on_command_line(command, ["namespace"], "it has no effect on an address")
    if undo:
        refuse_on_command_line(
            command, ["deadline", "no_wait"], "it has no effect: nothing is drained with --undo"
        )
        _undo(socket, names, output)
        return
    parameters = {"backends": names, "seconds": deadline, "is_followed": not no_wait}
    try:
        _print_looks(ask(socket, "drain", list[DrainRow], **parameters), output)
    except KeyboardInterrupt:
        warn(_way_back(names, socket))
        raise


def _undo(socket: Path, names: list[str], output: Output) -> None:
    (rows,) = ask(socket, "undrain", list[DrainRow], backends=names)
    for row in rows:
        if output.is_document:
            show_next(document_of(row), output)
        elif row.was_drained:
            print(f"{row.backend} gets new connections again")
        else:
            print(f"{row.backend} was not drained: nothing to undo")


def _way_back(names: list[str], socket: Path) -> str:
    elsewhere = "" if socket == DEFAULT_SOCKET else f" --socket {quote(str(socket))}"
    word = "stays" if len(names) == 1 else "stay"
    undoing = f"kbe-nat drain {' '.join(map(quote, names))} --undo{elsewhere}"
    return f"{', '.join(names)} {word} drained; to undo it: {undoing}"


def _print_looks(looks: Iterable[list[DrainRow]], output: Output) -> None:
    """A look has one row for each name."""
    is_terminal = is_drawn_on() and output.is_table
    before: dict[str, int] = {}
    said: set[str] = set()
    rows: list[DrainRow] = []
    for rows in looks:
        unserved = dict.fromkeys(name for row in rows for name in row.unserved)
        for name in unserved:
            if name not in said:
                warn(f"no endpoint is left for {name}: new connections will be rejected")
        said = {*unserved}
        if is_terminal:
            line = cut("; ".join(map(_line, rows)), terminal_width(), 0)
            print(f"\r{line}\x1b[K", end="", flush=True)
            continue
        for row in rows:
            if output.is_document:
                show_next(document_of(row), output)
            elif row.remaining != before.get(row.backend):
                print(_line(row), flush=True)
            before[row.backend] = row.remaining
    if is_terminal:
        # The line that changed may have been too narrow for all of them.
        print("\r\x1b[K" + "\n".join(map(_line, rows)))


def _line(row: DrainRow) -> str:
    connections = counted(row.remaining, "connection")
    return f"{row.backend}: {connections} left after {row.seconds:.0f} s"
