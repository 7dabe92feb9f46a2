"""Runs: a scenario's cells into a folder, taken up again where an earlier run was interrupted."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from kbe_nat.errors import ArgumentError, LabError
from kbe_nat.lab.arguments import whole
from kbe_nat.lab.catalogue import catalogue_of
from kbe_nat.lab.cells import cells
from kbe_nat.lab.classes import Classes, find_classes, module_folders, module_path
from kbe_nat.lab.execution import cell_tables
from kbe_nat.lab.folder import FORMAT, Manifest, RowsByTable, RunFolder
from kbe_nat.lab.identity import canonical, changes, scenario_hash
from kbe_nat.lab.live.cells import live_cells
from kbe_nat.lab.live.execution import run_live_cells, skipped_ways
from kbe_nat.lab.live.results import live_parts
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.machine import facts, printable
from kbe_nat.lab.parallel import Workers, executor
from kbe_nat.lab.preflight import Origin, Source, named_errors, origin_of, warn_of_doubts
from kbe_nat.lab.reading import AnyScenario, scenario_of, with_fields
from kbe_nat.lab.result import INTERRUPTED, OTHER_CELLS, PART, Result, write_parquet
from kbe_nat.lab.scenario import Scenario
from kbe_nat.lab.shards import Shard, shard_of

Watch: TypeAlias = Callable[[int, int], None]
"""Is told how many cells are finished, and of how many."""


def run(
    scenario: Source,
    directory: str | Path | None = None,
    *,
    seed: int | None = None,
    repeats: int | None = None,
    jobs: Workers = 1,
    shard: tuple[int, int] | None = None,
    classes: Classes | None = None,
    watch: Watch = lambda done, total: None,
) -> Result:
    """Run a scenario: a value, a mapping as YAML has it, a file, or a name of the gallery.

    The results lie in `directory`, which is made, or taken up again if a run of the same scenario
    was interrupted there. Without one they lie in a temporary folder that lives as long as the
    `Result`. `jobs` are processes of this machine, or a `Cluster`. `repeats` are a live scenario's
    rounds. A `shard`, such as (2, 4), has a part of the cells and no tables: `merge` makes these.
    `classes` are strategies in Python, by the name that the scenario calls them. Warns of what has
    no effect by `LabWarning`. Raises `ScenarioError`, `ArgumentError` and `LabError`; live ones
    `PlaygroundError` where namespaces cannot be made.
    Cost: some 7 µs of processor time for each connection with conntrack, which is some ten packets.
    """
    origin = origin_of(scenario)
    origin = origin._replace(scenario=_with_numbers(origin.scenario, seed, repeats))
    part = None if shard is None else _shard(shard)
    warn_of_doubts(origin, stacklevel=2)
    with named_errors(origin):
        if directory is None:
            temporary = tempfile.TemporaryDirectory(prefix="kbe-nat-lab-")
            place = Path(temporary.name) / "run"
            result = _run(origin, place, jobs, classes or {}, watch, part)
            result.keep_alive = temporary
            return result
        return _run(origin, Path(directory), jobs, classes or {}, watch, part)


def reproduce(
    directory: str | Path,
    target: str | Path,
    *,
    jobs: Workers = 1,
    classes: Classes | None = None,
    watch: Watch = lambda done, total: None,
) -> Result:
    """Run again what the manifest of a folder says, into another folder. Strategies in Python are
    searched for where the first run found them; those that its caller gave are to be given again.
    Raises as `run` does.
    """
    first = Result(directory)
    manifest = first.manifest
    if manifest.shard is not None:
        raise LabError(f"{directory}: {PART.format(manifest.shard)}")
    if not first.tables:
        raise LabError(f"{directory}: {INTERRUPTED}")
    for table in first.catalogue.tables:
        if table not in first.tables and table not in first.catalogue.timed:
            raise LabError(f"{directory}: the run has no table {table}: run it once more")
    if Path(target).resolve() == Path(directory).resolve():
        raise LabError(f"{target}: it is the run itself: name another folder for the results")
    name = f"{directory}/manifest.json"
    origin = Origin(scenario_of(manifest.scenario, name), Path(manifest.folder), name)
    modules = map(Path, manifest.modules.values())
    with module_path(modules), named_errors(origin):
        return _run(origin, Path(target), jobs, classes or {}, watch)


def _with_numbers(scenario: AnyScenario, seed: int | None, repeats: int | None) -> AnyScenario:
    """The scenario with another seed, and another number of repeats or rounds."""
    rounds, most = ("rounds", 1000) if isinstance(scenario, LiveScenario) else ("repeats", 10_000)
    numbers: dict[str, int] = {}
    if seed is not None:
        numbers["seed"] = whole("seed", seed, 0, (1 << 63) - 1)
    if repeats is not None:
        numbers[rounds] = whole("repeats", repeats, 1, most)
    return with_fields(scenario, **numbers) if numbers else scenario


def _shard(shard: tuple[int, int]) -> Shard:
    try:
        number, total = shard
    except (TypeError, ValueError):
        raise ArgumentError(f"shard: {shard!r} is no pair, such as (2, 4)") from None
    return shard_of(f"{number}/{total}")


class Work(NamedTuple):
    """What a scenario makes of the machine that it runs on."""

    cells: Sequence[Any]
    descriptions: list[dict[str, Any]]
    """Of the cells, for the manifest."""
    skipped: list[dict[str, Any]]
    """Ways that this machine cannot run, with their reasons."""
    execute: Callable[[Sequence[Any], Path], Iterator[object]]
    """Runs cells into a folder, and yields whenever one is finished."""
    parts: Callable[[RunFolder], Iterator[RowsByTable]]
    """The rows of all tables, when all cells are finished."""
    modules: Mapping[str, str] = {}
    """Folders of the modules of strategies in Python, for the manifest."""


def _run(
    origin: Origin,
    directory: Path,
    jobs: Workers,
    classes: Classes,
    watch: Watch,
    shard: Shard | None = None,
) -> Result:
    # Modules may import others when a strategy is asked, and processes get the path of this one.
    with module_path((origin.folder,)):
        if isinstance(origin.scenario, LiveScenario):
            if shard is not None:
                name = origin.scenario.name
                raise LabError(f"{name}: live scenarios have no shards: machines differ")
            work = _live_work(origin.scenario, jobs)
        else:
            work = _offline_work(origin.scenario, origin.folder, jobs, classes)
        _fill(RunFolder(directory), origin, work, watch, shard)
    return Result(directory)


def _fill(run: RunFolder, origin: Origin, work: Work, watch: Watch, shard: Shard | None) -> None:
    """The cells that are not there, and the tables."""
    scenario = origin.scenario
    try:
        with run.lock():
            if run.has_manifest:
                _check_resumption(run, scenario, work, shard)
                run.make_cells()
            else:
                run.begin(_manifest(origin, work, shard))
            part = [cell for cell in work.cells if shard is None or cell in shard]
            _finish(run, part, work, watch)
            if shard is None:
                catalogue = catalogue_of(scenario)
                run.tabulate(catalogue, work.parts(run))
                write_parquet(run, catalogue)
    except OSError as error:
        if error.filename is not None:
            raise
        # A write, as to a full disk, does not say where.
        raise LabError(f"{run.path}: {error.strerror or error}") from error


def _finish(run: RunFolder, cells: Sequence[Any], work: Work, watch: Watch) -> None:
    pending = [cell for cell in cells if not run.is_finished(cell)]
    done = len(cells) - len(pending)
    watch(done, len(cells))
    for _ in work.execute(pending, run.path):
        done += 1
        watch(done, len(cells))


def _offline_work(scenario: Scenario, folder: Path, jobs: Workers, classes: Classes) -> Work:
    execute_with = executor(jobs)
    work = tuple(cells(scenario, folder))
    # A class that is not there is a mistake to be told before hours of other cells.
    strategies = find_classes(work, classes)
    descriptions = [
        {
            "number": cell.number,
            "key": cell.key,
            "strategy": cell.strategy.label,
            "memory": cell.memory,
            "source_nat": cell.source_nat.label if cell.source_nat else "none",
            "repeat": cell.repeat,
            "seed": cell.seed,
            "sweep": cell.sweep,
        }
        for cell in work
    ]

    def execute(pending: Sequence[Any], directory: Path) -> Iterator[object]:
        return execute_with(pending, directory, strategies)

    return Work(
        work,
        descriptions,
        [],
        execute,
        lambda run: (cell_tables(cell, run) for cell in work),
        module_folders(strategies, classes),
    )


def _live_work(scenario: LiveScenario, jobs: Workers) -> Work:
    if jobs != 1:
        raise LabError(f"{scenario.name}: live cells would measure each other: one job alone")
    if os.geteuid() != 0:
        raise LabError(
            f"{scenario.name}: root is needed, or root in a user namespace (unshare -Urnm)"
        )
    reasons = skipped_ways(scenario)
    ways = frozenset(choice.way for choice in scenario.choices) - reasons.keys()
    if not ways:
        first = next(iter(reasons.values()))
        raise LabError(f"{scenario.name}: this machine can run none of the ways: {first}")
    work = tuple(live_cells(scenario, ways))
    descriptions = [{"number": cell.number, "key": cell.key} | cell.description() for cell in work]
    skipped = [{"way": way, "reason": reason} for way, reason in reasons.items()]
    return Work(
        work, descriptions, skipped, run_live_cells, partial(live_parts, scenario, work, reasons)
    )


def _check_resumption(
    run: RunFolder, scenario: AnyScenario, work: Work, shard: Shard | None
) -> None:
    manifest = run.manifest()
    begun, now = manifest.machine.get("kbe_nat"), version("kbe-nat")
    if begun != now:
        raise LabError(f"{run.path}: was begun by kbe-nat {begun}; this is {now}; {ELSEWHERE}")
    if manifest.scenario_hash != scenario_hash(scenario):
        differing = list(changes(manifest.scenario, canonical(scenario)))
        few = "; ".join(differing[:MOST_CHANGES])
        more = len(differing) - MOST_CHANGES
        others = f"; {more} more fields differ" if more > 0 else ""
        raise LabError(f"{run.path}: holds another run: {few}{others}; {ELSEWHERE}")
    before, now = (
        "the whole run" if part is None else f"shard {part}" for part in (manifest.shard, shard)
    )
    if before != now:
        raise LabError(f"{run.path}: was begun as {before}, and this is {now}; {ELSEWHERE}")
    if manifest.skipped == work.skipped and manifest.cells != work.descriptions:
        raise LabError(f"{run.path}: {OTHER_CELLS} since the run was begun; {ELSEWHERE}")
    if manifest.skipped != work.skipped:
        before, after = (
            ", ".join(row["way"] for row in rows) or "none"
            for rows in (manifest.skipped, work.skipped)
        )
        raise LabError(f"{run.path}: ways that were skipped: {before}; now: {after}; {ELSEWHERE}")


def _manifest(origin: Origin, work: Work, shard: Shard | None) -> Manifest:
    scenario = origin.scenario
    return Manifest(
        format=FORMAT,
        scenario=canonical(scenario),
        scenario_hash=scenario_hash(scenario),
        seed=scenario.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=facts(version("kbe-nat")),
        folder=printable(str(origin.folder.resolve())),
        cells=work.descriptions,
        modules={name: printable(place) for name, place in work.modules.items()},
        skipped=work.skipped,
        shard=None if shard is None else str(shard),
    )


MOST_CHANGES: Final = 5
"""Fields that are named where a folder holds another run."""
ELSEWHERE: Final = "run into another folder (-d), or remove this one"
