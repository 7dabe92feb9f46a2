"""Whether each list of backends that a scenario makes fits the tables of its strategies.

The simulation builds a balancer whenever a list changes, and would refuse some of them in the
middle of a run: AnchorHash has so many buckets, Maglev's table so many slots. Here the timeline is
followed with no more than the count of listed backends of each weight, from which the need of each
strategy follows: a backend takes as many units as its weight has over the greatest common divisor
of all.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kbe_nat.lab.scenario import MAX_TABLE, Backends, NewStrategy, Scenario, Strategy
from kbe_nat.lab.timeline import Moment, expand
from kbe_nat.lab.validation import MAX_BACKENDS, choice


def misfits(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Path and reason of each strategy that cannot hold a list, and of too many Services or
    backends. Raises `ScenarioError` as `expand` does. Cost: that of writing the timeline out.
    """
    backends, initial, moments = expand(scenario)
    counts = [service.count for service in scenario.services]
    if sum(counts) > MAX_SERVICES:
        yield "services", f"{sum(counts):,} Services, but {MAX_SERVICES:,} at most"
    total = sum(count * len(groups) for count, groups in zip(counts, backends, strict=True))
    if total > MAX_BACKENDS:
        yield "services", f"{total:,} backends over the timeline, but {MAX_BACKENDS:,} at most"
    for place, groups in enumerate(backends):
        yield from _Service(scenario, place, groups, initial[place]).misfits(moments)


class _Service:
    """The backends of one Service while the timeline is followed."""

    def __init__(
        self, scenario: Scenario, place: int, groups: Sequence[Backends], initial: int
    ) -> None:
        self._place = place
        self._name = scenario.services[place].name
        self._weights = [group.weight for group in groups]
        self._listed = [number < initial for number in range(len(groups))]
        # JET builds a second balancer, of the horizon too.
        self._expected = range(initial, len(groups)) if "jet" in scenario.memory else range(0)
        self._counts: Counter[int] = Counter(
            weight for number, weight in enumerate(self._weights) if self._counts_in(number)
        )
        self._strategies: list[tuple[str, Strategy]] = [
            (f"strategies[{number}]", choice(value))
            for number, value in enumerate(scenario.strategies)
        ]
        order = sorted(enumerate(scenario.timeline), key=lambda entry: entry[1].at)
        self._successors = iter(
            (f"timeline[{number}].strategy", choice(event.strategy))
            for number, event in order
            if isinstance(event, NewStrategy) and event.service == self._name
        )

    def misfits(self, moments: Sequence[Moment]) -> Iterator[tuple[str, str]]:
        """Path and reason of each list that does not fit."""
        yield from self._now(0.0)
        for time, _, changes in moments:
            # The simulation builds once a moment, when all of its changes are made.
            if sum(map(self._apply, changes)):
                yield from self._now(time)

    def _apply(self, change: Mapping[str, Any]) -> bool:
        """Whether a change is about this Service, and asks for another balancer."""
        match change:
            case {"list": [place, number, is_listed]} if place == self._place:
                self._set(number, is_listed, self._weights[number])
            case {"weight": [place, number, weight]} if place == self._place:
                self._set(number, self._listed[number], weight)
            case {"strategy": [place, _]} if place == self._place:
                self._strategies = [next(self._successors)]
            case _:
                return False
        return True

    def _set(self, number: int, is_listed: bool, weight: int) -> None:
        if self._counts_in(number):
            self._counts[self._weights[number]] -= 1
        self._listed[number], self._weights[number] = is_listed, weight
        if self._counts_in(number):
            self._counts[weight] += 1

    def _counts_in(self, number: int) -> bool:
        return self._listed[number] or number in self._expected

    def _now(self, time: float) -> Iterator[tuple[str, str]]:
        counts = {weight: count for weight, count in self._counts.items() if weight and count > 0}
        divisor = math.gcd(*counts)
        units = sum(weight // divisor * count for weight, count in counts.items())
        backends = sum(counts.values())
        for path, strategy in self._strategies:
            match strategy:
                case Strategy(name="anchor", buckets=buckets):
                    limit, need, field = buckets or BUCKETS, units, ".buckets"
                    words = "units of weight", "buckets"
                case Strategy(name="mh", table_size=size):
                    limit, need, field = size or MAX_TABLE, backends, ".table_size"
                    words = "backends with weight", "slots"
                case Strategy(name="modulo" | "jump"):
                    limit, need, field = MAX_UNITS, units, ""
                    words = "units of weight", "at most"
                case _:
                    continue
            if need > limit:
                has = f"{self._name} has {need:,} {words[0]} at {time:g} s"
                yield f"{path}{field}", f"{has}, and {strategy.name} {limit:,} {words[1]}"


BUCKETS: Final = 4096
"""Of AnchorHash, by default."""
MAX_UNITS: Final = 1 << 20
"""Units of weight of a strategy that knows no weights."""
MAX_SERVICES: Final = 1 << 20
