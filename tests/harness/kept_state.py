"""The connections that the first version with a frozen format has kept: `tests/upgrades/state-1`.

That version's own program has written the file, by `main` below. It stays as it is from then on.
"""

from pathlib import Path

from scapy.layers.sctp import crc32c

import kbe_nat
from kbe_nat.daemon.checkpoints import HEAD_SIZE, Stamp
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.packets import opening
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort

FILE = Path(__file__).parents[1] / "upgrades/state-1"
STAMP = Stamp(bytes(range(16)), 5 * 3600 * 10**9, 50 * 365 * 86400 * 10**9)
NOW = 10**15
VIPS = {Family.IPV4: "172.30.0.7", Family.IPV6: "fd00:30::7"}
CLIENTS = {Family.IPV4: "10.0.2.{}", Family.IPV6: "fd00:2::{}"}
PODS = {Family.IPV4: "10.1.0.{}", Family.IPV6: "fd00:1::{}"}
HEADER = 24
"""Of the engine's part: signature, version, length and checksum of what follows."""
SECTIONS = (b"\7\0\0\0\4\0\0\0more", b"\1\1\0\0\0\0\0\0")


def later(content: bytes) -> bytes:
    """The file as a later version would have written it, with sections that this one lacks."""
    body = content[HEAD_SIZE + HEADER :] + b"".join(SECTIONS)
    header = content[HEAD_SIZE : HEAD_SIZE + 12] + len(body).to_bytes(8, "little")
    # scapy returns it as it stands on the wire of SCTP, the other way round.
    checksum: int = crc32c(body)
    return content[:HEAD_SIZE] + header + checksum.to_bytes(4, "big") + body


def engine() -> kbe_nat.Engine:
    """Serves TCP, UDP and SCTP of both families, with affinity for TCP."""
    ports = [
        PlannedPort(
            "default",
            f"echo{family}",
            protocol,
            protocol,
            family,
            (Frontend("cluster-ip", VIPS[family], 7),),
            tuple(Backend(PODS[family].format(n), 9999) for n in (1, 2, 3)),
            (),
            affinity_seconds=600 if protocol == "tcp" else None,
        )
        for family in Family
        for protocol in ("tcp", "udp", "sctp")
    ]
    limits = kbe_nat.Limits(max_flows=1000, max_affinities=1000)
    made = kbe_nat.Engine(seed=1, limits=limits)
    made.replace_services(*native_tables(Plan(tuple(ports), options=Options())))
    return made


def packets() -> list[bytes]:
    """The first packets of four connections for each protocol and family."""
    return [
        opening(protocol, (CLIENTS[family].format(n), 5000 + n), (VIPS[family], 7))
        for family in Family
        for protocol in ("tcp", "udp", "sctp")
        for n in (1, 2, 3, 4)
    ]


def main() -> None:
    """Write the file."""
    made = engine()
    for packet in packets():
        made.process(packet, NOW, incomplete_checksum=True)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(STAMP.encode() + made.checkpoint(NOW))


if __name__ == "__main__":
    main()
