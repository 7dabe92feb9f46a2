"""The folder of a run: the manifest, the results of each cell, and the tables of all cells.

A cell's rows lie in `cells`, in files named by its key. Tables that grow with time are written
while the cell runs, to files that end with `.part`; when the cell is done they get their names, and
last the file with the cell's result appears, all by renaming. So a cell is finished exactly when
that file exists: an interrupted run is taken up again with the cells that have none, and a finished
cell is never measured twice. The tables of the run are put together from these files in the order
of the cells, whatever the order in which they ended.
"""

import csv
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Protocol, TypeAlias

import msgspec

from kbe_nat.errors import LabError
from kbe_nat.lab.identity import alteration, values_hash
from kbe_nat.lab.tables import Catalogue, Row

FORMAT: Final = 1
"""Of the folder."""


RowsByTable: TypeAlias = Mapping[str, Iterable[Row]]


class Measured(Protocol):
    """A cell of any kind of scenario, as its files are called."""

    @property
    def key(self) -> str:
        """A hash of all that determines what is done in it."""

    @property
    def repeat(self) -> int:
        """Which of the repeats or rounds, from 0."""


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json`: all that one needs to run it again, and to judge it."""

    format: int
    scenario: dict[str, Any]
    scenario_hash: str
    seed: int
    started: str
    """In UTC."""
    machine: dict[str, Any]
    folder: str
    """Where paths of traces begin."""
    cells: list[dict[str, Any]]
    """Number, key, strategy, memory, repeat, seed and swept values of each; of a live run number,
    key, way, number of Services, family, round and run.
    """
    modules: dict[str, str] = {}
    """The folder in which Python found the module of a strategy's class, by the class as the
    scenario names it.
    """
    skipped: list[dict[str, Any]] = []
    """Ways that this machine cannot run, with their reasons."""
    shard: str | None = None
    """Which part of the cells is here, such as 2/4; null: all."""
    shards: list[dict[str, Any]] = []
    """Of a run that was merged: folder, shard, start and machine of each part. `machine` and
    `started` are those of the first one.
    """


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells = path / "cells"

    @property
    def has_manifest(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / MANIFEST).exists()

    def manifest(self) -> Manifest:
        """Raises `LabError` where there is none that can be read."""
        path = self.path / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            raise LabError(f"{self.path}: no run is here: {MANIFEST} is missing") from None
        except msgspec.DecodeError as error:
            raise LabError(f"{path}: {error}") from None
        if manifest.format != FORMAT:
            raise LabError(f"{path}: format {manifest.format} is not known")
        if missing := FACTS - manifest.machine.keys():
            raise LabError(f"{path}: machine: {min(missing)} is missing")
        if (now := values_hash(manifest.scenario)) != manifest.scenario_hash:
            what = alteration(manifest.scenario, manifest.seed, manifest.cells)
            raise LabError(
                f"{path}: the scenario was changed after the run: its hash is {now}, and was "
                f"{manifest.scenario_hash}; {what}"
            )
        return manifest

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder, and keeps other runs out of it. Raises `LabError` when one is in it,
        or a file has its name.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise LabError(f"{self.path}: it is no folder: name another for the results") from None
        # The kernel takes the lock back however this process ends.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LabError(f"{self.path}: another run is at work in this folder") from None
        try:
            yield
        finally:
            # A process that another thread is starting right now has the descriptor, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def begin(self, manifest: Manifest) -> None:
        """Make the folder. Raises `LabError` when it holds something else."""
        if self.path.exists() and any(path.name not in BEGUN for path in self.path.iterdir()):
            raise LabError(f"{self.path}: the folder is not empty, and holds no run")
        self.make_cells()
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        write_whole(self.path / MANIFEST, text + b"\n")

    def make_cells(self) -> None:
        """Make the folder of the cells' results."""
        self._cells.mkdir(parents=True, exist_ok=True)

    def is_finished(self, cell: Measured) -> bool:
        """Whether the cell has its result."""
        return self._result_file(cell).exists()

    def finish(self, cell: Measured, result: bytes) -> None:
        """Put the cell's result down: it is finished."""
        write_whole(self._result_file(cell), result)

    def result(self, cell: Measured) -> dict[str, Any]:
        """The result of a finished cell. Raises `LabError` for a file that was damaged."""
        path = self._result_file(cell)
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError) as error:
            raise self.damage(cell, str(error)) from None

    def damage(self, cell: Measured, reason: str) -> LabError:
        """The error that a finished cell's files cannot be read, with what to do about it."""
        path = self._result_file(cell)
        return LabError(f"{path}: {reason}; delete this file, and lab run measures its cell anew")

    def cell_files(self, cell: Measured) -> dict[str, bytes]:
        """The files of a finished cell, by name."""
        stem = self._result_file(cell).stem
        paths = [self._result_file(cell), *self._cells.glob(f"{stem}-*.csv")]
        return {path.name: path.read_bytes() for path in sorted(paths)}

    def store(self, files: Mapping[str, bytes]) -> None:
        """Put a cell's files down that were written elsewhere; the one that finishes it last."""
        for name in sorted(files, key=lambda name: name.endswith(".json")):
            write_whole(self._cells / Path(name).name, files[name])

    def stream(self, cell: Measured, table: str) -> "StreamedTable":
        """A table of the cell that is written row by row."""
        return StreamedTable(self._streamed_file(cell, table))

    def tabulate(self, catalogue: Catalogue, parts: Iterable[RowsByTable]) -> None:
        """Put the tables together, and their dictionary. `parts` yields rows of the tables, cell by
        cell. Memory: one part's rows.
        """
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(
                    TableFile(self.table(name), (column.name for column in columns))
                )
                for name, columns in catalogue.tables.items()
            }
            for part in parts:
                for name, rows in part.items():
                    writers[name].write(rows)
        dictionary = [
            (name, column.name, column.type, column.unit, column.meaning)
            for name, columns in catalogue.tables.items()
            for column in columns
        ]
        with TableFile(self.path / DICTIONARY, DICTIONARY_COLUMNS) as writer:
            writer.write(dictionary)

    def table(self, name: str) -> Path:
        """The file of a table."""
        return self.path / f"{name}.csv"

    def columns(self, name: str) -> list[str]:
        """The names in the head of a table; none where it is empty, or no text."""
        with self.table(name).open(newline="", errors="replace") as lines:
            return next(csv.reader(lines), [])

    def rows(self, name: str) -> Iterator[dict[str, str]]:
        """The rows of a table, by column, as texts. Raises `LabError` where there is none, or it is
        damaged.
        """
        path = self.table(name)
        try:
            with path.open(newline="") as lines:
                reader = csv.DictReader(lines)
                if not reader.fieldnames:
                    raise LabError(f"{path}: it is empty")
                for row in reader:
                    if None in row or None in row.values():
                        raise LabError(f"{path}: line {reader.line_num} is damaged")
                    yield row
        except FileNotFoundError:
            raise LabError(f"{self.path}: the run has no table {name}") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise LabError(f"{path}: {error}") from None

    def streamed_rows(self, cell: Measured, table: str) -> Iterator[Row]:
        """The rows of a finished cell's table that was written row by row."""
        with self._streamed_file(cell, table).open(newline="") as lines:
            yield from map(tuple, csv.reader(lines))

    def _result_file(self, cell: Measured) -> Path:
        return self._cells / f"{cell.key}-{cell.repeat}.json"

    def _streamed_file(self, cell: Measured, table: str) -> Path:
        return self._cells / f"{cell.key}-{cell.repeat}-{table}.csv"


class StreamedTable:
    """Rows of one cell, in a file that gets its name when all are there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(".part")

    def __enter__(self) -> "StreamedTable":
        self._file: IO[str] = self._part.open("w", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        return self

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows."""
        self._writer.writerows(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._part.replace(self._path)


class TableFile(StreamedTable):
    """The same with a header."""

    def __init__(self, path: Path, header: Iterable[str]) -> None:
        super().__init__(path)
        self._header = tuple(header)

    def __enter__(self) -> "TableFile":
        super().__enter__()
        self.write([self._header])
        return self


def write_whole(path: Path, text: bytes) -> None:
    """A file that is there as a whole, or not at all. A device or a pipe is written to as it is,
    since a file in its place would replace it. A link stays, and what it names is replaced.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(text)
            return
        target = Path(os.path.realpath(path))
        # Beside a page there are files of others, such as another one of its stem.
        part = target.with_name(PARTIAL.format(target.name))
        try:
            with part.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    except OSError as error:
        # The caller asked for the file, and knows of no part.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


MANIFEST: Final = "manifest.json"
PARTIAL: Final = ".{}.part"
BEGUN: Final = frozenset(("cells", PARTIAL.format(MANIFEST)))
"""What a run leaves that ended before its manifest was there."""
FACTS: Final = frozenset(("kbe_nat", "cpu", "kernel"))
"""Of the machine: reports name them."""
DICTIONARY: Final = "dictionary.csv"
DICTIONARY_COLUMNS: Final = ("table", "column", "type", "unit", "meaning")
