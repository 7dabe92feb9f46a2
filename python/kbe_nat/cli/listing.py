"""Lists as kubectl writes them: a table, or rows as JSON, YAML, names, or by a JSONPath template.

A `Listing` says what a row's columns, name and kind are. As JSON a list is an object with
`apiVersion`, `kind` and `items`; the only row of the only name is the object itself, as with
kubectl. While a list is watched, the rows that differ from the look before follow it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import msgspec

from kbe_nat.cli.flags.listing import ListingSettings, Output, SelectionSettings
from kbe_nat.cli.flags.options import warn
from kbe_nat.cli.jsonpath import Path, nearest_field
from kbe_nat.cli.kinds import in_namespace
from kbe_nat.cli.output import (
    API_VERSION,
    document_of,
    list_document,
    show_next,
    show_rows,
    write_document,
)
from kbe_nat.cli.table import Table, cut, fitting
from kbe_nat.cli.terminal import terminal_width
from kbe_nat.daemon.rows import WatchEventRow
from kbe_nat.errors import NotFoundError, SettingError

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Column(Generic[_Row]):
    """A column of a table."""

    title: str
    cell: Callable[[_Row], object]
    is_wide: bool = False
    """Only -o wide shows it."""
    is_clock: bool = False
    """It changes by itself as time passes."""


@dataclass(frozen=True)
class Listing(Generic[_Row]):
    """What is listed, and how."""

    kind: str
    """Of a row in JSON, such as Service."""
    columns: tuple[Column[_Row], ...]
    name: Callable[[_Row], str] | None = None
    """Of a row for -o name, as KIND/NAME; None where rows have none."""
    gap: int = 2
    """Blanks between columns."""
    spare: tuple[str, ...] = ()
    """Columns that a narrow terminal leaves out, the first of them first."""

    labels: Callable[[_Row], str] | None = None
    """Of a row, for --show-labels; None where they are not known."""

    is_one_row: bool = False
    """A name may be of one row, which is the document then."""

    def show(
        self,
        look: Callable[[], Iterable[_Row]],
        settings: ListingSettings,
        where: str = "",
        names: Sequence[str] = (),
    ) -> None:
        """Write the rows of a look, and of later ones where they are watched. `where` says in the
        message about an empty list where it was looked for, and `names` what was asked for. Raises
        `NotFoundError` behind the rows that there are.
        """
        if settings.output.form == "name" and self.name is None:
            raise SettingError("--output", f"a {self.kind.lower()} has no name")
        if settings.shows_events and not settings.is_watched:
            raise SettingError("--output-watch-events", "it has no effect without --watch")
        if settings.shows_labels:
            listing = self._with_labels(settings.output)
            listing.show(look, replace(settings, shows_labels=False), where, names)
            return
        if settings.is_watched:
            self._watch(look, settings)
            return
        result = _PartialRows(look())
        rows: Iterable[_Row] = result
        if names:
            rows = list(rows)
            # Where none of the names is of anything, there is nothing to write.
            if not rows and result.missing:
                _say_missing(result.missing, settings)
                return
            if self.is_one_row and len(names) == len(rows) == 1 and settings.output.is_object:
                write_document(self.document(rows[0]), settings.output)
                return
        self._write(_sort(rows, settings.sort_by), settings, where)
        _say_missing(result.missing, settings)

    def _write(self, rows: Iterable[_Row], settings: ListingSettings, where: str) -> None:
        if settings.output.is_document:
            show_rows(rows, self.kind, settings.output)
        elif settings.output.form == "name":
            assert self.name is not None
            for row in rows:
                print(self.name(row))
        else:
            self._print_table(rows, settings, where)

    def documents(
        self, look: Callable[[], Iterable[_Row]], settings: ListingSettings
    ) -> Iterator[dict[str, Any]]:
        """The rows of a look, each as JSON has it alone. Raises `NotFoundError` behind them."""
        result = _PartialRows(look())
        yield from map(self.document, _sort(result, settings.sort_by))
        _say_missing(result.missing, settings)

    def _with_labels(self, output: Output) -> "Listing[_Row]":
        """With a column for labels. Raises `SettingError` where rows have none."""
        if self.labels is None:
            raise SettingError("--show-labels", f"of a row of kind {self.kind} no labels are known")
        if not output.is_table:
            raise SettingError("--show-labels", "it has no effect: all fields are there")
        return replace(self, columns=(*self.columns, Column("labels", self.labels)))

    def document(self, row: _Row) -> dict[str, Any]:
        """A row alone, as JSON has it."""
        return {"apiVersion": API_VERSION, "kind": self.kind, **msgspec.to_builtins(row)}

    def shown_columns(self, output: Output) -> list[Column[_Row]]:
        """The columns of a table in this form."""
        return [each for each in self.columns if output.form == "wide" or not each.is_wide]

    def left_out(self, output: Output) -> tuple[str, ...]:
        """The columns that a narrow terminal leaves out of a table in this form: none of those that
        were asked for by -o wide.
        """
        return () if output.form == "wide" else self.spare

    def table(self, rows: Iterable[_Row], output: Output) -> Table:
        """Rows as a table."""
        columns = self.shown_columns(output)
        titles = tuple(each.title for each in columns)
        table = Table("", titles, gap=self.gap, spare=self.left_out(output))
        for row in rows:
            table.add_row(*(str(each.cell(row)) for each in columns))
        return table

    def _print_table(self, rows: Iterable[_Row], settings: ListingSettings, where: str) -> None:
        table = self.table(rows, settings.output)
        if not table.row_count:
            print(f"No resources found{where}.", file=sys.stderr)
            return
        for line in _lines(table, settings):
            print(line)
        warn_of_room(table.left_out(_room(settings.output)))

    def _watch(self, look: Callable[[], Iterable[_Row]], settings: ListingSettings) -> None:
        """Rows that are new, have changed or are gone, once in a while."""
        columns = self.shown_columns(settings.output)
        printer = _ChangePrinter(self, columns, settings)
        before: dict[object, _Seen[_Row]] = {}
        is_first = True
        while True:
            result = _PartialRows(look())
            rows = list(_sort(result, settings.sort_by))
            # As with kubectl, what is watched has to be there once.
            if is_first and result.missing:
                raise result.missing
            is_first = False
            now = {_key(row): self.seen(row, columns, settings) for row in rows}
            printer.begin([seen.cells for seen in now.values()])
            for key, seen in before.items():
                if key not in now:
                    printer.print("DELETED", seen)
            for key, seen in now.items():
                earlier = before.get(key)
                if earlier is None or earlier.facts != seen.facts:
                    printer.print("ADDED" if earlier is None else "MODIFIED", seen)
            sys.stdout.flush()
            before = now
            time.sleep(WATCH_SECONDS)

    def seen(
        self, row: _Row, columns: Sequence[Column[_Row]], settings: ListingSettings
    ) -> "_Seen[_Row]":
        """A row, and what of it counts as a change: of a table what is in it, else all; but no
        time that passes by itself.
        """
        cells = [str(each.cell(row)) for each in columns]
        if settings.output.is_table:
            facts: object = [
                cell for cell, each in zip(cells, columns, strict=True) if not each.is_clock
            ]
        else:
            fields = msgspec.to_builtins(row)
            facts = {name: value for name, value in fields.items() if name not in CLOCKS}
        return _Seen(row, cells, facts)


class _PartialRows(Generic[_Row]):
    """Rows as they come, and the names behind them that are of nothing."""

    def __init__(self, rows: Iterable[_Row]) -> None:
        self._rows = iter(rows)
        self.missing: NotFoundError | None = None

    def __iter__(self) -> Iterator[_Row]:
        try:
            yield from self._rows
        except NotFoundError as error:
            self.missing = error


@dataclass(frozen=True, slots=True)
class _Seen(Generic[_Row]):
    """A row at a look."""

    row: _Row
    cells: list[str]
    facts: object
    """By which it is told whether it has changed."""


class _ChangePrinter(Generic[_Row]):
    """Writes rows one by one; the columns are as wide as those of the first ones."""

    def __init__(
        self, listing: Listing[_Row], columns: Sequence[Column[_Row]], settings: ListingSettings
    ) -> None:
        self._listing = listing
        self._titles = [each.title for each in columns]
        self._settings = settings
        self._widths: list[int] = []
        self._shown: list[int] = []
        """The places of the columns for which there is room."""

    def begin(self, rows: Sequence[list[str]]) -> None:
        """The names of the columns, ahead of the first rows that there are."""
        if self._widths or not rows:
            return
        titles = [] if self._settings.no_headers else [self._titles]
        self._widths = [max(map(len, column)) for column in zip(*titles, *rows, strict=True)]
        spare = [
            self._titles.index(title) for title in self._listing.left_out(self._settings.output)
        ]
        width = _room(self._settings.output)
        room = None if width is None else width - len(self._word(""))
        self._shown = fitting(self._widths, spare, self._listing.gap, room)
        if not self._settings.output.is_table:
            return
        shown = self._shown
        warn_of_room([title for place, title in enumerate(self._titles) if place not in shown])
        if titles:
            self._print_line("EVENT", self._titles)

    def print(self, event: str, seen: _Seen[_Row]) -> None:
        """A row that has come, changed or gone. Without the word for it the last of these looks as
        the others do, as with kubectl.
        """
        output, listing = self._settings.output, self._listing
        if output.is_table:
            self._print_line(event, seen.cells)
            return
        if output.form == "name":
            assert listing.name is not None
            print(listing.name(seen.row))
            return
        document = listing.document(seen.row)
        if self._settings.shows_events:
            document = document_of(WatchEventRow(event, document))
        show_next(document, output)

    def _print_line(self, event: str, cells: Sequence[str]) -> None:
        gap = self._listing.gap
        cells = [cells[place].ljust(self._widths[place]) for place in self._shown]
        last_start = sum(len(cell) + gap for cell in cells[:-1])
        line = self._word(event) + (" " * gap).join(cells).rstrip()
        print(cut(line, _room(self._settings.output), last_start + len(self._word(""))))

    def _word(self, event: str) -> str:
        return f"{event:<10}" if self._settings.shows_events else ""


def show_kinds(
    things: Mapping[str, Sequence[str]],
    settings: ListingSettings,
    show: Callable[[str, Sequence[str]], None],
    documents: Callable[[str, Sequence[str]], Iterable[dict[str, Any]]],
) -> int:
    """Show the things of each kind, by names or all of them: tables with a blank line between
    kinds, or as kubectl has it, one List of the `documents` of all of them. Returns the exit code:
    1 where either function has raised `NotFoundError`, which is said behind what there is. Raises
    `SettingError` where kinds cannot be watched together.
    """
    if len(things) > 1 and settings.is_watched:
        raise SettingError("--watch", "one kind can be watched at a time")
    is_list = len(things) > 1 and settings.output.is_document
    missing: list[NotFoundError] = []
    items: list[dict[str, Any]] = []
    for place, (kind, names) in enumerate(things.items()):
        if place and settings.output.is_table:
            print()
        try:
            if not is_list:
                show(kind, names)
                continue
            for document in documents(kind, names):
                items.append(document)
        except NotFoundError as error:
            missing.append(error)
    if is_list and (items or not missing):
        write_document(list_document("", items), settings.output)
    sys.stdout.flush()
    for each in missing:
        print(each, file=sys.stderr)
    return 1 if missing else 0


def warn_of_room(left_out: Sequence[str]) -> None:
    """Say which columns a narrow terminal has no room for."""
    if left_out:
        sys.stdout.flush()
        warn(f"no room for {', '.join(left_out)}: -o wide shows them, a pipe too")


def selection_parameters(settings: SelectionSettings, names: Sequence[str]) -> dict[str, object]:
    """What the daemon is asked for by names, namespace and labels. Raises `SettingError`."""
    if settings.is_everywhere and settings.namespace:
        raise SettingError("--all-namespaces", "it contradicts --namespace")
    if settings.is_everywhere and any("/" not in name for name in names):
        raise SettingError("--all-namespaces", "a name is of one namespace: NAMESPACE/NAME")
    if names and settings.selector:
        raise SettingError("--selector", "names are selected already")
    for name in names:
        in_namespace(name, settings.namespace)
    wanted = {
        "names": list(names),
        "namespace": settings.namespace,
        "selector": settings.selector,
    }
    return {name: value for name, value in wanted.items() if value}


def place_of(settings: SelectionSettings) -> str:
    """Where an empty list was looked for."""
    return f" in {settings.namespace} namespace" if settings.namespace else ""


def _room(output: Output) -> int | None:
    """The width of lines; None: any. Whoever asks for all columns gets all of them."""
    return None if output.form == "wide" else terminal_width()


def _say_missing(missing: NotFoundError | None, settings: ListingSettings) -> None:
    """Raises it, unless what is not there is no error."""
    if missing and not settings.ignores_missing:
        raise missing


def _lines(table: Table, settings: ListingSettings) -> Iterator[str]:
    lines = table.lines(_room(settings.output))
    if settings.no_headers:
        next(lines)
    yield from lines


def _sort(rows: Iterable[_Row], path: Path | None) -> Iterable[_Row]:
    """Raises `SettingError` for a field that no row has."""
    if path is None:
        return rows
    rows = list(rows)
    if rows and not any(_values(row, path) for row in rows):
        fields = dict.fromkeys(name for row in rows for name in msgspec.to_builtins(row))
        raise SettingError("--sort-by", f"no row has {path.text}{nearest_field(path.text, fields)}")
    return sorted(rows, key=lambda row: _rank(row, path))


def _values(row: object, path: Path) -> list[Any]:
    """What the path leads to; nothing where a list of the row is too short for it."""
    try:
        return path.values(msgspec.to_builtins(row))
    except ValueError:
        return []


def _rank(row: object, path: Path) -> tuple[int, float, str]:
    """Rows without the field come first, then numbers, then texts."""
    values = _values(row, path)
    value = values[0] if values else None
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float):
        return 1, value, ""
    return 2, 0.0, value if isinstance(value, str) else json.dumps(value)


def _key(row: Any) -> object:  # noqa: ANN401
    """What stays of a row while its counters change: its texts and addresses."""
    fields = msgspec.to_builtins(row)
    return json.dumps([fields.get(name) for name in IDENTITY])


IDENTITY: Final = (
    "name",
    "service",
    "family",
    "backend",
    "protocol",
    "source",
    "destination",
    "sequence",
)
"""Fields that tell a row from the others of its kind."""
CLOCKS: Final = ("timeout", "age", "seconds")
"""Fields that change by themselves as time passes."""
WATCH_SECONDS: Final = 1.0
"""Between two looks."""
