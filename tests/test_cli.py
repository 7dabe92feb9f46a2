"""The verbs as a user runs them: output for people and programs, exit codes, one line for a
mistake.
"""

import json
import logging
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP

from harness.captures import ETHERNET, frames_of, pcap
from kbe_nat.__main__ import main
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.requests import parameters
from kbe_nat.errors import ControlError

ROOT = Path(__file__).parent.parent
SEED = str(ROOT / "examples/seed/cluster.yaml")
WEIGHTED = str(ROOT / "examples/seed/weighted.yaml")
VIP = "172.30.228.255"
START = 1_700_000_000 * 10**9


def handshake(client: int, frontend: int = 80) -> list[bytes]:
    """The first and the third packet of a connection."""
    ip = IP(src="10.0.2.15", dst=VIP)
    syn = TCP(sport=40000 + client, dport=frontend, flags="S", seq=1)
    ack = TCP(sport=40000 + client, dport=frontend, flags="A", seq=2, ack=1)
    return [ETHERNET + bytes(ip / syn), ETHERNET + bytes(ip / ack)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    frames = [frame for client in range(100) for frame in handshake(client)]
    frames += [ETHERNET + bytes(IP(src="10.0.2.15", dst="192.0.2.1") / TCP(flags="S"))]
    path = tmp_path / "in.pcap"
    path.write_bytes(pcap([(START + n * 1_000_000, frame) for n, frame in enumerate(frames)], 1))
    return path


class Ran:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *arguments: object) -> dict[str, Any]:
        code, out, err = self(*arguments, "-o", "json")
        assert code == 0, err
        result: dict[str, Any] = json.loads(out)
        return result


@pytest.fixture(autouse=True)
def _kept_log() -> Iterator[None]:
    """The daemon sends its log to the standard error of this process, which is a test's own: others
    get back what they had.
    """
    log = logging.getLogger("kbe_nat")
    handlers, level, propagates = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagates
    log.setLevel(level)


@pytest.fixture
def kbe(capsys: pytest.CaptureFixture[str]) -> Ran:
    return Ran(capsys)


def shares(result: dict[str, Any]) -> dict[str, int]:
    [service] = result["services"]
    return {own["address"]: own["flows"] for own in service["backends"]}


def test_replay_counts_and_translates(kbe: Ran, capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    result = kbe.json("replay", "-f", SEED, "--seed", 1, capture, "-w", out)
    assert (result["packets"], result["flows"]) == (201, 100)
    assert result["actions"] == {"accept": 1, "translate": 200, "drop": 0, "reject": 0, "hold": 0}
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


def test_explain_by_flags(kbe: Ran) -> None:
    result = kbe.json("explain", "-f", SEED, "--from", "10.0.2.15:1234", "--to", f"{VIP}:80")
    assert (result["verdict"], result["service"]) == ("dnat", "default/simpleservice")
    assert result["destinations"] == ["172.17.0.3:9876", "172.17.0.4:9876"]
    assert any(reason.startswith("strategy: random") for reason in result["reasons"])
    assert "with new addresses" in result["kernel"]["every-packet"]
    assert "carries all later packets" in result["kernel"]["first-packet"]
    _, text, _ = kbe(
        "explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:443", "--proto", "udp"
    )
    assert "passes untouched" in text
    assert "first-packet  it lets the packet go on as it is" in text


@pytest.mark.parametrize(
    ("source", "to", "verdict"),
    [
        ("127.0.0.1", "127.0.0.1:30080", "dnat"),
        ("127.0.0.2", "127.0.0.1:30080", "dnat"),
        ("127.0.0.1", "127.0.0.5:30080", "dnat"),
        ("127.0.0.1", "127.0.0.5:80", "pass"),
        ("192.0.2.1", "127.0.0.5:30080", "dnat"),
        ("192.0.2.1", "127.0.0.5:80", "drop"),
    ],
)
def test_all_of_loopback_is_the_nodes(
    kbe: Ran, tmp_path: Path, source: str, to: str, verdict: str
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(Path(SEED).read_text().replace("port: 80", "port: 80\n    nodePort: 30080"))
    node = ("--node-address", "192.0.2.1")
    told = kbe.json("explain", "-f", path, *node, "--from", source, "--to", to)
    assert (told["verdict"], told["masquerade"]) == (verdict, verdict == "dnat")
    if verdict == "dnat":
        listed = (*("--nodeport-addresses", "127.0.0.0/8"), "--from", source, "--to", to)
        told = kbe.json("explain", "-f", path, *node, *listed)
        # Where addresses are listed, only that one is.
        other = "pass" if source.startswith("127.") else "drop"
        assert told["verdict"] == ("dnat" if to.startswith("127.0.0.1:") else other)


def test_explain_by_number_knows_the_flows_before_it(kbe: Ran, capture: Path) -> None:
    opening = kbe.json("explain", "-f", SEED, capture, "--packet", 1)
    later = kbe.json("explain", "-f", SEED, capture, "--packet", 2)
    assert any("opened a flow" in reason for reason in opening["reasons"])
    assert not any("opened a flow" in reason for reason in later["reasons"])
    assert later["destinations"] == [opening["backend"]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("replay", "-f", "absent.yaml", "x.pcap"), "absent.yaml: No such file"),
        (("replay", "-f", SEED, "absent.pcap"), "absent.pcap: No such file"),
        (("replay", "-f", SEED, SEED), "neither a pcap nor a pcapng file"),
        (("replay", "-f", SEED, "x.pcap", "--strategy", "best"), "--strategy"),
        (("replay", "-f", SEED, "x.pcap", "--seed", "-1"), "--seed"),
        (("replay", "-f", SEED, "x.pcap", "--reject-with", "silence"), "--reject-with"),
        (
            ("replay", "-f", SEED, "x.pcap", "--masquerade-address", "10.0.0"),
            "--masquerade-address",
        ),
        (("replay", "-f", SEED), "capture"),
        (("replay", "x.pcap"), "--filename"),
        (("explain", "-f", SEED, "--from", "10.0.2.15"), "--to"),
        (("explain", "-f", SEED, "--from", "10.0.2.15", "--to", VIP), "no port"),
        (("explain", "-f", SEED, "--from", "fd00::1", "--to", f"{VIP}:80"), "different families"),
        (
            ("explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:80", "--proto", "icmp"),
            "--proto",
        ),
        (("nonsense",), "nonsense"),
        (("demo", "--requests", "-1"), "--requests"),
        (("proxy",), "--manifests"),
        (("proxy", "--manifests", "absent", "--dry-run"), "absent"),
        (("proxy", "--manifests", ".", "--mark-flow", "3"), "--mark-flow"),
        (("proxy", "--manifests", ".", "--cpus", "first"), "--cpus"),
        (("conntrack", "-L", "-C"), "only one of"),
        (("get", "services", "--socket", "/nowhere"), "no daemon answers here"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    kbe: Ran, arguments: tuple[str, ...], named: str
) -> None:
    if arguments[0] == "demo" and os.geteuid() != 0:
        pytest.skip("without root the demo begins in a user namespace")
    code, out, err = kbe(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("kbe-nat: ")
    assert err.count("\n") == 1
    assert named in err


def test_a_wrong_field_is_named_with_file_object_and_path(
    kbe: Ran, capture: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(SEED).read_text().replace("port: 80", "port: 80000"))
    code, _, err = kbe("replay", "-f", wrong, capture)
    assert code == 2
    assert f"{wrong}, document 1: Service default/simpleservice: spec.ports[0].port" in err


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "there is no Service in it"),
        (Path(SEED).read_text().replace("port: 80", "port: 80000"), "spec.ports[0].port"),
    ],
    ids=["none", "refused"],
)
def test_without_services_rules_are_a_frame_and_packets_pass(
    kbe: Ran, capture: Path, tmp_path: Path, objects: str, said: str
) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(objects)
    for form, frame in (("iptables-save", "-j KUBE-MARK-MASQ"), ("nft", "goto")):
        code, out, err = kbe("dump", "-f", path, "--format", form, "--lenient")
        assert (code, said in err) == (0, True)
        assert "KUBE-FORWARD" in out or "chain services" in out
        assert frame not in out, "nothing is served"
    code, out, _ = kbe(
        "explain", "-f", path, "--from", "10.0.2.15", "--to", f"{VIP}:80", "--lenient"
    )
    assert (code, "passes untouched" in out) == (0, True)
    assert kbe("dump", "-f", path)[0] == (2 if "port: 80000" in objects else 0)
    # A capture without a Service tells nothing.
    code, _, err = kbe("replay", "-f", path, capture)
    assert (code, said in err) == (2, True)


KUBECONFIG = "apiVersion: v1\nkind: Config\nclusters: []\ncontexts: []\nusers: []\n"


@pytest.mark.parametrize(
    "verb",
    [
        ("explain", "--from", "10.0.2.15", "--to", f"{VIP}:80"),
        ("dump",),
        ("diff", "saved"),
        ("replay", "in.pcap"),
        ("shadow", "--existing"),
    ],
    ids=lambda verb: verb[0],
)
def test_f130_verbs_that_read_files_once_end_with_what_is_wrong(
    kbe: Ran, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    monkeypatch.chdir(capture.parent)
    Path("saved").write_text("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\nCOMMIT\n")
    folder = Path("objects")
    folder.mkdir()
    (folder / "good.yaml").write_text(Path(SEED).read_text())
    wrong = Path(SEED).read_text().replace("port: 80", "port: 80000")
    os.mkfifo("fifo")
    for text, said in (
        (
            wrong,
            "bad.yaml, document 1: Service default/simpleservice: spec.ports[0].port: expected int",
        ),
        ("a: [", "objects/bad.yaml, line 2, column 1: not YAML"),
        (
            KUBECONFIG,
            "objects/bad.yaml, document 1: Config: this is a kubeconfig; kbe-nat reads files of",
        ),
        (
            "&a\nkind: List\napiVersion: v1\nitems: [*a]",
            "items[0]: List: kind: a List in a List is not read",
        ),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}",
            "discovery.k8s.io/v1beta1 is not read",
        ),
    ):
        (folder / "bad.yaml").write_text(text)
        code, out, err = kbe(*verb, "-f", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
        if verb[0] == "shadow":
            # It would go on to the kernel's connections.
            continue
        code, _, err = kbe(*verb, "-f", folder, "--lenient")
        assert code in ((1, 2) if verb[0] == "diff" else (0,))
        assert said in err
    (folder / "bad.yaml").unlink()
    (folder / "bad.yaml").symlink_to("../fifo")
    code, _, err = kbe(*verb, "-f", folder)
    assert (code, "objects/bad.yaml: it is a FIFO, not a file" in err) == (2, True)
    code, _, err = kbe(*verb, "-f", "fifo", "--lenient")
    assert (code, "fifo: it is a FIFO, not a file" in err) == (2, True), (
        "what was named must be readable"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["no Service in objects: nothing is served"]),
        (
            KUBECONFIG,
            ["objects/a.yaml, document 1: Config: this is a kubeconfig", "no Service in objects"],
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}",
            ["no Service in objects: nothing is served"],
        ),
        ("# nothing\n", ["no Service in objects: nothing is served"]),
    ],
    ids=["empty", "kubeconfig", "ConfigMap", "comment"],
)
def test_a_proxy_that_would_serve_nothing_says_so(
    kbe: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("objects").mkdir()
    if content is not None:
        Path("objects/a.yaml").write_text(content)
    code, _, err = kbe("proxy", "--manifests", "objects", "--dry-run")
    assert code == 0 and all(text in err for text in said)
    code, out, err = kbe("proxy", "--manifests", "objects", "--dry-run", "--strict")
    assert (code, out) == (2, "") and said[0] in err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (
            "--kubeconfig",
            "kubectl get svc,endpointslices,nodes -A -o json > DIR/all.new && mv DIR/all.new DIR/all.json",
        ),
        ("--kubeconfig=/etc/kubernetes/admin.conf", "kbe-nat does not ask the API server"),
        ("--master", "kbe-nat does not ask the API server"),
        ("--proxy-mode", "--mode"),
        ("--hostname-override", "--node"),
    ],
)
def test_flags_that_people_know_from_kube_proxy(kbe: Ran, flag: str, said: str) -> None:
    code, out, err = kbe("proxy", flag, "x", "--manifests", "objects")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err and flag.partition("=")[0] in err


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
        "a fifo": f"mkfifo {tmp_path}/f; cat {tmp_path}/f > {got} & {replay} {capture} -w {tmp_path}/f; wait",
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


def test_explain_reads_segments_that_were_not_cut_yet(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "tso.pcap"
    ip = IP(src="10.0.2.15", dst=VIP, len=0)
    segment = ETHERNET + bytes(
        ip / TCP(sport=40000, dport=80, flags="A", seq=2, ack=1) / bytes(70_000)
    )
    path.write_bytes(pcap([(START, handshake(0)[0]), (START, segment)], 1))
    told = kbe.json("explain", "-f", SEED, path, "--packet", 2)
    assert told["verdict"] == "dnat"
    assert any("70040 bytes" in reason for reason in told["reasons"])


def test_help_and_version(kbe: Ran) -> None:
    verbs = (
        "replay",
        "explain",
        "demo",
        "proxy",
        "get",
        "describe",
        "conntrack",
        "drain",
        "top",
        "playground",
    )
    for verb in ((), *((name,) for name in verbs)):
        code, out, _ = kbe(*verb, "--help")
        assert code == 0
        assert "Usage: kbe-nat" in out
    assert kbe("--version")[1].startswith("kbe-nat 0.")


def test_a_reader_that_goes_away_is_no_error(capture: Path) -> None:
    command = f"{sys.executable} -m kbe_nat replay -f {SEED} {capture} -o json | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "flags",
    [
        ("--node-address", "192.0.2.1", "2001:db8::1"),
        ("--node-address", "192.0.2.1", "--node-address", "2001:db8::1"),
        ("--node-address=192.0.2.1", "--node-address", "2001:db8::1"),
    ],
)
def test_several_addresses_of_the_node(kbe: Ran, flags: tuple[str, ...]) -> None:
    code, told, _ = kbe("dump", "-f", SEED, *flags, "--format", "nft")
    assert code == 0
    assert "192.0.2.1" in told and "2001:db8::1" in told


DESCRIBED = ("--from", "10.0.2.15", "--to", f"{VIP}:80")


@pytest.mark.parametrize(
    ("arguments", "flag", "said"),
    [
        (
            (
                "explain",
                "-f",
                SEED,
                *DESCRIBED,
                "--cluster-cidr",
                "10.0.0.0/8",
                "--detect-local-mode",
                "NodeCIDR",
            ),
            "--cluster-cidr",
            "pods are told by NodeCIDR",
        ),
        (
            ("explain", "-f", SEED, *DESCRIBED, "--pod-bridge-interface", "br0"),
            "--pod-bridge-interface",
            "pods are told by ClusterCIDR",
        ),
        (
            ("replay", "-f", SEED, "in.pcap", "--pod-interface-name-prefix", "veth"),
            "--pod-interface-name-prefix",
            "ClusterCIDR",
        ),
        (
            ("explain", "-f", SEED, *DESCRIBED, "--mode", "nftables", "--localhost-nodeports"),
            "--localhost-nodeports",
            "in nftables mode",
        ),
        (
            ("dump", "-f", SEED, "--format", "nft", "--no-localhost-nodeports"),
            "--localhost-nodeports",
            "in nftables mode",
        ),
        (
            ("explain", "-f", SEED, "in.pcap", "--packet", "1", "--proto", "udp"),
            "--proto",
            "belongs to --from and --to",
        ),
        (
            ("explain", "-f", SEED, "in.pcap", "--packet", "1", "--iif", "eth1"),
            "--iif",
            "belongs to --from and --to",
        ),
        (("explain", "-f", SEED, *DESCRIBED, "--socket", "x"), "--socket", "without --live"),
        (("explain", "--live", *DESCRIBED, "-f", SEED), "--filename", "with --live"),
        (("explain", "--live", *DESCRIBED, "--node", "n1"), "--node", "with --live"),
        (("explain", "--live", *DESCRIBED, "--lenient"), "--strict", "with --live"),
        (("dump", "--live", "--config", "x"), "--config", "with --live"),
        (("dump", "-f", SEED, "--socket", "x"), "--socket", "without --live"),
        (("dump", "-f", SEED, "--reject-with", "tcp-reset"), "--reject-with", "refuse by ICMP"),
        (
            ("dump", "-f", SEED, "--format", "nft", "--mode", "iptables"),
            "--mode",
            "nft is not of mode iptables",
        ),
        (
            ("diff", "-f", SEED, "x", "--reject-with", "tcp-reset"),
            "--reject-with",
            "refuse by ICMP",
        ),
        (("shadow", "-f", SEED, "--existing", "--duration", "5"), "--duration", "with --existing"),
        (("shadow", "-f", SEED, "--reject-with", "tcp-reset"), "--reject-with", "never appears"),
        (("drain", "10.0.0.1", "--undo", "--deadline", "5"), "--deadline", "--undo"),
        (("get", "services", "--limit", "5"), "--limit", "no effect on services"),
        (("get", "rules", "--wide"), "--wide", "no effect on rules"),
        (("get", "status", "--service", "a/b"), "--service", "no effect on status"),
        (("conntrack", "-F", "-p", "tcp"), "--proto", "-F ends all connections"),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "every-packet",
                "--on-death",
                "refuse",
            ),
            "--on-death",
            "every-packet is taken here",
        ),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "every-packet",
                "--mark-backend",
                "0xff0000",
            ),
            "--mark-backend",
            "every-packet is taken here",
        ),
        (
            (
                "proxy",
                "--manifests",
                SEED,
                "--dry-run",
                "--datapath",
                "first-packet",
                "--rules",
                "nft",
            ),
            "--rules",
            "first-packet is taken here",
        ),
        (
            ("proxy", "--manifests", SEED, "--dry-run", "--driver", "netfilterqueue", "--no-gso"),
            "--gso",
            "netfilterqueue has no such thing",
        ),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, tuple) else "",
)
def test_flags_without_an_effect_are_refused(
    kbe: Ran,
    capture: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    flag: str,
    said: str,
) -> None:
    if arguments[0] == "proxy" and os.geteuid() != 0:
        pytest.skip("without root it ends before it knows which datapath it takes")
    monkeypatch.chdir(capture.parent)
    code, out, err = kbe(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert flag in err and said in err


TWO_WAYS = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.20, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.5]}]
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24, 10.244.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
"""


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize(
    ("config", "flags", "pods"),
    [
        ("clusterCIDR: 10.244.0.0/16", (), "10.244.0.0/16"),
        ("clusterCIDR: 'fd00::/64,10.244.1.0/24'", (), "10.244.1.0/24"),
        ("clusterCIDR: 10.0.0.0/8", ("--cluster-cidr", "10.244.2.0/24"), "10.244.2.0/24"),
        ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8", (), "10.244.1.0/24"),
        ("detectLocalMode: ClusterCIDR", (), ""),
        ("detectLocalMode: NodeCIDR", ("--detect-local-mode", "ClusterCIDR"), ""),
    ],
)
def test_explain_and_dump_know_the_same_pods(
    kbe: Ran, tmp_path: Path, mode: str, config: str, flags: tuple[str, ...], pods: str
) -> None:
    (tmp_path / "objects.yaml").write_text(TWO_WAYS)
    (tmp_path / "config.yaml").write_text(f"mode: {mode}\n{config}")
    given = (
        "-f",
        tmp_path / "objects.yaml",
        "--node",
        "n1",
        "--config",
        tmp_path / "config.yaml",
        *flags,
    )
    # Without a format it is that of the mode.
    code, rules, _ = kbe("dump", *given)
    assert code == 0 and ("table ip" in rules) == (mode == "nftables")
    ranges = re.findall(r"(?:! -s |ip saddr != )(\S+)", rules)
    assert set(ranges) - {"127.0.0.0/8"} == ({pods} if pods else set())
    for source in ("10.244.1.9", "10.244.2.9", "203.0.113.9"):
        told = kbe.json("explain", *given, "--from", source, "--to", "10.96.0.20:80")
        is_pod = bool(pods) and ip_address(source) in ip_network(pods)
        assert told["masquerade"] == (bool(pods) and not is_pod), source


@pytest.mark.parametrize(
    "flags",
    [
        ("--cluster-cidr", "10.244.1.0/24,10.244.2.0/24"),
        ("--nodeport-addresses", "primary,10.0.0.0/8"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [
        ("dump",),
        ("explain", *DESCRIBED),
        ("diff", "x"),
        ("replay", "in.pcap"),
        ("proxy", "--dry-run"),
    ],
)
def test_what_kube_proxy_would_refuse_no_verb_takes(
    kbe: Ran,
    capture: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: tuple[str, ...],
    flags: tuple[str, str],
) -> None:
    monkeypatch.chdir(capture.parent)
    Path("x").write_text("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\nCOMMIT\n")
    objects = ("--manifests" if verb[0] == "proxy" else "-f", SEED)
    code, out, err = kbe(*verb, *objects, *flags)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert flags[0] in err and (
        "dual-stack pair of CIDRs" in err or "both 'primary' and CIDRs" in err
    )


@pytest.mark.parametrize(
    "verb",
    [
        ("dump", "--live"),
        ("dump", "--live", "--format", "nft", "--family", "ipv6", "--names", "legacy"),
        ("explain", "--live", "--from", "10.0.0.1", "--to", "10.0.0.2:80"),
        ("explain", "--live", "--from", "10.0.0.1", "--to", "10.0.0.2:80", "--iif", "eth0"),
        *(("get", kind) for kind in ("services", "endpoints", "flows", "rules", "stats", "status")),
        ("describe", "service", "default/web"),
        ("strategy", "set", "default/web", "wlc"),
        ("drain", "10.0.0.1"),
        ("drain", "10.0.0.1", "--deadline", "5", "--no-wait"),
        ("drain", "10.0.0.1", "--undo"),
        ("conntrack", "-L"),
        ("conntrack", "-L", "-p", "tcp", "--dport", "80"),
        ("conntrack", "-E"),
        ("conntrack", "-D", "-s", "10.0.0.1"),
        ("conntrack", "-F"),
        ("top", "--iterations", "1"),
    ],
)
def test_what_verbs_ask_is_what_the_daemon_answers(
    kbe: Ran, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    def answer(request: dict[str, Any]) -> Iterator[Any]:
        parameters(request)
        asked.append(request)
        raise ControlError("understood")

    asked: list[dict[str, Any]] = []
    path = tmp_path / "s"
    with ControlServer(path, answer):
        assert kbe(*verb, "--socket", path)[1:] == ("", "kbe-nat: understood\n")
    assert asked


def test_a_dry_run_says_what_the_daemon_would_say(kbe: Ran, tmp_path: Path) -> None:
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: %s}\n---\n"
    (tmp_path / "nodes.yaml").write_text(node % "a-node" + node % "b-node")
    flags = ("--dry-run", "--datapath", "every-packet")
    _, _, told = kbe("proxy", "--manifests", SEED, "--manifests", tmp_path, *flags)
    assert "nothing tells which node this is (--node)" in told
    _, _, told = kbe(
        "proxy", "--manifests", SEED, "--manifests", tmp_path, "--node", "a-node", *flags
    )
    assert "which node" not in told
