"""The flow cache's programs on real packets: what they carry, and what goes the kernel's way."""

from collections.abc import Iterator

import pytest

from harness.cached_router import FAMILIES, Router, datagrams, router, skip_without_cache
from kbe_nat.family import Family


@pytest.fixture(scope="module")
def stage() -> Iterator[Router]:
    skip_without_cache()
    with router() as made:
        yield made


@FAMILIES
def test_datagrams_pass_by_the_cache_both_ways(stage: Router, family: Family) -> None:
    with datagrams(stage, family) as flow:
        for size in (0, 1, 18, 19, 1400):
            payload = bytes(number % 256 for number in range(size))
            # What is longer than all before goes the kernel's way once.
            assert (flow.go(payload), flow.come(payload)) == (payload, payload)
            before = flow.hits()
            assert (flow.go(payload), flow.come(payload)) == (payload, payload)
            assert flow.hits() == [number + 1 for number in before]
        assert flow.peer == flow.rows[0][1][0]
