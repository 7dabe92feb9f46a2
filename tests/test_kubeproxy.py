"""Rules as kube-proxy of the page's time wrote them, against the page itself; names and numbers of
today's.
"""

import base64
import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

import kbe_nat
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save, legacy, names, nft, probability
from kbe_nat.model import Endpoint, EndpointSlice, Node, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.policy.planner import plan
from kbe_nat.sources.manifests.manifests import read_manifests

SEED = Path(__file__).parents[1] / "examples/simpleservice"
ONE = """\
-A KUBE-SEP-4SQFZS32ZVMTQEZV -s 172.17.0.3/32 -m comment --comment "default/simpleservice:" \
-j KUBE-MARK-MASQ
-A KUBE-SEP-4SQFZS32ZVMTQEZV -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.3:9876
-A KUBE-SERVICES -d 172.30.228.255/32 -p tcp -m comment \
--comment "default/simpleservice: cluster IP" -m tcp --dport 80 -j KUBE-SVC-EZC6WLOVQADP4IAW
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" \
-j KUBE-SEP-4SQFZS32ZVMTQEZV
"""
TWO = """\
-A KUBE-SEP-4SQFZS32ZVMTQEZV -s 172.17.0.3/32 -m comment --comment "default/simpleservice:" \
-j KUBE-MARK-MASQ
-A KUBE-SEP-4SQFZS32ZVMTQEZV -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.3:9876
-A KUBE-SEP-PXYYII6AHMUWKLYX -s 172.17.0.4/32 -m comment --comment "default/simpleservice:" \
-j KUBE-MARK-MASQ
-A KUBE-SEP-PXYYII6AHMUWKLYX -p tcp -m comment --comment "default/simpleservice:" -m tcp -j DNAT \
--to-destination 172.17.0.4:9876
-A KUBE-SERVICES -d 172.30.228.255/32 -p tcp -m comment \
--comment "default/simpleservice: cluster IP" -m tcp --dport 80 -j KUBE-SVC-EZC6WLOVQADP4IAW
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" \
-m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-4SQFZS32ZVMTQEZV
-A KUBE-SVC-EZC6WLOVQADP4IAW -m comment --comment "default/simpleservice:" \
-j KUBE-SEP-PXYYII6AHMUWKLYX
"""


@pytest.mark.parametrize(
    ("files", "page"),
    [(["rc.yaml", "svc.yaml"], ONE), (["cluster.yaml"], TWO)],
    ids=["one pod", "two pods"],
)
def test_the_page_line_by_line(files: list[str], page: str) -> None:
    made = plan(read_manifests([SEED / name for name in files]).snapshot)
    assert legacy.rules(made, Family.IPV4, "default/simpleservice") == page.splitlines()


def test_the_others_of_a_plan() -> None:
    targets = tuple(Backend(f"fd00::{n}", 53) for n in range(3))
    frontends = (Frontend("cluster-ip", "fd00::a", 53), Frontend("node-port", "", 30053))
    dns = PlannedPort("kube-system", "dns", "udp", "udp", Family.IPV6, frontends, targets, ())
    nobody = PlannedPort(
        "default",
        "nobody",
        "",
        "tcp",
        Family.IPV4,
        (Frontend("cluster-ip", "10.0.0.1", 80),),
        (),
        (),
    )
    made = Plan((dns, nobody))
    assert legacy.rules(made, Family.IPV4, "default/nobody") == []
    lines = legacy.rules(made, Family.IPV6, "kube-system/dns")
    chances = [
        line.split("--probability ")[1].split()[0] for line in lines if "--probability" in line
    ]
    # 0.33333 in units of 2^-31, as iptables-save prints it.
    assert chances == ["0.33332999982", "0.50000000000"]
    assert any(
        '-d fd00::a/128 -p udp -m comment --comment "kube-system/dns:udp cluster IP"' in line
        for line in lines
    )
    assert any(line.endswith("--to-destination [fd00::2]:53") for line in lines)


NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


def port_of(namespace: str, service: str, name: str, **more: Any) -> PlannedPort:
    frontends = more.pop("frontends", (Frontend("cluster-ip", "172.30.0.1", 80),))
    targets = more.pop("targets", (Backend("10.180.0.1", 80),))
    return PlannedPort(namespace, service, name, "tcp", Family.IPV4, frontends, targets, (), **more)


@pytest.mark.parametrize(
    ("namespace", "service", "name", "iptables", "nft"),
    [
        ("ns1", "svc1", "p80", "XPGD46QRK7WJZT7O", "ULMVA6XW"),
        ("ns2", "svc2", "p80", "GNZBNJ2PO5MGZ6GT", "42NFTM6N"),
        ("ns3", "svc3", "p80", "X27LE4BHSL4DOUIK", "4AT6LBPK"),
        ("ns4", "svc4", "p80", "4SW47YFZTEDKD3PK", "LAUZTJTB"),
        ("ns5", "svc5", "p80", "NUKIZ6OKUXPJNT4C", "HVFWP5L3"),
        ("default", "simpleservice", "", "EXBNZ76JOZU7PBN2", "C355C5SW"),
        ("default", "kubernetes", "https", "NPX46M4PTMTKRN6Y", None),
    ],
)
def test_names_of_chains(
    namespace: str, service: str, name: str, iptables: str, nft: str | None
) -> None:
    port = port_of(namespace, service, name)
    assert names.iptables_chain("KUBE-SVC-", port) == f"KUBE-SVC-{iptables}"
    if nft:
        assert names.nft_base(port) == f"{nft}-{namespace}/{service}/tcp/{name}"


@given(NAMES, NAMES, NAMES, st.integers(1, 65535))
def test_names_of_chains_by_their_formula(
    namespace: str, service: str, name: str, number: int
) -> None:
    port, target = port_of(namespace, service, name), Backend("10.0.0.1", number)
    text = f"{namespace}/{service}:{name}tcp10.0.0.1:{number}"
    wanted = base64.b32encode(hashlib.sha256(text.encode()).digest())[:16].decode()
    assert names.iptables_chain("KUBE-SEP-", port, target) == f"KUBE-SEP-{wanted}"
    assert len(names.iptables_chain("KUBE-SEP-", port, target)) <= 28, "the kernel's limit"
    base = names.nft_endpoint_base(port, Backend("fd00::1", number))
    assert base.endswith(f"__fd00..1/{number}")
    long = f"{namespace}/{service * 12}/tcp/{name * 12}"
    whole = base64.b32encode(hashlib.sha256(long.encode()).digest())[:8].decode() + f"-{long}"
    shortened = whole if len(whole) <= 240 else whole[:237] + "..."
    assert names.nft_base(port_of(namespace, service * 12, name * 12)) == shortened


@given(st.integers(1, 100_000))
def test_chances_as_iptables_save_shows_them(left: int) -> None:
    asked = f"{1 / left:.10f}"
    kept = math.floor(float(asked) * 2**31 + 0.5)
    assert probability.chance_text(left, probability.MODERN) == f"{kept / 2**31:.11f}"


@pytest.mark.parametrize(
    ("left", "modern", "legacy"),
    [
        (2, "0.50000000000", "0.50000000000"),
        (3, "0.33333333349", "0.33332999982"),
        (5, "0.20000000019", "0.20000000019"),
        (6, "0.16666666651", "0.16667000018"),
        (7, "0.14285714272", None),
        (10, "0.10000000009", "0.10000000009"),
    ],
)
def test_chances_that_were_seen(left: int, modern: str, legacy: str | None) -> None:
    assert probability.chance_text(left, probability.MODERN) == modern
    assert legacy in (None, probability.chance_text(left, probability.LEGACY))


@settings(max_examples=30)
@given(st.integers(0, 30), st.integers(0, 6), st.booleans())
def test_numbers_of_rules(services: int, endpoints: int, is_balanced: bool) -> None:
    """TestNumberIptablesRules of kube-proxy, as formulas."""
    ports = []
    for service in range(services):
        cluster_ip = Frontend("cluster-ip", f"172.30.0.{service}", 80)
        outside = (
            Frontend("external-ip", f"192.168.99.{service}", 80),
            Frontend("load-balancer", f"1.2.3.{service}", 80),
            Frontend("node-port", "", 30000 + service),
        )
        targets = tuple(Backend(f"10.{service}.0.{n}", 80) for n in range(endpoints))
        frontends = (cluster_ip, *(outside if is_balanced else ()))
        ranges = ("203.0.113.0/25",) if is_balanced else ()
        more: dict[str, Any] = {"frontends": frontends, "targets": targets, "source_ranges": ranges}
        ports.append(port_of("ns", f"svc{service}", "p80", **more))
    # The formulas are of a cluster without a source that tells pods... which adds no rule here.
    made = Plan(
        tuple(ports),
        ("192.168.0.2",),
        NodePorts(("192.168.0.2",), loopback=True),
        ("10.0.0.0/8",),
    )
    text = iptables_save.dump(made, Snapshot(), Family.IPV4)
    table, counts = "", {"nat": 0, "filter": 0}
    for line in text.splitlines():
        table = line[1:] if line.startswith("*") else table
        # The jumps from built-in chains, and what depends on the machine, are not counted there.
        counts[table] = counts.get(table, 0) + line.startswith("-A KUBE-")
    per_service = (10 if is_balanced else 2) + 3 * endpoints if endpoints else 0
    assert counts["nat"] == 5 + services * per_service
    refusals = 4 if is_balanced else 1
    extra = services * (0 if endpoints else refusals) + (
        services if endpoints and is_balanced else 0
    )
    assert counts["filter"] == 4 + extra


def test_what_a_service_names_twice_is_written_twice() -> None:
    service = Service(
        "ns",
        "twice",
        ("172.30.0.1",),
        (ServicePort("", "tcp", 80),),
        external_ips=("192.0.2.1", "192.0.2.2", "192.0.2.1"),
        load_balancer_ips=("198.51.100.1", "198.51.100.1"),
        source_ranges=("192.168.0.0/24", "192.168.0.0/24"),
    )
    part = EndpointSlice("s", Family.IPV4, (SlicePort("", "tcp", 80),), (Endpoint("10.1.0.1"),))
    nodes = {"here": Node("here", ("192.168.0.2",))}
    snapshot = Snapshot(services=(service,), slices={service.key: (part,)}, nodes=nodes)
    options = Options("here")
    made = plan(snapshot, options)
    assert (made.notes, len(made.ports[0].frontends)) == ((), 4)
    lines = iptables_save.dump(made, snapshot, Family.IPV4).splitlines()
    counts = {
        text: sum(1 for line in lines if text in line)
        for text in (
            '-d 192.0.2.1/32 -p tcp -m comment --comment "ns/twice external IP"',
            '-d 192.0.2.2/32 -p tcp -m comment --comment "ns/twice external IP"',
            '-d 198.51.100.1/32 -p tcp -m comment --comment "ns/twice loadbalancer IP"',
            '-s 192.168.0.0/24 -m comment --comment "ns/twice loadbalancer IP"',
            '-s 198.51.100.1/32 -m comment --comment "ns/twice loadbalancer IP"',
            "-A KUBE-PROXY-FIREWALL",
        )
    }
    assert list(counts.values()) == [2, 1, 2, 2, 2, 2]
    # nft's maps have everything once.
    text = nft.dump(plan(snapshot, options.in_mode(Mode.NFTABLES)), Family.IPV4)
    assert text.count("192.0.2.1 . tcp . 80") == 1
    assert "ip saddr != { 192.168.0.0/24, 198.51.100.1 } drop" in text
    kbe_nat.Engine(seed=1).replace_services(*native_tables(made))


@pytest.mark.parametrize(
    ("service", "is_large"),
    [
        ({"ports": (ServicePort("q", "tcp", 80),)}, True),
        # Nobody's, those of a port that it does not have, and those of another proxy's or a
        # headless Service.
        ({"name": "other", "ports": (ServicePort("q", "tcp", 80),)}, False),
        ({"ports": (ServicePort("q", "udp", 80),)}, False),
        ({"ports": (ServicePort("q", "tcp", 80),), "proxy_name": "mine"}, False),
        ({"ports": (ServicePort("q", "tcp", 80),), "cluster_ips": ()}, False),
        ({"ports": (ServicePort("q", "tcp", 80),), "cluster_ips": ("fd00::1",)}, False),
    ],
)
def test_a_large_cluster_has_many_endpoints_behind_its_services(
    service: dict[str, Any], is_large: bool
) -> None:
    small = Service("ns", "small", ("172.30.0.1",), (ServicePort("", "tcp", 80),))
    large = structs.replace(Service("ns", "large", ("172.30.0.2",)), **service)
    many = tuple(Endpoint(f"10.0.{n // 250}.{n % 250}") for n in range(1000))
    slices = {
        ("ns", "small"): (
            EndpointSlice("s", Family.IPV4, (SlicePort("", "tcp", 80),), (Endpoint("10.1.0.1"),)),
        ),
        ("ns", "large"): (EndpointSlice("l", Family.IPV4, (SlicePort("q", "tcp", 80),), many),),
    }
    snapshot = Snapshot(services=(small, large), slices=slices)
    text = iptables_save.dump(plan(snapshot), snapshot, Family.IPV4)
    assert ('"ns/small -> 10.1.0.1:80"' not in text) == is_large


@pytest.mark.parametrize(
    ("ranges", "listed"),
    [
        # As `nft list` of 1.0.6 shows what kube-proxy writes.
        ("203.0.113.7/32", "203.0.113.7"),
        ("203.0.113.0/25", "203.0.113.0/25"),
        ("203.0.113.0/25 203.0.113.128/25", "{ 203.0.113.0/24 }"),
        ("203.0.113.0/25 203.0.113.7/32", "{ 203.0.113.0/25 }"),
        ("203.0.113.4/32 203.0.113.5/32", "{ 203.0.113.4/31 }"),
        ("203.0.113.4/32 203.0.113.6/32", "{ 203.0.113.4, 203.0.113.6 }"),
        ("10.0.0.0/8 11.0.0.0/8 12.0.0.0/8", "{ 10.0.0.0-12.255.255.255 }"),
        ("203.0.113.7/32 10.0.0.0/8", "{ 10.0.0.0/8, 203.0.113.7 }"),
        ("0.0.0.0/1 128.0.0.0/1", "{ 0.0.0.0/0 }"),
        ("fd00::7/128", "fd00::7"),
        ("fd00::/64 fd00:0:0:1::/64", "{ fd00::/63 }"),
        ("fd00::1/128 fd00::2/128", "{ fd00::1-fd00::2 }"),
    ],
)
def test_sets_of_ranges_as_nft_lists_them(ranges: str, listed: str) -> None:
    number, ip = (Family.IPV6, "ip6") if ":" in ranges else (Family.IPV4, "ip")
    text = nft.dump(Plan((), service_ranges=tuple(ranges.split())), number)
    assert f"\t\t{ip} daddr {listed} drop comment" in text


@pytest.mark.parametrize(
    ("addresses", "ranges", "listed"),
    [
        ("192.168.0.200", "192.168.0.0/24", "{ 192.168.0.0/24 }"),
        (
            "203.0.114.2 203.0.114.1",
            "192.168.0.0/24",
            "{ 192.168.0.0/24, 203.0.114.1-203.0.114.2 }",
        ),
    ],
)
def test_balanced_addresses_among_source_ranges(addresses: str, ranges: str, listed: str) -> None:
    frontends = tuple(Frontend("load-balancer", address, 80) for address in addresses.split())
    more: dict[str, Any] = {
        "source_ranges": tuple(ranges.split()),
        "allows_load_balancer_source": True,
    }
    port = port_of("ns1", "svc1", "p80", frontends=frontends, **more)
    assert f"\t\tip saddr != {listed} drop\n" in nft.dump(Plan((port,)), Family.IPV4)
