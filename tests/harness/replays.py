"""Captures that go through the engine, and what scapy makes of their packets."""

from pathlib import Path

from scapy.layers.inet import IP, TCP

import kbe_nat
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.words import Answer, StrategyName

VIP, POD, CLIENT = "172.30.228.255", "172.17.0.3", "10.0.2.15"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def engine(strategy: StrategyName = "rr") -> kbe_nat.Engine:
    engine = kbe_nat.Engine(seed=1)
    engine.replace_services(
        [
            kbe_nat.ServicePort(
                "default/simpleservice",
                [kbe_nat.Frontend(VIP, 80)],
                [kbe_nat.Backend(POD, 9876)],
                strategy=strategy,
            ),
            kbe_nat.ServicePort(
                "default/udp",
                [kbe_nat.Frontend(VIP, 53)],
                [kbe_nat.Backend(POD, 5353)],
                protocol="udp",
            ),
            kbe_nat.ServicePort("default/none", [kbe_nat.Frontend(VIP, 81)], []),
            kbe_nat.ServicePort(
                "default/six",
                [kbe_nat.Frontend("fd00::1", 80)],
                [kbe_nat.Backend("fd00:1::3", 9876)],
            ),
        ]
    )
    return engine


def syn(port: int = 80, source: int = 40000) -> bytes:
    return bytes(IP(src=CLIENT, dst=VIP) / TCP(sport=source, dport=port, flags="S"))


def translated(packet: bytes) -> bytes:
    """What scapy makes of it."""
    parsed = IP(packet)
    parsed.dst, parsed[TCP].dport = POD, 9876
    del parsed.chksum, parsed[TCP].chksum
    return bytes(parsed)


def replayed(
    tmp_path: Path, content: bytes, own: kbe_nat.Engine | None = None, answer: Answer = "icmp"
) -> Path:
    source, target = tmp_path / "in.pcap", tmp_path / "out.pcap"
    source.write_bytes(content)
    with CaptureQueue(source, target, answer=answer) as queue:
        kbe_nat.Loop(own or engine(), queue).run()
    return target
