"""Who serves while no daemon listens, and by which numbers backends are known to the kernel."""

import tracemalloc
from dataclasses import replace

import pytest

from kbe_nat._native import NftTables
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.family import Family
from kbe_nat.packet import opening
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.backend_ids import REST_SECONDS, Numbering
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.nat_program import NatTableChange
from kbe_nat.rules.standby import OnDeath, Standby, StandbyChoice

NEAR, FAR, DRAINED = (
    Backend("10.0.0.1", 80, is_local=True),
    Backend("10.0.0.2", 80),
    Backend("10.0.0.3", 80, weight=0),
)
CLUSTER_IP = Frontend("cluster-ip", "172.30.0.1", 80)
BALANCED = Frontend("load-balancer", "198.51.100.1", 80)
EXTERNAL = Frontend("external-ip", "198.51.100.2", 80)
NODE_PORT = Frontend("node-port", "", 30080)
WEB = PlannedPort(
    "default",
    "web",
    "",
    "tcp",
    Family.IPV4,
    (CLUSTER_IP, BALANCED, EXTERNAL, NODE_PORT),
    (NEAR, FAR),
    (NEAR,),
)
CLUSTER = ("172.30.0.1", "tcp", 80)
OUTSIDE = [("198.51.100.1", "tcp", 80), ("198.51.100.2", "tcp", 80), ("192.0.2.1", "tcp", 30080)]


def plan_of(*ports: PlannedPort) -> Plan:
    return Plan(ports, ("192.0.2.1",), ("192.0.2.1",), (), options=Options())


def chosen(*ports: PlannedPort, on_death: OnDeath = OnDeath.SERVE) -> Standby:
    choice = StandbyChoice(on_death)
    choice.follow(plan_of(*ports))
    return choice.standby[Family.IPV4]


def test_every_frontend_has_somebody_who_may_serve_it() -> None:
    own = chosen(WEB)
    assert own.backends.keys() == {CLUSTER, *OUTSIDE}
    assert set(own.backends.values()) <= {NEAR, FAR}
    assert (own.preserved, own.unserved) == (frozenset(), frozenset())


def test_policies_are_kept() -> None:
    own = chosen(replace(WEB, is_internal_local=True, cluster_backends=(FAR,)))
    assert own.backends[CLUSTER] == NEAR, "internalTrafficPolicy: Local"
    own = chosen(replace(WEB, is_external_local=True, cluster_backends=(FAR,)))
    assert own.backends[CLUSTER] == FAR
    assert {own.backends[place] for place in OUTSIDE} == {NEAR}, "externalTrafficPolicy: Local"
    assert own.preserved == set(OUTSIDE), "which keeps the client's address"
    own = chosen(replace(WEB, is_external_local=True, local_backends=()))
    assert own.unserved == set(OUTSIDE)
    own = chosen(replace(WEB, cluster_backends=(DRAINED,)))
    assert own.unserved == {CLUSTER, *OUTSIDE}


def test_where_somebody_must_not_be_let_in_nobody_is() -> None:
    fenced = replace(WEB, source_ranges=("203.0.113.0/24",))
    assert chosen(fenced).unserved == {OUTSIDE[0]}
    assert chosen(replace(fenced, source_ranges_apply_to_all=True)).unserved == set(OUTSIDE)


def test_all_are_refused_if_that_is_asked_for() -> None:
    own = chosen(WEB, on_death=OnDeath.REFUSE)
    assert own.unserved == {CLUSTER, *OUTSIDE}
    assert not own.backends


def test_who_stands_by_stays_while_they_may() -> None:
    choice = StandbyChoice(OnDeath.SERVE)
    targets = [Backend(f"10.0.1.{n}", 80) for n in range(1, 9)]
    choice.follow(plan_of(replace(WEB, cluster_backends=tuple(targets[:4]))))
    first = choice.standby[Family.IPV4]
    choice.follow(plan_of(replace(WEB, cluster_backends=tuple(targets))))
    assert choice.standby[Family.IPV4] == first, "others come"
    left = tuple(own for own in targets if own != first.backends[CLUSTER])
    choice.follow(plan_of(replace(WEB, cluster_backends=left)))
    assert choice.standby[Family.IPV4].backends[CLUSTER] in left
    choice.follow(plan_of())
    assert choice.standby[Family.IPV4] == Standby()


def test_standbys_are_spread() -> None:
    ports = [
        replace(WEB, service=f"s{n}", frontends=(Frontend("cluster-ip", f"172.30.1.{n}", 80),))
        for n in range(100)
    ]
    own = chosen(*ports)
    shares = [list(own.backends.values()).count(target) for target in (NEAR, FAR)]
    assert min(shares) > 30, shares


def backends(*numbers: int) -> set[tuple[str, int]]:
    return {("10.0.0.1", number) for number in numbers}


def test_numbers_are_stable_and_unique() -> None:
    own = Numbering(10, lambda: 0.0)
    first = own.arrive(backends(1, 2))
    assert sorted(first.values()) == [1, 2]
    assert own.arrive(backends(2, 3)).keys() == backends(3), "another Service has one of them too"
    assert own.leave(backends(1, 2)).keys() == backends(1)
    assert own.numbers == {
        place: number for place, number in own.numbers.items() if place in backends(2, 3)
    }
    assert own.numbers["10.0.0.1", 2] == first["10.0.0.1", 2]
    assert own.leave(backends(2, 3)).keys() == backends(2, 3)
    assert own.numbers == {}


def test_verdicts_name_only_backends_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    translated: set[tuple[str, int]] = set()

    def change_tables(_: FirstPacket, plan: Plan, changes: list[NatTableChange]) -> None:
        for change in changes:
            translated.update(change.added)
            translated.difference_update(change.removed)

    monkeypatch.setattr(FirstPacket, "_change_tables", change_tables)
    own = FirstPacket(Diversion((100, 100)), Commands(), NftTables())
    own._is_installed = True

    def is_named(target: Backend) -> bool:
        packet = opening("tcp", ("10.0.2.15", 4444), (target.address, target.port))
        return own.backend_ids.mark_of(packet) is not None

    for targets in ((NEAR, FAR), (FAR,), (NEAR,), ()):
        plan = plan_of(replace(WEB, cluster_backends=targets, local_backends=()))
        own.prepare(plan)
        places = {(target.address, target.port) for target in targets}
        assert all(map(is_named, targets)) and places <= translated, (
            "before the engine may choose one"
        )
        own.update(plan)
        assert translated == places
        assert [target for target in (NEAR, FAR) if is_named(target)] == list(targets)


def test_a_number_rests_before_somebody_else_has_it() -> None:
    now = 0.0
    own = Numbering(3, lambda: now)
    own.arrive(backends(1, 2, 3))
    freed = own.leave(backends(2))["10.0.0.1", 2]
    assert own.arrive(backends(1, 4)) == {}
    assert (own.waiting, own.shortage) == (1, None), "only for a moment"
    assert own.supply() == {}
    now = REST_SECONDS
    assert own.supply() == {("10.0.0.1", 4): freed}
    assert own.arrive(backends(5)) == {}
    assert "count up to 3: 3 are in use, 1 more are wanted" in (own.shortage or "")
    own.leave(backends(5))
    assert (own.waiting, own.shortage) == (0, None)


def test_f136_ten_of_fifteen_are_replaced() -> None:
    now = 0.0
    own = Numbering(15, lambda: now)
    own.arrive(backends(*range(10)))
    for round_ in range(1, 30):
        old, new = (backends(*range(10 * n, 10 * n + 10)) for n in (round_ - 1, round_))
        own.arrive(new)
        own.leave(old)
        now += REST_SECONDS
        own.supply()
        assert own.numbers.keys() == new
        assert sorted(own.numbers.values()) == sorted(set(own.numbers.values()))


def test_numbers_given_up_are_not_used_again_while_there_are_fresh_ones() -> None:
    now = 0.0
    own = Numbering(1000, lambda: now)
    used: list[int] = []
    for number in range(1000):
        used += own.arrive(backends(number)).values()
        own.leave(backends(number))
        now += REST_SECONDS
    assert sorted(used) == list(range(1, 1001))
    again = own.arrive(backends(2000, 2001, 2002))
    assert list(again.values()) == used[:3], "then those that were given up long ago"


def test_a_change_costs_the_same_after_any_number_of_departures() -> None:
    """Counted by looks at the clock; a number that was given up costs a byte."""
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    own = Numbering((1 << 18) - 1, clock)
    for number in range(300_000):
        place = [("10.0.0.1", number)]
        own.arrive(place)
        own.leave(place)
        now += REST_SECONDS / 10
    assert looks <= 600_000
    looks = 0
    own.arrive(backends(1))
    assert looks <= 1
    tracemalloc.start()
    for number in range(50_000):
        own.arrive([("10.0.0.2", number)])
        own.leave([("10.0.0.2", number)])
        now += REST_SECONDS / 10
    assert tracemalloc.get_traced_memory()[0] < 20_000
    tracemalloc.stop()
