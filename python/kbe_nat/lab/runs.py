"""Runs: a scenario's cells into a folder, taken up again where an earlier run was interrupted."""

import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from kbe_nat.errors import LabError
from kbe_nat.lab.cells import Cell, cells
from kbe_nat.lab.execution import Classes, executor, strategy_class
from kbe_nat.lab.folder import FORMAT, Manifest, RunFolder, scenario_hash
from kbe_nat.lab.machine import facts
from kbe_nat.lab.reading import check, read_scenario, scenario_of
from kbe_nat.lab.result import Result, write_parquet
from kbe_nat.lab.scenario import Scenario

Watch: TypeAlias = Callable[[int, int], None]
"""Is told how many cells are finished, and of how many."""


def run(
    scenario: Scenario | Mapping[str, Any] | str | Path,
    directory: str | Path | None = None,
    *,
    seed: int | None = None,
    repeats: int | None = None,
    jobs: int = 1,
    classes: Classes | None = None,
    watch: Watch = lambda done, total: None,
) -> Result:
    """Run a scenario: a value, a mapping as YAML has it, a file, or a name of the gallery.

    The results lie in `directory`, which is made, or taken up again if a run of the same scenario
    was interrupted there. Without one they lie in a temporary folder that lives as long as the
    `Result`. `classes` are strategies in Python, by the name that the scenario calls them. Raises
    `ScenarioError` and `LabError`. Cost: some 400 ns for each
    packet of the simulation, some ten of them for each connection, on each of `jobs` processors.
    """
    value, folder = _scenario(scenario)
    changes = {"seed": seed, "repeats": repeats}
    value = msgspec.structs.replace(
        value, **{name: number for name, number in changes.items() if number is not None}
    )
    check(value, value.name)
    if directory is None:
        temporary = tempfile.TemporaryDirectory(prefix="kbe-nat-lab-")
        result = _run(value, folder, Path(temporary.name) / "run", jobs, classes or {}, watch)
        result.keep_alive = temporary
        return result
    return _run(value, folder, Path(directory), jobs, classes or {}, watch)


def reproduce(
    directory: str | Path,
    target: str | Path,
    *,
    jobs: int = 1,
    classes: Classes | None = None,
    watch: Watch = lambda done, total: None,
) -> Result:
    """Run again what the manifest of a folder says, into another folder."""
    manifest = RunFolder(Path(directory)).manifest()
    scenario = scenario_of(manifest.scenario, f"{directory}/manifest.json")
    return _run(scenario, Path(manifest.folder), Path(target), jobs, classes or {}, watch)


def _scenario(scenario: Scenario | Mapping[str, Any] | str | Path) -> tuple[Scenario, Path]:
    if isinstance(scenario, Scenario):
        return scenario, Path()
    if isinstance(scenario, Mapping):
        return scenario_of(dict(scenario)), Path()
    return read_scenario(str(scenario))


def _run(
    scenario: Scenario, folder: Path, directory: Path, jobs: int, classes: Classes, watch: Watch
) -> Result:
    work = tuple(cells(scenario, folder))
    for cell in work:
        # A class that is not there is a mistake to be told before hours of other cells.
        strategy_class(cell.strategy, classes)
    run = RunFolder(directory)
    if run.has_manifest:
        _check_resumption(run, scenario)
    else:
        run.begin(_manifest(scenario, folder, work))
    pending = [cell for cell in work if not run.is_finished(cell)]
    done = len(work) - len(pending)
    watch(done, len(work))
    for _ in executor(jobs)(pending, directory, classes):
        done += 1
        watch(done, len(work))
    names = run.tabulate(work, scenario)
    write_parquet(run, names, scenario)
    return Result(directory)


def _check_resumption(run: RunFolder, scenario: Scenario) -> None:
    manifest = run.manifest()
    if manifest.scenario_hash != scenario_hash(scenario):
        raise LabError(f"{run.path}: holds a run of another scenario, or with other settings")
    begun, now = manifest.machine.get("kbe_nat"), version("kbe-nat")
    if begun != now:
        raise LabError(f"{run.path}: was begun by kbe-nat {begun}; this is {now}")


def _manifest(scenario: Scenario, folder: Path, work: tuple[Cell, ...]) -> Manifest:
    return Manifest(
        format=FORMAT,
        scenario=msgspec.to_builtins(scenario),
        scenario_hash=scenario_hash(scenario),
        seed=scenario.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=facts(version("kbe-nat")),
        folder=str(folder.resolve()),
        cells=[
            {
                "number": cell.number,
                "key": cell.key,
                "strategy": cell.strategy.label,
                "memory": cell.memory,
                "repeat": cell.repeat,
                "seed": cell.seed,
                "sweep": cell.sweep,
            }
            for cell in work
        ],
    )
