"""How far a run is, and what its finished cells say: read from its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from kbe_nat.lab.folder import RunFolder
from kbe_nat.lab.statistics import figure


class StandingRow(NamedTuple):
    """The cells of one strategy and memory, or of one way."""

    name: str
    finished: int
    total: int
    measures: Sequence[str]
    """Means over finished cells, as `Standing.measures` are called; dashes without any."""


class Standing:
    """Sums over the finished cells of a run."""

    def __init__(self, directory: Path) -> None:
        self._cells = directory / "cells"
        self._folder = RunFolder(directory)
        self._pending: dict[Path, str] = {}
        self._totals: dict[str, int] = {}
        self._sums: dict[str, list[list[float]]] = {}
        self.measures: tuple[str, ...] = ()
        """Names of what finished cells say; a live run's say too much for a line."""

    def rows(self) -> list[StandingRow]:
        """One row for each strategy, in the order of the cells. Cost: a look at each file that is
        not there yet.
        """
        if not self._totals and self._folder.has_manifest:
            for cell in self._folder.manifest().cells:
                self.measures = () if "way" in cell else MEASURES
                name = _name(cell)
                place = cell.get("repeat", cell.get("round"))
                self._pending[self._cells / f"{cell['key']}-{place}.json"] = name
                self._totals[name] = self._totals.get(name, 0) + 1
                self._sums.setdefault(name, [])
        for path in [path for path in self._pending if path.exists()]:
            self._sums[self._pending.pop(path)].append(_measures(path))
        return [
            StandingRow(name, len(self._sums[name]), total, self._means(name))
            for name, total in self._totals.items()
        ]

    def _means(self, name: str) -> list[str]:
        cells = [values for values in self._sums[name] if values]
        if not cells:
            return ["-"] * len(self.measures)
        return [figure(sum(column) / len(column)) for column in zip(*cells, strict=True)]


def _name(cell: Mapping[str, Any]) -> str:
    parts = [cell.get(name) for name in ("strategy", "memory", "way", "family")]
    if cell.get("source_nat") != "none":
        parts.append(cell.get("source_nat"))
    return " · ".join(str(part) for part in parts if part not in (None, ""))


def _measures(path: Path) -> list[float]:
    """Of a finished cell; none of a live one, whose measures are many."""
    try:
        services = json.loads(path.read_bytes()).get("services")
        if not services:
            return []
        ratios = [row["connections"][0]["max_over_mean"] for row in services if row["connections"]]
        sums = [float(sum(row[name] for row in services)) for name in ("refused", "lost")]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        # A damaged file is told of when the tables are put together.
        return []
    return [max(ratios, default=1.0), *sums]


MEASURES: Final = ("max over mean", "refused", "lost")
