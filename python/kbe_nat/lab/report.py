"""Results as tables of text. Every number is a mean over repeats with its 95 % interval."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from kbe_nat.lab.comparability import check_comparable, comparable_tables
from kbe_nat.lab.live.pages import live_pages
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.machine import stale_module
from kbe_nat.lab.result import Result
from kbe_nat.lab.statistics import Estimate, Range, estimate

Group: TypeAlias = tuple[Any, ...]
"""The values by which rows are put together: all columns but the measured ones and the repeat."""


class Page(msgspec.Struct, frozen=True):
    """`lab report`, `lab run`: a table for people. Numbers are in the run's files."""

    title: str
    """Its name, with columns that say the same in each row."""
    columns: list[str]
    """Their names."""
    numbers: int
    """How many columns at the end hold numbers: means with the half of their intervals."""
    rows: list[list[str]]
    """A text for each column."""
    table: str = ""
    """The table of the run's folder that it is made of; empty for several."""


def report(results: Sequence[Result]) -> list[Page]:
    """Pages about one run, or about several of one scenario beside each other. Raises `LabError`
    when they cannot be compared.
    """
    check_comparable(results)
    if isinstance(results[0].scenario, LiveScenario):
        return [page for result in results for page in _live_pages(result, len(results) > 1)]
    pages = [
        _page(results, title, table, keys, measures)
        for title, table, keys, measures in PAGES
        if table in comparable_tables(results)
    ]
    pages += [_difference_page(results[0], *parts) for parts in PAIRS if len(results) == 1]
    return [page for page in pages if 0 < len(page.rows) <= LISTED]


def _live_pages(result: Result, is_beside: bool) -> Iterator[Page]:
    tables = (list(result.rows(name)) for name in ("medians", "control", "missing"))
    for page in live_pages(*tables):
        title = f"{page.title}: {result.folder.path}" if is_beside else page.title
        yield Page(title, page.columns, page.numbers, page.rows)


def _page(
    results: Sequence[Result],
    title: str,
    table: str,
    keys: Sequence[str],
    measures: Sequence[str],
) -> Page:
    names = ["run"] * (len(results) > 1) + [*results[0].catalogue.varied, *keys]
    bounds = [_range(results[0], table, measure) for measure in measures]
    groups: dict[Group, list[list[float]]] = {}
    for result in results:
        for row in result.rows(table):
            row["run"] = str(result.folder.path)
            group = tuple(row[name] for name in names)
            samples = groups.setdefault(group, [[] for _ in measures])
            for sample, measure in zip(samples, measures, strict=True):
                if row[measure] is not None:
                    sample.append(float(row[measure]))
    units = {column.name: column.unit for column in results[0].catalogue.tables[table]}
    constant = _constant(names, list(groups), units)
    if constant:
        title = f"{title} ({', '.join(constant.values())})"
    columns = [name for name in names if name not in constant]
    rows = [
        [
            *(_text(v) for name, v in zip(names, group, strict=True) if name not in constant),
            *(_number(estimate(s, bounds=b)) for s, b in zip(samples, bounds, strict=True)),
        ]
        for group, samples in groups.items()
        if any(samples)
    ]
    words = [name.replace("_", " ") for name in (*columns, *measures)]
    return Page(title, words, len(measures), rows, table)


def _difference_page(
    result: Result, title: str, table: str, keys: Sequence[str], measures: Sequence[str]
) -> Page:
    """Each strategy less the scenario's first, in pairs: both met the same traffic in a repeat, so
    that what the traffic adds to both falls out.
    """
    names = [*result.catalogue.varied[1:], *keys]
    rows = list(result.rows(table))
    first = rows[0]["strategy"] if rows else ""
    base = {
        (row["repeat"], *(row[name] for name in names)): row
        for row in rows
        if row["strategy"] == first
    }
    groups: dict[Group, list[list[float]]] = {}
    for row in rows:
        pair = base.get((row["repeat"], *(row[name] for name in names)))
        if pair is None or row is pair:
            continue
        group = (row["strategy"], *(row[name] for name in names))
        samples = groups.setdefault(group, [[] for _ in measures])
        for sample, measure in zip(samples, measures, strict=True):
            if row[measure] is not None and pair[measure] is not None:
                sample.append(row[measure] - pair[measure])
    bounds = [_range(result, table, measure).of_differences() for measure in measures]
    lines = [
        [
            *map(_text, group),
            *(_difference(estimate(s, bounds=b)) for s, b in zip(samples, bounds, strict=True)),
        ]
        for group, samples in groups.items()
    ]
    words = [name.replace("_", " ") for name in ("strategy", *names, *measures)]
    heading = f"{title}: difference from {first}, in pairs"
    return Page(heading, words, len(measures), lines, table)


def _range(result: Result, table: str, measure: str) -> Range:
    columns = result.catalogue.tables[table]
    return next(column.range for column in columns if column.name == measure)


def _difference(value: Estimate | None) -> str:
    """A difference whose interval contains 0 is called none, as none is shown; one repeat says
    nothing.
    """
    if value is None or value.half is None:
        return "-"
    return "none" if abs(value.mean) <= value.half else f"{'+' * (value.mean > 0)}{value}"


def _constant(
    names: Sequence[str], groups: Sequence[Group], units: Mapping[str, str]
) -> dict[str, str]:
    """Columns that say the same in each row, but for the strategy: a title says it once, of numbers
    with the name and the unit.
    """
    if not groups:
        return {}
    columns: Iterable[tuple[str, tuple[Any, ...]]] = zip(
        names, zip(*groups, strict=True), strict=True
    )
    return {
        name: _titled(name, values[0], units.get(name, ""))
        for name, values in columns
        if name not in ("strategy", "event") and len(set(values)) == 1
    }


def _titled(name: str, value: object, unit: str) -> str:
    is_number = isinstance(value, int | float) and unit != ""
    return f"{name} {_text(value)} {unit}" if is_number else _text(value)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Estimate | None) -> str:
    return "-" if value is None else str(value)


def headline(result: Result) -> Iterator[str]:
    """The run in words."""
    scenario = result.scenario
    yield f"{scenario.name}: {scenario.question}" if scenario.question else scenario.name
    if scenario.expect:
        yield f"Expected: {scenario.expect}"
    yield f"{summary(result)} {spread_words(result)}"
    if words := stale_module(result.manifest.machine):
        yield words


def spread_words(result: Result) -> str:
    """What the numbers of its report are, in a sentence."""
    scenario = result.scenario
    if isinstance(scenario, LiveScenario):
        if scenario.rounds == 1:
            return "Values of one round, which has no intervals."
        return "Medians over rounds with 95 % intervals."
    if scenario.repeats == 1:
        return "Values of one repeat, which has no intervals."
    return "Means over repeats with 95 % intervals."


def summary(result: Result) -> str:
    """How much was run, and on what."""
    manifest, scenario = result.manifest, result.scenario
    machine = manifest.machine
    if isinstance(scenario, LiveScenario):
        times = _counted(scenario.rounds, "round")
    else:
        times = _counted(scenario.repeats, "repeat")
    return (
        f"{_counted(len(manifest.cells), 'cell')}, {times} from seed {scenario.seed}; "
        f"kbe-nat {machine['kbe_nat']}, {machine['cpu']}, Linux {machine['kernel']}."
    )


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"


LISTED = 400
"""Rows of a page at most: a longer one is for programs to read, from the table's file."""
PAGES: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "Balance",
        "balance",
        ("service", "quantity", "window"),
        ("max_over_mean", "cv", "jain"),
    ),
    (
        "Shares of connections",
        "backends",
        ("service", "backend"),
        ("connections_share", "connections_share_fair"),
    ),
    (
        "Load of backends",
        "backends",
        ("service", "backend"),
        ("load", "load_lingering", "load_fair"),
    ),
    (
        "Connections",
        "outcomes",
        ("service",),
        ("offered", "served", "refused", "lost", "moved", "affinity_breaks"),
    ),
    (
        "Events",
        "events",
        ("time", "event"),
        ("live", "moved", "broken", "minimum", "keys_moved", "keys_minimum"),
    ),
    (
        "Tables",
        "totals",
        (),
        ("flows_peak", "memory_bytes", "balancer_bytes", "evicted", "flood", "flood_admitted"),
    ),
    (
        "Source ports",
        "ports",
        (),
        (
            "collisions",
            "probes",
            "exhausted",
            "pool_peak",
            "log_lines",
            "next_guessed",
            "next_guessed_towards",
            "difference_bits",
        ),
    ),
    (
        "Processor time, ns",
        "costs",
        (),
        ("packet_ns", "first_packet_ns", "cell_ns"),
    ),
    (
        "Changes, processor time in ns",
        "changes",
        ("time", "event"),
        ("services", "build_ns", "change_ns"),
    ),
)
PAIRS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Balance", "balance", ("service", "quantity", "window"), ("max_over_mean", "cv", "jain")),
    ("Connections", "outcomes", ("service",), ("refused", "lost", "moved", "affinity_breaks")),
)
"""Pages of differences."""
