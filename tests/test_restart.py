"""A cluster whose API servers restart at once does not list at once."""

import pytest

from benches.restart import DENIALS, MOST, restart

CLIENTS = 1000
"""Of the 5,000 nodes of the cluster; `make bench-restart` runs all of them."""


@pytest.mark.parametrize("outage", [0.5, 8.0])
def test_no_second_sees_more_than_a_twentieth_of_all_clients_list(outage: float) -> None:
    result = restart(CLIENTS, outage)
    assert result.peak <= MOST
    assert sum(result.in_step.values()) == CLIENTS
    assert result.last <= outage + 60
    # Each of its four resources, once.
    assert result.lists == 4 * CLIENTS


def test_a_small_cluster_is_in_step_within_three_seconds() -> None:
    for outage in (0.5, 8.0, 60.0):
        result = restart(30, outage, nodes=100)
        # A server's first good answer comes after its denials.
        assert result.last < DENIALS + 3
        assert sum(result.in_step.values()) == 30
