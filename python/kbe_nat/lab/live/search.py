"""The search for the highest rate that passes, by trials that may be wrong.

RFC 2544 halves an interval, and believes each trial. A trial on a machine with other work fails now
and then below the rate that is sought, and one wrong answer sends the halving astray for good
(RFC 9971 says so at length). So this search keeps a distribution: for each rate of a grid the
chance that it is the sought one. A trial is done where both answers are about as likely; the answer
multiplies the chances on the one side by `TRUST`, and on the other by 1 - `TRUST`. That a trial was
believed too much shows as trials that contradict the result, and is mended by more trials.

The search begins at the sender's own highest rate. Where that passes twice, the sender is the limit
and not the way. Where it fails, what came through nonetheless is a first guess: chances fall off on
both sides of it. The search ends when the middle 95 % of the distribution are as narrow as was
asked for, or with its last trial; then the interval says how sure it is.
"""

import math
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

TRUST: Final = 0.9
"""The chance that a trial says the truth."""
SPAN: Final = 4096.0
"""The highest rate of the grid over the least."""
FALL: Final = 0.7
"""Chances fall to 1/e where the logarithm of the rate is so far from the first guess."""
STEPS: Final = 4
"""Rates of the grid within the precision that was asked for."""
CONFIDENCE: Final = 0.95


class Trial(NamedTuple):
    """What one trial showed."""

    offered: float
    """The rate that was sent."""
    passed: bool
    carried: float
    """The rate that came through."""


Attempt: TypeAlias = Callable[[float], Trial]
"""Does a trial at a rate."""
Limit: TypeAlias = Literal["way", "sender", "floor"]


class Finding(NamedTuple):
    """The rate, and how sure it is."""

    rate: float
    low: float
    high: float
    trials: int
    contradictions: int
    """Trials that passed above the rate, or failed below it."""
    settled: bool
    """Whether the interval is as narrow as was asked for."""
    limit: Limit


class Grid:
    """Chances of rates, from the least to the highest, each higher than the last by one ratio."""

    def __init__(self, highest: float, guess: float, precision: float) -> None:
        step = math.log1p(precision) / STEPS
        count = math.ceil(math.log(SPAN) / step) + 1
        self.rates = [highest * math.exp(-step * place) for place in reversed(range(count))]
        middle = max(guess, self.rates[0])
        weights = [math.exp(-abs(math.log(rate / middle)) / FALL) for rate in self.rates]
        total = math.fsum(weights)
        self.chances = [weight / total for weight in weights]

    def learn(self, trial: Trial) -> None:
        """Take a trial into account."""
        likely = [
            chance * (TRUST if (rate >= trial.offered) == trial.passed else 1 - TRUST)
            for rate, chance in zip(self.rates, self.chances, strict=True)
        ]
        total = math.fsum(likely)
        self.chances = [chance / total for chance in likely]

    def question(self) -> float:
        """The rate of which it is least certain whether it passes."""
        total, best, question = 0.0, math.inf, self.rates[0]
        for rate, chance in zip(self.rates, self.chances, strict=True):
            # `total` is the chance that this rate is too high.
            if abs(total - 0.5) < best:
                best, question = abs(total - 0.5), rate
            total += chance
        return question

    def quantile(self, share: float) -> float:
        """The rate below or at which this share of the chances is."""
        total = 0.0
        for rate, chance in zip(self.rates, self.chances, strict=True):
            total += chance
            if total >= share:
                return rate
        return self.rates[-1]


def search(attempt: Attempt, highest: float, precision: float, trials: int) -> Finding:
    """The highest rate at which trials pass, at most `highest`, from at most so many trials.
    `precision` is the width of the interval that is asked for, as a share of the rate.
    """
    log: list[Trial] = []
    budget = iter(range(trials))

    def trial(rate: float) -> Trial:
        log.append(attempt(rate))
        return log[-1]

    reached = _highest_that_passes(trial, highest, budget)
    if reached is not None:
        return Finding(reached, reached, reached, len(log), 0, len(log) > 1, "sender")
    grid = Grid(log[-1].offered, log[-1].carried, precision)
    for _ in budget:
        low, high = _interval(grid)
        if high <= low * (1 + precision):
            break
        grid.learn(trial(grid.question()))
    return _finding(grid, log, precision)


def _highest_that_passes(
    trial: Callable[[float], Trial], highest: float, budget: Iterator[int]
) -> float | None:
    """The rate that the sender reaches when it passes twice there; None when it fails."""
    offered = []
    for _ in zip(range(2), budget, strict=False):
        shown = trial(highest)
        if not shown.passed:
            return None
        offered.append(shown.offered)
    return min(offered) if offered else None


def _interval(grid: Grid) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    return grid.quantile(tail), grid.quantile(1 - tail)


def _finding(grid: Grid, log: list[Trial], precision: float) -> Finding:
    rate = grid.quantile(0.5)
    low, high = _interval(grid)
    contradictions = sum(
        trial.passed != (trial.offered <= rate) for trial in log if trial.offered != rate
    )
    if not any(trial.passed for trial in log):
        # No trial passed, however low: nothing is carried without such loss.
        return Finding(0.0, 0.0, high, len(log), 0, False, "floor")
    settled = high <= low * (1 + precision)
    return Finding(rate, low, high, len(log), contradictions, settled, "way")
