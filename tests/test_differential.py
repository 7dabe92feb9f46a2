"""The engine against the reference NAT on generated traffic: same verdicts, same bytes; and against
scapy, which builds every translated packet anew.
"""

from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6

import kbe_nat
from harness import traffic
from harness.traffic import ACK, FIN, RST, SYN, Talk
from kbe_nat.reference import nat as reference

_T = TypeVar("_T")
SECOND = 1_000_000_000
NODE = ("192.0.2.1", "2001:db8::1")
CLIENTS = {
    4: ("10.0.0.9", "10.0.0.10", "203.0.113.5", "172.17.0.3"),
    6: ("fd00::9", "2001:db8:9::1"),
}
FRONTENDS = {
    4: ("172.30.0.1", "172.30.0.2", "198.51.100.1", "192.0.2.1"),
    6: ("fd00:30::1", "2001:db8::1"),
}
LOOPBACK = ("127.0.0.1", "127.0.0.5")
PORTS = (80, 53, 81, 30080, 30081)
SPORTS = (4000, 4001)
FLAGS = (SYN, ACK, SYN | ACK, FIN | ACK, RST, RST | ACK, SYN | FIN, 0)


def service(name: str, version: int, generation: int) -> list[dict[str, Any]]:
    """Service ports in one of several forms, as keyword arguments of both sides' classes."""
    vip, prefix = ("172.30.0.", "172.17.0.") if version == 4 else ("fd00:30::", "fd00:17::")
    first, second, third = ((f"{prefix}{last}", 9876) for last in (3, 4, 5))
    # The node itself, and a port of a cluster IP that nobody serves.
    own, closed = (NODE[version == 6], 9876), (f"{vip}1", 81)
    lists = [[first, second], [first, closed], [second, own], [third, own], []][generation % 5]
    local = [[second], [], [second], [third], []][generation % 5]
    weights = [1, 0 if generation == 1 else 2]
    common: dict[str, Any] = {
        "cluster_backends": [
            (*place, weight) for place, weight in zip(lists, weights, strict=False)
        ],
        "local_backends": [(*place, 1) for place in local],
        "is_external_local": generation % 2 == 1,
        "is_internal_local": generation == 2,
    }
    balanced = "198.51.100.1" if version == 4 else "2001:db8:51::1"
    frontends = [
        (f"{vip}1", 80, "cluster-ip"),
        ("", 30080, "node-port"),
        (balanced, 80, "load-balancer"),
    ]
    ranges: dict[str, Any] = (
        {"source_ranges": ["10.0.0.0/8"]} if version == 4 and generation in (3, 4) else {}
    )
    if generation == 4:
        ranges["source_ranges_apply_to_all"] = True
    sticky = {"affinity_seconds": 60} if generation % 2 == 0 else {}
    return [
        common | {"name": f"{name}/web{version}", "frontends": frontends, **ranges, **sticky},
        {
            "name": f"{name}/{'renamed' if generation == 3 else 'dns'}{version}",
            "protocol": "udp",
            "frontends": [(f"{vip}1", 53, "cluster-ip"), (f"{vip}2", 53, "external-ip")],
            "cluster_backends": [
                (f"{prefix}{6 + generation % 2}", 5353, 1),
                (f"{prefix}8", 5353, 1),
            ],
            "serving_backends": [(f"{prefix}{7 - generation % 2}", 5353, 1)]
            if generation > 2
            else [],
        },
        {
            "name": f"{name}/sctp{version}",
            "protocol": "sctp",
            "frontends": [(f"{vip}1", 80, "cluster-ip")],
            "cluster_backends": [(f"{prefix}9", 80 + generation % 2, 1)],
        },
        {
            "name": f"{name}/none{version}",
            "frontends": [(f"{vip}1", 81, "cluster-ip")],
            "cluster_backends": [],
        },
        {
            "name": f"{name}/bare",
            "family": version,
            "frontends": [("", 30081, "node-port")],
            "cluster_backends": [],
        },
    ]


class Parted(Exception):
    """Both NATs are right, but not alike any more."""


@dataclass
class Pair:
    """Both NATs, with the same history."""

    settings: dict[str, Any]
    now: int = SECOND
    sent: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Packets that were translated towards a backend: before and after."""
    answered: list[tuple[bytes, bytes]] = field(default_factory=list)
    """The same towards a client."""
    talks: dict[tuple[str, int, str, int], Talk] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = {key: size for key, size in self.settings.items() if key.startswith("max_")}
        others = {key: choice for key, choice in self.settings.items() if key not in limits}
        self.native = kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(**limits), **others)
        self.plain = reference.Reference(**self.settings)
        self.serve(0, "pass", masquerade_all=False)

    def serve(self, generation: int, unknown_port: str, *, masquerade_all: bool) -> None:
        """Replace the tables of both."""
        wanted = [one for version in (4, 6) for one in service("ns", version, generation)]
        if generation == 4:
            wanted = wanted[1:]
        node: dict[str, Any] = {
            "addresses": NODE,
            "pod_ranges": ("172.17.0.0/16", "10.0.0.9/32") if generation % 2 else (),
            "masquerade_all": masquerade_all,
            "unknown_port": unknown_port,
            "unallocated": ("172.30.0.0/24", "fd00:30::/112") if generation % 3 == 1 else (),
            "mode": "nftables" if generation % 3 == 2 else "iptables",
        }
        served = (*NODE, *(LOOPBACK[:1] if generation % 2 else ()))
        node_ports: dict[str, Any] = {
            "wildcard_families": (4, 6) if generation < 3 else (6,),
            "reject_addresses": ("10.0.0.9", *(() if generation % 2 else LOOPBACK[:1])),
            "loopback": generation in (2, 3),
        }
        self.native.replace_services(
            [_service(kbe_nat, one) for one in wanted],
            kbe_nat.NodeView(**node, node_ports=kbe_nat.NodePorts(served, **node_ports)),
        )
        self.plain.replace_services(
            [_service(reference, one) for one in wanted],
            reference.Node(**node, node_ports=reference.NodePorts(served, **node_ports)),
        )

    def process(
        self, packet: bytes, interface: int = 1, *, incomplete: bool = False
    ) -> bytes | None:
        """Both verdicts, which must be one; the packet that is sent on."""
        ours = self.native.process(
            packet, self.now, interface=interface, incomplete_checksum=incomplete
        )
        wanted = self.plain.process(
            packet, self.now, interface=interface, incomplete_checksum=incomplete
        )
        if currently_in_test_context():
            note(f"{packet.hex()} -> {wanted}")
        seen = (ours.action, ours.cause, ours.masquerade, ours.direction, ours.is_new)
        assert seen == (
            wanted.action,
            wanted.cause,
            wanted.masquerade,
            wanted.direction,
            wanted.is_new,
        )
        if (
            wanted.is_new
            and wanted.packet
            and ours.packet
            and _has_another_port(packet, wanted.packet)
        ):
            # The answers of two flows could not be told apart: any free port will do, so they part
            # here.
            assert _has_another_port(packet, ours.packet)
            raise Parted
        assert (ours.packet or b"").hex() == (wanted.packet or b"").hex()
        if wanted.action == "translate" and wanted.packet is not None and wanted.cause != "related":
            side = self.sent if wanted.direction == "original" else self.answered
            side.append((packet, wanted.packet))
        return wanted.packet

    def check(self) -> None:
        """Their tables tell the same."""
        self.native.expire(self.now, 1 << 20)
        self.plain.expire(self.now)
        own = sorted(
            (flow.source, flow.destination, flow.assured, flow.packets, flow.bytes)
            for flow in self.native.flows()
        )
        wanted = sorted(
            (
                (str(flow.original.src), flow.original.sport),
                (str(flow.original.dst), flow.original.dport),
                flow.is_assured,
                tuple(flow.packets),
                tuple(flow.octets),
            )
            for flow in self.plain.flows()
        )
        assert own == wanted


def _service(module: Any, described: dict[str, Any]) -> Any:
    backends = [module.Backend(*own) for own in described["cluster_backends"]]
    others = {
        key: [module.Backend(*own) for own in described.get(key, [])]
        for key in ("local_backends", "serving_backends")
    }
    frontends = [module.Frontend(*own) for own in described["frontends"]]
    return module.ServicePort(
        **{
            **described,
            **others,
            "cluster_backends": backends,
            "frontends": frontends,
            "strategy": "rr",
        }
    )


versions = st.sampled_from([4, 4, 4, 6])
skews = st.sampled_from([0, 0, 0, 0, 0, 1, -1, 70_000, -70_000])
payloads = st.sampled_from([0, 0, 1, 7, 100])
forward = st.tuples(
    st.just("forward"),
    versions,
    st.integers(0, 3),
    st.sampled_from(SPORTS),
    st.integers(0, 3),
    st.sampled_from(PORTS),
    st.sampled_from(FLAGS),
    payloads,
    skews,
)
shake = st.tuples(st.just("shake"), versions, st.integers(0, 1), st.sampled_from(SPORTS))
back = st.tuples(st.just("back"), st.integers(0, 5), st.sampled_from(FLAGS), payloads, skews)
datagram = st.tuples(
    st.just("datagram"),
    versions,
    st.integers(0, 3),
    st.sampled_from(SPORTS),
    st.integers(0, 1),
    payloads,
)
reply = st.tuples(st.just("reply"), st.integers(0, 5))
association = st.tuples(st.just("association"), versions, st.integers(0, 1), st.integers(0, 14))
error = st.tuples(
    st.just("error"),
    st.booleans(),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 120),
)
mutation = st.tuples(
    st.just("mutation"),
    st.booleans(),
    st.integers(0, 5),
    st.integers(0, 70),
    st.integers(0, 255),
    st.integers(0, 3),
)
local = st.tuples(
    st.just("local"),
    st.sampled_from(("192.0.2.1", *LOOPBACK)),
    st.sampled_from(LOOPBACK),
    st.integers(0, 1),
)
other = st.tuples(st.just("other"), versions, st.integers(0, 3), st.sampled_from([47, 50, 253]))
wait = st.tuples(st.just("wait"), st.sampled_from([0.01, 1, 2.5, 12, 31, 61, 121, 301]))
tables = st.tuples(
    st.just("tables"), st.integers(0, 4), st.sampled_from(["pass", "reject", "drop"]), st.booleans()
)
often = (shake, back, reply, datagram)
seldom = (forward, association, error, mutation, other, local, wait, tables)
steps = st.lists(st.one_of(*often, *often, *seldom), min_size=20, max_size=100)
limits = st.sampled_from(
    [
        {"midstream": "reject"},
        {"midstream": "drop", "invalid": "drop"},
        {"midstream": "reject", "max_flows": 3},
        {"midstream": "drop", "max_flows": 6, "max_unassured": 2, "max_flows_per_source": 3},
    ]
)


@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(limits=limits, steps=steps)
def test_the_engine_does_what_the_reference_does(
    limits: dict[str, Any], steps: list[tuple[Any, ...]]
) -> None:
    pair = Pair(limits)
    for name, *values in steps:
        note(f"{name} {values}")
        try:
            STEPS[name](pair, *values)
        except Parted:
            return
    pair.check()


def _forward(
    pair: Pair,
    version: int,
    client: int,
    sport: int,
    frontend: int,
    port: int,
    flags: int,
    size: int,
    skew: int,
) -> None:
    src, dst = _pick(CLIENTS[version], client), _pick(FRONTENDS[version], frontend)
    talk = pair.talks.setdefault((src, sport, dst, port), Talk())
    if flags == SYN:
        talk = pair.talks[src, sport, dst, port] = Talk()
    talk.window = 0 if size == 1 else 1000
    segment = talk.forward(sport, port, flags, bytes(size), skew)
    pair.process(traffic.ip(src, dst, traffic.TCP, segment))


def _shake(pair: Pair, version: int, client: int, sport: int) -> None:
    """A whole handshake, as far as the NAT lets it."""
    src, dst = _pick(CLIENTS[version], client), _pick(FRONTENDS[version], 0)
    talk = pair.talks[src, sport, dst, 80] = Talk()
    arrived = pair.process(traffic.ip(src, dst, traffic.TCP, talk.forward(sport, 80, SYN, b"", 0)))
    if arrived is not None and traffic.addresses(arrived)[1] != dst:
        answer = talk.back(*_turned(traffic.ports(arrived)), SYN | ACK, b"", 0)
        pair.process(traffic.ip(*_turned(traffic.addresses(arrived)), traffic.TCP, answer))
        pair.process(traffic.ip(src, dst, traffic.TCP, talk.forward(sport, 80, ACK, b"", 0)))


def _back(pair: Pair, number: int, flags: int, size: int, skew: int) -> None:
    before, after = _recent(pair.sent, number)
    if not after or _protocol(after) != traffic.TCP:
        return
    talk = pair.talks.setdefault(
        (
            traffic.addresses(before)[0],
            traffic.ports(before)[0],
            traffic.addresses(before)[1],
            traffic.ports(before)[1],
        ),
        Talk(),
    )
    talk.window = 0 if size == 1 else 1000
    segment = talk.back(*_turned(traffic.ports(after)), flags, bytes(size), skew)
    pair.process(traffic.ip(*_turned(traffic.addresses(after)), traffic.TCP, segment))


@pytest.mark.parametrize("version", [4, 6])
def test_cut_packets_are_malformed_to_both(version: int) -> None:
    pair = Pair({})
    src, dst = CLIENTS[version][0], FRONTENDS[version][0]
    packet = traffic.ip(src, dst, traffic.UDP, traffic.udp(4000, 53, b"x"))
    for length in range(len(packet)):
        assert pair.process(packet[:length]) is None
        assert pair.native.process(packet[:length], 0).cause == "malformed"
    assert pair.process(packet) is not None
    assert pair.native.stats().causes["malformed"] == 2 * len(packet)


def _datagram(pair: Pair, version: int, client: int, sport: int, frontend: int, size: int) -> None:
    src, dst = _pick(CLIENTS[version], client), _pick(FRONTENDS[version], frontend)
    packet = traffic.ip(src, dst, traffic.UDP, traffic.udp(sport, 53, bytes(size)))
    pair.process(packet, incomplete=size == 7)


def _reply(pair: Pair, number: int) -> None:
    _, after = _recent(pair.sent, number)
    if after and _protocol(after) in (traffic.UDP, traffic.SCTP):
        sport, dport = traffic.ports(after)
        is_udp = _protocol(after) == traffic.UDP
        body = traffic.udp(dport, sport, b"answer") if is_udp else traffic.sctp(dport, sport, 11)
        pair.process(traffic.ip(*_turned(traffic.addresses(after)), _protocol(after), body))


def _local(pair: Pair, src: str, dst: str, interface: int) -> None:
    """From the node to itself, or from the wire as if."""
    packet = traffic.ip(src, dst, traffic.TCP, Talk().forward(4000, 30080, SYN, b"", 0))
    pair.process(packet, interface)


def _association(pair: Pair, version: int, client: int, chunk: int) -> None:
    src, dst = _pick(CLIENTS[version], client), _pick(FRONTENDS[version], 0)
    pair.process(traffic.ip(src, dst, traffic.SCTP, traffic.sctp(4000, 80, chunk)))


def _error(
    pair: Pair, is_forward: bool, number: int, by_router: bool, is_broken: bool, length: int
) -> None:
    """An ICMP error about a packet that was translated, from a router or from the packet's
    destination.
    """
    before, after = _recent(pair.sent if is_forward else pair.answered, number)
    if not after:
        return
    src, dst = traffic.addresses(after)
    router = "fd00:99::1" if ":" in src else "10.99.0.1"
    kind, code = (
        ((1, 4) if ":" in src else (3, 3)) if length % 2 else ((3, 0) if ":" in src else (11, 0))
    )
    quoted = after[: max(length, 28)]
    packet = bytearray(traffic.error(router if by_router else dst, src, quoted, kind, code))
    packet[-1] ^= is_broken
    sent = pair.process(bytes(packet))
    is_whole = len(quoted) >= len(after)
    if sent is not None and traffic.addresses(sent)[1] != src and not is_broken and is_whole:
        quote = traffic.transport(sent)[8:]
        # Unless the ports have found another backend since.
        ends = (traffic.addresses(quote), traffic.ports(quote))
        if ends == (traffic.addresses(before), traffic.ports(before)):
            assert quote == before, "the quote is what was sent"


def _mutation(pair: Pair, is_forward: bool, number: int, at: int, value: int, cut: int) -> None:
    before, _ = _recent(pair.sent if is_forward else pair.answered, number)
    if before:
        packet = bytearray(before)
        packet[at % len(packet)] = value
        packet = packet[: len(packet) - cut]
        is_v6 = packet[0] >> 4 == 6
        is_fragment = (
            44 in (packet[6], *packet[40:41]) if is_v6 else int.from_bytes(packet[6:8]) & 0x3FFF
        )
        if not is_fragment and not (is_v6 and packet[6] in (0, 43, 60, 135)):
            pair.process(bytes(packet))


def _other(pair: Pair, version: int, client: int, protocol: int) -> None:
    src, dst = _pick(CLIENTS[version], client), _pick(FRONTENDS[version], 0)
    pair.process(traffic.ip(src, dst, protocol, b"payload of another protocol"))


def _wait(pair: Pair, seconds: float) -> None:
    pair.now += int(seconds * SECOND)


def _tables(pair: Pair, generation: int, unknown_port: str, masquerade_all: bool) -> None:
    pair.serve(generation, unknown_port, masquerade_all=masquerade_all)


STEPS: dict[str, Any] = {
    "forward": _forward,
    "shake": _shake,
    "back": _back,
    "datagram": _datagram,
    "reply": _reply,
    "association": _association,
    "error": _error,
    "mutation": _mutation,
    "other": _other,
    "local": _local,
    "wait": _wait,
    "tables": _tables,
}


def _has_another_port(before: bytes, after: bytes) -> bool:
    is_ported = _protocol(before) in (traffic.TCP, traffic.UDP, traffic.SCTP)
    return is_ported and traffic.ports(before)[0] != traffic.ports(after)[0]


def _turned(pair: tuple[_T, _T]) -> tuple[_T, _T]:
    return pair[1], pair[0]


def _pick(choices: tuple[str, ...], number: int) -> str:
    return choices[number % len(choices)]


def _recent(packets: list[tuple[bytes, bytes]], number: int) -> tuple[bytes, bytes]:
    return packets[-1 - number % len(packets)] if packets else (b"", b"")


def _protocol(packet: bytes) -> int:
    return packet[9] if packet[0] >> 4 == 4 else packet[6]


@pytest.mark.parametrize("size", [0, 1, 100, 1400])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_scapy_builds_the_same_packets(protocol: str, version: int, size: int) -> None:
    pair = Pair({"midstream": "reject"})
    src, dst = CLIENTS[version][0], FRONTENDS[version][0]
    for number in range(20):
        payload = bytes((number * 7 + at) & 255 for at in range(size))
        if protocol == "tcp":
            body = traffic.tcp(4000 + number, 80, SYN, 1 << 31 | number, 0, payload)
            sent = pair.process(traffic.ip(src, dst, traffic.TCP, body, ttl=1 + number))
            answer = traffic.tcp(9876, 4000 + number, SYN | ACK, 1, 1 << 31 | number + 1, payload)
        else:
            body = traffic.udp(4000 + number, 53, payload)
            sent = pair.process(traffic.ip(src, dst, traffic.UDP, body, ttl=1 + number))
            answer = traffic.udp(5353, 4000 + number, payload)
        assert sent is not None
        number_of = traffic.TCP if protocol == "tcp" else traffic.UDP
        back = pair.process(traffic.ip(*_turned(traffic.addresses(sent)), number_of, answer))
        assert back is not None
        for packet in (sent, back):
            assert _built_anew(packet) == packet
        assert traffic.addresses(back) == (dst, src)


def _built_anew(packet: bytes) -> bytes:
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    for layer in (IP, TCP, UDP, ICMP):
        if layer in parsed:
            del parsed[layer].chksum
    return bytes(parsed)
