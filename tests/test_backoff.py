"""How long clients wait, and when they list again."""

from random import Random

import pytest

from kbe_nat.sources.kubernetes.backoff import Backoff, Turn

NODES = 5000


def test_delays_grow_from_a_second_to_half_a_minute() -> None:
    backoffs = [Backoff(Random(seed)) for seed in range(500)]
    for failures in range(1, 9):
        delays = [backoff.delay() for backoff in backoffs]
        most = min(2.0**failures, 30.0)
        assert 1 <= min(delays) < 1.2 * most
        assert 0.9 * most < max(delays) <= most
    for backoff in backoffs:
        backoff.reset()
        assert backoff.delay() <= 2


def test_the_server_may_ask_for_more_but_not_for_ever() -> None:
    backoff = Backoff(Random(1))
    assert all(20 <= backoff.delay(20) <= 31 for _ in range(100))
    assert backoff.delay(1e9) <= 450


def test_a_few_nodes_reconnect_within_two_seconds() -> None:
    backoff = Backoff(Random(1))
    assert all(1 <= backoff.reconnect_delay(3) <= 2 for _ in range(100))


def test_all_watches_of_a_client_list_in_one_turn() -> None:
    turn = Turn(Random(1))
    first = turn.delay(100.0, NODES)
    assert 0 < first <= 30
    assert turn.delay(100.0 + first / 2, NODES) == pytest.approx(first / 2)
    # A version that is too old once more, later, has a turn of its own.
    delays = [turn.delay(1000.0 * hour, NODES) for hour in range(1, 50)]
    assert len(set(delays)) == len(delays)
    assert Turn(Random(1)).delay(0.0, 0) == 0
