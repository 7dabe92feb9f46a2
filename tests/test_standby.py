"""The standby while no daemon listens, and the ids by which the kernel knows backends."""

import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from kbe_nat._native import NftTables
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.family import Family
from kbe_nat.model import Choice, Strategy
from kbe_nat.packets import opening
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.backend_ids import REST_SECONDS, BackendIds
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.hairpins import Hairpins
from kbe_nat.rules.nat_program import NatTableChange
from kbe_nat.rules.slots import DEFAULT_SLOTS, SlotClasses, share_out
from kbe_nat.rules.standby import OnDeath, Standby, StandbyChange, StandbyDecision, StandbyTable

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
    return Plan(ports, ("192.0.2.1",), NodePorts(("192.0.2.1",)), options=Options())


class Decided:
    """What a standby decides, kind by kind."""

    def __init__(self, standby: Standby) -> None:
        self.shares = {key: Counter(own.backends) for key, own in standby.items() if own.backends}
        self.classes = {key: CLASSES.get(own.first_slot) for key, own in standby.items()}
        self.preserved = {key for key, own in standby.items() if own.keeps_source}
        self.unserved = {key for key, own in standby.items() if not own.backends}


CLASSES: dict[int | None, tuple[int, bool]] = {
    first: (size, is_by_source) for size, is_by_source, first in SlotClasses(DEFAULT_SLOTS).all
}
"""By their first slots."""


def chosen(*ports: PlannedPort, on_death: OnDeath = OnDeath.SERVE) -> Decided:
    table = StandbyTable(on_death)
    table.rebuild(plan_of(*ports))
    return Decided(table.of_family(Family.IPV4))


def test_every_frontend_spreads_over_those_who_may_serve_it() -> None:
    own = chosen(WEB)
    assert own.shares == {key: {NEAR.key: 4, FAR.key: 4} for key in (CLUSTER, *OUTSIDE)}
    assert set(own.classes.values()) == {(8, False)}
    assert (own.preserved, own.unserved) == (set(), set())


def test_policies_are_kept() -> None:
    own = chosen(replace(WEB, is_internal_local=True, cluster_backends=(FAR,)))
    assert own.shares[CLUSTER] == {NEAR.key: 1}, "internalTrafficPolicy: Local"
    assert own.classes[CLUSTER] is None, "one needs no slots"
    own = chosen(replace(WEB, is_external_local=True, cluster_backends=(FAR,)))
    assert own.shares[CLUSTER] == {FAR.key: 1}
    assert all(own.shares[place] == {NEAR.key: 1} for place in OUTSIDE), (
        "externalTrafficPolicy: Local"
    )
    assert own.preserved == set(OUTSIDE), "which keeps the client's address"
    own = chosen(replace(WEB, is_external_local=True, local_backends=()))
    assert own.unserved == set(OUTSIDE)
    own = chosen(replace(WEB, cluster_backends=(DRAINED,)))
    assert own.unserved == {CLUSTER, *OUTSIDE}
    own = chosen(replace(WEB, cluster_backends=(DRAINED, FAR)))
    assert own.shares[CLUSTER] == {FAR.key: 1}


def test_where_somebody_must_not_be_let_in_nobody_is() -> None:
    fenced = replace(WEB, source_ranges=("203.0.113.0/24",))
    assert chosen(fenced).unserved == {OUTSIDE[0]}
    assert chosen(replace(fenced, source_ranges_apply_to_all=True)).unserved == set(OUTSIDE)


def test_all_are_refused_if_that_is_asked_for() -> None:
    own = chosen(WEB, on_death=OnDeath.REFUSE)
    assert own.unserved == {CLUSTER, *OUTSIDE}
    assert not own.shares


def test_who_stands_by_stays_while_they_may() -> None:
    table, plan = StandbyTable(OnDeath.SERVE), Plan()

    def follow(*ports: PlannedPort) -> Standby:
        nonlocal plan
        former, plan = plan, plan_of(*ports)
        table.apply(PlanDelta.between(former, plan))
        return dict(table.of_family(Family.IPV4))

    def moved(before: Standby, after: Standby) -> int:
        pairs = zip(before[CLUSTER].backends, after[CLUSTER].backends, strict=True)
        return sum(old != new for old, new in pairs)

    targets = [Backend(f"10.0.1.{n}", 80) for n in range(1, 21)]
    states = [follow(replace(WEB, cluster_backends=tuple(targets[:4])))]
    for count, moves in ((5, 1), (8, 3), (20, 0), (8, None), (3, None), (2, None)):
        state = follow(replace(WEB, cluster_backends=tuple(targets[:count])))
        present = {target.key for target in targets[:count]}
        leaving = sum(backend not in present for backend in states[-1][CLUSTER].backends)
        assert moved(states[-1], state) == (leaving if moves is None else moves), count
        states.append(state)
        heavier = (structs.replace(target, weight=7) for target in targets[:count])
        assert follow(replace(WEB, cluster_backends=tuple(heavier))) == state, "or other weights"
        table.rebuild(plan)
        assert table.of_family(Family.IPV4) == state
    assert follow() == {}


def test_an_exact_address_goes_before_a_node_port() -> None:
    node_port = replace(WEB, service="a", frontends=(NODE_PORT,))
    exact = replace(
        WEB,
        service="b",
        frontends=(Frontend("external-ip", "192.0.2.1", 30080),),
        cluster_backends=(DRAINED,),
    )
    for ports in ((node_port, exact), (exact, node_port)):
        assert chosen(*ports).unserved == {OUTSIDE[2]}
    table, both = StandbyTable(OnDeath.SERVE), plan_of(node_port, exact)
    table.rebuild(both)
    table.take_change(Family.IPV4)
    table.apply(PlanDelta.between(both, plan_of(node_port)))
    [(key, decision)] = table.of_family(Family.IPV4).items()
    assert key == OUTSIDE[2] and decision.backends
    assert table.take_change(Family.IPV4) == StandbyChange(
        {key: StandbyDecision()}, {key: decision}
    )
    table.apply(PlanDelta.between(plan_of(node_port), both))
    table.apply(PlanDelta.between(both, plan_of(node_port)))
    assert table.take_change(Family.IPV4) == StandbyChange(), "undone meanwhile"


def test_standbys_are_spread() -> None:
    ports = [
        replace(WEB, service=f"s{n}", frontends=(Frontend("cluster-ip", f"172.30.1.{n}", 80),))
        for n in range(100)
    ]
    targets = [Backend(f"10.0.1.{n}", 80) for n in range(1, 33)]
    own = chosen(*(replace(port, cluster_backends=tuple(targets)) for port in ports))
    total = Counter[tuple[str, int]]()
    for shares in own.shares.values():
        assert set(shares.values()) == {1} and len(shares) == 8, "more backends than slots"
        total += shares
    # Of 32 targets each has a quarter of 100 frontends; 5 standard deviations to either side.
    assert len(total) == 32 and 3 < min(total.values()) <= max(total.values()) < 47, total


@pytest.mark.parametrize(
    ("size", "weights", "expected"),
    [
        (8, (1, 1, 1, 1), (2, 2, 2, 2)),
        (8, (3, 1), (6, 2)),
        (8, (5, 2, 1), (5, 2, 1)),
        (12, (300, 200, 100), (6, 4, 2)),
        # 2.67 for each.
        (8, (1, 1, 1), (2, 3, 3)),
        # 6.4, 1.28, 0.32: the largest remainder takes the last.
        (8, (20, 4, 1), (7, 1)),
        (8, (65535, 1), (8,)),
        (1, (1, 7), (1,)),
    ],
    ids=str,
)
def test_slots_are_shared_out_by_the_largest_remainders(
    size: int, weights: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    held = {(f"10.0.1.{n}", 80): weight for n, weight in enumerate(weights)}
    own = Counter(share_out(held, size, CLUSTER))
    assert sorted(own.values()) == sorted(expected)
    by_weight = sorted(held, key=lambda key: (-held[key], -own[key]))
    assert [own[key] for key in by_weight] == sorted(own.values(), reverse=True) + [0] * (
        len(held) - len(own)
    )


@given(
    st.lists(
        st.dictionaries(st.sampled_from([("10.0.1.1", n) for n in range(12)]), st.integers(1, 9)),
        min_size=1,
    ),
    st.sampled_from((1, 8, 32)),
)
def test_a_change_moves_no_more_slots_than_shares_differ(
    states: list[dict[tuple[str, int], int]], size: int
) -> None:
    former: tuple[tuple[str, int], ...] = ()
    for weights in filter(None, states):
        slots = share_out(weights, size, CLUSTER, former)
        before, after = Counter(former), Counter(slots)
        for key, weight in weights.items():
            quota = size * weight / sum(weights.values())
            assert quota - 1 < after[key] < quota + 1
            if quota == int(quota):
                assert after[key] == quota, "exact where it can be"
        if former:
            moved = sum(old != new for old, new in zip(former, slots, strict=True))
            assert moved == sum((after - before).values())
        assert share_out(weights, size, CLUSTER, slots) == slots
        former = slots


CHOSEN = replace(WEB, frontends=(CLUSTER_IP, NODE_PORT), choice=Choice.KERNEL)


@pytest.mark.parametrize(
    ("port", "cluster_ip", "node_port"),
    [
        (CHOSEN, True, True),
        (replace(CHOSEN, strategy=Strategy.CASCADE), True, True),
        (replace(CHOSEN, is_external_local=True), True, False),
        (replace(CHOSEN, is_internal_local=True), True, True),
        (replace(CHOSEN, choice=None), False, False),
        (replace(CHOSEN, choice=Choice.ENGINE), False, False),
        (replace(CHOSEN, strategy=Strategy.ROUND_ROBIN), False, False),
        (replace(CHOSEN, strategy=Strategy.SOURCE_HASH), True, True),
        (replace(CHOSEN, strategy=Strategy.MAGLEV), True, True),
        (replace(CHOSEN, strategy=Strategy.RENDEZVOUS), False, False),
        (replace(CHOSEN, strategy=Strategy.MAGLEV, affinity_seconds=10800), False, False),
        (
            replace(
                CHOSEN,
                strategy=Strategy.MAGLEV,
                cluster_backends=tuple(Backend("10.0.1.1", n) for n in range(33)),
            ),
            False,
            False,
        ),
        (
            replace(
                CHOSEN,
                strategy=Strategy.MAGLEV,
                cluster_backends=(NEAR, structs.replace(FAR, weight=32)),
            ),
            True,
            True,
        ),
        (replace(CHOSEN, affinity_seconds=10800), False, False),
        (replace(CHOSEN, source_ranges=("203.0.113.0/24",)), False, False),
        (replace(CHOSEN, cluster_backends=(DRAINED,)), False, False),
        (replace(CHOSEN, cluster_backends=(NEAR, DRAINED)), True, True),
        (
            replace(CHOSEN, cluster_backends=tuple(Backend("10.0.1.1", n) for n in range(33))),
            False,
            False,
        ),
        (
            replace(CHOSEN, cluster_backends=(NEAR, structs.replace(FAR, weight=32))),
            False,
            False,
        ),
    ],
    ids=repr,
)
def test_the_kernel_chooses_what_is_a_mere_draw(
    port: PlannedPort, cluster_ip: bool, node_port: bool
) -> None:
    table = StandbyTable(OnDeath.SERVE)
    table.rebuild(plan_of(port))
    own = table.of_family(Family.IPV4)
    assert own[CLUSTER].is_chosen == own[CLUSTER].is_cluster_ip == cluster_ip
    assert (own[OUTSIDE[2]].is_chosen, own[OUTSIDE[2]].is_cluster_ip) == (node_port, False)
    assert table.chosen() == cluster_ip + node_port
    drawn = {each.first_slot for each in own.values() if each.is_chosen} - {None}
    assert table.may_choose and {each.first for each in table.chosen_classes} == drawn
    for table in (
        StandbyTable(OnDeath.REFUSE),
        StandbyTable(OnDeath.SERVE, SlotClasses(8, is_able=False)),
    ):
        table.rebuild(plan_of(port))
        assert table.chosen() == 0 == len(table.chosen_classes)
        assert not table.may_choose
    if port.choice is Choice.KERNEL:
        table = StandbyTable(OnDeath.SERVE, choice=Choice.KERNEL)
        table.rebuild(plan_of(replace(port, choice=None)))
        assert table.chosen() == cluster_ip + node_port, "where all are to be"


def test_the_kernels_shares_are_exact() -> None:
    for weights, size in (((1, 1, 1), 3), ((2, 4, 4), 5), ((300, 200), 5), ((7,), 1)):
        backends = tuple(Backend("10.0.1.1", n, weight) for n, weight in enumerate(weights))
        table = StandbyTable(OnDeath.SERVE)
        table.rebuild(plan_of(replace(CHOSEN, cluster_backends=backends)))
        decision = table.of_family(Family.IPV4)[CLUSTER]
        assert decision.is_chosen and len(decision.backends) == size
        counts = Counter(decision.backends)
        for backend in backends:
            assert counts[backend.key] * sum(weights) == backend.weight * size
        # Of classes that were never needed there are no rules.
        own = [(each.size, each.first) for each in table.chosen_classes]
        assert own == ([(size, decision.first_slot)] if size > 1 else [])
        held = set(table.chosen_classes)
        table.rebuild(plan_of())
        assert table.chosen() == 0 and table.chosen_classes == held, "rules stay"


def test_pairs_are_of_backends_that_may_reach_themselves() -> None:
    node = replace(plan_of(CHOSEN), options=Options(node="here"))
    nowhere = plan_of(CHOSEN)
    own = Hairpins(Choice.ENGINE)
    own.rebuild(node)
    assert set(own.addresses(Family.IPV4)) == {NEAR.address}, "the others are elsewhere"
    own.apply(PlanDelta.between(node, nowhere))
    assert set(own.addresses(Family.IPV4)) == {NEAR.address, FAR.address}
    own.apply(PlanDelta.between(nowhere, plan_of(replace(CHOSEN, choice=None))))
    assert not own.addresses(Family.IPV4)
    own = Hairpins(Choice.KERNEL)
    own.rebuild(plan_of(replace(CHOSEN, choice=None)))
    assert set(own.addresses(Family.IPV4)) == {NEAR.address, FAR.address}


def test_a_service_has_slots_of_its_class() -> None:
    for changes, expected in (
        ({}, (8, False)),
        ({"affinity_seconds": 10800}, (8, True)),
        ({"strategy": Strategy.SOURCE_HASH}, (8, True)),
        ({"strategy": Strategy.MAGLEV}, (8, True)),
        ({"strategy": Strategy.ROUND_ROBIN}, (8, False)),
        ({"standby_slots": 1}, None),
        ({"standby_slots": 5}, (8, False)),
        ({"standby_slots": 9}, (32, False)),
        ({"standby_slots": 100, "affinity_seconds": 1}, (128, True)),
        ({"standby_slots": 4096}, (128, False)),
    ):
        own = chosen(replace(WEB, **changes))
        assert own.classes[CLUSTER] == expected, changes
        assert sum(own.shares[CLUSTER].values()) == (expected or (1,))[0]
    for classes in (SlotClasses(8, is_able=False), SlotClasses(1)):
        table = StandbyTable(OnDeath.SERVE, classes)
        table.rebuild(plan_of(WEB))
        assert {own.first_slot for own in table.of_family(Family.IPV4).values()} == {None}
    numbers = [n for each in SlotClasses(256).all for n in range(each.first, each.first + each[0])]
    assert len(numbers) == len(set(numbers)) and min(numbers) > 0


def backends(*numbers: int) -> set[tuple[str, int]]:
    return {("10.0.0.1", number) for number in numbers}


def test_numbers_are_stable_and_unique() -> None:
    own = BackendIds(10, lambda: 0.0)
    first = own.acquire(backends(1, 2))
    assert sorted(first.values()) == [1, 2]
    assert own.acquire(backends(2, 3)).keys() == backends(3), "another Service has one of them too"
    assert own.release(backends(1, 2)).keys() == backends(1)
    assert own.ids == {
        place: number for place, number in own.ids.items() if place in backends(2, 3)
    }
    assert own.ids["10.0.0.1", 2] == first["10.0.0.1", 2]
    assert own.release(backends(2, 3)).keys() == backends(2, 3)
    assert own.ids == {}


def test_f109_an_id_takes_few_bytes() -> None:
    """With addresses that the plan holds anyway."""
    addresses = [f"10.64.{number >> 8}.{number & 255}" for number in range(15_000)]
    own = BackendIds((1 << 18) - 1, lambda: 0.0)
    tracemalloc.start()
    for first in range(0, len(addresses), 15):
        own.acquire([(address, 8080) for address in addresses[first : first + 15]])
    assert tracemalloc.get_traced_memory()[0] / len(addresses) < 90
    tracemalloc.stop()
    assert len(own.ids) == 15_000 and list(own.ids)[:2] == [
        ("10.64.0.0", 8080),
        ("10.64.0.1", 8080),
    ]
    assert ("10.64.0.0", 80) not in own.ids


def test_verdicts_name_only_backends_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    translated: set[tuple[str, int]] = set()

    def change_tables(_: FirstPacket, changes: list[NatTableChange]) -> None:
        for change in changes:
            translated.update(change.added)
            translated.difference_update(change.removed)

    monkeypatch.setattr(FirstPacket, "_change_tables", change_tables)
    own = FirstPacket(Diversion((100, 100)), Commands(), NftTables())
    own._is_installed = True
    before = Plan()

    def is_named(target: Backend) -> bool:
        packet = opening("tcp", ("10.0.2.15", 4444), (target.address, target.port))
        return own.backend_ids.mark_of(packet) is not None

    for targets in ((NEAR, FAR), (FAR,), (NEAR,), ()):
        plan = plan_of(replace(WEB, cluster_backends=targets, local_backends=()))
        own.apply(PlanDelta.between(before, plan))
        before = plan
        own.prepare()
        places = {(target.address, target.port) for target in targets}
        assert all(map(is_named, targets)) and places <= translated, (
            "before the engine may choose one"
        )
        own.update()
        assert translated == places
        assert [target for target in (NEAR, FAR) if is_named(target)] == list(targets)


def test_a_number_rests_before_somebody_else_has_it() -> None:
    now = 0.0
    own = BackendIds(3, lambda: now)
    own.acquire(backends(1, 2, 3))
    freed = own.release(backends(2))["10.0.0.1", 2]
    assert own.acquire(backends(1, 4)) == {}
    assert (own.waiting, own.shortage) == (1, None), "only for a moment"
    assert own.assign() == {}
    now = REST_SECONDS
    assert own.assign() == {("10.0.0.1", 4): freed}
    assert own.acquire(backends(5)) == {}
    assert "count up to 3: 3 are in use, 1 more are wanted" in (own.shortage or "")
    own.release(backends(5))
    assert (own.waiting, own.shortage) == (0, None)


def test_f136_ten_of_fifteen_are_replaced() -> None:
    now = 0.0
    own = BackendIds(15, lambda: now)
    own.acquire(backends(*range(10)))
    for round_ in range(1, 30):
        old, new = (backends(*range(10 * n, 10 * n + 10)) for n in (round_ - 1, round_))
        own.acquire(new)
        own.release(old)
        now += REST_SECONDS
        own.assign()
        assert own.ids.keys() == new
        assert sorted(own.ids.values()) == sorted(set(own.ids.values()))


def test_numbers_given_up_are_not_used_again_while_there_are_fresh_ones() -> None:
    now = 0.0
    own = BackendIds(1000, lambda: now)
    used: list[int] = []
    for number in range(1000):
        used += own.acquire(backends(number)).values()
        own.release(backends(number))
        now += REST_SECONDS
    assert sorted(used) == list(range(1, 1001))
    again = own.acquire(backends(2000, 2001, 2002))
    assert list(again.values()) == used[:3], "then those that were given up long ago"


def test_a_change_costs_the_same_after_any_number_of_departures() -> None:
    """Counted by looks at the clock; a number that was given up costs a byte."""
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    own = BackendIds((1 << 18) - 1, clock)
    for number in range(300_000):
        place = [("10.0.0.1", number)]
        own.acquire(place)
        own.release(place)
        now += REST_SECONDS / 10
    assert looks <= 600_000
    looks = 0
    own.acquire(backends(1))
    assert looks <= 1
    tracemalloc.start()
    for number in range(50_000):
        own.acquire([("10.0.0.2", number)])
        own.release([("10.0.0.2", number)])
        now += REST_SECONDS / 10
    assert tracemalloc.get_traced_memory()[0] < 20_000
    tracemalloc.stop()
