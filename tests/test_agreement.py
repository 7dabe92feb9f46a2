"""Nodes that hear of the same objects in other orders agree, also during a rolling update."""

import pytest

from benches.agreement import STAGES, STRATEGIES, agreement
from kbe_nat.model import Strategy

NODES, TUPLES = 6, 4000
"""`make bench-agreement` asks 100 nodes about 100,000 connections."""
MOST_STRAYED = {Strategy.MAGLEV: 0.03}
"""Of all connections, at each step: Maglev's table lets a few move between backends that stay, the
others none.
"""


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_nodes_agree_during_a_rolling_update(strategy: Strategy) -> None:
    result = agreement(strategy, NODES, TUPLES)
    assert result.answers == (1,) * len(STAGES)
    for moved, left, strayed in zip(result.moved, result.departures, result.strayed, strict=True):
        # A tenth of the backends is replaced: their connections move, and as many are won by the
        # new ones.
        assert 0.07 * TUPLES < left < 0.13 * TUPLES
        assert moved < 0.25 * TUPLES
        assert strayed <= MOST_STRAYED.get(strategy, 0) * TUPLES


@pytest.mark.parametrize(
    "strategy", [Strategy.ROUND_ROBIN, Strategy.TWO_CHOICES, Strategy.PEAK_EWMA], ids=str
)
def test_another_strategy_is_known_to_depend_on_what_came_before(strategy: Strategy) -> None:
    moved = agreement(strategy, 1, TUPLES).moved
    assert min(moved) > 0.5 * TUPLES, "or the test above would say nothing"
