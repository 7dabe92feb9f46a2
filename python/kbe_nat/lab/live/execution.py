"""Running live cells, one after the other: two at once would measure each other."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from kbe_nat.errors import KbeNatError, ScenarioError
from kbe_nat.family import Family
from kbe_nat.lab.folder import RunFolder
from kbe_nat.lab.live.cells import IDLE, LiveCell
from kbe_nat.lab.live.control import control
from kbe_nat.lab.live.methods import Bench, Rows, measure, protocol
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.objects import objects
from kbe_nat.lab.live.results import LiveResult
from kbe_nat.lab.live.scenario import AnyMeasure, LiveScenario
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.live.ways.way import Way
from kbe_nat.lab.tables import Row
from kbe_nat.model import Snapshot
from kbe_nat.playground.signals import Interruptions
from kbe_nat.spelling import none_of


def skipped_ways(scenario: LiveScenario) -> dict[str, str]:
    """The scenario's ways that this machine cannot run, and why. Raises `ScenarioError` for a name
    that is none.
    """
    check_ways(scenario)
    reasons = {}
    for choice in scenario.choices:
        reason = WAYS[choice.way].missing()
        if reason is not None:
            reasons[choice.way] = reason
    return reasons


def check_ways(scenario: LiveScenario) -> None:
    """Raises `ScenarioError` for names that are none of the ways."""
    errors = [
        (f"ways[{place}]", none_of(choice.way, WAYS))
        for place, choice in enumerate(scenario.choices)
        if choice.way not in WAYS
    ]
    if errors:
        (path, reason), *others = errors
        raise ScenarioError(scenario.name, path, reason, *others)


def run_live_cells(
    cells: Sequence[LiveCell], directory: Path, ways: Mapping[str, Way] = WAYS
) -> Iterator[LiveCell]:
    """Run each cell to its end, leave its result in the folder, and yield it. Raises
    `PlaygroundError` where namespaces cannot be made.
    """
    run = RunFolder(directory)
    for cell in cells:
        if cell.way == IDLE:
            result = LiveResult(_listed(control(cell.scenario.idle)))
        else:
            # Ctrl-C ends the programs of a way too. What they then complain about is no result: the
            # request to end comes through before the cell is finished.
            with Interruptions() as interruptions:
                result = measured_cell(cell, ways[cell.way], interruptions)
                with interruptions.obey():
                    pass
        run.finish(cell, msgspec.json.encode(result))
        yield cell


def measured_cell(cell: LiveCell, way: Way, interruptions: Interruptions) -> LiveResult:
    """All measures of a cell, on a network of its own. Requests to end are obeyed while a measure
    goes on, and not while something is set up or taken away.
    """
    scenario, family = cell.scenario, Family[cell.family.upper()]
    reason = _unfit(way, cell, family)
    if reason is not None:
        return LiveResult(missing=[("", reason)])
    snapshot = partial(_snapshot, cell, family)
    result = LiveResult()
    with Network() as network:
        try:
            with way.serve(network, snapshot(0)) as served:
                bench = Bench(network, served, family, way.is_static, snapshot)
                for what in scenario.measures_of(way.name):
                    with interruptions.obey():
                        _add(result, way, bench, what)
        except KbeNatError as error:
            result.missing.append(("", str(error)))
    return result


def _add(result: LiveResult, way: Way, bench: Bench, what: AnyMeasure) -> None:
    name = str(what.__struct_config__.tag)
    needed = protocol(what)
    if needed not in way.protocols:
        result.missing.append((name, f"{way.name} carries no {needed.upper()}"))
        return
    try:
        rows = measure(bench, what)
    except KbeNatError as error:
        result.missing.append((name, str(error)))
        return
    for table, values in _listed(rows).items():
        result.rows.setdefault(table, []).extend(values)


def _unfit(way: Way, cell: LiveCell, family: Family) -> str | None:
    """Why a way has no such cell, though the machine can run it."""
    if family not in way.families:
        return f"{way.name} carries no {cell.family}"
    if way.is_static and cell.services > 1:
        return f"{way.name} serves one Service"
    return None


def _snapshot(cell: LiveCell, family: Family, pod: int) -> Snapshot:
    return objects(
        cell.services, families=(family,), pods=(pod,), endpoints=cell.scenario.endpoints
    )


def _listed(rows: Rows) -> dict[str, list[Row]]:
    return {table: list(values) for table, values in rows.items()}
