"""Running cells: in this process, one after the other.

An executor is a function that takes cells and yields each when its result lies in the folder. The
order does not count, and executors need not know of each other: all that they share is the folder.
`kbe_nat.lab.parallel` has those for several processes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from kbe_nat._native import LabCell
from kbe_nat.errors import LabError
from kbe_nat.lab.cells import Cell
from kbe_nat.lab.classes import Classes, PythonStrategy, class_of
from kbe_nat.lab.folder import RowsByTable, RunFolder
from kbe_nat.lab.machine import revisions, stale_module
from kbe_nat.lab.tables import (
    STREAMED,
    Row,
    cell_values,
    offline_catalogue,
    progress_rows,
    result_rows,
)

Executor: TypeAlias = Callable[[Sequence[Cell], Path, Classes], Iterator[Cell]]
"""Runs cells into a folder."""


def in_this_process(cells: Sequence[Cell], folder: Path, classes: Classes) -> Iterator[Cell]:
    """One after the other."""
    for cell in cells:
        strategy = class_of(cell.strategy, classes)
        run_cell(cell, cell.description(), strategy, RunFolder(folder))
        yield cell


def run_cell(
    cell: Cell, description: bytes, strategy: type[PythonStrategy] | None, run: RunFolder
) -> None:
    """Run a cell to its end, and leave its result in the folder. Raises `LabError`, also from the
    error that a strategy in Python raises.
    """
    try:
        _simulate(cell, description, strategy, run)
    except LabError:
        raise
    except ValueError as error:
        raise LabError(f"{cell.scenario.name}: {cell.strategy.label}: {error}") from error
    except (Exception, SystemExit) as error:
        if strategy is None:
            raise
        words = f"{type(error).__name__}: {error}"
        raise LabError(f"{cell.scenario.name}: {cell.strategy.label}: {words}") from error


def _simulate(
    cell: Cell, description: bytes, strategy: type[PythonStrategy] | None, run: RunFolder
) -> None:
    scenario = cell.scenario
    simulation = LabCell(description, strategy)
    events: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(run.stream(cell, name))
            for name in STREAMED
            if name in scenario.outputs
        }
        for time in _steps(scenario.duration):
            progress = msgspec.json.decode(simulation.advance(time))
            events += progress["events"]
            changes += progress["changes"]
            for name, stream in streams.items():
                stream.write(progress_rows(cell, progress, name))
    result = msgspec.json.decode(simulation.finish())
    result |= {"events": events, "changes": changes}
    run.finish(cell, msgspec.json.encode(result))


def cell_tables(cell: Cell, run: RunFolder) -> RowsByTable:
    """The rows of a finished cell, by table."""
    head, result = cell_values(cell), run.result(cell)
    names = offline_catalogue(cell.scenario).tables

    def rows(name: str) -> Iterator[Row]:
        is_streamed = name in STREAMED
        values = run.streamed_rows(cell, name) if is_streamed else result_rows(cell, result, name)
        try:
            for row in values:
                yield (*head, *row)
        except (KeyError, TypeError, IndexError):
            # A module of other sources leaves other results, and measures no better ones.
            if words := stale_module(revisions()):
                reason = f"the result of a cell has other fields. {words} Build it anew"
            else:
                reason = "the result of a cell is damaged"
            raise run.damage(cell, reason) from None
        except OSError as error:
            raise run.damage(cell, f"{error.filename} is missing") from None

    return {name: rows(name) for name in names}


def _steps(duration: float) -> Iterator[float]:
    """Ends of stretches that are run at once; rows of one are in memory."""
    time = STRETCH
    while time < duration:
        yield time
        time += STRETCH
    yield duration


STRETCH: Final = 1.0
"""Seconds. A second ends a batch of packets in any case, so steps change no result. Between steps
Python looks at signals: Ctrl-C waits for one.
"""
