"""Captures through the engine: every format and link type, in order and with their times, byte for
byte.
"""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6

import kbe_nat
from harness.captures import ETHERNET, NANOSECONDS, block, frames_of, pcap, pcapng
from harness.replays import CLIENT, POD, SECOND, START, VIP, engine, replayed, syn, translated
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.words import Answer

LINKS = [
    (1, ETHERNET),
    (1, ETHERNET[:12] + bytes.fromhex("810000050800")),
    (1, ETHERNET[:12] + bytes.fromhex("88a80005810000070800")),
    (12, b""),
    (101, b""),
    (228, b""),
    (0, b"\2\0\0\0"),
    (108, b"\0\0\0\2"),
    (113, bytes(14) + b"\x08\x00"),
    (276, b"\x08\x00" + bytes(18)),
]


@pytest.mark.parametrize(("link", "header"), LINKS)
def test_every_link_type_is_translated(tmp_path: Path, link: int, header: bytes) -> None:
    target = replayed(tmp_path, pcap([(START, header + syn())], link))
    assert frames_of(target) == [(START, header + translated(syn()))]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("magic", [0xA1B2C3D4, NANOSECONDS])
def test_pcap_keeps_byte_order_and_resolution(tmp_path: Path, order: str, magic: int) -> None:
    times = [START + 1_234_567_000, START + 2 * SECOND]
    content = pcap([(time, syn()) for time in times], order=order, magic=magic)
    expected = pcap([(time, translated(syn())) for time in times], order=order, magic=magic)
    assert replayed(tmp_path, content).read_bytes() == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("resolution", [3, 6, 9])
def test_pcapng_keeps_blocks_options_and_times(tmp_path: Path, order: str, resolution: int) -> None:
    frames = [
        (START, syn()),
        (START + 3 * SECOND, b"\x00 not IP"),
        (START + 3 * SECOND, syn(source=40001)),
    ]
    expected = [(time, translated(frame) if frame[0] == 0x45 else frame) for time, frame in frames]
    content = pcapng(frames, order=order, resolution=resolution)
    assert replayed(tmp_path, content).read_bytes() == pcapng(
        expected, order=order, resolution=resolution
    )


def test_pcapng_simple_packets_have_no_padding(tmp_path: Path) -> None:
    packet = bytes(IP(src=CLIENT, dst=VIP) / UDP(sport=1000, dport=53) / b"odd")
    head = pcapng([])
    content = head + block(3, struct.pack("<I", len(packet)) + packet)
    out = replayed(tmp_path, content).read_bytes()
    sent = IP(out[len(head) + 12 :][: len(packet)])
    assert (sent.dst, sent[UDP].dport, len(out)) == (POD, 5353, len(content))


def test_what_is_nobodys_stays_and_what_is_dropped_is_absent(tmp_path: Path) -> None:
    arp = ETHERNET[:12] + b"\x08\x06" + bytes(28)
    other = ETHERNET + bytes(IP(src=CLIENT, dst="192.0.2.1") / TCP(flags="S")) + b"trailer"
    broken = ETHERNET + b"\x45\x00\xff"
    frames = [
        (START, arp),
        (START + 1000, other),
        (START + 2000, broken),
        (START + 3000, ETHERNET + syn()),
    ]
    own = engine()
    target = replayed(tmp_path, pcap(frames, 1), own)
    assert frames_of(target) == [frames[0], frames[1], (START + 3000, ETHERNET + translated(syn()))]
    assert own.stats().causes == {"not-ours": 2, "malformed": 1, "new": 1}


@pytest.mark.parametrize("answer", ["icmp", "tcp-reset"])
def test_a_refused_packet_becomes_its_refusal(tmp_path: Path, answer: Answer) -> None:
    target = replayed(tmp_path, pcap([(START, ETHERNET + syn(81))], 1), answer=answer)
    [(time, frame)] = frames_of(target)
    assert (time, frame[:14]) == (START, ETHERNET[6:12] + ETHERNET[:6] + b"\x08\x00")
    refused = IP(frame[14:])
    assert (refused.src, refused.dst) == (VIP, CLIENT)
    if answer == "icmp":
        assert (refused[ICMP].type, refused[ICMP].code) == (3, 3)
    else:
        assert refused[TCP].flags == "RA"
        assert (refused[TCP].sport, refused[TCP].dport) == (81, 40000)


def test_frames_that_were_cut_short_are_translated_and_stay_short(tmp_path: Path) -> None:
    whole = bytes(IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="S") / bytes(1000))
    target = replayed(tmp_path, pcap([(START, whole)], snap=60))
    [(_, frame)] = frames_of(target)
    assert frame == translated(whole)[:60]


def test_held_fragments_come_out_in_their_place(tmp_path: Path) -> None:
    whole = IP(src=CLIENT, dst=VIP, id=7) / UDP(sport=1000, dport=53) / (bytes(range(256)) * 10)
    parts = [bytes(part) for part in fragment(whole, 1000)]
    frames = [
        (START + 1000 * n, packet) for n, packet in enumerate([parts[2], parts[1], syn(), parts[0]])
    ]
    target = replayed(tmp_path, pcap(frames))
    out = frames_of(target)
    assert [time for time, _ in out] == [time for time, _ in frames]
    assert [IP(packet).dst for _, packet in out] == [POD] * 4
    assert [IP(packet).frag for _, packet in out] == [IP(packet).frag for _, packet in frames]


def test_a_fragment_whose_first_part_never_comes_is_absent(tmp_path: Path) -> None:
    whole = IP(src=CLIENT, dst=VIP, id=7) / UDP(sport=1000, dport=53) / bytes(2000)
    later = bytes(fragment(whole, 1000)[1])
    target = replayed(tmp_path, pcap([(START, later), (START + 1000, syn())]))
    assert frames_of(target) == [(START + 1000, translated(syn()))]


def test_flows_time_out_by_the_clock_of_the_capture(tmp_path: Path) -> None:
    own = engine()
    frames = [(START, syn()), (START + 119 * SECOND, syn()), (START + 1000 * SECOND, syn())]
    replayed(tmp_path, pcap(frames), own)
    assert own.stats().causes["new"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a pcap nor a pcapng file"),
        (b"\xd4\xc3", "neither a pcap nor a pcapng file"),
        (b"PK\3\4" + bytes(100), "neither a pcap nor a pcapng file"),
        (pcap([])[:20], "the file ends within its header"),
        (b"\x1f\x8b\x08\0" + bytes(100), "compressed by gzip"),
        (struct.pack("<I", 0xA12B3C4D) + bytes(100), "a variant of pcap"),
        (pcap([]).replace(b"\2\0\4\0", b"\2\0\2\0"), "version 2.2 is not read"),
        (
            pcap([(START, syn()), (START, bytes(300_000))]),
            r"packet 2: 300000 bytes are more.*byte 80\)",
        ),
        (
            pcapng([])[:28] + block(6, struct.pack("<IIIII", 3, 0, 0, 0, 0)),
            "packet 1: it names an interface",
        ),
        (
            pcapng([]) + block(6, struct.pack("<IIIII", 0, 0, 0, 60, 60)),
            "packet 1: 60 bytes are more than",
        ),
        (
            pcapng([]) + struct.pack("<III", 5, 14, 14),
            r"block 3: a block cannot have 14 bytes \(byte 60\)",
        ),
        (pcapng([]) + struct.pack("<III", 5, 12, 16), "block 3: its two lengths differ"),
        (pcapng([]) + struct.pack("<III", 5, 1 << 31, 0), "block 3: 2147483648 bytes are more"),
        (pcapng([])[:8] + bytes(20), "block 1: a section header without its byte order"),
        (pcapng([]) + block(1, b"\1\0\0\0"), "block 3: an interface description that is too short"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    source, target = tmp_path / "in.pcap", tmp_path / "out.pcap"
    source.write_bytes(content)
    with (
        pytest.raises(kbe_nat.CaptureError, match=message) as error,
        CaptureQueue(source, target) as queue,
    ):
        kbe_nat.Loop(engine(), queue).run()
    assert str(source) in str(error.value)
    assert list(tmp_path.iterdir()) == [source], "no partial file stays"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(kbe_nat.CaptureError, match=r"absent\.pcap: No such file"):
        CaptureQueue(tmp_path / "absent.pcap")


def test_an_older_target_stays_when_the_replay_fails(tmp_path: Path) -> None:
    source, target = tmp_path / "in.pcap", tmp_path / "out.pcap"
    source.write_bytes(pcap([(START, syn()), (START, bytes(300_000))]))
    target.write_bytes(b"older")
    with pytest.raises(kbe_nat.CaptureError), CaptureQueue(source, target) as queue:
        kbe_nat.Loop(engine(), queue).run()
    assert target.read_bytes() == b"older"


def test_ipv6(tmp_path: Path) -> None:
    packet = IPv6(src="fd00::9", dst="fd00::1") / TCP(sport=1, dport=80, flags="S")
    header = ETHERNET[:12] + b"\x86\xdd"
    [(_, frame)] = frames_of(replayed(tmp_path, pcap([(START, header + bytes(packet))], 1)))
    expected = IPv6(src="fd00::9", dst="fd00:1::3") / TCP(sport=1, dport=9876, flags="S")
    assert frame == header + bytes(expected)


@settings(max_examples=150)
@given(
    data=st.data(),
    kind=st.sampled_from(
        [pcap([(START, syn()), (START, syn(81))]), pcapng([(START, syn()), (START, syn(81))])]
    ),
)
def test_damage_never_ends_in_anything_but_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: bytes
) -> None:
    changed = bytearray(kind)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    changed = changed[: data.draw(st.integers(0, len(changed)))]
    folder = tmp_path_factory.mktemp("damaged")
    try:
        replayed(folder, bytes(changed))
    except kbe_nat.CaptureError:
        assert not (folder / "out.pcap").exists()
