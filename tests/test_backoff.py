"""How long clients wait, and that those of a whole cluster do not come back together."""

from collections import Counter
from random import Random

from kbe_nat.sources.kubernetes.backoff import Backoff, spread

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


def test_after_an_outage_no_second_sees_more_than_a_twentieth_of_all_nodes_list() -> None:
    for outage in (0.0, 0.5, 3.0, 8.0, 60.0, 3600.0):
        lists: Counter[int] = Counter()
        for number in range(NODES):
            random = Random(number)
            backoff = Backoff(random)
            # All watches break at once; a server that is down refuses every attempt.
            now = backoff.delay()
            while now < outage:
                now += backoff.reconnect_delay(NODES)
            # The versions of before are too old for its new cache.
            now += random.uniform(0.0, spread(NODES))
            lists[int(now)] += 1
        assert max(lists.values()) <= NODES / 20, outage
