"""The results of live cells, and the tables that are put together from them."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from kbe_nat.lab.folder import RowsByTable, RunFolder
from kbe_nat.lab.live.cells import LiveCell
from kbe_nat.lab.live.medians import median_rows
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.tables import live_catalogue
from kbe_nat.lab.tables import Row


class LiveResult(msgspec.Struct):
    """What a cell's file holds."""

    rows: dict[str, list[Row]] = {}
    """By table, without the columns of the cell."""
    missing: list[tuple[str, str]] = []
    """Measures that have no rows, and why; an empty measure stands for all."""


def live_parts(
    scenario: LiveScenario, cells: Sequence[LiveCell], skipped: Mapping[str, str], run: RunFolder
) -> Iterator[RowsByTable]:
    """The rows of all tables. Memory: those of all cells but for their histograms and trials."""
    results: list[tuple[LiveCell, dict[str, list[Row]]]] = []
    names = live_catalogue(scenario).tables
    yield {
        "missing": [(way, None, None, None, None, why) for way, why in skipped.items()]
        + list(_left_out(scenario, skipped))
    }
    for cell in cells:
        result = live_result(run, cell)
        results.append((cell, {n: r for n, r in result.rows.items() if n not in RAW}))
        yield cell_tables(cell, result, names)
    yield {"medians": median_rows(scenario, results)}


def _left_out(scenario: LiveScenario, skipped: Container[str]) -> Iterator[Row]:
    """Numbers of Services that the scenario has and does not ask of a way."""
    for choice in scenario.choices:
        if choice.services is None or choice.way in skipped:
            continue
        for number in scenario.services:
            if number not in choice.services:
                reason = f"the scenario asks {choice.way} for other numbers of Services"
                yield (choice.way, number, None, None, None, reason)


def live_result(run: RunFolder, cell: LiveCell) -> LiveResult:
    """The result of a finished cell. Raises `LabError` for a file that was damaged."""
    values: Any = run.result(cell)
    try:
        return msgspec.convert(values, LiveResult)
    except msgspec.ValidationError as error:
        raise run.damage(cell, str(error)) from None


def cell_tables(cell: LiveCell, result: LiveResult, names: Container[str]) -> RowsByTable:
    """The rows of a finished cell, by table."""
    head = cell.values()
    rows: dict[str, list[Row]] = {
        table: [(*head, *row) for row in values]
        for table, values in result.rows.items()
        if table in names
    }
    place = (cell.way, cell.services, cell.family, cell.round)
    rows["missing"] = [(*place, name or None, reason) for name, reason in result.missing]
    return rows


RAW: Final = frozenset(("histograms", "trials"))
"""Tables of which no medians are taken, and which are large."""
