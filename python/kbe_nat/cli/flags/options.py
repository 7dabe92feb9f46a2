"""Flags that several verbs share, and what they are turned into."""

import sys
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, TypeAlias, TypeVar

import typer
from typer.models import OptionInfo

from kbe_nat.errors import FileError, SettingError
from kbe_nat.model import Snapshot, Strategy
from kbe_nat.sources.address import parse_range
from kbe_nat.sources.manifests.defaults import POD_RANGE
from kbe_nat.sources.manifests.manifests import read_manifests

_T = TypeVar("_T")
_Given = TypeVar("_Given")


class Format(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


ObjectFiles: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--filename",
        "-f",
        help="File or directory of Kubernetes objects, or - for standard input; repeatable.",
    ),
]
STRATEGY_FLAG: Final[OptionInfo] = typer.Option(
    "--strategy", help="How backends are chosen for Services without the annotation."
)
DefaultStrategy: TypeAlias = Annotated[Strategy, STRATEGY_FLAG]
SEED_FLAG: Final[OptionInfo] = typer.Option(
    "--seed", min=0, max=2**64 - 1, help="Makes random choices repeatable."
)
Seed: TypeAlias = Annotated[int | None, SEED_FLAG]
POD_RANGE_FLAG: Final[OptionInfo] = typer.Option(
    "--pod-range", help="Where Pods get addresses that a controller has but no object shows."
)
PodRange: TypeAlias = Annotated[str, POD_RANGE_FLAG]
Strict: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--strict/--lenient",
        help="Whether a wrong object or an unreadable file of a directory is an error, or left out.",
    ),
]
SOCKET_FLAG: Final[OptionInfo] = typer.Option(
    # Not readable: the daemon's own words come when it must not be asked.
    "--socket",
    envvar="KBE_NAT_SOCKET",
    help="Control socket of the daemon.",
    readable=False,
)
Socket: TypeAlias = Annotated[Path, SOCKET_FLAG]
SOCKET: Final = Path("/run/kbe-nat/control.sock")
OutputFormat: TypeAlias = Annotated[
    Format, typer.Option("--output", "-o", help="How the result is written.")
]


def read_objects(
    files: list[str],
    pod_range: str = POD_RANGE,
    *,
    is_strict: bool = True,
    needs_service: bool = False,
) -> Snapshot:
    """The snapshot of these files. Notes go to standard error, one line each, and so does what is
    left out. A cluster may be without Services, but for who `needs_service`.

    Raises the last of the errors when anything is wrong and `is_strict`, or a Service is needed and
    only refused objects are there; `FileError` when nothing is, and as `read_manifests` does.
    """
    update = read_manifests(files, pod_range=parse(parse_range, pod_range, "--pod-range"))
    snapshot = update.snapshot
    lacks_service = not snapshot.services
    errors = update.errors
    if errors and (is_strict or (lacks_service and needs_service)):
        warn(*map(str, errors[:-1]))
        raise errors[-1]
    nothing = f"{', '.join(files)}: there is no Service in it"
    if lacks_service and needs_service:
        raise FileError(nothing)
    warn(*map(str, errors), *update.notes, *([nothing] if lacks_service else ()))
    return snapshot


def refuse_given(context: typer.Context, names: Iterable[str], reason: str) -> None:
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
