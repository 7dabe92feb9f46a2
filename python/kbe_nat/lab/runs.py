"""Runs: a scenario's cells into a folder, taken up again where an earlier run was interrupted."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from kbe_nat.errors import LabError
from kbe_nat.lab.catalogue import catalogue_of
from kbe_nat.lab.cells import cells
from kbe_nat.lab.execution import Classes, cell_tables, strategy_class
from kbe_nat.lab.folder import FORMAT, Manifest, RowsByTable, RunFolder, scenario_hash
from kbe_nat.lab.live.cells import live_cells
from kbe_nat.lab.live.execution import run_live_cells, skipped_ways
from kbe_nat.lab.live.results import live_parts
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.machine import facts, printable
from kbe_nat.lab.parallel import Workers, executor
from kbe_nat.lab.reading import AnyScenario, check, read_scenario, scenario_of
from kbe_nat.lab.result import PART, Result, write_parquet
from kbe_nat.lab.scenario import Scenario
from kbe_nat.lab.shards import Shard, shard_of

Watch: TypeAlias = Callable[[int, int], None]
"""Is told how many cells are finished, and of how many."""


def run(
    scenario: AnyScenario | Mapping[str, Any] | str | Path,
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
    `classes` are strategies in Python, by the name that the scenario calls them. Raises
    `ScenarioError` and `LabError`; live ones `PlaygroundError` where namespaces cannot be made.
    Cost: some 400 ns for each packet of the simulation, some ten of them for each connection, on
    each of these processors.
    """
    value, folder = _scenario(scenario)
    rounds = "rounds" if isinstance(value, LiveScenario) else "repeats"
    changes = {"seed": seed, rounds: repeats}
    value = msgspec.structs.replace(
        value, **{name: number for name, number in changes.items() if number is not None}
    )
    check(value, value.name)
    part = None if shard is None else shard_of("{}/{}".format(*shard))
    if directory is None:
        temporary = tempfile.TemporaryDirectory(prefix="kbe-nat-lab-")
        place = Path(temporary.name) / "run"
        result = _run(value, folder, place, jobs, classes or {}, watch, part)
        result.keep_alive = temporary
        return result
    return _run(value, folder, Path(directory), jobs, classes or {}, watch, part)


def reproduce(
    directory: str | Path,
    target: str | Path,
    *,
    jobs: Workers = 1,
    classes: Classes | None = None,
    watch: Watch = lambda done, total: None,
) -> Result:
    """Run again what the manifest of a folder says, into another folder."""
    manifest = RunFolder(Path(directory)).manifest()
    if manifest.shard is not None:
        raise LabError(f"{directory}: {PART.format(manifest.shard)}")
    scenario = scenario_of(manifest.scenario, f"{directory}/manifest.json")
    return _run(scenario, Path(manifest.folder), Path(target), jobs, classes or {}, watch)


def _scenario(scenario: AnyScenario | Mapping[str, Any] | str | Path) -> tuple[AnyScenario, Path]:
    if isinstance(scenario, Scenario | LiveScenario):
        return scenario, Path()
    if isinstance(scenario, Mapping):
        return scenario_of(dict(scenario)), Path()
    return read_scenario(str(scenario))


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


def _run(
    scenario: AnyScenario,
    folder: Path,
    directory: Path,
    jobs: Workers,
    classes: Classes,
    watch: Watch,
    shard: Shard | None = None,
) -> Result:
    if isinstance(scenario, LiveScenario):
        if shard is not None:
            raise LabError(f"{scenario.name}: live scenarios have no shards: machines differ")
        work = _live_work(scenario, jobs)
    else:
        work = _offline_work(scenario, folder, jobs, classes)
    run = RunFolder(directory)
    try:
        with run.lock():
            if run.has_manifest:
                _check_resumption(run, scenario, work, shard)
                run.make_cells()
            else:
                run.begin(_manifest(scenario, folder, work, shard))
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
        raise LabError(f"{directory}: {error.strerror or error}") from error
    return Result(directory)


def _finish(run: RunFolder, cells: Sequence[Any], work: Work, watch: Watch) -> None:
    pending = [cell for cell in cells if not run.is_finished(cell)]
    done = len(cells) - len(pending)
    watch(done, len(cells))
    for _ in work.execute(pending, run.path):
        done += 1
        watch(done, len(cells))


def _offline_work(scenario: Scenario, folder: Path, jobs: Workers, classes: Classes) -> Work:
    work = tuple(cells(scenario, folder))
    for cell in work:
        # A class that is not there is a mistake to be told before hours of other cells.
        strategy_class(cell.strategy, classes)
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
        return executor(jobs)(pending, directory, classes)

    return Work(
        work, descriptions, [], execute, lambda run: (cell_tables(cell, run) for cell in work)
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
    if manifest.scenario_hash != scenario_hash(scenario):
        raise LabError(f"{run.path}: holds a run of another scenario, or with other settings")
    begun, now = manifest.machine.get("kbe_nat"), version("kbe-nat")
    if begun != now:
        raise LabError(f"{run.path}: was begun by kbe-nat {begun}; this is {now}")
    before, now = (
        "the whole run" if part is None else f"shard {part}" for part in (manifest.shard, shard)
    )
    if before != now:
        raise LabError(f"{run.path}: was begun as {before}, and this is {now}")
    if manifest.skipped != work.skipped:
        before, after = (
            ", ".join(row["way"] for row in rows) or "none"
            for rows in (manifest.skipped, work.skipped)
        )
        raise LabError(f"{run.path}: ways that were skipped: {before}; now: {after}")


def _manifest(scenario: AnyScenario, folder: Path, work: Work, shard: Shard | None) -> Manifest:
    return Manifest(
        format=FORMAT,
        scenario=msgspec.to_builtins(scenario),
        scenario_hash=scenario_hash(scenario),
        seed=scenario.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=facts(version("kbe-nat")),
        folder=printable(str(folder.resolve())),
        cells=work.descriptions,
        skipped=work.skipped,
        shard=None if shard is None else str(shard),
    )
