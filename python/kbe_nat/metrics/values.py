"""Values that are counted as things happen, by the values of their labels.

One thread counts and others read, so nothing here locks. `prometheus_client` has the like, and is
loaded with the page that shows them, long after the first is counted.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from kbe_nat.metrics.catalog import Metric

LabelValues: TypeAlias = tuple[str, ...]
Sample: TypeAlias = tuple[str, dict[str, str], float]
"""Name, labels and value of one line."""


class Values:
    """A counter or a gauge."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._values: dict[LabelValues, float] = {}

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def set(self, value: float, *labels: str) -> None:
        """Measure."""
        self._values[labels] = value

    def samples(self) -> Iterator[Sample]:
        """A line for each combination of labels that has a value."""
        return samples_of(self.metric, self._values.copy())


class Histogram:
    """Observations by bucket."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._counts: dict[LabelValues, list[int]] = {}
        """By bucket, the infinite one last."""
        self._sums: dict[LabelValues, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count an observation."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = [0] * (len(self.metric.buckets) + 1)
            # The sum first, since a reader finds it by the counts.
            self._sums[labels] = 0.0
            self._counts[labels] = counts
        counts[bisect_left(self.metric.buckets, value)] += 1
        self._sums[labels] += value

    def samples(self) -> Iterator[Sample]:
        """The lines of each combination of labels that has observations."""
        for values, counts in self._counts.copy().items():
            yield from histogram_samples(self.metric, values, counts.copy(), self._sums[values])


def samples_of(metric: Metric, values: Mapping[LabelValues, float]) -> Iterator[Sample]:
    """The lines of a counter or a gauge."""
    for texts, value in values.items():
        yield metric.name, dict(zip(metric.labels, texts, strict=True)), value


def histogram_samples(
    metric: Metric, values: LabelValues, counts: Iterable[int], total: float
) -> Iterator[Sample]:
    """The lines of one histogram. `counts` are observations by bucket, the infinite one last."""
    labels = dict(zip(metric.labels, values, strict=True))
    bounds = [*map(bound_text, metric.buckets), "+Inf"]
    count = 0
    for bound, more in zip(bounds, counts, strict=True):
        count += more
        yield f"{metric.name}_bucket", {**labels, "le": bound}, count
    yield f"{metric.name}_sum", labels, total
    yield f"{metric.name}_count", labels, count


def bound_text(bound: float) -> str:
    """As Go writes it, since queries name the bounds of buckets: 1, not 1.0."""
    return f"{bound:g}"
