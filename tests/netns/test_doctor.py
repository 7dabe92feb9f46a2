"""What `kbe-nat doctor` says of a node."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.commands import Commands

COMMAND = (sys.executable, "-m", "kbe_nat", "doctor")
SEED = Path(__file__).parents[2] / "examples/simpleservice/cluster.yaml"


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-doctor-{os.getpid()}") as namespace:
        yield namespace


def asked(node: Namespace, *prefix: str, **more: Any) -> tuple[int, dict[str, dict[str, str]]]:
    done = subprocess.run(
        [*node.prefix, *prefix, *COMMAND, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        **more,
    )
    assert not done.stderr
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)["items"]}


def test_it_says_what_works_and_leaves_nothing(node: Namespace) -> None:
    before = node.call("nft", "list", "ruleset")
    code, checks = asked(node)
    assert code == 0
    assert {"kernel", "privilege", "packet-queues", "rules", "datapath"} <= checks.keys()
    assert {checks[name]["state"] for name in ("privilege", "packet-queues", "rules")} == {"ok"}
    assert checks["datapath"]["found"].startswith("cached: the kernel has nft NAT maps")
    assert checks["flow-cache"]["state"] == "ok"
    assert node.call("nft", "list", "ruleset") == before


def test_devices_that_the_cache_leaves_out_are_named_with_the_reason(node: Namespace) -> None:
    node.call("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    node.call("ip", "tuntap", "add", "t0", "mode", "tun")
    node.call("tc", "qdisc", "add", "dev", "v0", "clsact")
    words = ("dev", "v0", "ingress", "protocol", "ip", "u32", "match", "u32", "0", "0")
    node.call("tc", "filter", "add", *words, "classid", "1:1")
    row = asked(node)[1]["flow-cache"]
    assert row["state"] == "note"
    assert "v0: filters of tc look at what comes in by it" in row["found"]
    assert "t0: its packets have no Ethernet header" in row["found"]
    assert "v1: " not in row["found"]


def test_settings_are_those_of_this_node(node: Namespace) -> None:
    for value, state in (("0", "note"), ("1", "ok")):
        node.write("/proc/sys/net/ipv4/ip_forward", value)
        node.write("/proc/sys/net/netfilter/nf_conntrack_acct", value)
        _, checks = asked(node)
        assert [checks[name]["state"] for name in ("forwarding", "byte-counters")] == [state, state]
        assert bool(checks["forwarding"]["remedy"]) == (state == "note")


def test_what_cannot_be_read_is_not_said_to_be_fine(node: Namespace) -> None:
    node.call("iptables", "-t", "nat", "-N", "KUBE-SERVICES")
    node.call("iptables", "-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "0xffff")
    rules = ("kube-proxy", "marks", "queue-number", "other-proxies")
    _, checks = asked(node)
    assert [checks[name]["state"] for name in rules[:2]] == ["note", "note"]
    assert checks["queue-number"]["state"] == "ok"
    _, checks = asked(node, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    for name in rules:
        assert checks[name]["state"] == "note", name
        found = checks[name]["found"]
        assert found.startswith("not known: iptables-save, ip6tables-save, nft"), name
        assert checks[name]["remedy"] == "ask again with the privilege", name
    # Everybody may list devices and what tc has at them.
    assert checks["programs-at-devices"]["state"] == "ok"


def test_what_is_missing_is_named(node: Namespace) -> None:
    code, checks = asked(node, "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert code == 1
    assert checks["privilege"] == {
        "name": "privilege",
        "state": "failed",
        "found": "no CAP_NET_ADMIN",
        "remedy": "run as root, or give it this capability",
    }
    assert "CAP_NET_ADMIN" in checks["packet-queues"]["found"]
    for name in ("packet-queues", "datapath"):
        assert checks[name]["state"] == "note"
        assert checks[name]["found"].startswith("not known: "), name
        assert checks[name]["remedy"] == "ask again with the privilege"
    code, checks = asked(node, "env", "PATH=/nowhere")
    assert code == 1
    assert checks["commands"]["found"].startswith("iptables, ")
    assert "is not installed" in checks["rules"]["found"]
    assert checks["datapath"]["state"] == "failed"


def test_people_get_a_table(node: Namespace) -> None:
    text = node.call(*COMMAND)
    assert text.splitlines()[0].split()[:3] == ["check", "state", "found,"]
    assert "packet-queues" in text


def test_f140_devices_that_make_packets_of_more_than_64_kb_are_named(node: Namespace) -> None:
    node.call("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    assert asked(node)[1]["super-packets"]["state"] == "ok"
    node.call("ip", "link", "set", "v0", "gso_max_size", "131072")
    found = asked(node)[1]["super-packets"]
    assert (found["state"], "v0" in found["found"], "v1" in found["found"]) == ("note", True, False)
    assert "gso_max_size" in found["remedy"]


@pytest.mark.parametrize("form", ["iptables-save", "nft"])
def test_f93_rules_of_kube_proxy_are_named(node: Namespace, form: str) -> None:
    dump = [sys.executable, "-m", "kbe_nat", "dump", "-f", str(SEED), "--format", form]
    rules = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    loader = ("nft", "-f", "-") if form == "nft" else ("iptables-restore",)
    assert asked(node)[1]["kube-proxy"]["state"] == "ok"
    # Counters of kube-proxy's that it makes itself.
    lines = [line for line in rules.splitlines() if "nfacct" not in line]
    Commands(node.prefix).run(loader, "\n".join(lines) + "\n")
    before = node.call("nft", "list", "ruleset")
    _, checks = asked(node)
    assert checks["kube-proxy"]["state"] == "note"
    place = "nft's table ip kube-proxy" if form == "nft" else "iptables' chain KUBE-SERVICES"
    assert place in checks["kube-proxy"]["found"]
    assert node.call("nft", "list", "ruleset") == before


CALICO = """*mangle
:cali-PREROUTING - [0:0]
-A PREROUTING -m comment --comment "cali:6gwbT8clXdHdC1b1" -j cali-PREROUTING
-A cali-PREROUTING -j MARK --set-xmark 0x10000/0x10000
COMMIT
"""
CILIUM = """*raw
:CILIUM_PRE_raw - [0:0]
-A PREROUTING -m comment --comment "cilium-feeder: CILIUM_PRE_raw" -j CILIUM_PRE_raw
-A CILIUM_PRE_raw -m mark --mark 0x200/0xf00 -j NOTRACK
COMMIT
"""
ROUTER = """*filter
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -m comment --comment "kube-router netpol - ZZZZ" -j KUBE-ROUTER-INPUT
COMMIT
"""
CALICO_NFT = """table ip calico {
  chain mangle-PREROUTING {
    type filter hook prerouting priority mangle; policy accept;
    meta mark set meta mark & 0xfffdffff | 0x00020000
  }
}
"""
QUEUED = """*filter
:SURICATA - [0:0]
-A FORWARD -j SURICATA
-A SURICATA -j NFQUEUE --queue-balance 98:101
COMMIT
"""
NEIGHBOURS = [
    # Rules, devices, the check, and what it says.
    (CALICO, ("cali0123456789a",), "other-proxies", "Calico is here: device cali0123456789a"),
    (CALICO, (), "marks", "mangle cali-PREROUTING writes 0x10000 of ours"),
    (CALICO_NFT, (), "other-proxies", "Calico is here: rules calico"),
    (CALICO_NFT, (), "marks", "ip calico mangle-PREROUTING writes 0x20000 of ours"),
    ("", ("bpfin.cali",), "other-proxies", "Calico's eBPF data plane is here: device bpfin.cali"),
    (CILIUM, ("cilium_host",), "other-proxies", "Cilium is here: device cilium_host, rules CILIUM"),
    (ROUTER, ("kube-dummy-if",), "other-proxies", "kube-router is here: device kube-dummy-if"),
    ("", ("kube-ipvs0",), "other-proxies", "kube-proxy in ipvs mode is here: device kube-ipvs0"),
    (QUEUED, (), "queue-number", "rules of others send packets to queue 100: filter SURICATA"),
]


@pytest.mark.parametrize(("rules", "devices", "check", "said"), NEIGHBOURS)
def test_f93_other_programs_that_would_clash_are_named(
    node: Namespace, rules: str, devices: tuple[str, ...], check: str, said: str
) -> None:
    assert asked(node)[1][check]["state"] == "ok"
    for number, name in enumerate(devices):
        node.call("ip", "link", "add", name, "type", "veth", "peer", "name", f"peer{number}")
    loader = ("nft", "-f", "-") if rules.startswith("table") else ("iptables-restore",)
    if rules:
        Commands(node.prefix).run(loader, rules)
    before = node.call("nft", "list", "ruleset")
    code, checks = asked(node)
    assert code == 0
    assert (checks[check]["state"], bool(checks[check]["remedy"])) == ("note", True)
    assert checks[check]["found"].startswith(said)
    assert node.call("nft", "list", "ruleset") == before


def test_f93_kube_proxys_marks_and_our_own_are_no_clash(node: Namespace) -> None:
    marking = """*nat
:KUBE-MARK-MASQ - [0:0]
:KBE-NAT-PREROUTING - [0:0]
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KBE-NAT-PREROUTING -m comment --comment kbe-nat -j MARK --set-xmark 0x1000/0x1000
COMMIT
"""
    Commands(node.prefix).run(("iptables-restore",), marking)
    assert asked(node)[1]["marks"]["state"] == "ok"
