"""`Engine.update_services`: step by step it leads where whole tables do, whatever flows live in
between, and packets of other threads never meet half of a change.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kbe_nat
from harness import traffic

SECOND = 1_000_000_000
VIPS = {4: ("172.30.0.1", "172.30.0.2"), 6: ("fd00:30::1", "fd00:30::2")}
NODE = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENTS = {4: ("10.0.0.9", "10.0.0.10"), 6: ("fd00::9", "fd00::10")}
PORTS = (53, 80, 30053)

Form = dict[str, Any]
Key = tuple[str, int]


def service_port(key: Key, form: Form) -> kbe_nat.ServicePort:
    """A service port of this name and family."""
    name, family = key
    prefix = "172.17.0." if family == 4 else "fd00:17::"
    frontends = [
        kbe_nat.Frontend(
            "" if kind == "node-port" else (*VIPS[family], NODE[family])[place], port, kind
        )
        for kind, place, port in form["frontends"]
    ]

    def backends(weights: dict[int, int]) -> list[kbe_nat.Backend]:
        return [
            kbe_nat.Backend(f"{prefix}{3 + last}", 9, weight) for last, weight in weights.items()
        ]

    return kbe_nat.ServicePort(
        name,
        frontends,
        backends(form["backends"]),
        family=family,
        protocol="udp",
        local_backends=backends(form["local"]),
        is_external_local=form["is_local"],
        affinity_seconds=60 if form["is_sticky"] else None,
        strategy=form["strategy"],
    )


FORMS = st.fixed_dictionaries(
    {
        "frontends": st.lists(
            st.tuples(
                st.sampled_from(("cluster-ip", "external-ip", "load-balancer", "node-port")),
                st.integers(0, 2),
                st.sampled_from(PORTS),
            ),
            max_size=2,
            # A service port with one address and port twice is refused.
            unique_by=lambda own: ("" if own[0] == "node-port" else own[1], own[2]),
        ),
        "backends": st.dictionaries(st.integers(0, 3), st.integers(0, 3), max_size=3),
        "local": st.dictionaries(st.integers(0, 3), st.just(1), max_size=1),
        "is_local": st.booleans(),
        "is_sticky": st.booleans(),
        "strategy": st.sampled_from(("random", "rr", "wrr", "lc", "p2c", "rendezvous")),
    }
)
KEYS = st.tuples(st.sampled_from(("a/1", "a/2", "a/3", "a/4")), st.sampled_from((4, 6)))
CHANGES = st.dictionaries(KEYS, st.one_of(st.none(), FORMS, FORMS, FORMS), max_size=4)
PACKETS = st.lists(
    st.tuples(
        st.sampled_from((4, 6)),
        st.integers(0, 1),
        st.integers(0, 2),
        st.sampled_from(PORTS),
        st.booleans(),
    ),
    max_size=8,
)
VIEWS = st.one_of(st.none(), st.none(), st.booleans())


def node_view(*, has_node_ports: bool) -> kbe_nat.NodeView:
    addresses = [*NODE.values(), "127.0.0.1"]
    return kbe_nat.NodeView(
        addresses=addresses, node_ports=kbe_nat.NodePorts(addresses if has_node_ports else [])
    )


@dataclass
class Engines:
    """Three engines with one history of packets: one is told of changes, one gets whole tables,
    and the last is made anew for each look.
    """

    served: dict[Key, kbe_nat.ServicePort] = field(default_factory=dict)
    view: kbe_nat.NodeView = field(default_factory=lambda: node_view(has_node_ports=True))
    now: int = SECOND

    def __post_init__(self) -> None:
        self.updated, self.replaced = (
            kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(max_flows=16, max_affinities=4))
            for _ in range(2)
        )
        for engine in (self.updated, self.replaced):
            engine.replace_services([], self.view)

    def change(self, changes: dict[Key, Form | None], view: kbe_nat.NodeView | None) -> None:
        """The same change for both engines; both take it or refuse it."""
        changed = {key: service_port(key, form) for key, form in changes.items() if form}
        removed = [key for key, form in changes.items() if form is None and key in self.served]
        wanted = {key: own for key, own in self.served.items() if key not in removed} | changed
        errors = []
        try:
            self.updated.update_services(list(changed.values()), removed, view)
        except kbe_nat.ServiceError as error:
            errors.append(error)
        try:
            self.replaced.replace_services([*reversed(wanted.values())], view)
        except kbe_nat.ServiceError as error:
            errors.append(error)
        assert len(errors) in (0, 2), errors
        if not errors:
            self.served, self.view = wanted, view or self.view
        self.look()

    def look(self) -> None:
        """All engines decide alike about clients that they have not met."""
        fresh = kbe_nat.Engine(seed=1)
        fresh.replace_services(list(self.served.values()), self.view)
        for family, client in ((4, "10.7.7.7"), (6, "fd00:7::7")):
            for vip in (*VIPS[family], NODE[family]):
                for port in PORTS:
                    packet = traffic.ip(client, vip, traffic.UDP, traffic.udp(4000, port))
                    looks = [engine.explain(packet, self.now) for engine in self.engines]
                    assert told(looks[0]) == told(looks[1])
                    new = fresh.explain(packet, self.now)
                    assert (looks[0].action, looks[0].service) == (new.action, new.service)
                    assert looks[0].candidates == new.candidates

    def send(self, family: int, client: int, place: int, port: int, is_answered: bool) -> None:
        """A datagram through both engines, and perhaps its answer."""
        source, to = CLIENTS[family][client], (*VIPS[family], NODE[family])[place]
        # No two flows of a client collide, whose new source port would follow from the secret.
        sport = 4000 + 10 * place + PORTS.index(port)
        packet = traffic.ip(source, to, traffic.UDP, traffic.udp(sport, port))
        verdicts = [engine.process(packet, self.now) for engine in self.engines]
        assert len({(each.action, each.cause, each.packet) for each in verdicts}) == 1
        translated = verdicts[0].packet
        if is_answered and translated:
            client_address, backend = traffic.addresses(translated)
            sport, dport = traffic.ports(translated)
            answer = traffic.ip(backend, client_address, traffic.UDP, traffic.udp(dport, sport))
            assert len({engine.process(answer, self.now).packet for engine in self.engines}) == 1

    @property
    def engines(self) -> tuple[kbe_nat.Engine, kbe_nat.Engine]:
        return self.updated, self.replaced


def told(look: kbe_nat.Explanation) -> tuple[object, ...]:
    return (look.action, look.cause, look.service, look.frontend, look.backend, look.steps)


def counters(engine: kbe_nat.Engine) -> list[tuple[object, ...]]:
    return [
        (
            service.name,
            service.family,
            service.active,
            service.flows,
            service.packets,
            dict(service.refused),
            [(backend.address, backend.active, backend.flows) for backend in service.backends],
        )
        for service in engine.stats().services
    ]


@settings(max_examples=60)
@given(st.lists(st.tuples(CHANGES, VIEWS, PACKETS, st.integers(0, 90)), max_size=8))
def test_updates_lead_where_whole_tables_do(
    steps: list[tuple[dict[Key, Form | None], bool | None, list[tuple[Any, ...]], int]],
) -> None:
    engines = Engines()
    for changes, view, packets, seconds in steps:
        new_view = None if view is None else node_view(has_node_ports=view)
        engines.change(changes, new_view)
        for packet in packets:
            engines.send(*packet)
        engines.now += seconds * SECOND
        assert counters(engines.updated) == counters(engines.replaced)


def plain(name: str, vip: str, backend: str) -> kbe_nat.ServicePort:
    return kbe_nat.ServicePort(
        name, [kbe_nat.Frontend(vip, 53)], [kbe_nat.Backend(backend, 53)], protocol="udp"
    )


def test_what_is_refused_changes_nothing() -> None:
    engine = kbe_nat.Engine(seed=1)
    web, dns = (
        plain("a/web", "172.30.0.1", "172.17.0.3"),
        plain("a/dns", "172.30.0.2", "172.17.0.4"),
    )
    engine.update_services([web, dns])
    thief = plain("a/thief", "172.30.0.1", "172.17.0.9")
    for changed, removed, message in (
        ([thief], [("a/dns", 4)], "a/web and a/thief both claim 172.30.0.1:53"),
        ([dns, dns], [("a/web", 4)], "two service ports are named a/dns"),
        ([], [("a/web", 4), ("a/none", 4)], "no service port is named a/none"),
        ([], [("a/web", 6)], "no service port is named a/web"),
        ([thief], [("a/web", 5)], r"removed\[0\]\[1\] is 4 or 6, not 5"),
    ):
        with pytest.raises(kbe_nat.ArgumentError, match=message):
            engine.update_services(changed, removed)
        assert [service.name for service in engine.stats().services] == ["a/dns", "a/web"]
    engine.update_services([thief], [("a/web", 4)])
    assert [service.name for service in engine.stats().services] == ["a/dns", "a/thief"]


def test_threads_meet_whole_tables() -> None:
    """Of each generation two service ports have the same backend; packets of one batch agree."""
    engine = kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(max_flows=2000))

    def pair(number: int) -> list[kbe_nat.ServicePort]:
        backend = f"172.17.{number >> 8}.{number & 255}"
        return [plain("a/1", "172.30.0.1", backend), plain("a/2", "172.30.0.2", backend)]

    others = [plain(f"b/{n}", f"172.31.{n >> 8}.{n & 255}", "172.18.0.1") for n in range(1000)]
    engine.replace_services([*others, *pair(0)])
    is_over = threading.Event()
    failures: list[str] = []

    def read(reader: int) -> None:
        turn, newest = 0, ""
        while not (is_over.is_set() and turn):
            turn += 1
            source = f"10.{reader}.{turn >> 8 & 255}.{turn & 255}"
            packets = [
                bytearray(traffic.ip(source, vip, traffic.UDP, traffic.udp(4000, 53)))
                for vip in ("172.30.0.1", "172.30.0.2")
            ]
            engine.process_batch(packets, SECOND + turn * SECOND * 200)
            backends = [traffic.addresses(bytes(packet))[1] for packet in packets]
            numbers = [tuple(map(int, backend.split("."))) for backend in backends]
            if numbers[0] != numbers[1]:
                failures.append(f"{backends} in one batch after {newest}")
                return
            newest = backends[0]

    readers = [threading.Thread(target=read, args=(number,)) for number in (1, 2)]
    for reader in readers:
        reader.start()
    for number in range(1, 400):
        engine.update_services([*pair(number), others[number]])
    is_over.set()
    for reader in readers:
        reader.join(30)
        assert not reader.is_alive()
    assert failures == []
