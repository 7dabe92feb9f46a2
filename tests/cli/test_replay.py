"""`kbe-nat replay`: counters, strategies, comparisons, and captures in and out."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP

from harness.captures import ETHERNET, frames_of, pcap
from harness.verbs import SEED, START, Ran, handshake, shares


def test_replay_counts_and_translates(kbe: Ran, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    result = kbe.json("replay", "-f", SEED, "--seed", 1, capture, "-w", out)
    assert (result["packets"], result["flows"]) == (201, 100)
    assert result["actions"] == {"pass": 1, "translate": 200, "drop": 0, "reject": 0, "hold": 0}
    counted = shares(result)
    written: dict[str, set[int]] = {}
    for (time, frame), (before, original) in zip(frames_of(out), frames_of(capture), strict=True):
        packet = IP(frame[14:])
        assert (time, frame[:14], packet[TCP].sport) == (
            before,
            ETHERNET,
            IP(original[14:])[TCP].sport,
        )
        written.setdefault(packet.dst, set()).add(packet[TCP].sport)
    assert {address: len(ports) for address, ports in written.items()} == counted | {"192.0.2.1": 1}
    assert set(counted) == {"172.17.0.3", "172.17.0.4"}


def test_a_seed_makes_replays_equal_and_no_seed_tells_which_it_took(
    kbe: Ran, capture: Path
) -> None:
    first = kbe.json("replay", "-f", SEED, capture)
    again = kbe.json("replay", "-f", SEED, capture, "--seed", first["seed"])
    assert again == first


def reply(client: int, endpoint: str) -> bytes:
    """An endpoint's answer to the first packet of a connection."""
    ip, tcp = IP(src=endpoint, dst="10.0.2.15"), TCP(sport=9876, dport=40000 + client, flags="SA")
    return ETHERNET + bytes(ip / tcp)


def test_replies_that_do_not_fit_the_choices_are_told(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    said = "from an endpoint that was not chosen here, and passed"

    def replayed(*replies: bytes) -> tuple[dict[str, int], str]:
        """Replies in the capture, behind ten connections."""
        frames = [*(frame for client in range(10) for frame in handshake(client)), *replies]
        path.write_bytes(pcap([(START + n, frame) for n, frame in enumerate(frames)], 1))
        code, out, err = kbe("replay", "-f", SEED, "--seed", "1", path, "-o", "json")
        assert code == 0
        return json.loads(out)["actions"], err

    answers = [reply(n, end) for n in range(10) for end in ("172.17.0.3", "172.17.0.4")]
    actions, err = replayed(*answers)
    assert actions["pass"] == 10, "one of both belongs to the connection"
    assert err.count("\n") == 1
    assert f"{path}: 10 replies come {said}" in err and "--seed 1 repeats this" in err
    # Of no client of a Service, of another port, and of no endpoint.
    others = [reply(11, "172.17.0.3"), handshake(0)[0], reply(0, "172.17.0.9")]
    assert replayed(*others)[1] == ""
    fitting = [each for each in answers if replayed(each)[1] == ""]
    assert len(fitting) == 10 and replayed(*fitting)[1] == ""
    [other, *_] = set(answers) - set(fitting)
    assert f"1 reply comes {said}" in replayed(other)[1]


def test_strategies_are_taken(kbe: Ran, capture: Path) -> None:
    result = kbe.json("replay", "-f", SEED, capture, "--strategy", "rr")
    assert shares(result) == {"172.17.0.3": 50, "172.17.0.4": 50}


def test_compare_lists_the_flows_that_would_go_elsewhere(
    kbe: Ran, capture: Path, tmp_path: Path
) -> None:
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(
        "---".join(Path(SEED).read_text().split("---")[:-1]).replace("replicas: 2", "replicas: 1")
    )
    arguments = ("replay", "-f", SEED, capture, "--strategy", "rr", "--compare", fewer)
    comparison = kbe.json(*arguments)["comparison"]
    assert (comparison["flows"], comparison["changed"]) == (100, 50)
    assert {(one["before"], one["after"]) for one in comparison["differences"]} == {
        ("172.17.0.4:9876", "172.17.0.3:9876")
    }
    _, text, _ = kbe(*arguments)
    assert "50 of 100 flows would fare differently." in text
    assert kbe.json("replay", "-f", SEED, capture, "--compare", SEED)["comparison"]["changed"] == 0


def test_tables_are_for_people(kbe: Ran, capture: Path) -> None:
    code, out, err = kbe("replay", "-f", SEED, capture, "--strategy", "rr", "--seed", 5)
    assert (code, err) == (0, "")
    assert "201 packets" in out
    assert "seed 5" in out
    assert "default/simpleservice" in out
    assert "172.17.0.3:9876     50" in out


def test_a_damaged_capture_leaves_no_output(kbe: Ran, capture: Path, tmp_path: Path) -> None:
    content = capture.read_bytes()
    capture.write_bytes(content + struct.pack("<IIII", 0, 0, 300_000, 300_000) + bytes(300_000))
    out = tmp_path / "out.pcap"
    code, _, err = kbe("replay", "-f", SEED, capture, "-w", out)
    assert (
        code,
        f"packet 202: 300000 bytes are more than a frame can have (byte {len(content)})" in err,
    ) == (
        2,
        True,
    )
    assert list(tmp_path.iterdir()) == [capture]


def test_of_a_capture_that_was_cut_off_the_whole_packets_count(
    kbe: Ran, capture: Path, tmp_path: Path
) -> None:
    content = capture.read_bytes()
    capture.write_bytes(content[:-3])
    out = tmp_path / "out.pcap"
    code, text, err = kbe("replay", "-f", SEED, capture, "-w", out)
    assert (code, "packet 201: the file ends within it" in err) == (0, True)
    assert text.startswith("200 packets")
    assert len(frames_of(out)) == 200
    assert kbe.json("replay", "-f", SEED, capture)["ends_within"].startswith("packet 201 (byte ")


@pytest.mark.parametrize(
    "link", ["same", "hard", "symbolic", "standard-input", "objects", "directory"]
)
def test_what_is_read_is_not_written_over(
    kbe: Ran, capture: Path, tmp_path: Path, link: str
) -> None:
    target, objects = tmp_path / "other.pcap", tmp_path / "objects"
    objects.mkdir()
    (objects / "cluster.yaml").write_bytes(Path(SEED).read_bytes())
    files, source = str(objects / "cluster.yaml"), str(capture)
    match link:
        case "same":
            target = capture
        case "hard":
            target.hardlink_to(capture)
        case "symbolic":
            target.symlink_to(capture)
        case "standard-input":
            target, source = capture, "/dev/stdin"
        case "objects":
            target.symlink_to(files)
        case "directory":
            target, files = objects / "cluster.yaml", str(objects)
    before = {path: path.read_bytes() for path in (capture, objects / "cluster.yaml")}
    with capture.open("rb") as opened:
        done = subprocess.run(
            [sys.executable, "-m", "kbe_nat", "replay", "-f", files, source, "-w", str(target)],
            stdin=opened,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"kbe-nat: {target}: it would be written over what is read; name another file\n"
    )
    assert {path: path.read_bytes() for path in before} == before
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("way", ["-", "/dev/stdout", "/dev/stdout to a file", "a fifo", "a link"])
def test_a_capture_is_written_to_wherever_it_is_wanted(
    capture: Path, tmp_path: Path, way: str
) -> None:
    plain, got = tmp_path / "plain.pcap", tmp_path / "got.pcap"
    replay = f"{sys.executable} -m kbe_nat replay -f {SEED} --seed 1"
    commands = {
        "-": f"cat {capture} | {replay} - -w - | cat > {got}",
        "/dev/stdout": f"{replay} {capture} -w /dev/stdout | cat > {got}",
        "/dev/stdout to a file": f"{replay} {capture} -w /dev/stdout > {got}",
        "a fifo": f"mkfifo {tmp_path}/f; cat {tmp_path}/f > {got} & "
        f"{replay} {capture} -w {tmp_path}/f; wait",
        "a link": f"touch {got}; ln -s {got} {tmp_path}/l; {replay} {capture} -w {tmp_path}/l",
    }
    for command in (f"{replay} {capture} -w {plain}", commands[way]):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert got.read_bytes() == plain.read_bytes()
    assert got.stat().st_mode == plain.stat().st_mode
    assert not list(tmp_path.glob(".*"))


def test_frames_of_other_link_types_are_counted(kbe: Ran, tmp_path: Path) -> None:
    path, out = tmp_path / "wifi.pcap", tmp_path / "out.pcap"
    path.write_bytes(pcap([(START, b"\x88" * 40)] * 3, 105))
    code, text, err = kbe("replay", "-f", SEED, path, "-w", out)
    assert (code, "link type 105" in err) == (0, True)
    assert out.read_bytes() == path.read_bytes()
    assert "Not read, left alone" in text
    assert kbe.json("replay", "-f", SEED, path)["unread_link_types"] == {"105": 3}


@pytest.mark.parametrize(
    "words",
    [
        "replay -f SEED IN -o json",
        "replay -f SEED LONG -w -",
        "replay -f SEED LONG -w /dev/stdout",
        "replay -f SEED LONG --flows-csv -",
        "dump -f SEED",
        "get --help",
        "lab list",
    ],
)
def test_a_reader_that_goes_away_is_no_error(capture: Path, tmp_path: Path, words: str) -> None:
    """The command ends without a word, as others do that SIGPIPE ends."""
    long = tmp_path / "long.pcap"
    frames = [frame for client in range(20_000) for frame in handshake(client)]
    long.write_bytes(pcap([(START + n, frame) for n, frame in enumerate(frames)], 1))
    paths = {"SEED": SEED, "IN": str(capture), "LONG": str(long)}
    command = " ".join(paths.get(word, word) for word in words.split())
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "kbe_nat", *command.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
