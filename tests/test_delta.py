"""One meter for change: whatever changes, in whatever order, every consumer of plans ends up as it
would from the last plan alone; and a change costs what it touches.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

import kbe_nat
from kbe_nat._native import NftTables
from kbe_nat.control.controller import Controller
from kbe_nat.control.removals import BackendRemovals
from kbe_nat.datapath.datapath import Datapath, Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.datapath.first_packet import FirstPacket
from kbe_nat.datapath.flow_checks import FlowChecks
from kbe_nat.engine_tables import EngineTables
from kbe_nat.errors import ArgumentError, NotFoundError, RulesError
from kbe_nat.family import Family, family_of
from kbe_nat.model import (
    Choice,
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServiceKey,
    ServicePort,
    SlicePort,
    Snapshot,
    Strategy,
)
from kbe_nat.packets import opening
from kbe_nat.policy import delta as delta_module
from kbe_nat.policy.delta import PlanDelta, port_facts
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import HealthCheck, Plan
from kbe_nat.policy.planner import Planner
from kbe_nat.policy.service_rules import ServiceRules
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.frontends import Uses
from kbe_nat.rules.memory import Memory
from kbe_nat.rules.nat_program import NatTableChange
from kbe_nat.rules.nat_sets import Key
from kbe_nat.rules.nat_table import NatTable, sets
from kbe_nat.rules.rule import Element, RuleSet, SetChange, SetKind, shapes
from kbe_nat.rules.slots import SlotClass
from kbe_nat.rules.standby import StandbyDecision, StandbyTable, eligible_backends
from kbe_nat.server.health_check_ports import HealthCheckPorts, SocketAddress

NAMES: Final = ("a", "b", "c", "d")
NODE: Final = Node("here", ("192.0.2.1", "2001:db8::1"), "near", ("10.0.0.0/24",))
CLUSTER_IPS: Final = ("172.30.0.1", "172.30.0.2", "172.31.0.3", "fd00:30::1", "fd00:30::2")
OUTSIDE: Final = ("198.51.100.1", "192.0.2.1", "172.30.0.1", "2001:db8::7")
PODS: Final = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00:10::1", "fd00:10::2")
QUEUES: Final = (100, 100)


class FakeProgram:
    """A `NatProgram` whose kernel is a dictionary, and refuses when it is told to."""

    def __init__(self) -> None:
        self.contents: dict[Family, dict[str, dict[Key, object]]] = {}
        self.shapes: dict[Family, object] = {}
        self.choice_classes: dict[Family, frozenset[SlotClass]] = {}
        self.hash_seed = 7
        self.is_refusing = False

    def install(self, tables: Iterable[NatTable]) -> None:
        self._refuse()
        installed = list(tables)
        self.contents = {
            table.family: {name: dict(elements) for name, elements in sets(table).items()}
            for table in installed
        }
        self.shapes = {table.family: table.shape for table in installed}
        self.choice_classes = {
            table.family: table.choice.classes for table in installed if table.choice
        }

    def update(self, changes: Iterable[NatTableChange]) -> None:
        self._refuse()
        for change in changes:
            self.choice_classes[change.family] |= change.choice_classes
            for name, removed, added in change.elements():
                # As the program: a table need not have every set.
                if not (removed or added):
                    continue
                held = self.contents[change.family][name]
                for key, value in removed.items():
                    assert held.pop(key) == value, "only what is there can be removed"
                assert not held.keys() & added.keys(), "what is there cannot be added"
                held.update(added)

    def missing(self) -> tuple[str, ...]:
        return ()

    def _refuse(self) -> None:
        if self.is_refusing:
            self.is_refusing = False
            raise RulesError("no buffer space")


class Ports(HealthCheckPorts):
    """Health checks without sockets."""

    def _start(self, end: SocketAddress, check: HealthCheck) -> None:
        self._servers[end] = None  # type: ignore[assignment]

    def _stop(self, end: SocketAddress) -> None:
        del self._servers[end]

    def asked(self) -> dict[SocketAddress, HealthCheck | None]:
        return {end: self._check(end) for end in self._servers}


def subsets(values: Iterable[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(list(values)), max_size=most, unique=True).map(tuple)


def one_of_each_family(addresses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple({family_of(address): address for address in addresses}.values())


service_ports = st.builds(
    lambda protocol, port, node_port: ServicePort(f"{protocol}-{port}", protocol, port, node_port),
    st.sampled_from(("tcp", "udp")),
    st.sampled_from((80, 30080)),
    st.sampled_from((0, 0, 30080, 30081)),
)
services = st.builds(
    Service,
    namespace=st.just("default"),
    name=st.sampled_from(NAMES),
    cluster_ips=subsets(CLUSTER_IPS).map(one_of_each_family),
    ports=st.lists(service_ports, max_size=2, unique_by=lambda port: port.name).map(tuple),
    external_ips=subsets(OUTSIDE),
    load_balancer_ips=subsets(OUTSIDE, 1),
    source_ranges=subsets(("192.0.2.0/24", "203.0.113.0/24", "::/0"), 1),
    is_internal_local=st.booleans(),
    is_external_local=st.booleans(),
    health_check_node_port=st.sampled_from((0, 32000, 32001)),
    is_load_balancer=st.booleans(),
    proxy_name=st.sampled_from((None, None, None, "other")),
    source_ranges_apply_to_all=st.booleans(),
    affinity_seconds=st.sampled_from((None, 10800)),
    strategy=st.sampled_from((None, Strategy.ROUND_ROBIN)),
    standby_slots=st.sampled_from((None, None, 1, 20)),
    choice=st.sampled_from((None, None, Choice.KERNEL)),
)
endpoints = st.builds(
    Endpoint,
    address=st.sampled_from(PODS),
    node=st.sampled_from(("", "here", "there")),
    is_ready=st.booleans(),
    is_terminating=st.booleans(),
    zones=st.sampled_from((frozenset[str](), frozenset({"near"}))),
    weight=st.sampled_from((1, 1, 5)),
)
PORTS: Final = tuple(
    SlicePort(f"{protocol}-{port}", protocol, port + 8000)
    for protocol in ("tcp", "udp")
    for port in (80, 30080)
)


def slices_of(pods: list[Endpoint]) -> tuple[EndpointSlice, ...]:
    return tuple(
        EndpointSlice(
            f"s{family}",
            family,
            PORTS,
            tuple(pod for pod in pods if family_of(pod.address) == family),
        )
        for family in Family
    )


slices = st.lists(endpoints, max_size=4).map(slices_of)
options = st.builds(
    Options,
    node=st.sampled_from(("here", "here", "")),
    node_port_addresses=st.sampled_from(((), (), ("192.0.2.0/24",), ("primary",))),
    mode=st.sampled_from(Mode),
    masquerade_all=st.booleans(),
    unknown_port=st.sampled_from((None, "drop")),
    external_ranges=st.sampled_from(((), ("198.51.100.0/24",))),
    resets_tcp=st.booleans(),
    strategy=st.sampled_from((Strategy.RANDOM, Strategy.MAGLEV)),
    pod_interface=st.just("veth+"),
    pod_interfaces=st.sampled_from(((), (7,))),
)
nodes = st.sampled_from(
    (NODE, structs.replace(NODE, zone="far"), structs.replace(NODE, addresses=("192.0.2.2",)))
)
keys = st.sampled_from([("default", name) for name in NAMES])
steps = st.one_of(
    st.tuples(st.just("service"), services),
    st.tuples(st.just("service"), services),
    st.tuples(st.just("slices"), st.tuples(keys, slices)),
    st.tuples(st.just("slices"), st.tuples(keys, slices)),
    st.tuples(st.just("gone"), keys),
    st.tuples(st.just("order"), st.permutations(NAMES)),
    st.tuples(st.just("node"), nodes),
    st.tuples(st.just("ranges"), st.sampled_from(((), ("172.30.0.0/24",)))),
    st.tuples(st.just("options"), options),
    st.tuples(st.just("drain"), st.sampled_from((*PODS, "10.0.0.1:8080"))),
    st.tuples(st.just("undrain"), st.sampled_from((*PODS, "10.0.0.1:8080"))),
    st.tuples(st.just("strategy"), st.sampled_from(NAMES)),
    st.tuples(st.just("refuse"), st.none()),
    st.tuples(st.just("repair"), st.none()),
)


class World:
    """A controller, and the objects and options that it is given."""

    def __init__(self, datapath: Datapath, tells: bool) -> None:
        self.datapath = datapath
        self.tells = tells
        """The source tells what it touches."""
        self.options = Options("here")
        self.snapshot = Snapshot(nodes={"here": NODE})
        self.health = Ports()
        self.checks = FlowChecks()
        self.deltas: list[PlanDelta] = []
        self.controller = Controller(
            kbe_nat.Engine(seed=1), datapath, lambda _: self.options, removed_seconds=1e9
        )
        self.controller.follow_plans(self.health)
        self.controller.follow_plans(self)
        self.controller.apply(self.snapshot)
        self.controller.install()

    def apply(self, delta: PlanDelta) -> None:
        self.deltas.append(delta)

    def rebuild(self, plan: Plan) -> None:
        """All deltas but the first are of interest."""

    def step(self, kind: str, value: Any) -> None:
        getattr(self, f"do_{kind}")(value)

    def put(self, touched: set[ServiceKey] | None, **changes: Any) -> None:
        self.snapshot = structs.replace(self.snapshot, **changes)
        self.controller.apply(self.snapshot, touched if self.tells else None)

    def do_service(self, service: Service) -> None:
        others = self.snapshot.services
        by_key = {other.key: other for other in others} | {service.key: service}
        self.put({service.key}, services=tuple(by_key.values()))

    def do_slices(self, value: tuple[ServiceKey, tuple[EndpointSlice, ...]]) -> None:
        key, parts = value
        self.put({key}, slices={**self.snapshot.slices, key: parts})

    def do_gone(self, key: ServiceKey) -> None:
        others = tuple(other for other in self.snapshot.services if other.key != key)
        self.put({key}, services=others)

    def do_order(self, names: list[str]) -> None:
        order = sorted(self.snapshot.services, key=lambda service: names.index(service.name))
        self.put({service.key for service in order}, services=tuple(order))

    def do_node(self, node: Node) -> None:
        self.put(None, nodes={"here": node})

    def do_ranges(self, ranges: tuple[str, ...]) -> None:
        self.put(None, service_ranges=ranges)

    def do_options(self, options: Options) -> None:
        self.options = options
        self.controller.refresh()

    def do_drain(self, backend: str) -> None:
        self.controller.drain(backend, None)

    def do_undrain(self, backend: str) -> None:
        self.controller.undrain(backend)

    def do_strategy(self, name: str) -> None:
        self.controller.set_strategy(f"default/{name}", Strategy.CASCADE)

    def do_refuse(self, _: None) -> None:
        if isinstance(self.datapath, FirstPacket):
            self.program.is_refusing = True

    def do_repair(self, _: None) -> None:
        self.controller.repair()

    @property
    def program(self) -> FakeProgram:
        assert isinstance(self.datapath, FirstPacket)
        program = self.datapath._program
        assert isinstance(program, FakeProgram)
        return program


def first_packet() -> FirstPacket:
    datapath = FirstPacket(Diversion(QUEUES), Commands(), NftTables())
    datapath._program = FakeProgram()  # type: ignore[assignment]
    return datapath


DATAPATHS: Final[Mapping[str, Callable[[], Datapath]]] = {
    "every-packet": lambda: EveryPacket(Diversion(QUEUES), Memory()),
    "first-packet": first_packet,
}


def check(world: World) -> None:
    """Everything is as it would be from the last plan alone."""
    controller = world.controller
    overrides = controller._overrides
    anew = Planner(overrides.apply_to).update(controller.snapshot, world.options).plan
    assert controller.plan == anew
    assert controller.plan.families == anew.families
    for delta in world.deltas:
        whole = PlanDelta.between(delta.former, delta.plan)
        assert sorted(delta.pairs(), key=str) == sorted(whole.pairs(), key=str)
        assert sorted(delta.health, key=str) == sorted(whole.health, key=str)
    for before, after in zip(world.deltas, world.deltas[1:], strict=False):
        assert before.plan is after.former
    check_health(world, anew)
    if not controller.is_behind:
        check_engine(controller.engine, anew)
        if isinstance(world.datapath, FirstPacket):
            check_first_packet(world, anew)
        else:
            assert isinstance(world.datapath, EveryPacket)
            rules = rule_sets(anew, QUEUES)
            assert world.datapath._diversion_rules.rule_sets() == rules
            installer = world.datapath._rules
            assert isinstance(installer, Memory)
            assert list(map(unordered, installer.rules)) == list(map(unordered, rules))


def unordered(rules: RuleSet) -> tuple[RuleSet, dict[SetKind, set[Element]]]:
    """The rules of a family, with elements in no order."""
    [shape] = shapes([rules])
    return shape, {kind: set(elements) for kind, elements in rules.sets.items()}


def check_health(world: World, plan: Plan) -> None:
    health = Ports()
    health.rebuild(plan)
    assert world.health.asked() == health.asked()


def check_engine(engine: kbe_nat.Engine, plan: Plan) -> None:
    anew = kbe_nat.Engine(seed=1)
    EngineTables(anew).rebuild(plan)
    keys = {
        frontend.key
        for port in plan.ports
        for frontend in port_facts(port, plan.node_ports).frontends
    }
    keys |= {(address, "tcp", 81) for address in (*CLUSTER_IPS, *NODE.addresses)}
    for address, protocol, number in keys:
        for source in ("203.0.113.9", "10.0.0.1") if "." in address else ("2001:db8:1::9",):
            packet = opening(protocol, (source, 4444), (address, number))
            told, expected = (explain(own, packet, address, number) for own in (engine, anew))
            assert told == expected


def explain(engine: kbe_nat.Engine, packet: bytes, address: str, number: int) -> object:
    own = engine.explain(packet, 0, interface=1, incomplete_checksum=True)
    return own.action, own.cause, own.service, own.frontend, own.scope, sorted(own.candidates)


def check_first_packet(world: World, plan: Plan) -> None:
    datapath = world.datapath
    assert isinstance(datapath, FirstPacket)
    tables = datapath._tables()
    assert world.program.contents == {
        table.family: {name: dict(elements) for name, elements in sets(table).items()}
        for table in tables
    }
    assert set(world.program.choice_classes.values()) <= {
        frozenset(datapath._standby.chosen_classes)
    }
    anew = first_packet()
    anew.rebuild(plan)
    # Once there, the rules of the kernel's choice stay.
    anew._standby.chosen_classes |= datapath._standby.chosen_classes
    for table, other in zip(tables, anew._tables(), strict=True):
        assert (table.family, table.shape) == (other.family, other.shape)
        assert table.choice == other.choice
        assert set(table.addresses) == set(other.addresses)
        assert set(table.hairpins) == set(other.hairpins)
        assert table.backends.keys() == other.backends.keys()
        assert len(set(table.backends.values())) == len(table.backends)
        # Which of several backends has a slot depends on the past, but nothing else.
        assert {key: unnamed(own) for key, own in table.standby.items()} == {
            key: unnamed(own) for key, own in other.standby.items()
        }
        before = dict(table.standby)
        datapath._standby.rebuild(plan)
        assert datapath._standby.of_family(table.family) == before
        assert not datapath._standby.take_change(table.family).added
    allowed = {
        (frontend.key, backend)
        for port in plan.ports
        for frontend in port_facts(port, plan.node_ports).frontends
        for backend in eligible_backends(port, frontend.frontend)
    }
    for table in tables:
        for key, own in table.standby.items():
            assert all((key, backend) in allowed for backend in own.backends)


def unnamed(decision: StandbyDecision) -> tuple[object, ...]:
    """The decision with the shares of its backends, but not whose they are."""
    return decision._replace(backends=()), sorted(Counter(decision.backends).values())


@pytest.mark.parametrize("datapath", DATAPATHS)
@pytest.mark.parametrize("tells", [True, False], ids=["touched", "not-known"])
@settings(max_examples=100, suppress_health_check=list(Check))
@given(changes=st.lists(steps, min_size=1, max_size=14))
def test_any_sequence_of_changes_ends_as_the_last_plan_alone(
    datapath: str, tells: bool, changes: list[tuple[str, Any]]
) -> None:
    world = World(DATAPATHS[datapath](), tells)
    for kind, value in changes:
        # A kernel that refuses, and a drain of what is not there, change nothing that follows.
        with suppress(ArgumentError, NotFoundError, RulesError):
            world.step(kind, value)
    if isinstance(world.datapath, FirstPacket):
        world.program.is_refusing = False
    world.controller.repair()
    check(world)


def test_f109_every_packet_writes_the_elements_that_a_change_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many others there are."""
    installed: list[tuple[RuleSet, ...]] = []
    counted: list[object] = []
    elements: list[int] = []
    install, change, count = Memory.install, Memory.change, Uses.count

    def record_install(memory: Memory, rules: Iterable[RuleSet]) -> None:
        installed.append(tuple(rules))
        install(memory, installed[-1])

    def record_change(memory: Memory, changes: Iterable[SetChange]) -> None:
        changes = list(changes)
        elements.append(sum(len(each.added) + len(each.removed) for each in changes))
        change(memory, changes)

    def record_count(uses: "Uses[Any]", element: object, step: int) -> int:
        counted.append(element)
        return count(uses, element, step)

    monkeypatch.setattr(Memory, "install", record_install)
    monkeypatch.setattr(Memory, "change", record_change)
    monkeypatch.setattr(Uses, "count", record_count)
    many = [
        Service("default", f"s{n}", (f"172.30.0.{n + 1}",), (ServicePort("", "tcp", 80),))
        for n in range(200)
    ]
    world = World(DATAPATHS["every-packet"](), tells=True)
    world.put(None, services=tuple(many))
    assert elements[-1] == 400
    for record in (installed, counted, elements):
        record.clear()
    moved = structs.replace(many[7], cluster_ips=("172.30.1.1",))
    world.put({moved.key}, services=(*many[:7], moved, *many[8:]))
    # A frontend and its address go, and come.
    assert (elements, len(counted)) == ([4], 4)
    world.do_slices((moved.key, slices_of([Endpoint("10.0.0.1")])))
    assert (elements, installed) == ([4, 0], [])
    check(world)


class Counts:
    """How often what costs is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.planned: list[str] = []
        self.facts: list[str] = []
        self.served: list[str] = []
        self.last_served: list[str] = []
        serve = Planner._serve
        plan_service, facts_of = ServiceRules.plan_service, delta_module.port_facts

        def planned(rules: ServiceRules, service: Service, parts: Any) -> Any:
            self.planned.append(service.name)
            return plan_service(rules, service, parts)

        def facts(port: Any, node_ports: Any) -> Any:
            self.facts.append(port.service)
            return facts_of(port, node_ports)

        def served(planner: Planner, key: ServiceKey, changes: Any) -> None:
            self.served.append(key[1])
            serve(planner, key, changes)

        monkeypatch.setattr(ServiceRules, "plan_service", planned)
        monkeypatch.setattr(Planner, "_serve", served)
        for module in ("policy.delta", "rules.standby", "rules.frontends"):
            monkeypatch.setattr(f"kbe_nat.{module}.port_facts", facts)

    def take(self) -> tuple[list[str], set[str]]:
        assert set(self.facts) <= set(self.served)
        taken = self.planned[:], set(self.facts)
        self.planned.clear()
        self.facts.clear()
        self.last_served = self.served[:]
        self.served.clear()
        return taken


@pytest.mark.parametrize("datapath", DATAPATHS)
def test_f109_a_change_costs_what_it_touches_whatever_is_in_force(
    datapath: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [
        Service(
            "default",
            f"s{n}",
            (f"172.30.{n // 200}.{n % 200 + 1}",),
            (ServicePort("tcp-80", "tcp", 80, 30000 + n),),
            external_ips=("198.51.100.9",) if n in (5, 9) else (),
        )
        for n in range(300)
    ]
    parts = {
        service.key: slices_of([Endpoint(f"10.1.{n // 200}.{n % 200 + 1}"), Endpoint("10.0.0.1")])
        for n, service in enumerate(many)
    }
    world = World(DATAPATHS[datapath](), tells=True)
    counts = Counts(monkeypatch)
    world.put(None, services=tuple(many), slices=parts)
    assert len(counts.take()[0]) == 300
    key = many[7].key

    def change(number: int) -> None:
        world.do_slices((key, slices_of([Endpoint(f"10.9.0.{number}"), Endpoint("10.0.0.1")])))

    change(1)
    assert counts.take() == (["s7"], {"s7"})
    world.do_drain("10.1.0.4")
    assert counts.take() == ([], {"s3"}), "a drain touches the Services that have the backend"
    assert counts.last_served == ["s3"]
    world.do_strategy("s200")
    assert counts.take() == ([], {"s200"})
    world.do_drain("10.0.0.1")
    assert counts.take()[0] == []
    change(2)
    assert counts.take() == (["s7"], {"s7"}), "with drains and a strategy in force"
    world.tells = False
    change(3)
    assert counts.take() == (["s7"], {"s7"}), "where the source does not know what it touches"
    world.tells = True
    world.do_gone(key)
    assert counts.take() == ([], {"s7"})
    world.do_service(many[7])
    assert counts.take() == (["s7"], {"s7"})
    world.do_gone(many[5].key)
    assert counts.take() == ([], {"s5", "s9"}), "another port has claimed the same frontend"
    world.do_service(structs.replace(many[5], external_ips=()))
    assert counts.take() == (["s5"], {"s5"})
    world.options = replace(world.options, pod_interface="veth+", pod_interfaces=(3,))
    world.controller.refresh()
    assert counts.take() == ([], set()), "devices of pods are not the Services' concern"


def test_a_consumer_that_has_failed_is_rebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(first_packet(), tells=True)
    web = Service("default", "a", ("172.30.0.1",), (ServicePort("tcp-80", "tcp", 80),))
    sound = StandbyTable.apply

    def failing(table: StandbyTable, delta: PlanDelta) -> None:
        raise MemoryError

    monkeypatch.setattr(StandbyTable, "apply", failing)
    with pytest.raises(MemoryError):
        world.do_service(web)
    monkeypatch.setattr(StandbyTable, "apply", sound)
    world.do_slices((web.key, slices_of([Endpoint("10.0.0.1")])))
    world.deltas.clear()
    check(world)


def test_a_plan_is_shown_once_it_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or once the kernel has refused it."""
    world = World(first_packet(), tells=True)
    world.controller.install()
    web = Service("default", "a", ("172.30.0.1",), (ServicePort("tcp-80", "tcp", 80),))
    world.do_service(web)
    seen: list[int] = []

    def refusing(datapath: FirstPacket) -> None:
        seen.append(len(world.controller.plan.ports))
        raise RulesError("no")

    monkeypatch.setattr(FirstPacket, "update", refusing)
    with pytest.raises(RulesError):
        world.do_service(structs.replace(web, name="b", cluster_ips=("172.30.0.2",)))
    assert seen == [1]
    assert len(world.controller.plan.ports) == 2


def test_a_planner_that_has_failed_plans_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(first_packet(), tells=True)
    web = Service("default", "a", ("172.30.0.1",), (ServicePort("tcp-80", "tcp", 80),))
    world.do_service(web)

    def failing(*_: object) -> None:
        raise RecursionError

    with monkeypatch.context() as patch:
        patch.setattr(Planner, "_serve", failing)
        with pytest.raises(RecursionError):
            world.do_service(structs.replace(web, name="b", cluster_ips=("172.30.0.2",)))
    # What was touched then is planned, though nothing tells of it again.
    world.put(set())
    assert [port.service for port in world.controller.plan.ports] == ["a", "b"]
    check(world)


def test_a_family_that_has_lost_its_cluster_ip_keeps_nothing_from_the_other() -> None:
    world = World(first_packet(), tells=True)
    port, vip = ServicePort("web", "tcp", 80, 30080), "fd00:30::1"
    world.do_service(Service("default", "a", (vip,), (ServicePort("web", "tcp", 80),)))
    both = Service("default", "b", (vip, "172.30.0.1"), (port,))
    for service in (both, structs.replace(both, cluster_ips=("fd00:30::2", "172.30.0.1")), both):
        world.do_service(service)
        check(world)


def test_the_addresses_of_node_ports_move() -> None:
    world = World(first_packet(), tells=True)
    port = ServicePort("web", "tcp", 80, 30080)
    world.do_service(Service("default", "a", ("172.30.0.1",), (port,)))
    world.do_options(replace(world.options, node_port_addresses=("203.0.113.0/24",)))
    assert [new.port.service for _, new in world.deltas[-1].changed] == ["a"]
    check(world)


def test_a_port_changes_its_protocol_and_keeps_its_name() -> None:
    world = World(first_packet(), tells=True)
    for protocol in ("tcp", "udp", "tcp"):
        port = ServicePort("web", protocol, 80)
        world.do_service(Service("default", "a", ("172.30.0.1",), (port,)))
        check(world)


def test_backends_that_leave_have_a_deadline_until_they_are_back() -> None:
    removals, plans = BackendRemovals(0.0), [Plan()]
    planner = Planner()
    web = Service("default", "a", ("172.30.0.1",), (ServicePort("tcp-80", "tcp", 80),))

    def follow(*addresses: str) -> list[str]:
        parts = {web.key: slices_of(list(map(Endpoint, addresses)))}
        delta = planner.update(Snapshot(services=(web,), slices=parts), Options())
        plans.append(delta.plan)
        removals.apply(delta)
        return sorted(address for _, address, _ in removals.take_due())

    assert follow("10.0.0.1", "10.0.0.2") == []
    assert follow("10.0.0.2") == ["10.0.0.1"]
    assert follow() == ["10.0.0.2"]
    slow = BackendRemovals(1e9)
    slow.apply(PlanDelta.between(plans[1], plans[3]))
    assert len(slow._deadlines) == 2
    slow.rebuild(plans[2])
    assert [address for _, address, _ in slow._deadlines] == ["10.0.0.1"]
