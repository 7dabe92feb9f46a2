"""Runs in parts: each machine of a batch system runs a shard of the cells, and `merge` puts them
together.

Cells are dealt like cards: shard i of n has every n-th cell, from the i-th. Repeats are neighbours
in the order of cells, so that dear strategies come to all shards. The folder of a shard has the
manifest of the whole run, its own cells, and no tables. Merging needs no traces: the manifests have
the keys of all cells.
"""

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from kbe_nat.errors import ArgumentError, LabError
from kbe_nat.lab.catalogue import catalogue_of
from kbe_nat.lab.cells import Cell, cells
from kbe_nat.lab.execution import cell_tables
from kbe_nat.lab.folder import Manifest, RunFolder
from kbe_nat.lab.reading import offline_scenario_of
from kbe_nat.lab.result import Result, write_parquet


class Shard(NamedTuple):
    """A part of the cells."""

    number: int
    """From 1."""
    total: int

    def __contains__(self, cell: object) -> bool:
        return isinstance(cell, Cell) and cell.number % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


def shard_of(text: str) -> Shard:
    """A shard as "2/4". Raises `LabError`."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise LabError(f"shard {text}: i/n is expected, such as 2/4, with i from 1 to n")
    return Shard(int(match[1]), int(match[2]))


def merge(directory: str | Path, shards: Sequence[str | Path]) -> Result:
    """Put the shards of a run together. The tables are those of a run in one piece, but for those
    of processor time. `directory` is made; the results of an earlier merge into it count too.
    Raises `LabError` for shards of other runs or versions, for cells that two shards have with
    different results, and for cells that are missing; then nothing is written. Cost: that of
    reading all results.
    """
    if isinstance(shards, str | Path):
        raise ArgumentError("shards: a list of folders is expected, not one of them")
    if not shards:
        raise ArgumentError("shards: one at least is expected")
    target = RunFolder(Path(directory))
    sources = [RunFolder(Path(shard)) for shard in shards]
    with target.lock():
        if target.has_manifest:
            if target.manifest().shard is not None:
                raise LabError(f"{directory}: holds a shard: merge into another folder")
            sources.append(target)
        manifests = [source.manifest() for source in sources]
        _check_alike(sources, manifests)
        first = manifests[0]
        scenario = offline_scenario_of(first.scenario, f"{sources[0].path}/manifest.json")
        keys = [cell["key"] for cell in first.cells]
        work = tuple(cells(scenario, Path(first.folder), keys))
        places = {cell.number: _place(cell, sources) for cell in work}
        if missing := [cell for cell in work if places[cell.number] is None]:
            raise LabError(f"{directory}: {_complaint(missing, sources, manifests)}")
        if not target.has_manifest:
            target.begin(_merged(first, sources, manifests))
        for cell in work:
            source = places[cell.number]
            if source is not None and source is not target:
                target.store(source.cell_files(cell))
        catalogue = catalogue_of(scenario)
        target.tabulate(catalogue, (cell_tables(cell, target) for cell in work))
        write_parquet(target, catalogue)
    return Result(directory)


def _check_alike(sources: Sequence[RunFolder], manifests: Sequence[Manifest]) -> None:
    first, here = manifests[0], version("kbe-nat")
    for source, manifest in zip(sources, manifests, strict=True):
        there = manifest.machine.get("kbe_nat")
        if there != here:
            raise LabError(f"{source.path}: was run by kbe-nat {there}; this is {here}")
        if manifest.scenario_hash != first.scenario_hash:
            raise LabError(
                f"{source.path} cannot be merged with {sources[0].path}: "
                "the scenarios or their settings differ"
            )
        if manifest.cells != first.cells:
            raise LabError(
                f"{source.path} cannot be merged with {sources[0].path}: the files of traces differ"
            )


def _place(cell: Cell, sources: Sequence[RunFolder]) -> RunFolder | None:
    """The last folder that has the cell, None without any; all that have it must agree."""
    places = [source for source in sources if source.is_finished(cell)]
    if not places:
        return None
    results = [_repeatable(cell, place) for place in places]
    for place, result in zip(places, results, strict=True):
        if result != results[-1]:
            raise LabError(f"{place.path} and {places[-1].path} have other results of {cell.words}")
    return places[-1]


def _repeatable(cell: Cell, source: RunFolder) -> dict[str, bytes]:
    """The cell's files without its processor time."""
    files = source.cell_files(cell)
    result = {name: value for name, value in source.result(cell).items() if name not in TIMED}
    return {
        name: msgspec.json.encode(result) if name.endswith(".json") else text
        for name, text in files.items()
    }


def _complaint(
    missing: Sequence[Cell], sources: Sequence[RunFolder], manifests: Sequence[Manifest]
) -> str:
    """Which cells are missing, by the shards that should have them."""
    folders = {
        manifest.shard: source.path for source, manifest in zip(sources, manifests, strict=True)
    }
    count = max((shard_of(text).total for text in folders if text), default=1)

    def words() -> Iterator[str]:
        for cell in missing[:LISTED]:
            shard = str(Shard(cell.number % count + 1, count))
            place = f", interrupted in {folders[shard]}" if shard in folders else ""
            yield f"{cell.words} (shard {shard}{place})"

    more = f"; and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    return f"cells are missing: {'; '.join(words())}{more}"


def _merged(
    first: Manifest, sources: Sequence[RunFolder], manifests: Sequence[Manifest]
) -> Manifest:
    shards = [
        {
            "folder": str(source.path),
            "shard": manifest.shard,
            "started": manifest.started,
            "machine": manifest.machine,
        }
        for source, manifest in zip(sources, manifests, strict=True)
    ]
    return msgspec.structs.replace(first, shard=None, shards=shards)


LISTED: Final = 5
TIMED: Final = ("cost", "changes")
"""Parts of a cell's result that hold processor time."""
