"""Lists as kubectl writes them: a table, or rows as JSON, YAML, names, or by a JSONPath template.

A `Listing` says what a row's columns, name and kind are. As JSON a list is an object with
`apiVersion`, `kind` and `items`. While it is watched, the rows that differ from the look before
follow the list.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from shutil import get_terminal_size
from typing import Any, Final, Generic, TypeVar

import msgspec

from kbe_nat.cli.flags.listing import ListingSettings, Output, SelectionSettings
from kbe_nat.cli.jsonpath import Path
from kbe_nat.cli.output import API_VERSION, show_json, show_json_rows
from kbe_nat.cli.table import Table
from kbe_nat.errors import SettingError

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Column(Generic[_Row]):
    """A column of a table."""

    title: str
    cell: Callable[[_Row], object]
    is_wide: bool = False
    """Only -o wide shows it."""


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

    def show(
        self,
        look: Callable[[], Iterable[_Row]],
        settings: ListingSettings,
        where: str = "",
    ) -> None:
        """Write the rows of a look, and of later ones where they are watched. `where` says in the
        message about an empty list where it was looked for.
        """
        if settings.output.form == "name" and self.name is None:
            raise SettingError("--output", f"a {self.kind.lower()} has no name")
        if settings.is_watched:
            self._watch(look, settings)
            return
        rows = _sort(look(), settings.sort_by)
        form = settings.output.form
        if form == "json":
            show_json_rows(rows, self.kind)
        elif form in ("yaml", "jsonpath"):
            items = [msgspec.to_builtins(row) for row in rows]
            write_document(list_document(self.kind, items), settings.output)
        elif form == "name":
            assert self.name is not None
            for row in rows:
                print(self.name(row))
        else:
            self._print_table(rows, settings, where)

    def _columns(self, output: Output) -> list[Column[_Row]]:
        return [each for each in self.columns if output.form == "wide" or not each.is_wide]

    def table(self, rows: Iterable[_Row], output: Output) -> Table:
        """Rows as a table."""
        columns = self._columns(output)
        table = Table("", tuple(each.title for each in columns), 0, self.gap)
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

    def _watch(self, look: Callable[[], Iterable[_Row]], settings: ListingSettings) -> None:
        """Rows that are new, or whose cells have changed, once in a while."""
        before: dict[object, list[str]] = {}
        columns = self._columns(settings.output)
        widths: list[int] = []
        while True:
            rows = list(_sort(look(), settings.sort_by))
            cells = [[str(each.cell(row)) for each in columns] for row in rows]
            now = {_key(row): texts for row, texts in zip(rows, cells, strict=True)}
            if not widths and rows:
                titles = [] if settings.no_headers else [[each.title for each in columns]]
                widths = [max(map(len, column)) for column in zip(*titles, *cells, strict=True)]
                if settings.output.is_table and titles:
                    print(_line(titles[0], widths, self.gap))
            for row, texts in zip(rows, cells, strict=True):
                if before.get(_key(row)) != texts:
                    self._print_change(row, texts, widths, settings)
            sys.stdout.flush()
            before = now
            time.sleep(WATCH_SECONDS)

    def _print_change(
        self, row: _Row, texts: list[str], widths: Sequence[int], settings: ListingSettings
    ) -> None:
        form = settings.output.form
        if form == "json":
            show_json(
                {"apiVersion": API_VERSION, "kind": self.kind, **msgspec.to_builtins(row)}, None
            )
        elif form in ("yaml", "jsonpath"):
            write_document(msgspec.to_builtins(row), settings.output)
            if form == "yaml":
                print("---")
        elif form == "name":
            assert self.name is not None
            print(self.name(row))
        else:
            print(_line(texts, widths, self.gap))


def selection_parameters(settings: SelectionSettings, names: Sequence[str]) -> dict[str, object]:
    """What the daemon is asked for by names, namespace and labels. Raises `SettingError`."""
    if settings.is_everywhere and settings.namespace:
        raise SettingError("--all-namespaces", "it contradicts --namespace")
    if settings.is_everywhere and any("/" not in name for name in names):
        raise SettingError("--all-namespaces", "a name is of one namespace: NAMESPACE/NAME")
    if names and settings.selector:
        raise SettingError("--selector", "names are selected already")
    wanted = {
        "names": list(names),
        "namespace": settings.namespace,
        "selector": settings.selector,
    }
    return {name: value for name, value in wanted.items() if value}


def place_of(settings: SelectionSettings) -> str:
    """Where an empty list was looked for."""
    return f" in {settings.namespace} namespace" if settings.namespace else ""


def list_document(kind: str, items: list[Any]) -> dict[str, Any]:
    """A list as JSON has it."""
    return {"apiVersion": API_VERSION, "kind": f"{kind}List", "items": items}


def write_document(document: Any, output: Output) -> None:  # noqa: ANN401
    """A value of JSON, as JSON, YAML, or by a template."""
    if output.template is not None:
        sys.stdout.write(output.template.render(document))
        # kubectl writes no line feed, either.
    elif output.form == "yaml":
        from kbe_nat.kubeproxy.yaml_text import yaml_text

        sys.stdout.write(yaml_text(document))
    else:
        print(json.dumps(document, indent=2))


def _lines(table: Table, settings: ListingSettings) -> Iterator[str]:
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    lines = table.lines(width)
    if settings.no_headers:
        next(lines)
    yield from lines


def _line(texts: Sequence[str], widths: Sequence[int], gap: int) -> str:
    cells = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
    return (" " * gap).join(cells).rstrip()


def _sort(rows: Iterable[_Row], path: Path | None) -> Iterable[_Row]:
    """Raises `SettingError` for a field that no row has."""
    if path is None:
        return rows
    rows = list(rows)
    if rows and not any(path.values(msgspec.to_builtins(row)) for row in rows):
        raise SettingError("--sort-by", "no row has such a field; -o json shows their fields")
    return sorted(rows, key=lambda row: _rank(row, path))


def _rank(row: object, path: Path) -> tuple[int, float, str]:
    """Rows without the field come first, then numbers, then texts."""
    values = path.values(msgspec.to_builtins(row))
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
WATCH_SECONDS: Final = 1.0
"""Between two looks."""
