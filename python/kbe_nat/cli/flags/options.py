"""Flags that several verbs share, and what they are turned into."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import click

from kbe_nat.cli.flags.flag import Flag
from kbe_nat.errors import SettingError

_T = TypeVar("_T")
_Given = TypeVar("_Given")


STRATEGY_FLAG: Final[Flag] = Flag(
    "--strategy", help="How backends are chosen for Services without the annotation."
)
SEED_FLAG: Final[Flag] = Flag(
    "--seed", min=0, max=2**64 - 1, help="Makes random choices repeatable."
)
POD_RANGE_FLAG: Final[Flag] = Flag(
    "--pod-range", help="Address range of Pods that a controller implies but no object lists."
)
SOCKET_FLAG: Final[Flag] = Flag(
    # Not readable: the daemon's own words come when it must not be asked.
    "--socket",
    envvar="KBE_NAT_SOCKET",
    help="Control socket of the daemon; the variable KBE_NAT_SOCKET says it too.",
)
Socket: TypeAlias = Annotated[Path, SOCKET_FLAG]


def refuse_on_command_line(context: click.Context, names: Iterable[str], reason: str) -> None:
    """Raises `SettingError` when one of these parameters stands on the command line: a flag that
    has no effect is a mistake of somebody who expects one.
    """
    flags = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SettingError(flags[name], reason)


def parse(parser: Callable[[_Given], _T], text: _Given, flag: str) -> _T:
    """The parsed value of a flag. Raises `SettingError`."""
    try:
        return parser(text)
    except ValueError as error:
        raise SettingError(flag, str(error)) from None


def split(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def warn(*lines: str) -> None:
    """Lines for people, beside the result."""
    for line in lines:
        print("kbe-nat:", line, file=sys.stderr)
