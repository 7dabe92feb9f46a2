"""The counters behind the live page: rates, and how often they are looked at."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live.traffic import PERIOD, SHARE, Traffic

WEB = ("default/web", 4)


@dataclass
class Node:
    """A controller with one Service, and a clock."""

    now: float = 1000.0
    refresh_seconds: float = 0.0
    """For which the kernel is asked for counters."""
    looks: int = 0
    is_counted: bool = True
    counters: dict[str, Any] = field(
        default_factory=lambda: {"active": 0, "flows": 0, "packets": (0, 0), "bytes": (0, 0)}
    )
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def engine(self) -> "Node":
        return self

    @property
    def datapath(self) -> "Node":
        return self

    def stats(self) -> object:
        self.looks += 1
        service = SimpleNamespace(
            name=WEB[0], family=WEB[1], refused=self.refused.copy(), **self.counters
        )
        return SimpleNamespace(services=[service])

    def refresh(self) -> None:
        self.now += self.refresh_seconds

    def counts_bytes(self) -> bool:
        return self.is_counted


@pytest.fixture
def node() -> Node:
    return Node()


@pytest.fixture
def traffic(node: Node) -> Traffic:
    return Traffic(cast(Controller, node), lambda: node.now)


def test_a_rate_is_a_difference_over_the_time_between(node: Node, traffic: Traffic) -> None:
    traffic.look()
    assert traffic.rates_of(WEB) is None, "one moment has no rate"
    node.counters.update(active=3, flows=10, packets=(30, 10), bytes=(3000, 1000))
    node.refused = {"no-endpoints": 4}
    node.now += 2.0
    traffic.look()
    assert traffic.rates_of(WEB) == (5.0, 20.0, 2000.0, 2.0)
    total = traffic.rates
    assert total is not None
    assert (total.active, total.flows, total.refused) == (3, 5.0, 2.0)
    assert [(row.cause, row.packets, row.rate) for row in traffic.causes] == [
        ("no-endpoints", 4, 2.0)
    ]
    # It went and came back, and counts from nothing.
    node.counters.update(flows=2, packets=(0, 0), bytes=(0, 0))
    node.now += 1.0
    traffic.look()
    rates = traffic.rates_of(WEB)
    assert rates is not None and min(rates) == 0.0


def test_what_is_not_counted_has_no_rate(node: Node, traffic: Traffic) -> None:
    node.is_counted = False
    traffic.look()
    assert traffic.rates is not None
    assert traffic.rates.packets is None and traffic.rates.bytes is None


def test_all_pages_share_one_look(node: Node, traffic: Traffic) -> None:
    for _ in range(10):
        traffic.look()
    assert node.looks == 1
    node.now += PERIOD
    traffic.look()
    assert node.looks == 2


def test_a_look_that_takes_long_is_rare(node: Node, traffic: Traffic) -> None:
    node.refresh_seconds = 0.5
    traffic.look()
    end = node.now + 60
    while node.now < end:
        traffic.look()
        node.now += 0.1
    assert (node.looks - 1) * node.refresh_seconds <= 60 * SHARE + node.refresh_seconds


def test_a_node_without_pages_remembers_nothing(node: Node, traffic: Traffic) -> None:
    traffic.look()
    node.now += 1
    traffic.look()
    traffic.forget()
    assert not (traffic.services or traffic.counts or traffic.before or traffic.causes)
    node.counters["flows"] = 1_000_000
    traffic.look()
    assert traffic.rates_of(WEB) is None, "what happened unseen is no rate"
