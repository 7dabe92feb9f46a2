"""A cluster whose API servers restart at once does not list at once."""

import pytest

from benches.restart import MOST, restart

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
