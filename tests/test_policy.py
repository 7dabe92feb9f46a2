"""Which endpoints may serve whom: kube-proxy's rules as tables of input and expectation."""

import itertools
from collections.abc import Iterator

import pytest
from msgspec import structs

import kbe_nat
from harness.shop import NODE, READY, WEB
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.model import (
    Endpoint,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
    SlicePort,
    Snapshot,
    Strategy,
)
from kbe_nat.packets import opening
from kbe_nat.policy.options import Mode, Options, unknown_port
from kbe_nat.policy.plan import Frontend, PlannedPort, unallocated
from kbe_nat.policy.planner import Planner, plan


def end(last: int, node: str = "there", state: str = "ready", **more: object) -> Endpoint:
    """An endpoint: "ready", "going" (serving while it terminates), "gone" (terminating only) or
    "unready".
    """
    return structs.replace(
        Endpoint(
            f"10.0.0.{last}",
            node,
            is_ready=state == "ready",
            is_serving=state in ("ready", "going"),
            is_terminating=state in ("going", "gone"),
        ),
        **more,
    )


def port_of(service: Service, *endpoints: Endpoint, node: Node = NODE) -> PlannedPort:
    part = EndpointSlice("web-a", Family.IPV4, (SlicePort("", "tcp", 8080),), endpoints)
    snapshot = Snapshot(services=(service,), slices={service.key: (part,)}, nodes={node.name: node})
    [port] = plan(snapshot, Options("here")).ports
    return port


def lasts(targets: object) -> str:
    """The last numbers of the targets' addresses."""
    assert isinstance(targets, tuple)
    return " ".join(target.address.rpartition(".")[2] for target in targets)


@pytest.mark.parametrize(
    ("endpoints", "serving"),
    [
        ([end(1), end(2, "here")], ""),
        ([end(1), end(2, state="going"), end(3, "here", "going")], "2"),
        ([end(1), end(2, "here", "gone"), end(3, state="unready")], ""),
        ([end(1, nodes=("there",)), end(2, nodes=("here",))], "1"),
        (
            [end(1, nodes=("there",)), end(2, "here", nodes=("there",)), end(3, nodes=("here",))],
            "1",
        ),
    ],
)
def test_f124_who_serves_still_beside_both_lists(endpoints: list[Endpoint], serving: str) -> None:
    assert (
        lasts(port_of(structs.replace(WEB, is_internal_local=True), *endpoints).serving_backends)
        == serving
    )


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        ([], "", ""),
        ([end(1), end(2, "here")], "1 2", "2"),
        ([end(1, state="unready"), end(2, "here", "unready")], "", ""),
        ([end(1, state="going"), end(2, "here", "unready")], "1", ""),
        ([end(1), end(2, state="going"), end(3, "here", "going")], "1", "3"),
        ([end(1, state="gone"), end(2, "here", "gone")], "", ""),
        ([end(1, state="going"), end(2, "here", "going")], "1 2", "2"),
        ([end(1), end(2, "")], "1 2", ""),
        ([end(10), end(1), end(2)], "10 1 2", ""),
    ],
)
def test_cluster_and_local_sets(endpoints: list[Endpoint], cluster: str, local: str) -> None:
    port = port_of(structs.replace(WEB, is_internal_local=True), *endpoints)
    assert (lasts(port.cluster_backends), lasts(port.local_backends)) == (cluster, local)


def test_the_external_policy_counts_only_with_an_external_address() -> None:
    service = structs.replace(WEB, is_external_local=True)
    assert not port_of(service, READY).is_external_local
    for more in ({"external_ips": ("192.0.2.1",)}, {"load_balancer_ips": ("192.0.2.1",)}):
        port = port_of(structs.replace(service, **more), READY)
        assert port.is_external_local and lasts(port.local_backends) == "1"


A, B, MINE, OTHER = (frozenset({text}) for text in ("zone-a", "zone-b", "here", "there"))


@pytest.mark.parametrize(
    ("endpoints", "cluster"),
    [
        ([end(1, zones=A), end(2, zones=B)], "1"),
        ([end(1, zones=A), end(2)], "1 2"),
        ([end(1, zones=B), end(2, zones=B)], "1 2"),
        ([end(1, zones=A | B), end(2, zones=B)], "1"),
        ([end(1, zones=A), end(2, state="unready")], "1"),
        ([end(1, nodes=MINE, zones=B), end(2, nodes=OTHER, zones=A)], "1"),
        ([end(1, nodes=OTHER, zones=B), end(2, nodes=OTHER, zones=A)], "2"),
        ([end(1, nodes=MINE), end(2, zones=A)], "1 2"),
        ([end(1, state="going", zones=A), end(2, state="going", zones=B)], "1 2"),
    ],
)
def test_topology_hints(endpoints: list[Endpoint], cluster: str) -> None:
    assert lasts(port_of(WEB, *endpoints).cluster_backends) == cluster


def test_hints_for_zones_need_a_zone() -> None:
    node = structs.replace(NODE, zone="")
    assert (
        lasts(port_of(WEB, end(1, zones=A), end(2, zones=B), node=node).cluster_backends) == "1 2"
    )


def test_slices_are_matched_by_name_and_protocol_and_merged() -> None:
    service = structs.replace(WEB, ports=(ServicePort("a", "tcp", 80), ServicePort("a", "udp", 80)))
    slices = (
        EndpointSlice(
            "1", Family.IPV4, (SlicePort("a", "tcp", 8080),), (end(1, state="going"), end(2))
        ),
        EndpointSlice(
            "2", Family.IPV4, (SlicePort("a", "tcp", 8080), SlicePort("a", "udp", 53)), (end(1),)
        ),
        EndpointSlice("3", Family.IPV4, (SlicePort("a", "tcp", 9090),), (end(2),)),
        EndpointSlice("4", Family.IPV4, (SlicePort("b", "tcp", 7070),), (end(3),)),
    )
    tcp, udp = plan(Snapshot(services=(service,), slices={service.key: slices})).ports
    assert [str(target) for target in tcp.cluster_backends] == [
        "10.0.0.1:8080",
        "10.0.0.2:8080",
        "10.0.0.2:9090",
    ]
    assert [str(target) for target in udp.cluster_backends] == ["10.0.0.1:53"]
    assert tcp.name == udp.name == "shop/web:a"


def test_f111_families_never_mix() -> None:
    service = structs.replace(
        WEB,
        cluster_ips=("172.30.0.1", "fd00:30::1"),
        external_ips=("192.0.2.1", "2001:db8::99"),
        source_ranges=("203.0.113.0/24",),
    )
    slices = (
        EndpointSlice("4", Family.IPV4, (SlicePort("", "tcp", 80),), (READY,)),
        EndpointSlice(
            "6", Family.IPV6, (SlicePort("", "tcp", 80),), (Endpoint("fd00::1", "here"),)
        ),
    )
    v4, v6 = plan(Snapshot(services=(service,), slices={service.key: slices})).ports
    assert [str(t) for t in v4.cluster_backends] == ["10.0.0.1:80"] and [
        str(t) for t in v6.cluster_backends
    ] == ["[fd00::1]:80"]
    assert v6.frontends == (
        Frontend("cluster-ip", "fd00:30::1", 80),
        Frontend("external-ip", "2001:db8::99", 80),
    )
    assert (v4.source_ranges, v6.source_ranges) == (("203.0.113.0/24",), ())


@pytest.mark.parametrize(
    ("ranges", "restricting", "admits"),
    [
        (("203.0.113.0/25",), ("203.0.113.0/25",), False),
        (("192.168.0.0/24",), ("192.168.0.0/24",), True),
        (("203.0.113.0/25", "0.0.0.0/0"), (), False),
        (("fd00::/64",), (), False),
    ],
)
def test_source_ranges(ranges: tuple[str, ...], restricting: tuple[str, ...], admits: bool) -> None:
    port = port_of(structs.replace(WEB, source_ranges=ranges), READY)
    assert (port.source_ranges, port.allows_load_balancer_source) == (restricting, admits)


def test_services_of_other_proxies_are_left_alone() -> None:
    own = structs.replace(WEB, name="own", cluster_ips=("172.30.0.2",), proxy_name="kbe-nat")
    headless = structs.replace(WEB, name="headless", cluster_ips=())
    snapshot = Snapshot(services=(WEB, own, headless))
    assert [port.name for port in plan(snapshot).ports] == ["shop/web"]
    assert [port.name for port in plan(snapshot, Options(proxy_name="kbe-nat")).ports] == [
        "shop/own"
    ]


def test_f105_f107_the_first_owner_keeps_its_address() -> None:
    thief = structs.replace(
        WEB, name="thief", cluster_ips=("172.30.0.9",), external_ips=("172.30.0.1", "192.0.2.1")
    )
    second = structs.replace(
        WEB, name="second", cluster_ips=("172.30.0.2",), external_ips=("192.0.2.1",)
    )
    made = plan(Snapshot(services=(thief, WEB, second)))
    frontends = {port.service: [own.address for own in port.frontends] for port in made.ports}
    assert frontends == {
        "thief": ["172.30.0.9", "192.0.2.1"],
        "web": ["172.30.0.1"],
        "second": ["172.30.0.2"],
    }
    assert made.notes == (
        "Service shop/thief: tcp 172.30.0.1:80 is not served for it: it belongs to shop/web",
        "Service shop/second: tcp 192.0.2.1:80 is not served for it: it belongs to shop/thief",
    )


@pytest.mark.parametrize("mode", list(Mode))
def test_f106_an_endpoint_that_is_a_cluster_ip_is_translated_to_once(mode: Mode) -> None:
    """kube-proxy writes it as any other; nobody follows it to the Service that has the address."""
    other = structs.replace(WEB, name="other", cluster_ips=("172.30.0.2",))
    slices = {
        WEB.key: (
            EndpointSlice("a", Family.IPV4, (SlicePort("", "tcp", 80),), (Endpoint("172.30.0.2"),)),
        ),
        other.key: (
            EndpointSlice("b", Family.IPV4, (SlicePort("", "tcp", 80),), (Endpoint("172.30.0.1"),)),
        ),
    }
    made = plan(Snapshot(services=(WEB, other), slices=slices), Options(mode=mode))
    assert [lasts(port.cluster_backends) for port in made.ports] == ["2", "1"]
    assert made.notes == ()
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(made))
    told = engine.explain(opening("tcp", ("10.0.0.9", 5000), ("172.30.0.1", 80)), 0)
    # In nftables mode nobody reaches a cluster IP as such.
    is_nft = mode is Mode.NFTABLES
    assert told.candidates == ([] if is_nft else ["172.30.0.2:80"])
    assert told.refused == ([("172.30.0.2:80", "reject", "unknown-port")] if is_nft else [])


STATES = ("ready", "unready", "going", "gone")


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_of_an_address_that_one_slice_names_twice_the_last_that_does_not_terminate_counts(
    policy: str,
) -> None:
    """Whether it is on this node plays no part."""
    service = structs.replace(WEB, is_internal_local=policy == "Local")
    kinds = list(itertools.product(STATES, ("here", "there")))
    for pair in itertools.product(kinds, kinds):
        one, other = (end(1, node, state) for state, node in pair)
        counts = one if pair[1][0] in ("going", "gone") else other
        assert (
            port_of(service, one, other).local_backends == port_of(service, counts).local_backends
        ), pair
        assert (
            port_of(service, one, other).cluster_backends
            == port_of(service, counts).cluster_backends
        ), pair


def test_health_counts_an_address_that_one_slice_names_twice_as_it_serves() -> None:
    service = structs.replace(
        WEB, is_load_balancer=True, is_external_local=True, health_check_node_port=32000
    )
    for states, count in (
        (("ready", "unready"), 0),
        (("unready", "ready"), 1),
        (("ready", "gone"), 1),
    ):
        endpoints = tuple(end(1, "here", state) for state in states)
        part = EndpointSlice("a", Family.IPV4, (SlicePort("", "tcp", 80),), endpoints)
        snapshot = Snapshot(
            services=(service,), slices={service.key: (part,)}, nodes={"here": NODE}
        )
        [check] = plan(snapshot, Options("here")).health
        assert check.local_endpoints == count, states


class Counted(tuple[SlicePort, ...]):
    """Ports of a slice that count how often anybody looks at one."""

    looks = 0

    def __iter__(self) -> Iterator[SlicePort]:
        for own in super().__iter__():
            Counted.looks += 1
            yield own


@pytest.mark.parametrize("count", [1_000, 8_000])
def test_a_plan_is_linear_in_the_ports_of_one_service(count: int) -> None:
    service = structs.replace(
        WEB, ports=tuple(ServicePort(f"p{n}", "tcp", n) for n in range(1, count + 1))
    )
    part = EndpointSlice(
        "a",
        Family.IPV4,
        Counted(SlicePort(f"p{n}", "tcp", n) for n in range(1, count + 1)),
        (READY,),
    )
    snapshot = Snapshot(services=(service,), slices={service.key: (part,)})
    planner = Planner()
    Counted.looks = 0
    assert all(port.cluster_backends for port in planner.update(snapshot, Options()).plan.ports)
    assert Counted.looks <= 2 * count
    # What is not there any more, a daemon plans again.
    planner.update(structs.replace(snapshot, slices={service.key: (part, part)}), Options())
    assert Counted.looks <= 6 * count
    Counted.looks = 0
    assert iptables_save.endpoint_count(snapshot, Family.IPV4) == count
    assert Counted.looks <= 2 * count


def test_pod_ranges() -> None:
    snapshot = Snapshot(nodes={"here": NODE})
    assert plan(snapshot, Options("here", cluster_ranges=("10.0.0.0/8",))).pod_ranges == (
        "10.0.0.0/8",
    )
    assert plan(snapshot, Options("here", uses_node_ranges=True)).pod_ranges == ("10.0.0.0/24",)
    several = ("fd00::/64", "10.0.0.0/8", "172.16.0.0/12", "fd01::/64")
    made = plan(snapshot, Options("here", cluster_ranges=several))
    assert set(made.pod_ranges) == {"fd00::/64", "10.0.0.0/8"}, "the first of each family"


def test_strategy_of_the_service_goes_before_the_default() -> None:
    service = structs.replace(WEB, strategy=Strategy.MAGLEV, affinity_seconds=10800)
    [port] = plan(Snapshot(services=(service,)), Options(strategy=Strategy.ROUND_ROBIN)).ports
    assert (port.strategy, port.affinity_seconds) == (Strategy.MAGLEV, 10800)
    [port] = plan(Snapshot(services=(WEB,)), Options(strategy=Strategy.ROUND_ROBIN)).ports
    assert port.strategy is Strategy.ROUND_ROBIN


def test_health_checks_count_ready_endpoints_of_this_node() -> None:
    service = structs.replace(
        WEB, is_load_balancer=True, is_external_local=True, health_check_node_port=32000
    )
    part = EndpointSlice(
        "a",
        Family.IPV4,
        (SlicePort("", "tcp", 80),),
        (READY, end(2, "here", "going"), end(3), end(4, "here")),
    )
    snapshot = Snapshot(services=(service,), slices={service.key: (part,)}, nodes={"here": NODE})
    [check] = plan(snapshot, Options("here")).health
    assert (check.port, check.local_endpoints) == (32000, 2)
    other = structs.replace(service, is_external_local=False)
    assert not plan(Snapshot(services=(other,)), Options("here")).health


def test_f107_external_ips_outside_the_allowed_ranges_are_not_served() -> None:
    service = structs.replace(WEB, external_ips=("8.8.8.8", "198.51.100.7"))
    snapshot = Snapshot(services=(service,), nodes={"here": NODE})
    made = plan(snapshot, Options("here", external_ranges=("198.51.100.0/24",)))
    assert made.ports[0].addresses("external-ip") == ("198.51.100.7",)
    assert made.notes == (
        "Service shop/web: external IP 8.8.8.8 is not served: "
        "it is outside the ranges that are allowed",
    )
    assert plan(snapshot, Options("here")).ports[0].addresses("external-ip") == (
        "8.8.8.8",
        "198.51.100.7",
    )


def test_the_modes_differ_in_defaults() -> None:
    service = structs.replace(WEB, ports=(ServicePort("", "tcp", 80, 30080),))
    snapshot = Snapshot(
        services=(service,), nodes={"here": NODE}, service_ranges=("172.30.0.0/16",)
    )
    one, other = (plan(snapshot, Options("here", mode=mode)) for mode in Mode)
    assert one.node_ports.addresses == ("192.168.0.2", "192.168.1.2", "127.0.0.1", "2001:db8::2")
    assert one.node_ports.reject_addresses == ("::1",)
    assert other.node_ports.addresses == ("192.168.0.2", "2001:db8::2")
    assert other.node_ports.reject_addresses == ()
    assert [unknown_port(own.options) for own in (one, other)] == ["pass", "reject"]
    assert [unallocated(own) for own in (one, other)] == [(), ("172.30.0.0/16",)]
    beside = plan(snapshot, Options("here", mode=Mode.NFTABLES, proxy_name="kbe-nat"))
    assert unallocated(beside) == (), "another proxy serves addresses of the range"


@pytest.mark.parametrize(
    ("to", "is_everywhere", "verdict"),
    [
        ("198.51.100.1", False, "drop"),
        ("198.51.100.2", False, "translate"),
        ("198.51.100.2", True, "drop"),
        ("172.30.0.1", True, "translate"),
    ],
)
def test_source_ranges_may_bind_every_external_address(
    to: str, is_everywhere: bool, verdict: str
) -> None:
    service = structs.replace(
        WEB,
        load_balancer_ips=("198.51.100.1",),
        external_ips=("198.51.100.2",),
        source_ranges=("203.0.113.0/25",),
        source_ranges_apply_to_all=is_everywhere,
    )
    part = EndpointSlice("web-a", Family.IPV4, (SlicePort("", "tcp", 8080),), (READY,))
    made = plan(Snapshot(services=(service,), slices={service.key: (part,)}), Options())
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(made))
    packet = opening("tcp", ("203.0.113.200", 5000), (to, 80))
    assert engine.explain(packet, 0, interface=1, incomplete_checksum=True).action == verdict


@pytest.mark.parametrize(
    ("source", "to", "verdict"),
    [
        ("198.51.100.1", "172.30.0.1:80", "translate"),
        ("198.51.100.2", "172.30.0.1:80", "translate"),
        ("198.51.100.2", "192.168.0.2:30080", "translate"),
        # Cluster IPs are no host's, and nobody else sends to an address from itself.
        ("172.30.0.1", "198.51.100.2:80", "drop"),
        ("198.51.100.2", "198.51.100.2:80", "drop"),
    ],
)
def test_external_addresses_may_be_those_of_clients(source: str, to: str, verdict: str) -> None:
    service = structs.replace(
        WEB,
        ports=(ServicePort("", "tcp", 80, 30080),),
        load_balancer_ips=("198.51.100.1",),
        external_ips=("198.51.100.2",),
    )
    part = EndpointSlice("web-a", Family.IPV4, (SlicePort("", "tcp", 8080),), (READY,))
    snapshot = Snapshot(services=(service,), slices={service.key: (part,)}, nodes={"here": NODE})
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(plan(snapshot, Options("here"))))
    address, _, number = to.partition(":")
    packet = opening("tcp", (source, 5000), (address, int(number)))
    assert engine.explain(packet, 0, interface=1, incomplete_checksum=True).action == verdict


def test_a_balanced_address_that_is_an_external_ip_too() -> None:
    service = structs.replace(
        WEB, external_ips=("198.51.100.1",), load_balancer_ips=("198.51.100.1",)
    )
    snapshot = Snapshot(services=(service,))
    kinds = {}
    for mode in Mode:
        [port] = plan(snapshot, Options(mode=mode)).ports
        kinds[mode] = [own.kind for own in port.frontends if own.address == "198.51.100.1"]
    # In iptables mode the external IP's rule comes first, and passes by the source ranges.
    assert kinds[Mode.IPTABLES][0] == "external-ip"
    assert kinds[Mode.NFTABLES] == ["load-balancer"]
