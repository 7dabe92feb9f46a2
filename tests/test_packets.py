"""Packets by their fields: what is written can be read, by us and by others, and wrong fields are
errors.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbe_nat.errors import PacketError
from kbe_nat.packets import TCP_FLAGS, Packet, crc32c, ends, opening

U8, U16, U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
V4, V6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
FLAGS = st.sets(st.sampled_from(TCP_FLAGS)).map(
    lambda letters: "".join(sorted(letters, key=TCP_FLAGS.index))
)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Any packet that can be written."""
    addresses = draw(st.sampled_from((V4, V6)))
    protocol = draw(st.sampled_from(("tcp", "udp", "sctp", "icmp", "icmpv6", "47")))
    has_ports = protocol in ("tcp", "udp", "sctp")
    source, destination = ((draw(addresses), draw(U16) if has_ports else 0) for _ in range(2))
    fields: dict[str, object] = {"payload": draw(st.binary(max_size=64)), "ttl": draw(U8)}
    if protocol == "tcp":
        fields |= {"flags": draw(FLAGS), "window": draw(U16)}
        fields |= {"sequence": draw(U32), "acknowledgement": draw(U32)}
    elif protocol == "sctp":
        fields |= {"sequence": draw(U32), "window": 64_240}
    elif protocol.startswith("icmp"):
        fields |= {"type": draw(U8), "code": draw(U8), "rest": draw(U32)}
    if ":" not in source[0]:
        fields["identification"] = draw(U16)
    return Packet(protocol, source, destination, **fields)  # type: ignore[arg-type]


@given(packets())
def test_what_is_written_is_read(packet: Packet) -> None:
    written = bytes(packet)
    assert Packet.parse(written) == packet
    assert ends(written) == packet.ends
    # Bytes behind the packet, as Ethernet pads it, are none of it.
    assert Packet.parse(written + bytes(6)) == packet


@given(packets())
def test_checksums_are_those_that_scapy_computes(packet: Packet) -> None:
    inet = pytest.importorskip("scapy.layers.inet")
    inet6 = pytest.importorskip("scapy.layers.inet6")
    written = bytes(packet)
    is_v6 = ":" in packet.source[0]
    if (packet.protocol == "icmp") == is_v6 or (packet.protocol == "icmpv6" and not is_v6):
        return  # The protocol of one family in the other: scapy leaves its checksum alone.
    parsed = (inet6.IPv6 if is_v6 else inet.IP)(written)
    layer = parsed.payload
    checksum = {"icmpv6": "cksum", "tcp": "chksum", "udp": "chksum", "icmp": "chksum"}.get(
        packet.protocol
    )
    if checksum is None or not hasattr(layer, checksum):
        return  # scapy rebuilds chunks of SCTP its own way.
    if not is_v6:
        del parsed.chksum
    delattr(layer, checksum)
    assert bytes(parsed)[: len(written)] == written


@given(packets(), st.data())
def test_cut_packets_are_errors(packet: Packet, data: st.DataObject) -> None:
    written = bytes(packet)
    cut = written[: data.draw(st.integers(0, len(written) - 1))]
    with pytest.raises(PacketError):
        Packet.parse(cut)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"destination": ("fd00::1", 80)}, "are of different families"),
        ({"source": ("nowhere", 80)}, r"source\[0\] is an IP address, not 'nowhere'"),
        ({"source": ("fe80::1%eth0", 80)}, r"source\[0\] is an IP address, not 'fe80::1%eth0'"),
        ({"source": ("10.0.0.1", 65536)}, r"source\[1\] is .* from 0 to 65535, not 65536"),
        ({"flags": "SX"}, "flags are letters of FSRPAUEC, not 'SX'"),
        ({"protocol": "gre"}, "'gre' is none of icmp"),
        ({"ttl": -1}, "ttl is a whole number from 0 to 255, not -1"),
        ({"protocol": "300"}, "protocol is a whole number from 0 to 255, not 300"),
        ({"payload": bytes(65_496)}, "payload has at most 65495 bytes, not 65496"),
    ],
)
def test_wrong_fields_are_errors(fields: dict[str, object], reason: str) -> None:
    values = {"protocol": "tcp", "source": ("10.0.0.1", 1), "destination": ("10.0.0.2", 2)} | fields
    with pytest.raises(PacketError, match=reason):
        Packet(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("source", "10.0.0.1", "source is a tuple of address and port"),
        ("source", ("10.0.0.1",), "source is a tuple of address and port"),
        ("source", (167772161, 80), r"source\[0\] is an IP address"),
        ("destination", ("10.0.0.1", True), r"destination\[1\] is a whole number from 0 to 65535"),
        ("destination", ("10.0.0.1", "80"), r"destination\[1\] is a whole number from 0 to 65535"),
        ("protocol", 6, "protocol is text"),
        ("flags", 2, "flags is text"),
        ("payload", "x", "payload is bytes, or a buffer of them"),
        ("payload", 5, "payload is bytes, or a buffer of them"),
        ("ttl", True, "ttl is a whole number from 0 to 255"),
        ("window", 1.5, "window is a whole number from 0 to 65535"),
    ],
)
def test_fields_of_another_type_are_errors(field: str, value: object, accepted: str) -> None:
    values = {"protocol": "tcp", "source": ("10.0.0.1", 1), "destination": ("10.0.0.2", 2)}
    with pytest.raises(TypeError, match=f"^{accepted}, not "):
        Packet(**{**values, field: value})  # type: ignore[arg-type]


def test_one_packet_has_one_spelling() -> None:
    packet = Packet("6", ["FD00::0:1", 1], ("fd00::2", 2), "AS", bytearray(b"x"))  # type: ignore[arg-type]
    assert packet == Packet("tcp", ("fd00::1", 1), ("fd00::2", 2), "SA", b"x")
    assert Packet.parse(memoryview(bytes(packet))) == packet
    assert len({packet, Packet.parse(bytes(packet))}) == 1
    with pytest.raises(TypeError, match="packet is bytes, or a buffer of them, not 'text'"):
        Packet.parse("text")  # type: ignore[arg-type]


def test_options_and_extension_headers_are_skipped() -> None:
    plain = bytes(Packet("udp", ("10.0.0.1", 1), ("10.0.0.2", 2), payload=b"x"))
    options = bytes([0x46, *plain[1:3], plain[3] + 4, *plain[4:20], 1, 1, 1, 0, *plain[20:]])
    assert Packet.parse(options).payload == b"x"
    v6 = bytes(Packet("udp", ("fd00::1", 1), ("fd00::2", 2), payload=b"x"))
    hop = (
        v6[:4]
        + (len(v6) - 40 + 8).to_bytes(2)
        + bytes([0])
        + v6[7:40]
        + bytes([17, 0, 1, 4, 0, 0, 0, 0])
    )
    assert Packet.parse(hop + v6[40:]) == Packet.parse(v6)


def test_the_checksum_of_sctp_is_that_of_its_standard() -> None:
    # The check value of CRC-32C, and 32 bytes of zeros (RFC 3720, B.4).
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_the_packet_that_opens_a_flow(protocol: str) -> None:
    packet = Packet.parse(opening(protocol, ("fd00::1", 7), ("fd00::2", 8)))
    assert (packet.protocol, packet.source, packet.destination) == (
        protocol,
        ("fd00::1", 7),
        ("fd00::2", 8),
    )
    assert packet.flags == ("S" if protocol == "tcp" else "")


def test_protocols_are_written_in_letters_of_any_case() -> None:
    ends = (("10.0.0.1", 1), ("10.0.0.2", 2))
    assert Packet("TCP", *ends, "S") == Packet("tcp", *ends, "S")
    assert opening("TCP", *ends) == opening("tcp", *ends)
    assert opening("Sctp", *ends) == opening("sctp", *ends)
