"""The cells of a live scenario: every way with every number of Services, by family and round.

Rounds are what makes ways comparable: each way is measured once in each, so that a slow minute of
the machine hits all. The order within a round is drawn from the scenario's seed, so that none
always comes first. A round begins with its idle control, and has the baseline twice: what these two
differ by is noise.
"""

import hashlib
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import msgspec

from kbe_nat.lab.live.scenario import LiveScenario, WayChoice

FORMAT: Final = 1
"""Of the live measures: grows when equal cells measure something else than before."""
IDLE: Final = "idle"
"""The way of a round's idle control."""


class LiveCell(msgspec.Struct, frozen=True):
    """A cell. The same scenario makes the same cells in the same order."""

    number: int
    way: str
    services: int
    family: str
    round: int
    run: int
    """1: the baseline's second in this round."""
    scenario: LiveScenario

    @property
    def repeat(self) -> int:
        """The round."""
        return self.round

    @property
    def key(self) -> str:
        """A hash of the description, under which its results are kept."""
        what = () if self.way == IDLE else self.scenario.measures_of(self.way)
        text = msgspec.json.encode(
            (self.description(), what, self.scenario.endpoints, self.scenario.idle, FORMAT)
        )
        return hashlib.sha256(text).hexdigest()[:16]

    def values(self) -> tuple[str | int, ...]:
        """The columns of a cell."""
        return (self.way, self.services, self.family, self.round, self.run)

    def description(self) -> dict[str, Any]:
        """As the manifest tells it."""
        names = ("way", "services", "family", "round", "run")
        return dict(zip(names, self.values(), strict=True))


def live_cells(scenario: LiveScenario, ways: frozenset[str]) -> Iterator[LiveCell]:
    """All cells of these ways, in the order in which they are measured."""
    number = 0
    for turn in range(scenario.rounds):
        order = Random(f"kbe-nat lab {scenario.seed} {turn}")
        rows: list[tuple[str, int, str, int]] = []
        for choice in scenario.choices:
            if choice.way in ways:
                rows += _places(scenario, choice)
        order.shuffle(rows)
        for way, services, family, run in [(IDLE, 0, "", 0), *rows]:
            yield LiveCell(number, way, services, family, turn, run, scenario)
            number += 1


def _places(scenario: LiveScenario, choice: WayChoice) -> Iterator[tuple[str, int, str, int]]:
    for services in choice.services or scenario.services:
        for family in scenario.families:
            for run in range(2 if choice.way == scenario.base else 1):
                yield choice.way, services, family, run
