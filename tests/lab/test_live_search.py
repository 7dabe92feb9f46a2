"""The search for the highest rate, where the rate is known and trials err."""

import random

import pytest

from kbe_nat.lab.live.search import Finding, Trial, search
from kbe_nat.lab.statistics import median_interval


def found(
    true: float, seed: int, wrong: float = 0.0, precision: float = 0.05, trials: int = 30
) -> Finding:
    generator = random.Random(seed)

    def attempt(rate: float) -> Trial:
        passed = (rate <= true) != (generator.random() < wrong)
        return Trial(rate, passed, min(rate, true * generator.uniform(0.7, 1.3)))

    return search(attempt, 1e6, precision, trials)


@pytest.mark.parametrize("wrong", [0.0, 0.05, 0.1])
def test_the_interval_holds_the_rate(wrong: float) -> None:
    """In 95 % of cases at least, also where a tenth of the trials err."""
    findings = []
    for seed in range(300):
        true = 10 ** random.Random(-seed).uniform(3.5, 5.9)
        findings.append((true, found(true, seed, wrong)))
    # Two wrong answers at the highest rate of all look like a sender that is too slow.
    findings = [(true, each) for true, each in findings if each.limit == "way"]
    assert len(findings) > 290
    # A grid has four rates in what was asked for.
    held = [each.low / 1.013 <= true <= each.high * 1.013 for true, each in findings]
    assert sum(held) / len(held) > 0.95
    assert sum(each.settled for _, each in findings) / len(findings) > 0.98
    assert all(each.high <= each.low * 1.0501 for _, each in findings if each.settled)
    assert sum(each.trials for _, each in findings) / len(findings) < 16


def test_wrong_trials_show_as_contradictions() -> None:
    right = [found(50_000, seed).contradictions for seed in range(50)]
    wrong = [found(50_000, seed, 0.2).contradictions for seed in range(50)]
    assert sum(right) == 0
    assert sum(wrong) > 50


def test_a_search_that_ends_early_says_so() -> None:
    finding = found(50_000, 1, trials=4)
    assert finding.trials == 4
    assert not finding.settled
    assert finding.low < 50_000 < finding.high


def test_the_sender_may_be_the_limit() -> None:
    """It offers 400,000 at most, and all of these come through."""
    finding = search(lambda rate: Trial(min(rate, 4e5), True, min(rate, 4e5)), 1e6, 0.05, 20)
    assert finding == Finding(4e5, 4e5, 4e5, 2, 0, True, "sender")


def test_a_way_that_carries_nothing() -> None:
    finding = search(lambda rate: Trial(rate, False, 0.0), 1e6, 0.05, 40)
    assert (finding.rate, finding.limit, finding.settled) == (0.0, "floor", False)


def test_medians_and_their_intervals() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    interval = median_interval(values, seed=1)
    assert interval == (3.0, 1.0, 5.0, 5)
    assert interval == median_interval(values, seed=1), "equal seeds, equal intervals"
    assert median_interval([7.0], seed=1) == (7.0, 7.0, 7.0, 1)
    assert median_interval([], seed=1) is None


def test_a_median_lies_in_its_interval_as_often_as_is_said() -> None:
    """Of normal samples of 15: in 95 % of cases, within what 400 cases can tell."""
    generator = random.Random(3)
    held = 0
    for case in range(400):
        sample = [generator.gauss(10, 2) for _ in range(15)]
        interval = median_interval(sample, seed=case, resamples=400)
        assert interval is not None
        held += interval.low <= 10 <= interval.high
    assert 0.91 < held / 400 < 0.985
