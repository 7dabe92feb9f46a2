"""How results reach the terminal: tables for people, JSON for programs."""

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

from kbe_nat.cli.flags.options import warn

_Row = TypeVar("_Row")


def show(*parts: RenderableType) -> None:
    """Write tables and texts to standard output, as wide as the terminal is."""
    is_terminal = sys.stdout.isatty()
    console = Console(markup=False, highlight=False, width=None if is_terminal else FILE_WIDTH)
    # By way of a text: a reader that goes away is then met as everywhere else, by BrokenPipeError.
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))


def show_json(value: object, indent: int | None = 2) -> None:
    """Write a value or a struct as JSON, indented, or on one line without `indent`."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(value), indent=indent) + "\n")
    sys.stdout.flush()


def show_json_rows(rows: Iterable[object]) -> None:
    """Write a list as `show_json` does, each row as it comes."""
    before = "[\n"
    for row in rows:
        sys.stdout.write(
            before + textwrap.indent(json.dumps(msgspec.to_builtins(row), indent=2), "  ")
        )
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
    sys.stdout.flush()


def seen(rows: Iterable[_Row], name: str) -> Iterator[_Row]:
    """The rows. Where a name was asked for and there are none, that is said: it may be mistyped."""
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    if is_empty and name:
        warn(f"{name}: nothing is there under this name")


def table(title: str, *columns: str, right: int = 0) -> Table:
    """An empty table; its last `right` columns hold numbers."""
    empty = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for place, column in enumerate(columns):
        is_number = place >= len(columns) - right
        empty.add_column(column, justify="right" if is_number else "left", overflow="fold")
    return empty


def traffic(packets: tuple[int, int] | None, octets: tuple[int, int] | None) -> list[str]:
    """Packets there and back, and bytes there and back; dashes where they are not counted."""
    if packets is None or octets is None:
        return ["-"] * 4
    return list(map(str, (*packets, *octets)))


class Quantiles(Protocol):
    """Of connect times, in seconds."""

    p50: float
    p99: float


def connect(times: Quantiles | None) -> list[str]:
    """Half of the connections were answered within the first, 99 % within the second; dashes where
    none was measured.
    """
    if times is None:
        return ["-"] * 2
    milliseconds = [each * 1000 for each in (times.p50, times.p99)]
    return [f"{each:.0f} ms" if each >= 10 else f"{each:.2g} ms" for each in milliseconds]


FILE_WIDTH = 160
