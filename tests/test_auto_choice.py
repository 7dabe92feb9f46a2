"""When `--choice auto` hands Services to the kernel and back: on a scripted clock, and in a
controller whose queues are a number.
"""

import pytest

from kbe_nat.control.auto_choice import (
    BUSY_LOOKS,
    BUSY_PACKETS,
    CALM_LOOK,
    CALM_SECONDS,
    AutoChoice,
    Handover,
)

LOOK = 0.1


class Script:
    """A clock, queues and counters, looked at as the daemon does."""

    def __init__(self) -> None:
        self.auto = AutoChoice()
        self.now = 100.0
        self.flows: dict[str, int] = {}

    def run(self, seconds: float, waiting: int, **rates: float) -> list[tuple[float, Handover]]:
        """What changes and after how many seconds, while so many packets wait at each look and
        connections come at these rates.
        """
        start, seen = self.now, []
        while self.now < start + seconds - 1e-9:
            self.now += LOOK
            for port, rate in rates.items():
                self.flows[port] = self.flows.get(port, 0) + round(rate * LOOK)
            if self.auto.is_due(waiting, self.now):
                changed = self.auto.look(self.now, waiting, self.flows)
                seen += [(round(self.now - start, 3), each) for each in changed]
        return seen


@pytest.fixture
def script() -> Script:
    return Script()


def test_the_busiest_go_first_and_as_few_as_have_half(script: Script) -> None:
    assert script.run(5, BUSY_PACKETS - 1, a=9000, b=500) == []
    seen = script.run(BUSY_LOOKS * LOOK, BUSY_PACKETS, a=1000, b=6000, c=3000)
    assert [(when, each.port, each.to_kernel) for when, each in seen] == [(0.3, "b", True)]
    assert seen[0][1].rate == pytest.approx(6000)
    assert script.auto.ports == {"b"}
    # Of those that are left a has a quarter.
    seen = script.run(BUSY_LOOKS * LOOK, BUSY_PACKETS, a=1000, b=6000, c=3000)
    assert [each.port for _, each in seen] == ["c"]
    seen = script.run(BUSY_LOOKS * LOOK, BUSY_PACKETS, a=0, b=6000, c=3000)
    assert seen == [], "nothing is left that would help"


def test_equal_ones_go_by_name_until_they_have_half(script: Script) -> None:
    seen = script.run(0.3, 1000, d=100, c=100, b=100, a=100)
    assert [each.port for _, each in seen] == ["a", "b"]


def test_a_moment_is_no_bottleneck(script: Script) -> None:
    for _ in range(20):
        assert script.run((BUSY_LOOKS - 1) * LOOK, 10_000, a=5000) == []
        assert script.run(LOOK, 0, a=5000) == []


def test_one_goes_back_when_it_was_calm_for_long(script: Script) -> None:
    script.run(0.3, 1000, a=4000)
    assert script.auto.ports == {"a"}
    # A quarter of the rate at which it went is where it may go back: more keeps it.
    assert script.run(3 * CALM_SECONDS, 0, a=1100) == []
    seen = script.run(2 * CALM_SECONDS, 0, a=900)
    [(when, handover)] = seen
    assert CALM_SECONDS <= when <= CALM_SECONDS + 2 * CALM_LOOK
    assert (handover.port, handover.to_kernel) == ("a", False)
    assert handover.rate == pytest.approx(900)
    assert script.auto.ports == frozenset()
    assert script.run(CALM_SECONDS, 0, a=900) == []
    # What comes between begins anew.
    script.run(0.3, 1000, a=4000)
    for _ in range(5):
        assert script.run(CALM_SECONDS - 2 * CALM_LOOK, 0, a=100) == []
        assert script.run(2 * CALM_LOOK, 0, a=3000) == []
    assert script.auto.ports == {"a"}


def test_one_that_is_gone_goes_back(script: Script) -> None:
    script.run(0.3, 1000, a=4000)
    script.flows.clear()
    [(_, handover)] = script.run(CALM_LOOK + LOOK, 0)
    assert handover == Handover("a", to_kernel=False, rate=0.0)


def test_nothing_is_counted_while_nothing_waits(script: Script) -> None:
    assert not script.auto.is_due(BUSY_PACKETS - 1, script.now)
    assert script.auto.is_due(BUSY_PACKETS, script.now)
    script.run(LOOK, BUSY_PACKETS, a=1)
    assert script.auto.is_due(0, script.now), "to forget that it was busy"
