"""The rules of a real kernel in every form that its programs list them in: `diff` reads them all,
and sees what somebody has changed in each.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.conformance_cases import CASES, Case, run
from kbe_nat.__main__ import main
from kbe_nat.kubeproxy.diff import differences
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.commands import Commands

ALL_RIGHT = "The node has the rules that it should have.\n"
NFT = (
    (),
    ("-n",),
    ("-nn",),
    ("-a",),
    ("-s",),
    ("-y",),
    ("-p",),
    ("-S",),
    ("-j",),
    ("-j", "-a"),
    ("-j", "-n"),
    ("-na",),
)
WHOLE = [case for case in CASES if str(case) in ("overall", "dual-stack", "session-affinity")]
OTHERS = """
*raw
:PREROUTING ACCEPT [0:0]
:cali-PREROUTING - [0:0]
-A PREROUTING -j cali-PREROUTING
COMMIT
*nat
:CNI-HOSTPORT-DNAT - [0:0]
:KUBE-HOSTPORTS - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-DROP - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -m comment --comment "kube hostport portals" -j KUBE-HOSTPORTS
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \\"cbr0\\" id: \\"0123\\"" \
-j KUBE-MARK-MASQ
-A KUBE-MARK-DROP -j MARK --set-xmark 0x8000/0x8000
COMMIT
*filter
:FLANNEL-FWD - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-I FORWARD -j FLANNEL-FWD
-I INPUT -m comment --comment "kube-router netpol - 4IA2OSFRMVNDXBVV" -j KUBE-ROUTER-INPUT
COMMIT
"""


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-lists-{os.getpid()}") as made:
        yield made


class Diff:
    """The verb, run on a text."""

    def __init__(self, flags: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.flags = flags
        self.saved = folder / "saved"
        self.capsys = capsys

    def __call__(self, text: str, *flags: str) -> tuple[int, str]:
        self.saved.write_text(text)
        code = main(["diff", *self.flags, *flags, str(self.saved)])
        return code, self.capsys.readouterr().out

    def rules(self, text: str) -> list[str]:
        """The rules that differ."""
        code, told = self(text)
        assert code == 1, told
        return [line for line in told.splitlines() if line.startswith(("- ", "+ "))]


@pytest.mark.parametrize(
    "case", [case for case in CASES if (case.folder / "nft.golden").exists()], ids=str
)
def test_numbers_and_json_show_what_was_dumped(node: Namespace, case: Case, tmp_path: Path) -> None:
    text = run("dump", *case.flags("nftables", tmp_path), "--format", "nft")
    Commands(node.prefix).run(("nft", "-f", "-"), text)
    for flags in (("-n",), ("-j",), ("-j", "-n")):
        assert differences(text, node.call("nft", *flags, "list", "ruleset")) == [], flags


@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_diff_reads_every_form_of_nft(
    node: Namespace, case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = case.flags("nftables", tmp_path)
    text = run("dump", *flags, "--format", "nft")
    diff = Diff(flags, tmp_path, capsys)
    Commands(node.prefix).run(("nft", "-f", "-"), text)
    # Tables of others, among them those of iptables-nft, with its warnings.
    Commands(node.prefix).run(
        ("iptables-nft-restore", "--noflush"), OTHERS.replace("KUBE-MARK-MASQ", "ACCEPT")
    )
    for shape in NFT:
        assert diff(node.call("nft", *shape, "list", "ruleset")) == (0, ALL_RIGHT), shape
    families = [family for family in ("ip", "ip6") if f"table {family} kube-proxy" in text]
    own = [node.call("nft", "list", "table", family, "kube-proxy") for family in families]
    assert diff("".join(own)) == (0, ALL_RIGHT)
    chain = node.call("nft", "list", "chain", "ip", "kube-proxy", "services")
    assert diff(chain)[0] == 2
    assert diff(chain, "--partial", "--family", "ipv4")[0] == 0
    for choice in ("sets", "maps"):
        assert diff(node.call("nft", "list", choice), "--partial")[0] == 0, choice
    for names in (("list", "chains"), ("-j", "list", "tables"), ("-j", "list", "chains")):
        assert diff(node.call("nft", *names)) == (2, ""), names

    [gone, *_] = re.findall(r"set cluster-ips \{[^}]*elements = \{ ([0-9.]+)", text)
    node.call("nft", "delete", "element", "ip", "kube-proxy", "cluster-ips", f"{{ {gone} }}")
    node.call("nft", "flush", "chain", "ip", "kube-proxy", "nat-output")
    node.call(
        "nft", "add", "rule", "ip", "kube-proxy", "services", "ip", "daddr", "192.0.2.9", "drop"
    )
    for shape in NFT:
        rules = diff.rules(node.call("nft", *shape, "list", "ruleset"))
        assert sorted(rules) == ["+ ip daddr 192.0.2.9 drop", f"- {gone}", "- jump services"], shape


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize(("program", "family"), [("iptables", "ipv4"), ("ip6tables", "ipv6")])
@pytest.mark.parametrize("case", WHOLE, ids=str)
def test_diff_reads_every_form_of_iptables(
    node: Namespace,
    case: Case,
    program: str,
    family: str,
    backend: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = case.flags("iptables", tmp_path)
    text = run("dump", *flags, "--family", family)
    diff = Diff([*flags, "--family", family], tmp_path, capsys)
    tables = f"{program}-{backend}"
    # As kube-proxy writes them where the kernel has no nfacct.
    text = re.sub(r" -m nfacct --nfacct-name +\S+", "", text)
    Commands(node.prefix).run((f"{tables}-restore",), text)
    Commands(node.prefix).run((f"{tables}-restore", "--noflush"), OTHERS)
    saved = node.call(f"{tables}-save")
    for found in (saved, node.call(f"{tables}-save", "-c"), saved.replace("\n", "\r\n")):
        assert diff(found) == (0, ALL_RIGHT)
    names = ("filter", "mangle", "nat")
    lists = {name: node.call(tables, "-t", name, "-S") for name in names}
    lists_with_counters = {name: node.call(tables, "-t", name, "-S", "-v") for name in names}
    for given in (lists, lists_with_counters):
        assert diff("".join(given.values())) == (0, ALL_RIGHT)
        for name in names:
            assert diff(given[name])[0] == 2
            assert diff(given[name], "--table", name)[0] == 0
            assert diff(node.call(f"{tables}-save", "-t", name), "--table", name)[0] == 0
    assert diff(node.call(tables, "-t", "nat", "-L"))[0] == 2

    node.call(tables, "-t", "nat", "-D", "OUTPUT", "1")
    node.call(tables, "-A", "FORWARD", "-j", "KUBE-FORWARD")
    rules = [
        "+ -A FORWARD -j KUBE-FORWARD",
        '- -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
    ]
    assert diff.rules(node.call(f"{tables}-save")) == rules
    assert diff.rules("".join(node.call(tables, "-t", name, "-S") for name in names)) == rules
