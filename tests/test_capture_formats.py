"""Capture files of other programs: what is not ours passes byte for byte, and damage is named."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop, Jumbo

import kbe_nat
from harness.captures import ETHERNET, block, frames_of, pcap, pcapng
from harness.replays import CLIENT, POD, SECOND, START, VIP, engine, replayed, syn, translated
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.family import Family

MAGIC = 0x1A2B3C4D


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", length: int = -1, options: bytes = b"") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", MAGIC, 1, 0, length) + options, order)


def interface(link: int = 101, order: str = "<", options: bytes = b"", snap: int = 0) -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options, order)


def enhanced(
    frame: bytes,
    order: str = "<",
    number: int = 0,
    options: bytes = b"",
    pad: bytes = b"",
    units: int = 0,
    cut: int = 0,
) -> bytes:
    lengths = len(frame), len(frame) + cut
    head = struct.pack(order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, *lengths)
    padding = (pad + bytes(4))[: -len(frame) % 4]
    return block(6, head + frame + padding + options, order)


def obsolete(frame: bytes, order: str = "<", number: int = 0, options: bytes = b"") -> bytes:
    head = struct.pack(order + "HHIIII", number, 7, 0, 1, len(frame), len(frame))
    return block(2, head + frame + bytes(-len(frame) % 4) + options, order)


def simple(frame: bytes, order: str = "<") -> bytes:
    return block(3, struct.pack(order + "I", len(frame)) + frame, order)


NOT_UTF8 = "Verbindung über Gerät".encode("latin-1")
ODD = syn() + b"x"
ORDERS = ["<", ">"]


@pytest.mark.parametrize("order", ORDERS)
def test_options_and_blocks_pass_as_they_are(tmp_path: Path, order: str) -> None:
    described = (
        option(2, NOT_UTF8, order) + option(3, NOT_UTF8, order) + option(10, b"\0\0\x0e\x10", order)
    )
    described += (
        option(9, b"\x06", order)
        + option(2989, b"\0\0\x12\x34custom", order)
        + option(0, b"", order)
    )
    said = option(1, NOT_UTF8, order) + option(4, bytes(8), order) + option(0x8BAD, b"odd", order)

    def file(frame: bytes, odd: bytes) -> bytes:
        return b"".join(
            [
                section(order, options=option(4, NOT_UTF8, order)),
                interface(101, order, described),
                block(4, b"\1\0\7\0\x0a\0\0\1\xff\xfe\0\0\0\0\0\0", order),
                enhanced(odd, order, options=said, pad=b"\xaa\xbb\xcc"),
                block(5, struct.pack(order + "III", 0, 0, 0) + option(1, NOT_UTF8, order), order),
                block(10, struct.pack(order + "II", 0x544C534B, 5) + b"key\xff\0", order),
                obsolete(frame, order, options=option(1, NOT_UTF8, order)),
                block(0x0BAD, struct.pack(order + "I", 32473) + b"\xff" * 8, order),
                block(0x40000BAD, b"", order),
                simple(frame, order),
                block(0x7FFFFFFF, b"\0" * 40, order),
            ]
        )

    # What stands behind the packet in its frame is no part of it.
    content = file(syn(), ODD)
    assert replayed(tmp_path, content).read_bytes() == file(
        translated(syn()), translated(syn()) + b"x"
    )


@pytest.mark.parametrize("orders", ["<>", "><", "<<"])
def test_every_section_has_its_own_byte_order_and_interfaces(tmp_path: Path, orders: str) -> None:
    def file(frame: bytes) -> bytes:
        first, second = orders[0], orders[1]
        return b"".join(
            [
                section(first),
                interface(105, first),
                enhanced(b"\x88" * 31, first),
                section(second),
                interface(101, second),
                enhanced(frame, second),
            ]
        )

    own = engine()
    assert replayed(tmp_path, file(syn()), own).read_bytes() == file(translated(syn()))
    assert own.stats().causes == {"not-ours": 1, "new": 1}


def test_mixed_link_types_are_counted(tmp_path: Path) -> None:
    def file(frame: bytes) -> bytes:
        blocks = [section(), interface(1), interface(105), interface(127)]
        frames = [
            (0, ETHERNET + frame),
            (1, b"\x08"),
            (2, frame),
            (1, frame),
            (0, ETHERNET + frame),
        ]
        changed = [enhanced(own, number=number) for number, own in frames]
        return b"".join(blocks + changed)

    source, target = tmp_path / "in.pcapng", tmp_path / "out.pcapng"
    source.write_bytes(file(syn()))
    with CaptureQueue(source, target) as queue:
        kbe_nat.Loop(engine(), queue).run()
        assert queue.unread == {105: 2, 127: 1}
    sent = ETHERNET + translated(syn())
    expected = [(0, sent), (1, b"\x08"), (2, syn()), (1, syn()), (0, sent)]
    head = section() + interface(1) + interface(105) + interface(127)
    assert target.read_bytes() == head + b"".join(
        enhanced(own, number=number) for number, own in expected
    )


@pytest.mark.parametrize(
    ("options", "units", "time"),
    [
        (b"", 5_000_000, 5 * SECOND),
        (option(9, b"\x09") + option(14, struct.pack("<q", -3)), 5 * SECOND, 2 * SECOND),
        (option(9, b"\x8a"), 5 << 10, 5 * SECOND),
        (option(14, struct.pack("<q", 1_700_000_000)), 5_000_000, START + 5 * SECOND),
        (option(14, struct.pack("<q", -(2**63))), 5_000_000, 0),
        (option(9, b"\x7f") + option(14, struct.pack("<q", 7)), 2**63, 7 * SECOND),
        (option(9, b"\xff"), 2**63, 0),
        (option(14, b"\1"), 5_000_000, 5 * SECOND),
    ],
)
def test_times_are_read_in_their_units(
    tmp_path: Path, options: bytes, units: int, time: int
) -> None:
    source = tmp_path / "in.pcapng"
    source.write_bytes(section() + interface(options=options) + enhanced(syn(), units=units))
    batch = CaptureQueue(source).receive()
    assert batch is not None
    assert batch.now == time


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("vanishes", [False, True])
def test_a_section_says_its_right_length(tmp_path: Path, order: str, vanishes: bool) -> None:
    blocks = [interface(101, order), enhanced(syn(), order), enhanced(syn(source=2), order)]
    if vanishes:
        blocks[1] = enhanced(b"\x45\0\xff", order)
    length = sum(map(len, blocks))
    content = section(order, length) + b"".join(blocks) + section(order, 0) + section(order, -1)
    out = replayed(tmp_path, content).read_bytes()
    head = len(section(order))
    [said] = struct.unpack_from(order + "q", out, 16)
    assert said == length - (len(blocks[1]) if vanishes else 0)
    assert out[head + said :] == section(order, 0) + section(order, -1)


def test_a_hash_of_a_translated_frame_goes_and_the_other_options_stay(tmp_path: Path) -> None:
    kept = option(1, b"seen"), option(0x1234, b"odd"), option(0, b"")
    hashed = kept[0] + option(3, b"\2abcd") + kept[1] + kept[2]
    other = bytes(IP(src=CLIENT, dst="192.0.2.1") / TCP(flags="S"))
    blocks = [
        interface(),
        enhanced(syn(), options=hashed),
        enhanced(other, options=hashed),
        enhanced(syn(), options=hashed, cut=4),
    ]
    content = section(length=sum(map(len, blocks))) + b"".join(blocks)
    blocks[1] = enhanced(translated(syn()), options=b"".join(kept))
    blocks[3] = enhanced(translated(syn()), options=b"".join(kept), cut=4)
    expected = section(length=sum(map(len, blocks))) + b"".join(blocks)
    assert replayed(tmp_path, content).read_bytes() == expected


@pytest.mark.parametrize("order", ORDERS)
def test_records_of_the_modified_pcap_keep_what_they_have_more(tmp_path: Path, order: str) -> None:
    def file(frame: bytes) -> bytes:
        head = struct.pack(order + "IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 0, 101)
        return (
            head
            + struct.pack(order + "IIIIIHBB", 1, 2, len(frame), len(frame), 3, 0x800, 4, 5)
            + frame
        )

    assert replayed(tmp_path, file(syn())).read_bytes() == file(translated(syn()))


def test_the_link_type_may_say_a_check_sequence(tmp_path: Path) -> None:
    target = replayed(tmp_path, pcap([(START, ETHERNET + syn() + b"fcs.")], 0x44000001))
    assert frames_of(target) == [(START, ETHERNET + translated(syn()) + b"fcs.")]


@pytest.mark.parametrize("length", range(1, 60))
def test_a_file_that_was_cut_off_counts_up_to_there(tmp_path: Path, length: int) -> None:
    whole = pcap([(START, syn())])
    source, target = tmp_path / "in.pcap", tmp_path / "out.pcap"
    for content, cut, place in (
        (
            whole,
            pcap([(START, syn()), (START, bytes(44))])[: len(whole) + length],
            f"packet 2 (byte {len(whole)})",
        ),
        (pcapng([(START, syn())]), pcapng([(START, syn()), (START, bytes(44))]), None),
    ):
        source.write_bytes(cut if place else cut[: len(content) + length])
        with CaptureQueue(source, target) as queue:
            own = engine()
            kbe_nat.Loop(own, queue).run()
            assert own.stats().causes == {"new": 1}
            assert queue.cut is not None
            assert place is None or queue.cut == place


def checksum(*parts: bytes | bytearray) -> int:
    content = b"".join(parts)
    total: int = sum(
        struct.unpack(f">{(len(content) + 1) // 2}H", content + bytes(len(content) % 2))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(packet: bytes | bytearray, length: int) -> bytes:
    if packet[0] >> 4 == 4:
        return bytes(packet[12:20]) + struct.pack(">HI", packet[9], length)
    return bytes(packet[8:40]) + struct.pack(">II", length, 6)


@pytest.mark.parametrize(("family", "protocol"), [(4, "tcp"), (4, "udp"), (6, "tcp")])
@pytest.mark.parametrize("size", [1400, 3000, 65_515, 70_000, 200_001])
@pytest.mark.parametrize("state", ["right", "partial", "partial-without-length", "nothing"])
def test_segments_that_were_not_cut_yet(
    tmp_path: Path, family: Family, size: int, state: str, protocol: str
) -> None:
    l4: TCP | UDP = TCP(sport=40000, dport=80, flags="A", seq=2)
    if protocol == "udp":
        l4 = UDP(sport=40000, dport=53, len=0)
    ip = (
        IP(src=CLIENT, dst=VIP, len=0)
        if family == 4
        else IPv6(src="fd00::9", dst="fd00::1", plen=0)
    )
    l4.chksum = 0
    segment = bytearray(bytes(ip / l4) + bytes(size - 4) + b"tail")
    start, place = (20, 16) if family == 4 else (40, 16)
    place = start + (6 if protocol == "udp" else place)
    length = len(segment) - start
    field = {
        "right": ~checksum(pseudo(segment, length), segment[start:]),
        "partial": checksum(pseudo(segment, length)),
        "partial-without-length": checksum(pseudo(segment, 0)),
        "nothing": 0x1234,
    }[state]
    struct.pack_into(">H", segment, place, field & 0xFFFF)
    header = ETHERNET if family == 4 else ETHERNET[:12] + b"\x86\xdd"
    first = (
        syn()
        if family == 4
        else bytes(IPv6(src="fd00::9", dst="fd00::1") / TCP(sport=40000, dport=80, flags="S"))
    )
    own = engine()
    frames = [(START, header + first), (START + 1000, header + bytes(segment))]
    [_, (_, sent)] = frames_of(replayed(tmp_path, pcap(frames, 1), own))
    packet = sent[14:]
    assert len(packet) == len(segment)
    assert packet[2:4] == segment[2:4]
    assert packet[4:6] == segment[4:6]
    assert packet[start + 20 :] == segment[start + 20 :]
    if family == 4:
        assert checksum(packet[:20]) == 0xFFFF, "the header's checksum stays right"
        assert IP(packet[:40]).dst == POD
    else:
        assert IPv6(packet[:60]).dst == "fd00:1::3"
    [found] = struct.unpack_from(">H", packet, place)
    if state == "right":
        assert checksum(pseudo(packet, length), packet[start:]) == 0xFFFF
    else:
        sums = {"partial": length, "partial-without-length": 0}
        expected = checksum(pseudo(packet, sums[state])) if state in sums else 0x1234
        assert found == expected
    if protocol == "tcp":
        [service] = [service for service in own.stats().services if service.packets[0]]
        assert service.bytes[0] == len(first) + len(segment)


def test_segments_that_the_capture_cut_short_are_translated(tmp_path: Path) -> None:
    whole = bytes(
        IP(src=CLIENT, dst=VIP, len=0) / TCP(sport=40000, dport=80, flags="A") / bytes(70_000)
    )
    own = engine()
    [(_, frame)] = frames_of(replayed(tmp_path, pcap([(START, whole)], snap=96), own))
    assert (len(frame), IP(frame).dst) == (96, POD)
    assert next(own for own in own.stats().services if own.packets[0]).bytes[0] == len(whole)


def test_jumbograms_say_their_length_in_an_option(tmp_path: Path) -> None:
    l4 = TCP(sport=40000, dport=80, flags="A")
    hop = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=8 + 20 + 70_000)])
    packet = bytes(IPv6(src="fd00::9", dst="fd00::1", plen=0) / hop / l4 / bytes(70_000))
    own = engine()
    [(_, frame)] = frames_of(replayed(tmp_path, pcap([(START, packet + b"trailer")]), own))
    assert frame.endswith(b"trailer")
    assert IPv6(frame[:68]).dst == "fd00:1::3"
    assert next(own for own in own.stats().services if own.packets[0]).bytes[0] == len(packet)


def test_on_a_wire_a_length_of_nothing_stays_malformed() -> None:
    segment = bytes(IP(src=CLIENT, dst=VIP, len=0) / TCP(sport=40000, dport=80, flags="S"))
    assert engine().process(segment, 0).cause == "malformed"
    assert engine().process(segment, 0, captured=True).cause == "new"
    fragment = bytes(
        IP(src=CLIENT, dst=VIP, len=0, flags="MF") / TCP(sport=40000, dport=80, flags="S")
    )
    assert engine().process(fragment, 0, captured=True).cause == "malformed"


BYTES = st.binary(max_size=40)
OPTIONS = st.lists(
    st.tuples(st.integers(1, 65535).filter(lambda code: code != 9), BYTES), max_size=4
)
FRAMES = BYTES.filter(lambda frame: not frame or frame[0] >> 4 not in (4, 6))
BODIES = st.one_of(
    st.tuples(
        st.just("block"),
        st.integers(0x80, 0x7FFFFFFF).filter(lambda kind: kind != 0x0A0D0D0A),
        BYTES,
    ),
    st.tuples(st.just("interface"), st.integers(0, 300), OPTIONS),
    st.tuples(st.just("enhanced"), FRAMES, OPTIONS),
    st.tuples(st.just("obsolete"), FRAMES, OPTIONS),
    st.tuples(st.just("simple"), FRAMES, st.none()),
)


@settings(max_examples=200)
@given(
    sections=st.lists(
        st.tuples(st.sampled_from(ORDERS), OPTIONS, st.lists(BODIES, max_size=6)),
        min_size=1,
        max_size=3,
    )
)
def test_what_nobody_translates_passes_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    sections: list[tuple[str, list[tuple[int, bytes]], list[tuple[str, object, object]]]],
) -> None:
    content = b""
    for order, options, bodies in sections:
        blocks = interface(101, order)
        for kind, what, more in bodies:
            said = (
                b"".join(option(code, value, order) for code, value in more)
                if isinstance(more, list)
                else b""
            )
            if kind == "block":
                assert isinstance(what, int)
                assert isinstance(more, bytes)
                blocks += block(what, more, order)
            elif kind == "interface":
                assert isinstance(what, int)
                blocks += interface(what, order, said)
            else:
                assert isinstance(what, bytes)
                made = {"enhanced": enhanced, "obsolete": obsolete}
                blocks += (
                    made[kind](what, order, options=said) if kind in made else simple(what, order)
                )
        own = b"".join(option(code, value, order) for code, value in options)
        content += section(order, len(blocks), own) + blocks
    folder = tmp_path_factory.mktemp("blocks")
    assert replayed(folder, content).read_bytes() == content
