"""`kbe-nat drain`: let a backend's connections run out."""

from collections.abc import Iterable, Sequence
from shlex import quote
from typing import Annotated

import click

from kbe_nat.cli.destination import is_name
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import NAMESPACE_FLAG
from kbe_nat.cli.flags.options import Format, OutputFormat, Socket, refuse_on_command_line, warn
from kbe_nat.cli.kinds import ServiceName, in_namespace
from kbe_nat.cli.output import show_document
from kbe_nat.cli.terminal import is_drawn_on
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.daemon.rows import DrainRow


@verb()
def drain(
    command: click.Context,
    backend: Annotated[
        str,
        Argument(
            help="ADDRESS or ADDRESS:PORT; or a Service, as NAME or svc/NAME, of which all backends"
            " are meant.",
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
    undo: Annotated[bool, Flag("--undo", help="Give it new connections again.")] = False,
    namespace: Annotated[str, NAMESPACE_FLAG] = "",
    *,
    output: OutputFormat = Format.TEXT,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Give a backend no new connections, and count those that are left until there are none.

    The drain stays when the command ends, also by Ctrl-C: until --undo, or the end of the daemon.
    kbe-nat get status lists what is drained, and kbe-nat get endpoints says it of each backend.
    Where no other endpoint is left, new connections are rejected.

    Examples:
      kbe-nat drain 172.17.0.3 --deadline 60s
      kbe-nat drain 172.17.0.3:8080 --no-wait
      kbe-nat drain svc/web -o json
      kbe-nat get status -o jsonpath='{.drains}'
      kbe-nat drain 172.17.0.3 --undo
    """
    if is_name(backend):
        backend = in_namespace(backend, namespace)
    else:
        refuse_on_command_line(command, ["namespace"], "it has no effect on an address")
    if undo:
        refuse_on_command_line(
            command, ["deadline", "no_wait"], "it has no effect: nothing is drained with --undo"
        )
        (row,) = ask(socket, "undrain", DrainRow, backend=backend)
        if output is Format.JSON:
            show_document(row, indent=None)
        else:
            print(f"{backend} gets new connections again")
        return
    parameters = {"backend": backend, "seconds": deadline, "is_followed": not no_wait}
    try:
        _print_rows(ask(socket, "drain", DrainRow, **parameters), output)
    except KeyboardInterrupt:
        elsewhere = "" if socket == DEFAULT_SOCKET else f" --socket {quote(str(socket))}"
        undoing = f"kbe-nat drain {quote(backend)} --undo{elsewhere}"
        warn(f"{backend} stays drained; to undo it: {undoing}")
        raise


def _print_rows(rows: Iterable[DrainRow], output: Format) -> None:
    is_terminal = is_drawn_on() and output is not Format.JSON
    last = None
    said: Sequence[str] = ()
    for row in rows:
        for name in row.unserved:
            if name not in said:
                warn(f"no endpoint is left for {name}: new connections will be rejected")
        said = row.unserved
        count = "1 connection" if row.remaining == 1 else f"{row.remaining} connections"
        line = f"{row.backend}: {count} left after {row.seconds:.0f} s"
        if output is Format.JSON:
            show_document(row, indent=None)
        elif is_terminal:
            print(f"\r{line}\x1b[K", end="", flush=True)
        elif row.remaining != last:
            print(line, flush=True)
        last = row.remaining
    if is_terminal:
        print()
