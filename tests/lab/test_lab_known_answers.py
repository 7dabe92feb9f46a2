"""What theory and papers say of strategies, within stated bounds."""

import math
import random
from collections import Counter
from typing import Any

import pytest

from harness.scenarios import poisson, scenario, service
from kbe_nat import Backend, lab
from kbe_nat.errors import ArgumentError
from kbe_nat.lab.statistics import estimate, student_quantile
from kbe_nat.model import Strategy

KEYS = lab.keys(60_000)


def shares(assignment: lab.Assignment, keys: list[int] = KEYS) -> Counter[int | None]:
    return Counter(assignment.assign(keys))


def slots(size: int) -> list[int]:
    """A key in each slot of a Maglev table of this size."""
    return [(place * (1 << 64)) // size + 1 for place in range(size)]


@pytest.mark.parametrize(("size", "imbalance"), [(65_537, 66 / 65.537), (655_373, 656 / 655.373)])
def test_maglevs_slots_are_even_to_one(size: int, imbalance: float) -> None:
    """Backends take slots in turn, so their numbers differ by one at most (Eisenbud et al. 2016,
    section 5.3): of 65,537 slots the fullest of 1,000 has 66.
    """
    maglev = lab.Assignment(lab.Strategy("mh", table_size=size), lab.backends(1000))
    counts = shares(maglev, slots(size))
    assert max(counts.values()) / (size / 1000) == pytest.approx(imbalance)
    assert max(counts.values()) - min(counts.values()) == 1


@pytest.mark.parametrize(("size", "low", "high"), [(65_537, 0.002, 0.02), (655_373, 0.001, 0.006)])
def test_maglevs_disruption_falls_with_its_table(size: int, low: float, high: float) -> None:
    """One of 1,000 backends leaves: a thousandth must move. More slots move with it, fewer in a
    larger table (the paper's figure 12).
    """
    strategy = lab.Strategy("mh", table_size=size)
    maglev, keys = lab.Assignment(strategy, lab.backends(1000)), slots(size)
    before = maglev.assign(keys)
    maglev.set_backends(lab.backends(1000)[:-1])
    moved = sum(old != new for old, new in zip(before, maglev.assign(keys), strict=True))
    assert low <= moved / size <= high


@pytest.mark.parametrize("strategy", ["cascade", "random"])
def test_kube_proxys_cascade_is_uniform(strategy: str) -> None:
    assignment = lab.Assignment(strategy, lab.backends(7))
    statistic = sum((n - 60_000 / 7) ** 2 / (60_000 / 7) for n in shares(assignment).values())
    assert statistic < 22.46, "chi-square of six degrees of freedom, p = 0.001"


def moves(strategy: str, before: int, after: int) -> tuple[float, set[tuple[Any, Any]]]:
    """The share of keys that move, and between which backends."""
    assignment = lab.Assignment(strategy, lab.backends(before))
    old = assignment.assign(KEYS)
    assignment.set_backends(lab.backends(after))
    pairs = [pair for pair in zip(old, assignment.assign(KEYS), strict=True) if pair[0] != pair[1]]
    return len(pairs) / len(KEYS), set(pairs)


@pytest.mark.parametrize(
    ("strategy", "tolerance"),
    [("ring", 0.35), ("jump", 0.05), ("anchor", 0.05), ("rendezvous", 0.05)],
)
def test_least_moves(strategy: str, tolerance: float) -> None:
    """Of N one leaves: 1 / N of the keys move, all of them from it. One comes to N: 1 / (N + 1)
    move, all of them to it.
    """
    share, pairs = moves(strategy, 20, 19)
    assert share == pytest.approx(1 / 20, rel=tolerance)
    assert {old for old, _ in pairs} == {19}
    assert {new for _, new in pairs} == set(range(19)), "and spread over all others"
    share, pairs = moves(strategy, 20, 21)
    assert share == pytest.approx(1 / 21, rel=tolerance)
    assert {new for _, new in pairs} == {20}


def test_modulo_moves_all_but_one_in_n() -> None:
    """From 20 to 19 a key stays with the chance 19 / (19 * 20)."""
    share, _ = moves("modulo", 20, 19)
    assert share == pytest.approx(1 - 1 / 20, abs=0.005)


@pytest.mark.parametrize(("draws", "low", "high"), [(1, 6, 10), (2, 3, 4), (3, 2, 4)])
def test_two_choices(draws: int, low: int, high: int) -> None:
    """10,000 balls in as many bins: the fullest has about ln n / ln ln n = 4.1 and some with one
    draw, ln ln n / ln d = 3.2 or 2.0 and a constant with more (Azar et al. 1994).
    """
    assignment = lab.Assignment(lab.Strategy("lcd", draws=draws), lab.backends(10_000))
    assert repr(assignment) == "<Assignment lcd: 10000 backends>"
    assignment.throw(KEYS[:10_000])
    assert low <= max(assignment.loads) <= high


def test_the_engines_two_choices() -> None:
    assignment = lab.Assignment("p2c", lab.backends(10_000))
    assignment.throw(KEYS[:10_000])
    assert 3 <= max(assignment.loads) <= 4


@pytest.mark.parametrize("epsilon", [0.05, 0.25, 1.0])
def test_bounded_loads(epsilon: float) -> None:
    """No load is ever above the mean by more than epsilon, rounded up (Mirrokni et al. 2018)."""
    assignment = lab.Assignment(lab.Strategy("bounded", epsilon=epsilon), lab.backends(40))
    for ball, key in enumerate(KEYS[:3000], 1):
        assignment.throw([key])
        if ball % 50 == 0:
            assert max(assignment.loads) <= math.ceil((1 + epsilon) * ball / 40)


def test_least_connections_are_even() -> None:
    assignment = lab.Assignment("lc", lab.backends(7))
    assignment.throw(KEYS[:7000])
    assert assignment.loads == [1000] * 7


def test_ring_hashing_is_uneven_by_the_root_of_its_points() -> None:
    """The share of a backend with v points varies by about 1 / sqrt(v)."""
    for points in (25, 400):
        assignment = lab.Assignment(lab.Strategy("ring", virtual_nodes=points), lab.backends(200))
        counts = shares(assignment)
        mean = len(KEYS) / 200
        spread = math.sqrt(sum((counts[n] - mean) ** 2 for n in range(200)) / 200) / mean
        # Keys at random add 1 / sqrt(300) of their own.
        assert spread == pytest.approx(math.hypot(points**-0.5, mean**-0.5), rel=0.25)


@pytest.mark.parametrize("name", [*Strategy, "modulo", "jump", "anchor", "lcd"])
def test_a_drained_backend_gets_nothing(name: str) -> None:
    assignment = lab.Assignment(name, lab.backends(3, [1, 0, 1]))
    assignment.throw(KEYS[:500])
    assert assignment.loads[1] == 0
    assignment.set_backends([])
    assert assignment.assign(KEYS[:2]) == [None, None]


def test_what_an_assignment_refuses() -> None:
    with pytest.raises(ArgumentError, match=r"strategy\.name: 'maglev' is none of random"):
        lab.Assignment("maglev", [])
    with pytest.raises(ArgumentError, match=r"strategy\.table_size: 10 is not prime"):
        lab.Assignment(lab.Strategy("mh", table_size=10), lab.backends(2))
    with pytest.raises(ArgumentError, match="strategy anchor: 3 units of weight, but 2 buckets"):
        lab.Assignment(lab.Strategy("anchor", buckets=2), lab.backends(3))


def test_keys_may_be_a_buffer() -> None:
    from array import array

    assignment = lab.Assignment("mh", lab.backends(5))
    assert assignment.assign(array("Q", KEYS[:100])) == assignment.assign(KEYS[:100])


def test_shares_of_random_choices_are_binomial() -> None:
    """Two backends, n connections in each of many repeats: the interval over seeds is that of the
    binomial distribution, and it contains a half.
    """
    result = lab.run(
        scenario(services=[service(2)], traffic=[poisson(100)], strategies=["random"], repeats=30)
    )
    values = [row["connections_share"] for row in result.rows("backends") if row["backend"] == 0]
    share = estimate(values)
    assert share is not None and share.half is not None
    assert abs(share.mean - 0.5) < share.half * 1.6
    # 0.5 / sqrt(1000) for one repeat, 2.045 of these by Student's t over the root of 30.
    assert share.half == pytest.approx(2.045 * 0.5 / math.sqrt(1000) / math.sqrt(30), rel=0.4)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)],
)
def test_quantiles_of_student(freedom: int, expected: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(expected, abs=1e-4)


def test_intervals_contain_the_mean_as_often_as_they_say() -> None:
    draw = random.Random(5)
    hits = 0
    for _ in range(2000):
        value = estimate([draw.gauss(3, 2) for _ in range(5)])
        assert value is not None and value.half is not None
        hits += abs(value.mean - 3) <= value.half
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)
    assert estimate([]) is None
    assert str(estimate([2.5])) == "2.5"
    assert str(estimate([0.1, 0.1, 0.1])) == "0.1 ±0", "no trace of rounding"


def test_paced_round_robin_is_the_same_in_every_repeat() -> None:
    result = lab.run(scenario(repeats=3))
    rows = [row["max_over_mean"] for row in result.rows("balance") if row["window"] == "run"]
    assert rows[0] == 1


def test_differences_are_in_pairs_and_none_within_the_noise() -> None:
    """cascade draws as random does: no difference. rr is more even by what random adds."""
    result = lab.run(
        scenario(
            services=[service(5)],
            traffic=[poisson(200)],
            strategies=["random", "cascade", "rr"],
            repeats=8,
        )
    )
    page = next(page for page in lab.report([result]) if page.title.startswith("Balance: diff"))
    assert page.title == "Balance: difference from random, in pairs"
    cells = {(row[0], row[3], row[4]): row[5:] for row in page.rows}
    assert cells["rr", "connections", "run"][1].startswith("-0.0")
    assert cells["cascade", "connections", "run"] == ["none", "none", "none"]


def test_tables_of_a_strategy_have_their_size() -> None:
    maglev = lab.Assignment(lab.Strategy("mh", table_size=655_373), lab.backends(1000))
    assert maglev.memory_bytes == 2 * 655_373
    ring = lab.Assignment(lab.Strategy("ring", virtual_nodes=50), lab.backends(10))
    assert ring.memory_bytes == 500 * 8 + 256 * 4, "points, and a cell for one or two of them"
    ring.set_backends(lab.backends(0))
    assert ring.memory_bytes == 4

    class Own:
        def __init__(self, backends: list[Backend], seed: int) -> None:
            pass

        def pick(self, hash: int, loads: list[int]) -> int | None:
            return None

    assert lab.Assignment(Own, lab.backends(3)).memory_bytes is None
