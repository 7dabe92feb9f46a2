"""The rows of a table as what a plot shows: panels, lines, points with intervals.

It reads any table of a run: columns of cells are told from measured ones by the data dictionary, so
a new table, or a new axis of comparison, needs no code here. Rows pass one by one; the memory that
is taken is that of the points, at most `MOMENTS` for a line over time.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple, TypeAlias

from kbe_nat.lab.live.cells import IDLE
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.plots.catalog import Kind, Plot
from kbe_nat.lab.result import Result
from kbe_nat.lab.statistics import Range, estimate, median_interval
from kbe_nat.lab.tables import Column


class Point(NamedTuple):
    """A value with its interval, and the repeats that it is the mean of."""

    middle: float
    low: float
    high: float
    samples: tuple[float, ...]


class Line(NamedTuple):
    """What one strategy, or one combination of cells' columns, shows."""

    label: str
    group: str
    """Its last column that varies, if not the only one: marks of a group look alike."""
    points: Mapping[float, Point]
    """By the value of `x`; 0 where a plot has none."""
    reference: Mapping[float, float]


class Panel(NamedTuple):
    """Axes of a plot."""

    title: str
    lines: Mapping[str, Sequence[Line]]
    """By measured column. All have the same labels in the same order."""
    unit: str = ""
    """Of its measures, where the table has a column of units."""


class Drawing(NamedTuple):
    """A plot with its data."""

    plot: Plot
    kind: Kind
    x: Column | None
    panels: Sequence[Panel]
    note: str
    """What was left out, or added up; empty when nothing was."""
    columns: Mapping[str, Column]
    """The dictionary of its table."""


def drawing(results: Sequence[Result], plot: Plot) -> Drawing | None:
    """A plot of one run, or of several beside each other; None where it would show nothing."""
    if not all(plot.table in result.tables for result in results):
        return None
    first = results[0]
    dictionary = {column.name: column for column in first.catalogue.tables[plot.table]}
    if not {*plot.y, *plot.panel, *plot.where} <= dictionary.keys():
        # Another kind of run has another table of this name.
        return None
    varied = [name for name in first.catalogue.varied if name not in (plot.x, *plot.panel)]
    keys = [DIRECTORY] * (len(results) > 1) + varied
    ranges = {name: column.range for name, column in dictionary.items()}
    table = _Table(plot, results, keys, ranges)
    labels = _run_labels(results)
    for place, result in enumerate(results):
        names = {DIRECTORY: labels[place]}
        for row in result.rows(plot.table):
            table.add(place, row | names)
    kind, x = plot.kind, dictionary.get(plot.x)
    if kind in ("dots", "bars"):
        # A strategy's values over a field of numbers are a curve.
        x = next((dictionary[name] for name in table.varied_numbers()), None)
        if x is not None:
            kind = "curves"
            table.spread(x.name)
    if plot.is_share:
        note = table.range_over_panels()
    else:
        note = table.merge_panels() if plot.is_total else table.cut_panels()
    panels = table.panels()
    if not panels or (kind == "curves" and table.is_at_one_place()):
        return None
    return Drawing(plot, kind, x, panels, note, dictionary)


class _Key(NamedTuple):
    """A place in a table's plot."""

    panel: tuple[Any, ...]
    line: tuple[Any, ...]
    measure: str
    place: float


_Measures: TypeAlias = dict[str, dict[tuple[Any, ...], dict[float, Point]]]
"""Points by measure, line and place."""


class _Sum:
    """Rows of one repeat at one place."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0


class _Table:
    """Rows by panel, line, measure, place and repeat."""

    def __init__(
        self,
        plot: Plot,
        results: Sequence[Result],
        keys: Sequence[str],
        ranges: Mapping[str, Range],
    ) -> None:
        first = results[0]
        self._plot, self._keys, self._ranges = plot, list(keys), ranges
        self._width = _bin_width(plot, first)
        self._named = _named_keys(results, keys)
        scenario = first.scenario
        choices = scenario.choices if isinstance(scenario, LiveScenario) else []
        self._order = {choice.way: place for place, choice in enumerate(choices)}
        self._names = (*plot.y, plot.reference) if isinstance(plot.reference, str) else plot.y
        self._sums: dict[_Key, dict[tuple[Any, ...], _Sum]] = {}
        self._ends: dict[_Key, tuple[float, float]] = {}
        self._panels: dict[tuple[Any, ...], None] = {}
        self._is_range = False

    def add(self, run: int, row: Mapping[str, Any]) -> None:
        """Book a row."""
        plot = self._plot
        if any(row[name] not in values for name, values in plot.where.items()):
            return
        place = row[plot.x] if plot.x else 0.0
        if place is None:
            return
        if self._width:
            place = math.ceil(place / self._width) * self._width
        panel = tuple(row[name] for name in plot.panel)
        line = tuple(row[name] for name in self._keys)
        repeat = (run, *(row.get(name) for name in REPEATED))
        for name in self._names:
            if row[name] is None:
                continue
            self._panels[panel] = None
            key = _Key(panel, line, name, place)
            total = self._sums.setdefault(key, {}).setdefault(repeat, _Sum())
            total.total += row[name]
            total.count += 1
            if plot.interval is not None and name in plot.y:
                low, high = (row[end] for end in plot.interval)
                if low is not None and high is not None:
                    self._ends[key] = (low, high)

    def varied_numbers(self) -> list[str]:
        """Keys of lines that hold several different numbers, and nothing else."""
        values = [{key.line[place] for key in self._sums} for place in range(len(self._keys))]
        return [
            name
            for name, distinct in zip(self._keys, values, strict=True)
            if len(distinct) > 1 and all(isinstance(value, int | float) for value in distinct)
        ]

    def is_at_one_place(self) -> bool:
        """Whether a curve would be a point."""
        return len({key.place for key in self._sums}) < 2

    def spread(self, name: str) -> None:
        """Let this key be the horizontal place."""
        at = self._keys.index(name)
        self._keys.pop(at)

        def moved(key: _Key) -> _Key:
            return key._replace(line=key.line[:at] + key.line[at + 1 :], place=key.line[at])

        self._sums = {moved(key): sums for key, sums in self._sums.items()}
        self._ends = {moved(key): ends for key, ends in self._ends.items()}

    def merge_panels(self) -> str:
        """Too many panels are added up to one; in words."""
        count = len(self._panels)
        if count <= self._plot.panels:
            return ""
        merged: dict[_Key, dict[tuple[Any, ...], _Sum]] = {}
        for key, sums in self._sums.items():
            totals = merged.setdefault(key._replace(panel=()), {})
            for repeat, part in sums.items():
                total = totals.setdefault(repeat, _Sum())
                total.total += part.total
                total.count += part.count
        self._sums, self._panels = merged, {(): None}
        return f"all {count} together"

    def range_over_panels(self) -> str:
        """Too many panels are one, whose samples are theirs, each the mean of its repeats; in
        words.
        """
        count = len(self._panels)
        if count <= self._plot.panels:
            return ""
        merged: dict[_Key, dict[tuple[Any, ...], _Sum]] = {}
        for key, sums in self._sums.items():
            mean = merged.setdefault(key._replace(panel=()), {}).setdefault(key.panel, _Sum())
            for part in sums.values():
                mean.total += part.total
                mean.count += part.count
        self._sums, self._panels, self._is_range = merged, {(): None}, True
        return f"median and range of {count} events"

    def cut_panels(self) -> str:
        """Too many panels are left out; in words."""
        count = len(self._panels)
        self._panels = dict.fromkeys(list(self._panels)[: self._plot.panels])
        return f"the first {len(self._panels)} of {count}" if count > len(self._panels) else ""

    def panels(self) -> list[Panel]:
        """All of them, with lines in the order of the rows."""
        parts: dict[tuple[Any, ...], _Measures] = {}
        for key, sums in self._sums.items():
            if key.panel in self._panels:
                lines = parts.setdefault(key.panel, {}).setdefault(key.measure, {})
                lines.setdefault(key.line, {})[key.place] = self._point(key, sums)
        shown = {
            (panel, name)
            for panel, part in parts.items()
            for name in self._plot.y
            if any(point.middle for point in _points(part.get(name, {})))
        }
        if self._plot.kind == "bars":
            # Panels have the same bars: a zero beside them says something.
            names = {name for _, name in shown}
            shown = {(panel, name) for panel in parts for name in names if name in parts[panel]}
        return [
            Panel(
                self._panel_title(panel),
                {
                    name: self._lines(parts[panel], name)
                    for name in self._plot.y
                    if (panel, name) in shown
                },
                panel[self._plot.panel.index(UNIT)] if UNIT in self._plot.panel and panel else "",
            )
            for panel in self._panels
            if any((panel, name) in shown for name in self._plot.y)
        ]

    def _point(self, key: _Key, sums: Mapping[tuple[Any, ...], _Sum]) -> Point:
        is_total = self._plot.is_total
        samples = tuple(s.total if is_total else s.total / s.count for s in sums.values())
        if self._is_range:
            return Point(median(samples), min(samples), max(samples), samples)
        if self._plot.is_median:
            middle = median_interval(samples, seed=1)
            assert middle is not None
            return Point(middle.median, middle.low, middle.high, samples)
        rows = max(s.count for s in sums.values()) if is_total else 1
        value = estimate(samples, bounds=self._ranges[key.measure].times(rows))
        assert value is not None
        low, high = self._ends.get(key, (value.low, value.high))
        return Point(value.mean, low, high, samples)

    def _lines(self, measures: "_Measures", name: str) -> list[Line]:
        reference = self._plot.reference
        held = measures.get(reference, {}) if isinstance(reference, str) else {}
        lines = []
        for line, points in sorted(measures[name].items(), key=lambda each: self._rank(each[0])):
            parts = [_text(line[self._keys.index(key)]) for key in self._keys if key in self._named]
            against = {place: point.middle for place, point in held.get(line, {}).items()}
            group = parts[-1] if len(parts) > 1 else ""
            ordered = dict(sorted(points.items()))
            lines.append(Line(" · ".join(parts), group, ordered, against))
        return lines

    def _rank(self, line: tuple[Any, ...]) -> int:
        """Of ways, whose cells run in an order by chance."""
        return next((self._order[value] for value in line if value in self._order), 0)

    def _panel_title(self, panel: tuple[Any, ...]) -> str:
        parts = []
        for name, value, varied in zip(
            self._plot.panel, panel, zip(*self._panels, strict=True), strict=False
        ):
            if name == "time":
                parts.append(f"at {_text(value)} s")
            elif name != UNIT and (len(set(varied)) > 1 or name in SPOKEN):
                parts.append(words_of(_text(value)))
        return ", ".join(filter(None, parts))


def words_of(column: str) -> str:
    """A column's name for people, without the unit that ends it: its axis says that."""
    return SUFFIX.sub("", column).replace("_", " ")


def _named_keys(results: Sequence[Result], keys: Sequence[str]) -> frozenset[str]:
    """Keys that lines are called by: the strategy, or the way, and what else varies in these runs.
    A plot of a part of the rows names them as the others do.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for cell in result.manifest.cells:
            if cell.get("way") == IDLE:
                # It has no Services and no family.
                continue
            for name, value in {**cell, **cell.get("sweep", {})}.items():
                values[name].add(repr(value))
    return frozenset(
        name for name in keys if name in NAMES or name == DIRECTORY or len(values[name]) > 1
    )


def _run_labels(results: Sequence[Result]) -> list[str]:
    """Folders without what is the same in all their paths."""
    paths = [result.folder.path.resolve() for result in results]
    common = os.path.commonpath(paths)
    labels = [str(path.relative_to(common)) for path in paths]
    return labels if len(set(labels)) == len(labels) else [f"run {n}" for n in range(len(paths))]


def _points(lines: Mapping[Any, Mapping[float, Point]]) -> Iterable[Point]:
    return (point for points in lines.values() for point in points.values())


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _bin_width(plot: Plot, result: Result) -> float:
    """Seconds that are drawn as one point, where a run has more than a plot can show."""
    duration: float = getattr(result.scenario, "duration", 0.0)
    return duration / MOMENTS if plot.kind == "times" and duration > MOMENTS else 0.0


REPEATED: Final = ("repeat", "seed", "round", "run")
"""Columns that tell repeats apart, of which plots show means."""
NAMES: Final = ("strategy", "way")
"""Columns that name lines even where all say the same."""
UNIT: Final = "unit"
"""The column of a panel that its axes say."""
SUFFIX: Final = re.compile(r"_(us|ms|ns|mb)$")
SPOKEN: Final = ("event",)
"""Columns that a panel's title says even where all panels say the same."""
DIRECTORY: Final = "directory"
"""Tells the runs apart that are compared."""
MOMENTS: Final = 400
