"""Medians over rounds, and what they are against the baseline's.

Ways are compared in pairs of one round, by the ratio of their quantities: what a round's minute did
to both falls out. The baseline's second run in each round is compared with the first in the same
way. What these ratios, of one way to itself, are away from 1 at most is noise, and so is the spread
of the idle control, by the clock that the quantity goes by. A difference is called one only when
its interval does not hold 1, and it is larger than the noise.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from kbe_nat.lab.live.cells import LiveCell
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.tables import MEASURES, QUANTITIES, Quantity
from kbe_nat.lab.statistics import median_interval
from kbe_nat.lab.tables import Row


class Place(NamedTuple):
    """What is measured, of which way."""

    quantity: Quantity
    case: str
    services: int
    family: str
    way: str


Rounds: TypeAlias = dict[int, float]
"""A value by round."""
Samples: TypeAlias = dict[tuple[Place, int], Rounds]
"""By place and run."""


def median_rows(
    scenario: LiveScenario, results: Iterable[tuple[LiveCell, Mapping[str, Sequence[Row]]]]
) -> list[Row]:
    """The table `medians`, from all cells and their rows by table."""
    samples: Samples = {}
    spreads: dict[str, list[float]] = {name: [] for name in SPREADS}
    for cell, tables in results:
        for row in tables.get("control", []):
            for name, column in SPREADS.items():
                spreads[name].append(_number(row[column]) or 0.0)
        for quantity in QUANTITIES:
            for case, value in _values(quantity, tables.get(quantity.table, [])):
                place = Place(quantity, case, cell.services, cell.family, cell.way)
                samples.setdefault((place, cell.run), {})[cell.round] = value
    idle = {name: statistics.median(each) for name, each in spreads.items() if each}
    places = [place for place, run in samples if run == 0]
    order = [choice.way for choice in scenario.choices]
    places.sort(
        key=lambda place: (
            QUANTITIES.index(place.quantity),
            place.family,
            place.services,
            place.case,
            order.index(place.way),
        )
    )
    return [_row(scenario, samples, place, idle) for place in places]


def _values(quantity: Quantity, rows: Sequence[Row]) -> Iterator[tuple[str, float]]:
    """The value of each case in a cell: the median, where a case has several rows."""
    names = [column.name for column in MEASURES[quantity.table]]
    value_at = names.index(quantity.name)
    cases_at = [names.index(case) for case in quantity.cases]
    groups: dict[str, list[float]] = {}
    for row in rows:
        value = _number(row[value_at])
        if value is not None:
            case = ", ".join(
                _words(name, row[place])
                for name, place in zip(quantity.cases, cases_at, strict=True)
            )
            groups.setdefault(case, []).append(value)
    for case, values in groups.items():
        yield case, statistics.median(values)


def _number(value: str | int | float | None) -> float | None:
    return None if value is None else float(value)


def _words(name: str, value: object) -> str:
    match name, value:
        case "loss_tolerated", float():
            return f"loss {value * 100:g} %"
        case "load", float():
            return f"load {value:,.0f}/s"
    return str(value)


def _row(scenario: LiveScenario, samples: Samples, place: Place, idle: Mapping[str, float]) -> Row:
    rounds = samples[place, 0]
    first = place._replace(way=scenario.base)
    base, again = samples.get((first, 0), {}), samples.get((first, 1), {})
    whole = median_interval(list(rounds.values()), scenario.seed)
    assert whole is not None
    noise = noise_of(base, again, idle.get(place.quantity.control or "", 0.0))
    head = (place.way, place.services, place.family, place.quantity.table, place.case)
    interval = (whole.samples, whole.median, whole.low, whole.high)
    values = (place.quantity.name, place.quantity.column.unit, *interval)
    if place.way == scenario.base:
        return (*head, *values, None, None, None, noise, None)
    ratio = median_interval(ratios(rounds, base), scenario.seed)
    if ratio is None:
        return (*head, *values, None, None, None, noise, None)
    verdict = difference(ratio.median, ratio.low, ratio.high, noise, ratio.samples)
    return (*head, *values, ratio.median, ratio.low, ratio.high, noise, verdict)


def ratios(rounds: Rounds, base: Rounds) -> list[float]:
    """Of values to the baseline's, in the rounds that have both."""
    return [value / base[turn] for turn, value in rounds.items() if base.get(turn)]


def noise_of(base: Rounds, again: Rounds, idle: float) -> float | None:
    """The share by which two runs of one way in one round differ at most, or the spread of the idle
    control, where this is more. None without a second run: then nothing is known.
    """
    pairs = ratios(again, base)
    if not pairs:
        return None
    return max(idle, *(max(ratio, 1 / ratio) - 1 if ratio > 0 else 1.0 for ratio in pairs))


def difference(
    ratio: float, low: float, high: float, noise: float | None, rounds: int
) -> str | None:
    """More, less, or none. None where nothing can be said: one round, or no second run of the
    baseline.
    """
    if rounds < 2 or noise is None:
        return None
    is_certain = low > 1 or high < 1
    size = max(ratio, 1 / ratio) - 1 if ratio > 0 else float("inf")
    if not is_certain or size <= noise:
        return "none"
    return "more" if ratio > 1 else "less"


SPREADS: Final = {
    column.name: place
    for place, column in enumerate(MEASURES["control"])
    if column.name in ("spread", "cpu_spread")
}
"""Columns of the idle control, by name."""
