"""The results of a run: tables as frames, and two runs compared."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kbe_nat.errors import LabError
from kbe_nat.lab.catalogue import catalogue_of
from kbe_nat.lab.folder import Manifest, RunFolder
from kbe_nat.lab.identity import scenario_hash
from kbe_nat.lab.live.comparison import median_differences
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.reading import AnyScenario, scenario_of
from kbe_nat.lab.tables import Catalogue

if TYPE_CHECKING:
    import polars


class Result:
    """The folder of a finished run."""

    def __init__(self, directory: str | Path) -> None:
        """Raises `LabError` where no run is."""
        self.folder = RunFolder(Path(directory))
        self.manifest: Manifest = self.folder.manifest()
        self.keep_alive: object = None
        """The temporary folder, where there is one."""

    def __repr__(self) -> str:
        return f"<Result {self.folder.path}: {', '.join(self.tables)}>"

    @cached_property
    def scenario(self) -> AnyScenario:
        """The scenario that was run."""
        return scenario_of(self.manifest.scenario, str(self.folder.path))

    @cached_property
    def catalogue(self) -> Catalogue:
        """Its tables with their columns."""
        return catalogue_of(self.scenario)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that there are."""
        return [name for name in self.catalogue.tables if self.folder.table(name).exists()]

    def rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table by column; None where there is nothing to measure. Raises `LabError`
        where there is no such table, or a row is damaged.
        """
        self._check(table)
        readers = [(column.name, READERS[column.type]) for column in self.catalogue.tables[table]]
        for number, row in enumerate(self.folder.rows(table), 2):
            try:
                yield {name: read(row[name]) if row[name] else None for name, read in readers}
            except (KeyError, ValueError):
                raise LabError(f"{self.folder.table(table)}: line {number} is damaged") from None

    def frame(self, table: str) -> "polars.DataFrame":
        """A table as a polars frame, of which `to_pandas()` makes one of pandas. Raises `LabError`
        where there is no such table, or no polars (`pip install kbe-nat[lab]`).
        """
        self._check(table)
        return _frame(self.folder, table, self.catalogue)

    def _check(self, table: str) -> None:
        if table not in self.tables:
            if self.manifest.shard is not None:
                raise LabError(f"{self.folder.path}: {PART.format(self.manifest.shard)}")
            listing = ", ".join(self.tables)
            raise LabError(f"{self.folder.path}: no table {table}; there are {listing}")
        file = self.folder.table(table)
        columns = self.folder.columns(table)
        absent = [c.name for c in self.catalogue.tables[table] if c.name not in columns]
        if columns and absent:
            release = self.manifest.machine["kbe_nat"]
            raise LabError(
                f"{file}: column {absent[0]} is missing: the run is of another revision (kbe-nat "
                f"{release}): run it anew"
            )


def differences(first: Result, second: Result, limit: int = 20) -> list[str]:
    """The differences between two runs of one scenario: facts of the machines, then rows, `limit`
    of them for each table at most. Tables of processor time are not compared; of live runs medians
    are, by their intervals and noise.
    """
    lines = []
    here, there = first.manifest, second.manifest
    if scenario_hash(first.scenario) != scenario_hash(second.scenario):
        raise LabError("the runs are of different scenarios")
    for name in ("kbe_nat", "git", "git_native", "kernel", "cpu", "python"):
        old, new = here.machine.get(name), there.machine.get(name)
        if old != new:
            lines.append(f"manifest: {name} was {old} and is {new}")
    # Those of a live run are ways, which do not depend on files.
    if not isinstance(first.scenario, LiveScenario) and _keys(here) != _keys(there):
        lines.append(f"manifest: {OTHER_CELLS} since the first run")
    # One that is not there is an error: it would pass for equal.
    for table in first.catalogue.tables:
        if table not in first.catalogue.timed:
            lines += _row_differences(table, first, second, limit)
    if isinstance(first.scenario, LiveScenario):
        lines += sorted(median_differences(first.rows("medians"), second.rows("medians")))
    return lines


def _keys(manifest: Manifest) -> list[str]:
    return [cell["key"] for cell in manifest.cells]


def has_different_rows(lines: Sequence[str]) -> bool:
    """Whether `differences` told of any but the machines."""
    return any(not line.startswith("manifest: ") for line in lines)


def _row_differences(table: str, first: Result, second: Result, limit: int) -> list[str]:
    lines: list[str] = []
    count = 0
    pairs = zip_longest(first.folder.rows(table), second.folder.rows(table))
    for number, (old, new) in enumerate(pairs, 2):
        if old == new:
            continue
        count += 1
        if count > limit:
            continue
        if old is None or new is None:
            lines.append(f"{table}: line {number} is missing in one of them")
            continue
        parts = (f"{name} {old[name]} -> {new[name]}" for name in old if old[name] != new[name])
        lines.append(f"{table}: line {number}: {', '.join(parts)}")
    if count > limit:
        lines.append(f"{table}: {count - limit} more rows differ")
    return lines


def write_parquet(run: RunFolder, catalogue: Catalogue) -> None:
    """Each table once more as Parquet, where polars is installed."""
    try:
        import polars  # noqa: F401
    except ImportError:
        return
    for name in catalogue.tables:
        target = run.table(name).with_suffix(".parquet")
        part = target.with_suffix(".part")
        frame = _frame(run, name, catalogue)
        with part.open("wb") as file:
            frame.write_parquet(file)
        part.replace(target)


def _frame(run: RunFolder, table: str, catalogue: Catalogue) -> "polars.DataFrame":
    try:
        import polars
    except ImportError:
        raise LabError("frames need polars: pip install 'kbe-nat[lab]'") from None
    types = {"text": polars.String, "integer": polars.UInt64, "number": polars.Float64}
    schema = {column.name: types[column.type] for column in catalogue.tables[table]}
    # Opened here: a path need not be UTF-8.
    with run.table(table).open("rb") as file:
        return polars.read_csv(file, schema=schema)


INTERRUPTED: Final = "the run was interrupted: run it into this folder once more"
OTHER_CELLS: Final = "the files of traces, or what this revision does in a cell, have changed"
PART: Final = "holds shard {} alone: kbe-nat lab merge puts shards together"
READERS: Final = {"text": str, "integer": int, "number": float}
