"""Means over seeds, medians over rounds, and how sure they are.

Repeats are independent: each has its own seed. Packets and connections of one repeat are not, so
intervals are over repeats, by Student's t, which is exact for normal measures and good for means of
others. With one repeat there is no interval. Student's t knows nothing of what a measure can be, so
an interval is cut where its measure ends: the true mean is never beyond, and a cut interval holds
it as often as the whole one.

Rounds of live runs have outliers, when the machine did something else: of them the median counts,
with a bootstrap interval.
"""

import math
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import Final, NamedTuple

RESAMPLES: Final = 2000


class Range(NamedTuple):
    """What a measure can be."""

    low: float
    high: float

    def times(self, count: int) -> "Range":
        """Of a sum of so many values."""
        return Range(self.low * count, self.high * count)

    def of_differences(self) -> "Range":
        """Of one value less another one."""
        return Range(self.low - self.high, self.high - self.low)


ANY: Final = Range(-math.inf, math.inf)


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval, written as `interval_words` does."""

    mean: float
    half: float | None
    """Of the interval before it is cut; None of one repeat, which has no interval."""
    repeats: int
    low: float
    """The interval's lower end, not below the measure's; the mean of one repeat."""
    high: float

    def __str__(self) -> str:
        if self.half is None:
            return figure(self.mean)
        return interval_words(self.mean, self.low, self.high)


def estimate(
    values: Sequence[float], confidence: float = 0.95, bounds: Range = ANY
) -> Estimate | None:
    """The mean of repeats, of a measure between these bounds; None without any."""
    count = len(values)
    if not count:
        return None
    if count == 1:
        return Estimate(values[0], None, 1, values[0], values[0])
    if min(values) == max(values):
        # A mean would round, and leave a variance of its own.
        return Estimate(values[0], 0.0, count, values[0], values[0])
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = student_quantile((1 + confidence) / 2, count - 1) * math.sqrt(variance / count)
    # A measure that is computed may pass its bounds by a rounding, and its mean with it.
    low = min(mean, max(mean - half, bounds.low))
    high = max(mean, min(mean + half, bounds.high))
    return Estimate(mean, half, count, low, high)


def student_quantile(chance: float, freedom: int) -> float:
    """Where Student's distribution function reaches a chance above a half, by bisection."""
    low, high = 0.0, 1.0
    while student_chance(high, freedom) < chance:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_chance(middle, freedom) < chance else (low, middle)
    return (low + high) / 2


def student_chance(value: float, freedom: int) -> float:
    """Student's distribution function at a value that is not negative, by its finite series
    (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = math.atan(value / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    if freedom % 2:
        term = total = math.cos(angle) if freedom > 1 else 0.0
        for n in range(3, freedom - 1, 2):
            term *= square * (n - 1) / n
            total += term
        central = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        term = total = 1.0
        for n in range(2, freedom - 1, 2):
            term *= square * (n - 1) / n
            total += term
        central = math.sin(angle) * total
    return (1 + central) / 2


def figure(value: float) -> str:
    """Four digits or more."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value + 0.0:,.0f}"
    return f"{value:.4g}"


def interval_words(middle: float, low: float, high: float) -> str:
    """A value with its interval, to the second digit of the interval's half and six of the value at
    most: 0.250 ±0.012; 0.98 (0.93 to 1) where the halves are not even; ±0 where there is no
    spread.
    """
    half = (high - low) / 2
    if half <= 0:
        return f"{figure(middle)} ±0"
    largest = max(abs(middle), half)
    # A spread far below the value would show digits that nobody reads.
    places = max(0, min(SPREAD_DIGITS - _magnitude(half), DIGITS - _magnitude(largest)))
    form = f",.{places}f" if largest >= SMALL else f".{SPREAD_DIGITS}g"
    if largest >= SMALL and half < 0.5 / 10**places:
        return f"{middle:{form}} ±<{1 / 10**places:{form}}"
    if math.isclose(high - middle, middle - low, rel_tol=1e-3):
        return f"{middle:{form}} ±{half:{form}}"
    ends = (figure(end) if end == int(end) else f"{end:{form}}" for end in (low, high))
    return f"{middle:{form}} ({' to '.join(ends)})"


def _magnitude(value: float) -> int:
    """The power of ten of the value's first digit, plus one."""
    return math.floor(math.log10(abs(value))) + 1


class Median(NamedTuple):
    """A median with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    samples: int


def median_interval(
    values: Sequence[float], seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Median | None:
    """The median of rounds, with the percentile interval of medians of as many values, drawn with
    replacement by a generator of this seed; None without any value. With few rounds the interval
    goes from the least to the largest of them, and holds less often than it says: with 5 rounds in
    94 % of cases, with 3 in 75 %. Cost: some milliseconds.
    """
    count = len(values)
    if not count:
        return None
    generator = Random(seed)
    medians = sorted(median(generator.choices(values, k=count)) for _ in range(resamples))
    tail = (1 - confidence) / 2
    low, high = (medians[round(share * (resamples - 1))] for share in (tail, 1 - tail))
    return Median(median(values), low, high, count)


SPREAD_DIGITS: Final = 2
DIGITS: Final = 6
SMALL: Final = 1e-6
"""What is smaller is written with powers of ten."""
