"""Two runs of one live scenario: which medians differ by more than chance and noise."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from kbe_nat.lab.statistics import interval_words


def median_differences(
    first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """A line for each row of `medians` whose intervals do not overlap, and whose medians differ by
    more than the noise of either run; and for each that only one run has.
    """
    here, there = ({_place(row): row for row in rows} for rows in (first, second))
    for place in here.keys() | there.keys():
        old, new = here.get(place), there.get(place)
        words = ", ".join(str(value) for value in place if value not in (None, ""))
        if old is None or new is None:
            yield f"medians: {words}: only the {'second' if old is None else 'first'} run has it"
        elif _differ(old, new):
            yield f"medians: {words}: {_interval(old)} -> {_interval(new)}"


def _differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    if old["low"] <= new["high"] and new["low"] <= old["high"]:
        return False
    if not min(old["median"], new["median"]):
        return True
    noise = max(row["noise"] or 0.0 for row in (old, new))
    ratio = float(new["median"] / old["median"])
    return max(ratio, 1 / ratio) - 1 > noise


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in PLACE)


def _interval(row: Mapping[str, Any]) -> str:
    return interval_words(row["median"], row["low"], row["high"])


PLACE: Final = ("table", "quantity", "case", "way", "services", "family")
