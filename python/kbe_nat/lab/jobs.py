"""Cells on their way to other processes.

A cell travels as a `Job`, which has all inside that a worker needs: its description with the rows
of traces, and a strategy in Python by value. So workers need neither files nor modules of the
caller, and a strategy that was changed between two runs is the changed one in processes that live
on. On this machine a job writes into the folder of the run. Elsewhere it writes into a folder of
its worker, and the files come back as bytes: machines of a cluster need share no file system.
"""

import pickle
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias, cast

from kbe_nat.errors import LabError
from kbe_nat.lab.cells import Cell
from kbe_nat.lab.classes import Classes, PythonStrategy, class_of
from kbe_nat.lab.execution import run_cell
from kbe_nat.lab.folder import RunFolder
from kbe_nat.lab.roll import enter

Outcome: TypeAlias = tuple[int, dict[str, bytes]]
"""The number of a finished cell, and its files by name where they are not in the folder yet."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A cell that is run when the job is called, in whatever process that is."""

    cell: Cell
    description: bytes
    strategy: bytes | None
    """The class of a strategy in Python."""
    version: str
    """Of the caller's kbe-nat."""
    folder: Path | None
    """The run's, where worker and caller are one machine."""
    roll: Path | None = None
    """The socket at which the worker says that it begins, and that it ends."""

    def __str__(self) -> str:
        """As clusters call it in their listings: see `cell_number`."""
        return f"cell-{self.cell.number}"

    def __call__(self) -> Outcome:
        """Raises `LabError`, also where the worker has another version of kbe-nat."""
        here = version("kbe-nat")
        if here != self.version:
            raise LabError(f"a worker runs kbe-nat {here}, and the caller {self.version}")
        with nullcontext() if self.roll is None else enter(self.roll, self.cell.number):
            if self.folder is not None:
                self._run(RunFolder(self.folder))
                return self.cell.number, {}
            with tempfile.TemporaryDirectory(prefix="kbe-nat-lab-") as name:
                run = RunFolder(Path(name))
                run.make_cells()
                self._run(run)
                return self.cell.number, run.cell_files(self.cell)

    def _run(self, run: RunFolder) -> None:
        strategy = None
        if self.strategy is not None:
            try:
                strategy = cast("type[PythonStrategy]", pickle.loads(self.strategy))
            except Exception as error:
                # A module that the strategy imports may be missing here, or fail in any way.
                label = self.cell.strategy.label
                raise LabError(f"{label}: a worker cannot load the class: {error}") from error
        run_cell(self.cell, self.description, strategy, run)


def jobs_of(
    cells: Iterable[Cell], classes: Classes, folder: Path | None, roll: Path | None = None
) -> Iterator[Job]:
    """A job for each cell, made when it is asked for: descriptions with traces are large."""
    here = version("kbe-nat")
    # Processes live on from one run to the next, and may be in another folder than the caller.
    place = folder.absolute() if folder else None
    pickles: dict[str, bytes | None] = {}
    for cell in cells:
        label = cell.strategy.label
        if label not in pickles:
            strategy = class_of(cell.strategy, classes)
            pickles[label] = _by_value(label, strategy) if strategy else None
        yield Job(cell, cell.description(), pickles[label], here, place, roll)


def collect(outcomes: Iterable[Outcome], cells: Sequence[Cell], folder: Path) -> Iterator[Cell]:
    """The cells as they end, after their files are in the folder."""
    by_number = {cell.number: cell for cell in cells}
    run = RunFolder(folder)
    for number, files in outcomes:
        run.store(files)
        yield by_number[number]


def _by_value(label: str, strategy: type[PythonStrategy]) -> bytes:
    """The class with the code of its package, instead of the names of both. Raises `LabError`."""
    import cloudpickle

    module = sys.modules[
        type.__getattribute__(cast(type, strategy), "__module__").partition(".")[0]
    ]
    is_main = module.__name__ == "__main__"
    is_new = not is_main and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    try:
        if is_new:
            cloudpickle.register_pickle_by_value(module)
        return cast(bytes, cloudpickle.dumps(strategy))
    except Exception as error:
        # Whatever its methods refer to goes with it, and not all of that may be able to.
        raise LabError(f"{label}: the class cannot go to other processes: {error}") from error
    finally:
        if is_new:
            cloudpickle.unregister_pickle_by_value(module)
