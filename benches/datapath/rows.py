"""Rows of benches/results from the tables of a run of the lab."""

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from kbe_nat.lab import Result, read_scenario, run
from kbe_nat.lab.live.scenario import LiveScenario

PATHS: Final = {"every-packet": "native", "kube-proxy-nft": "kube-proxy-nft-rules"}
"""What results call ways, where not as the lab does."""
Row = dict[str, Any]


def scenario(name: str, **changes: Any) -> LiveScenario:
    """A live scenario of the gallery, with these fields in the place of its own."""
    value, _ = read_scenario(name)
    assert isinstance(value, LiveScenario)
    return msgspec.structs.replace(value, **changes)


def measure(value: LiveScenario, directory: str | None) -> Result:
    """Run it; into a folder, where an interrupted run goes on, if one is named."""
    place = directory or str(Path(tempfile.mkdtemp(prefix="kbe-nat-bench-")) / "run")

    def watch(done: int, total: int) -> None:
        print(f"{value.name}: {done} of {total} cells", file=sys.stderr)

    return run(value, place, watch=watch)


def values(result: Result, table: str, column: str) -> Mapping[tuple[str, int], list[float]]:
    """The samples of a column in the order of the rounds, by way and number of Services."""
    groups: dict[tuple[str, int], list[float]] = {}
    if table in result.tables:
        for row in result.rows(table):
            if row["run"] == 0 and row[column] is not None:
                groups.setdefault((row["way"], row["services"]), []).append(row[column])
    return groups


def places(result: Result) -> Iterator[tuple[str, int]]:
    """Way and number of Services of all cells that were measured, each once, in the order of the
    scenario.
    """
    cells = {(cell["way"], cell["services"]) for cell in result.manifest.cells}
    scenario_of_run = result.scenario
    assert isinstance(scenario_of_run, LiveScenario)
    order = [choice.way for choice in scenario_of_run.choices]
    ways = (cell for cell in cells if cell[0] in order)
    return iter(sorted(ways, key=lambda cell: (cell[1], order.index(cell[0]))))


def median(samples: list[float], digits: int = 2) -> float | None:
    """Rounded; None without samples."""
    return round(statistics.median(samples), digits) if samples else None
