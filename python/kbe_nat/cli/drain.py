"""`kbe-nat drain`: let a backend's connections run out."""

import sys
from typing import Annotated

import click

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.options import Socket, refuse_on_command_line
from kbe_nat.cli.verb import verb
from kbe_nat.client import DEFAULT_SOCKET, ask
from kbe_nat.daemon.rows import DrainRow


@verb()
def drain(
    command: click.Context,
    backend: Annotated[str, Argument(help="ADDRESS or ADDRESS:PORT.")],
    deadline: Annotated[
        float | None,
        Flag(
            min=0,
            metavar="SECONDS",
            help="Seconds after which the connections that are left are ended. Default: never.",
        ),
    ] = None,
    no_wait: Annotated[bool, Flag("--no-wait", help="Do not wait until none is left.")] = False,
    undo: Annotated[bool, Flag("--undo", help="Give it new connections again.")] = False,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Give a backend no new connections, and count those that are left until there are none.

    Examples:
      kbe-nat drain 172.17.0.3 --deadline 60
      kbe-nat drain 172.17.0.3:8080 --no-wait
      kbe-nat drain 172.17.0.3 --undo
    """
    if undo:
        refuse_on_command_line(
            command, ["deadline", "no_wait"], "it has no effect: nothing is drained with --undo"
        )
        list(ask(socket, "undrain", type(None), backend=backend))
        print(f"{backend} gets new connections again")
        return
    is_terminal = sys.stdout.isatty()
    last = None
    parameters = {"backend": backend, "seconds": deadline, "is_followed": not no_wait}
    for row in ask(socket, "drain", DrainRow, **parameters):
        line = f"{backend}: {row.remaining} connections left after {row.seconds:.0f} s"
        if is_terminal:
            print(f"\r{line}\x1b[K", end="", flush=True)
        elif row.remaining != last:
            print(line, flush=True)
        last = row.remaining
    if is_terminal:
        print()
