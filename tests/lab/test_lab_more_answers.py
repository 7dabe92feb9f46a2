"""More that theory says of strategies, arrivals and affinity, within stated bounds."""

import math
from collections import Counter
from typing import Any

import pytest

from harness.scenarios import poisson, scenario, service, traffic
from kbe_nat import lab

KEYS = lab.keys(40_000, seed=3)


def chi_square(counts: Counter[int | None], expected: dict[int, float]) -> float:
    return sum((counts[place] - mean) ** 2 / mean for place, mean in expected.items())


@pytest.mark.parametrize("name", ["random", "modulo", "jump", "anchor", "rendezvous", "sh", "mh"])
def test_shares_follow_weights(name: str) -> None:
    """2, 0, 1 and 5 of eight: a backend of weight 0 gets nothing."""
    weights = [2, 0, 1, 5]
    assignment = lab.Assignment(name, lab.backends(4, weights))
    counts = Counter(assignment.assign(KEYS))
    assert counts[1] == 0
    shares = {place: len(KEYS) * weight / 8 for place, weight in enumerate(weights) if weight}
    # Two degrees of freedom, p = 0.001; a Maglev table of finite size is itself off by a little.
    assert chi_square(counts, shares) < (13.8 if name != "mh" else 30)


def test_the_fullest_of_random_bins_is_that_of_the_multinomial() -> None:
    """n balls in m bins: the largest has about n / m + sqrt(2 n ln m / m); the coefficient of
    variation is sqrt(m / n).
    """
    bins, balls = 100, len(KEYS)
    counts = Counter(lab.Assignment("random", lab.backends(bins)).assign(KEYS))
    mean = balls / bins
    spread = math.sqrt(sum((counts[n] - mean) ** 2 for n in range(bins)) / bins)
    assert spread / mean == pytest.approx(math.sqrt(bins / balls), rel=0.25)
    excess = math.sqrt(2 * mean * math.log(bins))
    assert max(counts.values()) - mean == pytest.approx(excess, rel=0.35)


def test_weighted_round_robin_is_smooth() -> None:
    """5, 1 and 1: nginx's order, in which the heavy one never has more than two in a row."""
    assignment = lab.Assignment("wrr", lab.backends(3, [5, 1, 1]))
    assert assignment.assign(KEYS[:14]) == [0, 0, 1, 0, 2, 0, 0] * 2


def test_round_robin_is_even_to_one_at_every_moment() -> None:
    assignment = lab.Assignment("rr", lab.backends(7))
    for ball in range(1, 200):
        assignment.throw([ball])
        assert max(assignment.loads) - min(assignment.loads) <= 1


@pytest.mark.parametrize("name", ["ring", "anchor", "rendezvous"])
@pytest.mark.parametrize("leavers", [{0}, {7}, {3, 4, 5}, {0, 19}, set(range(10))])
def test_only_keys_of_leavers_move_and_return(name: str, leavers: set[int]) -> None:
    """k of 20 leave, wherever they stand: their keys move, k / 20 of all, and no others; when they
    are back, all is as it was.
    """
    everyone = lab.backends(20)
    assignment = lab.Assignment(name, everyone)
    before = assignment.assign(KEYS)
    rest = [place for place in range(20) if place not in leavers]
    assignment.set_backends([everyone[place] for place in rest])
    after = [rest[place] for place in assignment.assign(KEYS) if place is not None]
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == leavers
    tolerance = 0.4 if name == "ring" else 0.06
    assert len(moved) / len(KEYS) == pytest.approx(len(leavers) / 20, rel=tolerance)
    assignment.set_backends(everyone)
    if name != "anchor" or len(leavers) == 1:
        # AnchorHash gives buckets back in the reverse order in which they were left.
        assert assignment.assign(KEYS) == before


def test_jump_renumbers_what_stands_behind_a_leaver() -> None:
    """The last of 20 moves a twentieth; the first moves most."""
    everyone = lab.backends(20)
    for leaver, low, high in ((19, 0.04, 0.06), (0, 0.5, 1)):
        assignment = lab.Assignment("jump", everyone)
        before = assignment.assign(KEYS)
        rest = [place for place in range(20) if place != leaver]
        assignment.set_backends([everyone[place] for place in rest])
        after = [None if place is None else rest[place] for place in assignment.assign(KEYS)]
        moved = sum(old != new for old, new in zip(before, after, strict=True)) / len(KEYS)
        assert low < moved < high


@pytest.mark.parametrize("draws", [2, 3, 4, 5])
def test_more_choices_help_little_more(draws: int) -> None:
    """ln ln n / ln d and a constant: 3.2, 2.0, 1.6 and 1.4 for 10,000 bins."""
    assignment = lab.Assignment(lab.Strategy("lcd", draws=draws), lab.backends(10_000))
    assignment.throw(KEYS[:10_000])
    least = math.floor(math.log(math.log(10_000)) / math.log(draws))
    assert least <= max(assignment.loads) <= 4


@pytest.mark.parametrize(
    ("arrivals", "mean", "low", "high"),
    [
        ({"kind": "poisson", "rate": 60}, 60, 0.75, 1.3),
        ({"kind": "paced", "rate": 60}, 60, 0, 0.02),
        ({"kind": "bursty", "rate": 180, "seconds_on": 1, "seconds_off": 2}, 60, 20, 200),
    ],
)
def test_arrivals_have_their_rates_and_dispersion(
    arrivals: dict[str, Any], mean: float, low: float, high: float
) -> None:
    """The variance of the arrivals of a second over their mean: 1 for Poisson, 0 for paced ones,
    and large for bursts, which are on for a third of the time.
    """
    stream = traffic(arrivals=arrivals, lifetime=0.01)
    result = lab.run(scenario(traffic=[stream], duration=500, timeouts={"tcp_time_wait": 1}))
    counts = [row["connections"] for row in result.rows("seconds")]
    average = sum(counts) / len(counts)
    assert average == pytest.approx(mean, rel=0.15 if arrivals["kind"] == "bursty" else 0.03)
    variance = sum((count - average) ** 2 for count in counts) / len(counts)
    assert low <= variance / average <= high


@pytest.mark.parametrize(("seconds", "shares"), [(11, {1.0, 0.0}), (9, {0.5})])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_affinity_lasts_as_long_as_it_says(kind: str, seconds: int, shares: set[float]) -> None:
    """A client that comes every 10 s keeps its backend with an affinity of 11 s, which each
    connection begins anew, and takes turns with one of 9 s.
    """
    stream = traffic(
        kind=kind, arrivals={"kind": "paced", "rate": 0.1}, clients={"count": 1}, lifetime=0.1
    )
    result = lab.run(
        scenario(duration=200, services=[service(2, affinity=seconds)], traffic=[stream])
    )
    assert {row["connections_share"] for row in result.rows("backends")} == shares


@pytest.mark.parametrize("nodes", [2, 5])
@pytest.mark.parametrize(("ecmp", "moved"), [("modulo", 1), ("resilient", 0)])
def test_flows_that_change_their_node(nodes: int, ecmp: str, moved: int) -> None:
    """One of n nodes leaves: (n - 1) / n of all flows come to another node by modulo, 1 / n with
    resilient hashing. With rr on each, one of them in ten meets its backend by chance.
    """
    result = lab.run(
        scenario(
            services=[service(10)],
            traffic=[poisson(600, lifetime=5)],
            strategies=["random"],
            nodes={"count": nodes, "ecmp": ecmp},
            timeline=[{"event": "node-loss", "at": 8, "node": 0}],
        )
    )
    event = next(iter(result.rows("events")))
    share = (nodes - 1) / nodes if moved else 1 / nodes
    assert event["moved"] / event["live"] == pytest.approx(share * 0.9, rel=0.1)


def test_events_at_the_edges_and_at_one_moment() -> None:
    """At the start, at the end, and three at once: in the order of the file."""
    events = [
        {"event": "scale", "at": 0, "service": "web", "backends": 4},
        {"event": "scale", "at": 5, "service": "web", "backends": 1},
        {"event": "drain", "at": 5, "service": "web", "backend": 0},
        {"event": "scale", "at": 5, "service": "web", "backends": 3},
        {"event": "failure", "at": 10, "service": "web", "backends": [0, 1]},
    ]
    result = lab.run(scenario(timeline=events))
    assert [(row["time"], row["event"]) for row in result.rows("events")] == [
        (0, "web scales to 4"),
        (5, "web scales to 1"),
        (5, "web[0] drains"),
        (5, "web scales to 3"),
        (10, "web[0,1] fails"),
    ]
    shares = [row["connections"] for row in result.rows("backends")]
    # 50 in turn among four, and 50 among the two that are not drained.
    assert sum(shares) == 100
    assert shares[0] in (12, 13) and shares[3] in (12, 13)


def test_a_failure_that_is_never_detected_loses_its_share() -> None:
    failure = {"event": "failure", "at": 2, "service": "web", "backends": [0], "detected_after": 99}
    result = lab.run(scenario(timeline=[failure], traffic=[traffic(lifetime=0.1)]))
    row = next(iter(result.rows("outcomes")))
    # Half of the 80 connections that begin afterwards, and those of the moment.
    assert row["refused"] == 0
    assert row["lost"] == pytest.approx(40, abs=2)
