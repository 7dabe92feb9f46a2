"""Decisions of the engine against a walk through the rules that kube-proxy would have written for the same state:
for the conformance cases with kube-proxy's own rules, and for clusters that nobody has thought of with ours.
"""

import itertools
from dataclasses import replace
from typing import Any

import nft_walker
import pytest
from conformance_cases import CASES, Case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_walker import Rules, Walker

import kbe_nat
from kbe_nat.cli.explain import EPHEMERAL_PORT
from kbe_nat.kubeproxy import iptables_save, nft
from kbe_nat.model import IPV4, Endpoint, EndpointSlice, Node, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.packet import opening
from kbe_nat.planning import plan
from kbe_nat.policy import Mode, Options
from kbe_nat.sources.address import split_address
from kbe_nat.tables import Tables

OWN = ("192.168.0.2", "192.168.1.2", "198.51.100.3")
"""The node's addresses; the last one is somebody's external or balanced one, too."""
SOURCES = (*OWN[:2], "10.0.0.7", "10.0.1.1", "10.0.1.2", "203.0.113.5", "203.0.113.200", "198.51.100.1")
"""The last one is another host's, and some Service's external address."""
LOOPBACK = ("127.0.0.1", "127.0.0.2")
PODS = {1: "here", 2: "here", 3: "there", 4: ""}
"""Nodes of pods, by the last number of their addresses."""
ADDRESSES = ("198.51.100.1", "198.51.100.2", OWN[2])


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kube_proxys_own_rules_say_what_the_case_expects(case: Case, mode: Mode) -> None:
    """This holds the walkers, not us."""
    golden = case.folder / ("nft.golden" if mode is Mode.NFTABLES else "iptables-save.golden")
    if not golden.exists():
        pytest.skip("the case has no rules of this mode")
    local = frozenset(case.about.get("localAddresses", ()))
    rules = read(golden.read_text(), local, mode)
    wanted = case.expected(mode)
    for flow in case.about["flows"]:
        address, port = split_address(flow["to"])
        if ":" in address:
            continue
        interface = None if flow["from"] in local or flow["from"] == "127.0.0.1" else flow.get("iif", "eth0")
        packet = Walker(flow["from"], address, port or 0, flow["proto"], interface)
        assert rules.outcome(packet) == wanted[flow["name"]], flow["name"]


def read(text: str, local: frozenset[str], mode: Mode) -> Rules | nft_walker.Tables:
    return nft_walker.Tables.read(text, local) if mode is Mode.NFTABLES else Rules.read(text, local)


@st.composite
def services(draw: st.DrawFn, number: int) -> tuple[Service, tuple[EndpointSlice, ...]]:
    """A Service of any kind, with endpoints in any condition."""
    ports = tuple(
        ServicePort(
            f"p{n}",
            draw(st.sampled_from(("tcp", "udp"))),
            80 + n,
            draw(st.sampled_from((0, 30_000 + 10 * number + n))),
        )
        for n in range(draw(st.integers(1, 2)))
    )
    service = Service(
        "ns",
        f"s{number}",
        (f"172.30.0.{number + 1}",),
        ports,
        # Nobody shares an address with another Service: kube-proxy's rules have no order then.
        external_ips=(ADDRESSES[number],) if draw(st.booleans()) else (),
        load_balancer_ips=(f"198.51.100.{10 + number}",) if draw(st.booleans()) else (),
        source_ranges=draw(
            st.sampled_from(((), ("203.0.113.0/25",), ("192.168.0.0/24", "10.0.0.0/24"), ("0.0.0.0/0",)))
        ),
        is_internal_local=draw(st.booleans()),
        is_external_local=draw(st.booleans()),
        affinity_seconds=draw(st.sampled_from((None, 60))),
    )
    numbers = draw(st.lists(st.sampled_from(sorted(PODS)), max_size=4))
    endpoints = tuple(
        Endpoint(
            f"10.0.1.{number}",
            PODS[number],
            is_ready=draw(st.booleans()),
            is_serving=draw(st.booleans()),
            is_terminating=draw(st.booleans()),
            zones=draw(st.sampled_from((frozenset(), frozenset({"a"}), frozenset({"b"})))),
        )
        for number in numbers
    )
    wanted = tuple(SlicePort(port.name, port.protocol, 8080) for port in ports)
    return service, (EndpointSlice("e", IPV4, wanted, endpoints),)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Snapshot, Options]:
    made = [draw(services(number)) for number in range(draw(st.integers(1, 3)))]
    snapshot = Snapshot(
        services=tuple(service for service, _ in made),
        slices={service.key: parts for service, parts in made},
        nodes={"here": Node("here", OWN[:1], "a")},
        service_ranges=("172.30.0.0/16",),
    )
    options = Options(
        node="here",
        node_addresses=OWN,
        cluster_ranges=draw(st.sampled_from(((), ("10.0.0.0/16",)))),
        masquerade_all=draw(st.booleans()),
        node_port_addresses=draw(
            st.sampled_from(((), ("192.168.0.0/24",), ("127.0.0.0/8", "192.168.0.0/24"), ("primary",)))
        ),
        localhost_node_ports=draw(st.booleans()),
    )
    return snapshot, options


def flows(snapshot: Snapshot) -> list[tuple[str, str, int, str]]:
    """Packets to everything that a Service has, and beside it."""
    found = []
    for service in snapshot.services:
        for port in service.ports:
            places = [(address, port.port) for address in (*service.cluster_ips, *service.external_ips)]
            places += [(address, port.port) for address in service.load_balancer_ips]
            places += [(address, port.node_port) for address in (*OWN, "192.168.9.9") if port.node_port]
            places.append((service.cluster_ips[0], 81 + port.port))
            # Nobody sends to itself through another host.
            pairs = (
                (source, place)
                for source in SOURCES
                for place in places
                if source != place[0] or source in OWN
            )
            found += [(source, *place, port.protocol) for source, place in pairs]
            # From outside it never comes this far; the kernel knows it as the node's own.
            ends = itertools.product((*LOOPBACK, *OWN), (*LOOPBACK, *OWN)) if port.node_port else ()
            found += [
                (source, to, number, port.protocol) for source, to in ends for number in (port.node_port, 9)
            ]
    return found


def decided(
    engine: kbe_nat.Engine, source: str, destination: str, port: int, protocol: str
) -> dict[str, Any]:
    packet = opening(protocol, (source, EPHEMERAL_PORT), (destination, port))
    is_own = source in (*OWN, *LOOPBACK)
    told = engine.explain(packet, 0, interface=0 if is_own else 1, incomplete_checksum=True)
    verdict = {"translate": "dnat", "accept": "pass"}.get(told.action, told.action)
    destinations = sorted(told.candidates) if verdict == "dnat" else []
    masqueraded = [own for own in destinations if own in told.masqueraded]
    is_mixed = bool(masqueraded) and masqueraded != destinations
    answer: dict[str, Any] = {
        "verdict": verdict,
        "destinations": destinations,
        "masquerade": "mixed" if is_mixed else bool(masqueraded),
    }
    return answer | ({"masqueraded": masqueraded} if is_mixed else {})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters(), st.sampled_from(Mode))
def test_the_engine_decides_as_the_rules_do(cluster: tuple[Snapshot, Options], mode: Mode) -> None:
    snapshot, options = cluster[0], replace(cluster[1], mode=mode)
    made = plan(snapshot, options)
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*Tables().native(made))
    is_nft = mode is Mode.NFTABLES
    text = nft.dump(made, IPV4) if is_nft else iptables_save.dump(made, snapshot, IPV4)
    rules = read(text, frozenset(OWN), mode)
    for source, destination, port, protocol in flows(snapshot):
        interface = None if source in (*OWN, *LOOPBACK) else "eth0"
        wanted = rules.outcome(Walker(source, destination, port, protocol, interface))
        assert decided(engine, source, destination, port, protocol) == wanted, (source, destination, port)
