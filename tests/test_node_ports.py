"""The addresses on which node ports are served: flags, primary addresses, loopback, modes."""

import pytest
from msgspec import structs

import kbe_nat
from harness.shop import NODE, WEB
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.model import Service, ServicePort, Snapshot
from kbe_nat.packets import opening
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.planner import plan


def test_node_ports_are_told_apart_by_protocol() -> None:
    def with_node_port(name: str, ip: str, protocol: str) -> Service:
        return Service("shop", name, (ip,), (ServicePort("", protocol, 80, 30080),))

    services = (
        with_node_port("a", "172.30.0.1", "tcp"),
        with_node_port("b", "172.30.0.2", "udp"),
        with_node_port("c", "172.30.0.3", "tcp"),
    )
    outcome = plan(Snapshot(services=services))
    assert [len(port.frontends) for port in outcome.ports] == [2, 2, 1]
    assert outcome.notes[0].endswith("it belongs to shop/a")


@pytest.mark.parametrize(
    ("ranges", "localhost", "expected"),
    [
        ((), True, "192.168.0.2 192.168.1.2 127.0.0.1 2001:db8::2"),
        ((), False, "192.168.0.2 192.168.1.2 2001:db8::2"),
        (("primary",), True, "192.168.0.2 2001:db8::2"),
        (("192.168.1.0/24",), True, "192.168.1.2 2001:db8::2"),
        (("192.168.1.0/24", "127.0.0.0/8"), True, "192.168.1.2 127.0.0.1 2001:db8::2"),
        (("192.168.1.0/24", "127.0.0.0/8"), False, "192.168.1.2 2001:db8::2"),
        (("2001:db8:1::/64",), False, "192.168.0.2 192.168.1.2"),
    ],
)
def test_node_port_addresses(ranges: tuple[str, ...], localhost: bool, expected: str) -> None:
    options = Options("here", node_port_addresses=ranges, localhost_node_ports=localhost)
    outcome = plan(Snapshot(nodes={"here": NODE}), options)
    assert " ".join(outcome.node_ports.addresses) == expected


@pytest.mark.parametrize(
    ("ranges", "localhost", "expected"),
    [
        ((), True, True),
        ((), False, False),
        (("192.168.0.0/24",), True, False),
        (("0.0.0.0/0",), True, True),
        (("127.0.0.2/32",), True, True),
        (("126.0.0.0/7", "192.168.0.0/24"), True, True),
        (("2001:db8::/64",), True, True),
        (("primary",), True, False),
    ],
)
def test_rules_for_loopback(ranges: tuple[str, ...], localhost: bool, expected: bool) -> None:
    options = Options("here", node_port_addresses=ranges, localhost_node_ports=localhost)
    snapshot = Snapshot(nodes={"here": NODE})
    assert plan(snapshot, options).node_ports.loopback == expected
    assert not plan(snapshot, options.in_mode(Mode.NFTABLES)).node_ports.loopback
    text = iptables_save.dump(plan(snapshot, options), snapshot, Family.IPV4)
    assert ("block incoming localnet connections" in text) == expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ((), "192.168.0.2 2001:db8::2"),
        (("192.168.1.2", "192.168.0.2", "2001:db8::3", "2001:db8::2"), "192.168.0.2 2001:db8::2"),
        # The node does not have it, so nobody is served there; other addresses are not primary.
        (("192.168.1.2", "2001:db8::2"), "2001:db8::2"),
    ],
)
def test_the_primary_addresses_are_those_of_the_node_object(
    addresses: tuple[str, ...], expected: str
) -> None:
    options = Options("here", node_addresses=addresses, node_port_addresses=("primary",))
    outcome = plan(Snapshot(nodes={"here": NODE}), options)
    assert " ".join(outcome.node_ports.addresses) == expected
    assert outcome.node_ports.wildcard_families == ()


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ((), (4, 6)),
        (("0.0.0.0/0",), (4, 6)),
        (("192.168.1.0/24", "0.0.0.0/0", "2001:db8::/64"), (4,)),
        (("192.168.1.0/24", "::/0"), (6,)),
        (("0.0.0.0/1", "2001:db8::/64"), ()),
    ],
)
@pytest.mark.parametrize("mode", list(Mode))
def test_node_ports_on_every_address(
    ranges: tuple[str, ...], expected: tuple[int, ...], mode: Mode
) -> None:
    options = Options("here", node_port_addresses=ranges, mode=mode)
    every = plan(Snapshot(nodes={"here": NODE}), options).node_ports.wildcard_families
    # Without a word the primary addresses serve in nftables mode.
    assert every == (() if mode is Mode.NFTABLES and not ranges else expected)


@pytest.mark.parametrize("ranges", ["0.0.0.0/0", "127.0.0.0/8"])
def test_loopback_serves_no_node_ports_in_nftables_mode(ranges: str) -> None:
    options = Options(
        "here", mode=Mode.NFTABLES, node_port_addresses=(ranges,), localhost_node_ports=True
    )
    outcome = plan(Snapshot(nodes={"here": NODE}), options)
    assert "127.0.0.1" not in outcome.node_ports.addresses and not outcome.node_ports.loopback


@pytest.mark.parametrize("to", ["192.168.0.2", "2001:db8::2"])
def test_a_node_port_without_any_address_is_refused_in_its_family(to: str) -> None:
    """Another Service has the only cluster IP, and there are no endpoints."""
    is_ipv6 = ":" in to
    vip = "fd00:30::1" if is_ipv6 else "172.30.0.1"
    first = structs.replace(WEB, name="a", cluster_ips=(vip,))
    second = structs.replace(first, name="b", ports=(ServicePort("", "tcp", 80, 30080),))
    snapshot = Snapshot(services=(first, second), nodes={"here": NODE})
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(*native_tables(plan(snapshot, Options("here"))))
    source = "2001:db8::99" if is_ipv6 else "203.0.113.9"
    explanation = engine.explain(opening("tcp", (source, 5000), (to, 30080)), 0, interface=1)
    assert (explanation.cause, explanation.service) == ("no-endpoints", "shop/b")
