"""`kbe-nat explain`, and verbs that must agree with it."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP

from harness.captures import ETHERNET, pcap
from harness.verbs import SEED, START, VIP, Ran, handshake


def test_explain_by_flags(kbe: Ran) -> None:
    result = kbe.json("explain", "-f", SEED, "--from", "10.0.2.15:1234", "--to", f"{VIP}:80")
    assert (result["verdict"], result["service"]) == ("translate", "default/simpleservice")
    assert result["destinations"] == ["172.17.0.3:9876", "172.17.0.4:9876"]
    assert any(reason.startswith("strategy: random") for reason in result["reasons"])
    assert "with new addresses" in result["kernel"]["every-packet"]
    assert "carries all later packets" in result["kernel"]["first-packet"]
    _, text, _ = kbe(
        "explain", "-f", SEED, "--from", "10.0.2.15", "--to", f"{VIP}:443", "--proto", "udp"
    )
    assert "passes" in text
    assert "first-packet  it lets the packet go on as it is" in text
    assert "pass (not-ours: " in text and "accept" not in text


@pytest.mark.parametrize(
    ("source", "to", "verdict"),
    [
        ("127.0.0.1", "127.0.0.1:30080", "translate"),
        ("127.0.0.2", "127.0.0.1:30080", "translate"),
        ("127.0.0.1", "127.0.0.5:30080", "translate"),
        ("127.0.0.1", "127.0.0.5:80", "pass"),
        ("192.0.2.1", "127.0.0.5:30080", "translate"),
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
    assert (told["verdict"], told["masquerade"]) == (verdict, verdict == "translate")
    if verdict == "translate":
        listed = (*("--nodeport-addresses", "127.0.0.0/8"), "--from", source, "--to", to)
        told = kbe.json("explain", "-f", path, *node, *listed)
        # Where addresses are listed, only that one is.
        other = "pass" if source.startswith("127.") else "drop"
        assert told["verdict"] == ("translate" if to.startswith("127.0.0.1:") else other)


def test_a_hairpin_does_not_contradict_the_policy(kbe: Ran) -> None:
    told = [
        kbe("explain", "-f", SEED, "--from", source, "--to", f"{VIP}:80")[1]
        for source in ("172.17.0.3", "172.17.0.4")
    ]
    [text] = [each for each in told if "\nhairpin " in each]
    assert "so its source is masqueraded all the same\n" in text
    assert "\nmasquerade  no: no policy asks for it\n" in text


@pytest.mark.parametrize("source", ["224.0.0.1", "0.0.0.0", "255.255.255.255"])
def test_no_chain_of_kube_proxy_refuses_a_martian(kbe: Ran, source: str) -> None:
    flags = ("explain", "-f", SEED, "--from", source, "--to", f"{VIP}:80")
    told = kbe.json(*flags)
    assert (told["verdict"], told["chains"]) == ("drop", [])
    _, text, _ = kbe(*flags)
    assert "(martian)" in text and "it drops the packet" in text and "KUBE-" not in text


@pytest.mark.parametrize(
    "to",
    ["simpleservice", "svc/simpleservice", "default/simpleservice", "simpleservice:80"],
)
def test_a_destination_may_be_a_service(kbe: Ran, to: str) -> None:
    told = kbe.json("explain", "-f", SEED, "--from", "10.0.2.15", "--to", to)
    assert (told["verdict"], told["service"]) == ("translate", "default/simpleservice")
    _, text, _ = kbe("explain", "-f", SEED, "--from", "10.0.2.15", "--to", to)
    assert f"to {VIP}:80 is sent to" in text


def test_a_service_as_destination_is_one_port(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    ports = "  - port: 80\n    name: a\n  - port: 53\n    name: b\n    protocol: UDP\n"
    head = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n"
    path.write_text(f"{head}  clusterIP: 172.30.0.1\n  ports:\n{ports}")
    flags = ("explain", "-f", path, "--from", "10.0.2.15", "--to")
    code, _, err = kbe(*flags, "shop/web")
    assert (code, "say one of shop/web:a, shop/web:b" in err) == (2, True)
    for to, name in (("svc/shop/web:b", "udp"), ("shop/web:53", "udp"), ("shop/web:a", "tcp")):
        _, text, _ = kbe(*flags, to)
        assert text.upper().startswith(f"{name.upper()} 10.0.2.15"), to
    assert kbe(*flags, "shop/web", "-p", "udp")[1].startswith("UDP 10.0.2.15")
    for wrong in ("shop/web:c", "shop/none", "web"):
        code, out, err = kbe(*flags, wrong)
        assert (code, out, "NotFound" in err) == (1, "", True)
    assert kbe(*flags, "10.0.0.300:80")[0] == 2


def test_explain_by_number_knows_the_flows_before_it(kbe: Ran, capture: Path) -> None:
    opening = kbe.json("explain", "-f", SEED, capture, "--packet", 1)
    later = kbe.json("explain", "-f", SEED, capture, "--packet", 2)
    assert any("opened a flow" in reason for reason in opening["reasons"])
    assert not any("opened a flow" in reason for reason in later["reasons"])
    assert later["destinations"] == [opening["backend"]]


def test_explain_reads_segments_that_were_not_cut_yet(kbe: Ran, tmp_path: Path) -> None:
    path = tmp_path / "tso.pcap"
    ip = IP(src="10.0.2.15", dst=VIP, len=0)
    segment = ETHERNET + bytes(
        ip / TCP(sport=40000, dport=80, flags="A", seq=2, ack=1) / bytes(70_000)
    )
    path.write_bytes(pcap([(START, handshake(0)[0]), (START, segment)], 1))
    told = kbe.json("explain", "-f", SEED, path, "--packet", 2)
    assert told["verdict"] == "translate"
    assert any("70040 bytes" in reason for reason in told["reasons"])


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


def test_a_word_that_is_no_capture_is_said_to_be_none(kbe: Ran) -> None:
    code, out, err = kbe("explain", "svc", "-f", SEED)
    assert (code, out, "there is no file svc; --to names a Service" in err) == (2, "", True)
