"""The cells of a scenario: every combination of strategy, memory, swept values and repeat.

A cell's seed is a hash of the scenario's seed and the repeat, and of nothing else. So every
strategy meets the same open-loop traffic: differences between strategies are differences of pairs,
and no order of running, and no number of processes, changes a result. Its key is a hash of all that
determines its results, by which a finished cell is known again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Final

import msgspec

from kbe_nat.errors import ScenarioError
from kbe_nat.lab.reading import offline_scenario_of, with_value
from kbe_nat.lab.scenario import (
    BLOCKS_PER_CLIENT,
    Arrivals,
    Backends,
    Bursty,
    Closed,
    Distribution,
    Exponential,
    Memory,
    Paced,
    Pareto,
    Poisson,
    Samples,
    Scenario,
    SourceNat,
    Strategy,
    Trace,
    Traffic,
    Uniform,
)
from kbe_nat.lab.timeline import expand, strategy_values
from kbe_nat.lab.traces import column_values, connections
from kbe_nat.lab.validation import choice, source_nat_choice

FORMAT: Final = 3
"""Of the simulation's results: grows when equal cells give other results than before."""


class Cell(msgspec.Struct, frozen=True):
    """A cell. The same scenario makes the same cells in the same order."""

    number: int
    strategy: Strategy
    memory: Memory
    source_nat: SourceNat | None
    repeat: int
    sweep: dict[str, float | int | str]
    """The value of each field that is varied."""
    scenario: Scenario
    """With these values in place."""
    folder: Path
    """Where paths of traces begin."""
    key: str = ""
    """A hash of the description, under which its results are kept."""

    @property
    def seed(self) -> int:
        """63 bits from the scenario's seed and the repeat."""
        text = f"kbe-nat lab {self.scenario.seed} {self.repeat}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    @property
    def words(self) -> str:
        """The cell as messages call it."""
        varied = (f"{field} {value}" for field, value in self.sweep.items())
        way = (self.source_nat.label,) if self.source_nat else ()
        return ", ".join((self.strategy.label, self.memory, *way, *varied, f"repeat {self.repeat}"))

    def description(self) -> bytes:
        """All that the simulation must know, in JSON. Raises `ScenarioError` for traces that cannot
        be read.
        """
        scenario = self.scenario
        backends, initial, moments = expand(scenario)
        services = [
            {
                "count": service.count,
                "family": service.family,
                "affinity": service.affinity,
                "backends": [_backend(group, n < first) for n, group in enumerate(groups)],
                "horizon": list(range(first, len(groups))),
            }
            for service, groups, first in zip(scenario.services, backends, initial, strict=True)
        ]
        values = {
            "seed": self.seed,
            "duration": scenario.duration,
            "nodes": scenario.nodes.count,
            "ecmp": scenario.nodes.ecmp,
            "memory": self.memory,
            "limits": scenario.limits,
            "timeouts": scenario.timeouts,
            "strategy": strategy_values(self.strategy),
            "services": services,
            "traffic": [self._traffic(n, traffic) for n, traffic in enumerate(scenario.traffic)],
            "events": [{"at": at, "name": name, "changes": c} for at, name, c in moments],
        }
        # Only where there is one: the key of all other cells goes on as it is.
        if self.source_nat is not None:
            values["source_nat"] = _source_nat(self.source_nat)
        return msgspec.json.encode(values)

    def _traffic(self, place: int, traffic: Traffic) -> dict[str, Any]:
        names = [service.name for service in self.scenario.services]
        path = f"traffic[{place}]"
        arrivals = self._arrivals(f"{path}.arrivals", traffic.arrivals)
        clients: dict[str, Any] = {"count": traffic.clients.count, "zipf": traffic.clients.zipf}
        if rows := arrivals.get("trace"):
            clients["count"] = max(row[1] for row in rows) + 1
        return {
            "service": names.index(traffic.service),
            "kind": traffic.kind,
            "arrivals": arrivals,
            "clients": clients,
            "size": self._distribution(f"{path}.size", traffic.size),
            "lifetime": self._distribution(f"{path}.lifetime", traffic.lifetime),
            "requests": traffic.requests,
            "start": traffic.start,
            "stop": self.scenario.duration if traffic.stop is None else traffic.stop,
        }

    def _arrivals(self, path: str, arrivals: Arrivals) -> dict[str, Any]:
        match arrivals:
            case Poisson(rate=rate):
                return {"poisson": rate}
            case Paced(rate=rate):
                return {"paced": rate}
            case Bursty(rate=rate, seconds_on=on, seconds_off=off):
                return {"bursty": [rate, on, off]}
            case Closed(think=think):
                return {"closed": self._distribution(f"{path}.think", think)}
            case Trace(file=file):
                rows = connections(self.folder / file)
                if isinstance(rows, str) or not rows:
                    reason = rows or "no connection"
                    raise ScenarioError(self.scenario.name, f"{path}.file", f"{file}: {reason}")
                return {"trace": rows}

    def _distribution(self, path: str, distribution: Distribution) -> dict[str, Any]:
        match distribution:
            case Uniform(low=low, high=high):
                return {"uniform": [low, high]}
            case Exponential(mean=mean):
                return {"exponential": mean}
            case Pareto(shape=shape, minimum=minimum):
                return {"pareto": [shape, minimum]}
            case Samples(file="", values=values):
                return {"samples": list(values)}
            case Samples(file=file, column=column):
                values_or_reason = column_values(self.folder / file, column)
                if isinstance(values_or_reason, str):
                    raise ScenarioError(self.scenario.name, path, f"{file}: {values_or_reason}")
                return {"samples": values_or_reason}
            case number:
                return {"constant": number}


def cells(scenario: Scenario, folder: Path, keys: Sequence[str] | None = None) -> Iterator[Cell]:
    """All cells. Raises `ScenarioError` for a value of a sweep that cannot be, and for traces that
    cannot be read. `keys`, from a manifest, spare the reading of traces.
    """
    document = msgspec.to_builtins(scenario)
    grids = product(*([(sweep.field, v) for v in sweep.values] for sweep in scenario.sweep))
    number = 0
    for grid in grids:
        values = document
        for place, (path, setting) in enumerate(grid):
            where = f"sweep[{place}].field"
            values = with_value(values, path, setting, scenario.name, where)
        point = offline_scenario_of(values, scenario.name) if grid else scenario
        ways = point.source_nat or ("none",)
        axes = (point.strategies, point.memory, ways, range(point.repeats))
        for value, memory, way, repeat in product(*axes):
            source_nat = source_nat_choice(way)
            cell = Cell(
                number, choice(value), memory, source_nat, repeat, dict(grid), point, folder
            )
            key = _key(cell) if keys is None else keys[number]
            yield msgspec.structs.replace(cell, key=key)
            number += 1


def _key(cell: Cell) -> str:
    text = cell.description() + cell.strategy.label.encode()
    return hashlib.sha256(text + f" {FORMAT}".encode()).hexdigest()[:16]


def _source_nat(way: SourceNat) -> dict[str, Any]:
    return {
        "allocation": way.allocation,
        "mapping": way.mapping,
        "ports": way.ports,
        "block_size": way.block,
        "blocks_per_client": way.blocks_per_client or BLOCKS_PER_CLIENT,
    }


def _backend(group: Backends, is_listed: bool) -> dict[str, Any]:
    return {
        "weight": group.weight,
        "capacity": group.capacity,
        "latency": group.latency,
        "listed": is_listed,
    }
