"""`kbe-nat replay`: reasons in a capture's comments, objects that change, a row for each flow."""

import csv
from pathlib import Path
from typing import Any

import polars
import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.utils import PcapNgReader

from harness.captures import ETHERNET, pcap
from harness.verbs import SEED, START, VIP, Ran, handshake

ONE = Path(SEED).read_text()
SECOND = 10**9


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Ten connections, one a second, each with two packets."""
    frames = [
        (START + client * SECOND + place, frame)
        for client in range(10)
        for place, frame in enumerate(handshake(client))
    ]
    path = tmp_path / "slow.pcap"
    path.write_bytes(pcap(frames, 1))
    return path


@pytest.fixture
def nobody(tmp_path: Path) -> Path:
    """The Service, without endpoints."""
    path = tmp_path / "nobody.yaml"
    path.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: simpleservice}\n"
        f"spec: {{clusterIP: {VIP}, ports: [{{port: 80}}]}}\n"
    )
    return path


def flows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def annotated(path: Path) -> list[tuple[Any, str]]:
    return [(packet, (packet.comments or [b""])[0].decode()) for packet in PcapNgReader(str(path))]


def test_packets_say_why(kbe: Ran, slow: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.pcapng"
    code, _, err = kbe("replay", "-f", SEED, slow, "--annotate", "-w", target)
    assert code == 0, err
    packets = annotated(target)
    assert len(packets) == 20
    for place, (packet, comment) in enumerate(packets):
        backend = f"{packet[IP].dst}:{packet[TCP].dport}"
        begin = f"translate: Service default/simpleservice, to backend {backend} ("
        assert comment.startswith(begin)
        assert ("a new connection" in comment) == (place % 2 == 0)
    assert float(packets[2][0].time) == START / SECOND + 1


def test_refused_and_foreign_packets_say_why(kbe: Ran, nobody: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.pcap", tmp_path / "out.pcapng"
    other = ETHERNET + bytes(IP(src="10.0.2.15", dst="192.0.2.1") / TCP(flags="S"))
    source.write_bytes(pcap([(START, handshake(1)[0]), (START + 1, other)], 1))
    assert kbe("replay", "-f", nobody, source, "--annotate", "-w", target)[0] == 0
    (answer, refused), (_, foreign) = annotated(target)
    assert ICMP in answer
    assert refused == f"reject: Service default/simpleservice, {VIP}:80 (no-endpoints)"
    assert foreign == "pass: no Service, 192.0.2.1:80 (not-ours)"


def test_objects_change_in_the_middle(kbe: Ran, slow: Path, nobody: Path) -> None:
    change = ("--at", "4s", "-f", nobody)
    result = kbe.json("replay", "-f", SEED, slow, *change)
    # Those that began before stay; packets at the very moment meet the new objects.
    assert result["flows"] == 4
    assert result["actions"]["reject"] == 12
    code, _, err = kbe("replay", *change, slow)
    assert (code, "Missing option -f: say where the objects are" in err) == (2, True)


def test_the_first_objects_come_before_any_moment(kbe: Ran, slow: Path, nobody: Path) -> None:
    result = kbe.json("replay", slow, "-f", SEED, "--at=4s", f"-f{nobody}", "--at", "7", "-f", SEED)
    assert result["actions"]["reject"] == 6
    code, _, err = kbe("replay", "-f", SEED, slow, "--at", "1h", "-f", nobody)
    assert (code, "--at 1h: the capture ends before" in err) == (0, True)


def test_flows_are_rows(kbe: Ran, slow: Path, tmp_path: Path) -> None:
    table, columns = tmp_path / "flows.csv", tmp_path / "flows.parquet"
    flags = ("--flows-csv", table, "--flows-parquet", columns)
    assert kbe("replay", "-f", SEED, slow, *flags)[0] == 0
    rows = flows(table)
    assert [float(row["start"]) for row in rows] == [START / SECOND + n for n in range(10)]
    assert {(row["frontend"], row["frontend_port"], row["packets"]) for row in rows} == {
        (VIP, "80", "2")
    }
    assert {row["moved"] for row in rows} == {"false"} and {row["end"] for row in rows} == {""}
    frame = polars.read_parquet(columns)
    assert frame.columns == list(rows[0])
    assert frame["backend"].to_list() == [row["backend"] for row in rows]


def test_a_table_may_go_to_standard_output(kbe: Ran, slow: Path, tmp_path: Path) -> None:
    table = tmp_path / "flows.csv"
    kbe("replay", "-f", SEED, "--seed", "1", slow, "--flows-csv", table)
    code, out, err = kbe("replay", "-f", SEED, "--seed", "1", slow, "--flows-csv", "-")
    assert (code, out.replace("\r\n", "\n")) == (0, table.read_text())
    assert "Services" in err, "beside the table"


@pytest.mark.parametrize("at", ["0.1", "100ms", "0.1s", ".1", "100000us"])
def test_moments_are_durations_as_everywhere(kbe: Ran, slow: Path, nobody: Path, at: str) -> None:
    assert kbe.json("replay", "-f", SEED, slow, "--at", at, "-f", nobody)["flows"] == 1


def test_a_flow_that_ends_has_an_end(kbe: Ran, tmp_path: Path) -> None:
    source, table = tmp_path / "in.pcap", tmp_path / "flows.csv"
    late = START + 1_000_000 * SECOND
    source.write_bytes(pcap([(START, handshake(1)[0]), (late, handshake(2)[0])], 1))
    assert kbe("replay", "-f", SEED, source, "--flows-csv", table)[0] == 0
    first, second = flows(table)
    assert float(first["end"]) > float(first["start"]) and second["end"] == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--annotate",), "--annotate: name the file"),
        (("--annotate", "-w", "-"), "--annotate: name the file"),
        (
            ("--annotate", "-w", "out.pcap"),
            "-w: comments need pcapng: name it so, as in out.pcapng",
        ),
        (("-w", "-", "--flows-csv", "-"), "--flows-csv: --write is written to standard output"),
        (
            ("--flows-csv", "-", "--flows-parquet", "/dev/stdout"),
            "--flows-parquet: --flows-csv is written to standard output",
        ),
        (("--at", "5s"), "--at: 5s: say which objects count then"),
        (("--at", "soon", "-f", SEED), "--at: 'soon' is no duration"),
        (("--at", "-5s", "-f", SEED), "--at: '-5s' is before the first packet"),
        (("--at",), "--at: it needs a value"),
        (("--at", "5s", "-f"), "-f: it needs a value"),
        (("--compare", SEED, "--at", "5s", "-f", SEED), "--compare: it compares objects"),
        (("--flows-csv", "x", "-w", "x"), "-w: two results would be written to one file"),
        (("--flows-csv", "x", "--flows-parquet", "./x"), "two results would be written to one"),
        (("--flows-csv", SEED), "would be written over what is read"),
        (("--flows-csv", "/nowhere/x"), "/nowhere/x: No such file"),
        (("--annotate", "-w", "/nowhere/x"), "/nowhere/x: No such file"),
        (("--at", "5s", "-f", "/nowhere"), "/nowhere"),
    ],
)
def test_what_is_wrong_is_said(kbe: Ran, slow: Path, flags: tuple[str, ...], said: str) -> None:
    code, out, err = kbe("replay", "-f", SEED, slow, *flags)
    assert (code, out, said in err) == (2, "", True), err


def test_nothing_is_written_over_the_capture(kbe: Ran, slow: Path) -> None:
    before = slow.read_bytes()
    link = slow.with_suffix(".pcapng")
    link.hardlink_to(slow)
    for flags in (("--annotate", "-w", link), ("--flows-csv", slow), ("--flows-parquet", slow)):
        code, _, err = kbe("replay", "-f", SEED, slow, *flags)
        assert (code, "written over what is read" in err) == (2, True)
    assert slow.read_bytes() == before
