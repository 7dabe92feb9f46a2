"""What people paste of a node's rules: whatever program and flags it comes from, and whoever else
has rules there, `diff` says the truth about kube-proxy's, or that it cannot.
"""

import json
import re
from pathlib import Path

import pytest

from harness.conformance_cases import CASES
from kbe_nat.__main__ import main

LISTINGS = Path(__file__).parent / "listings"
WEB = LISTINGS / "web"
NODE = ("-f", str(WEB / "objects.yaml"), "--node", "n1", "--cluster-cidr", "10.244.0.0/16")
SAVED = (WEB / "kubelet-hint.txt").read_text()
NFT = (WEB / "nft-n.txt").read_text()
DIFF = {"apiVersion": "kbe-nat.io/v1", "kind": "Diff"}
ALL_RIGHT = "The node has the rules that it should have.\n"


@pytest.fixture
def diff(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> "Diff":
    return Diff(tmp_path / "saved", capsys)


class Diff:
    """The verb, run on a text."""

    def __init__(self, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.saved = saved
        self.capsys = capsys

    def __call__(self, text: str | bytes, *flags: str) -> tuple[int, str, str]:
        """Exit code, and what it printed."""
        self.saved.write_bytes(text if isinstance(text, bytes) else text.encode())
        code = main(["diff", *NODE, *flags, str(self.saved)])
        told = self.capsys.readouterr()
        return code, told.out, told.err.replace(f"{self.saved}", "saved")


def table(name: str, text: str = SAVED) -> str:
    """One table of iptables-save's output."""
    return (
        text[text.index(f"*{name}\n") : text.index("COMMIT", text.index(f"*{name}\n"))] + "COMMIT\n"
    )


def listed(name: str, text: str = SAVED) -> str:
    """The same as `iptables -S` shows it."""
    lines = []
    for line in table(name, text).splitlines():
        chain, policy, *_ = (*line[1:].split(), "")
        if line.startswith(":"):
            lines.append(f"-N {chain}" if policy == "-" else f"-P {chain} {policy}")
        elif line.startswith("-A"):
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize(
    "name", ["kubelet-hint", "kubelet-jump-last", "kubelet-1.24", "k3s", "crio", "nft-n"]
)
def test_a_real_node_has_the_rules_that_it_should_have(diff: Diff, name: str) -> None:
    assert diff((WEB / f"{name}.txt").read_text()) == (0, ALL_RIGHT, "")


def test_an_ipv4_node_has_a_table_of_ipv6_too(capsys: pytest.CaptureFixture[str]) -> None:
    folder = LISTINGS / "ipv4-only"
    flags = (
        "-f",
        str(folder / "objects.yaml"),
        "--node",
        "kbe-worker",
        "--cluster-cidr",
        "10.244.0.0/16",
    )
    assert main(["diff", *flags, "--mode", "nftables", str(folder / "node.nft")]) == 0
    assert capsys.readouterr().out == ALL_RIGHT
    assert main(["diff", *flags, "-o", "json", str(folder / "node.nft")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == DIFF | {
        "compared": ["ip kube-proxy", "ip6 kube-proxy"],
        "not_compared": [],
        "differences": [],
    }


@pytest.mark.parametrize("name", ["filter", "nat"])
def test_what_iptables_s_lists_tells_its_table(diff: Diff, name: str) -> None:
    text = (WEB / f"iptables-S-{name}.txt").read_text()
    assert diff(text)[0] == 2
    assert diff(text, "--partial")[0] == diff(text, "--table", name)[0] == 0


def test_several_listings_of_iptables_s(diff: Diff) -> None:
    text = "".join(listed(name) for name in ("filter", "nat", "mangle"))
    assert diff(text) == (0, ALL_RIGHT, "")
    assert diff("".join(listed(name) for name in ("nat", "filter")), "--table", "nat")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        SAVED.replace("\n", "\r\n"),
        SAVED.encode("utf-16"),
        SAVED.encode("utf-8-sig"),
        "\n  \n" + SAVED,
        "".join(
            f"[12:3456] {line}\n" if line.startswith("-A") else f"{line}\n"
            for line in SAVED.splitlines()
        ),
        f"# Warning: iptables-legacy tables present, use iptables-legacy-save to see them\n{SAVED}",
        SAVED + "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:cali-PREROUTING - [0:0]\n"
        "-A PREROUTING -j cali-PREROUTING\nCOMMIT\n",
        NFT.replace("\n", "\r\n"),
        "# Warning: table ip nat is managed by iptables-nft, do not touch!\n" + NFT,
    ],
    ids=[
        "crlf",
        "powershell",
        "bom",
        "blank",
        "counters",
        "warning",
        "raw",
        "nft-crlf",
        "nft-warning",
    ],
)
def test_how_it_was_pasted_is_no_difference(diff: Diff, text: str | bytes) -> None:
    assert diff(text) == (0, ALL_RIGHT, "")


def test_what_was_not_there_is_not_called_right(diff: Diff) -> None:
    filtering = table("filter")
    told = "No differences. Compared: filter. Not compared: mangle, nat.\n"
    assert diff(filtering) == (2, told, "")
    assert diff(filtering, "--partial") == diff(filtering, "--table", "filter") == (0, told, "")
    code, out, _ = diff(filtering, "-o", "json")
    assert code == 2
    assert json.loads(out) == DIFF | {
        "compared": ["filter"],
        "not_compared": ["mangle", "nat"],
        "differences": [],
    }


def test_a_table_that_was_asked_for_must_be_there(diff: Diff) -> None:
    assert diff(table("filter"), "--table", "nat") == (
        2,
        "",
        "kbe-nat: saved: table nat is not in it\n",
    )
    assert (
        diff(SAVED, "--table", "nat")[1]
        == "No differences. Compared: nat. Not compared: filter, mangle.\n"
    )
    code, _, error = diff(NFT, "--table", "nat")
    assert code == 2 and "--family" in error


def test_a_difference_in_one_table(diff: Diff) -> None:
    nat = table("nat").replace("10.244.1.5:8080", "10.244.1.99:8080")
    code, out, _ = diff(nat)
    assert code == 1 and "Compared: nat. Not compared: filter, mangle." in out
    assert json.loads(diff(nat, "-o", "json")[1])["not_compared"] == ["filter", "mangle"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", "saved: none of kube-proxy's tables is in it"),
        (
            "# README\n\n* a list\n- of things\n",
            "saved: line 3: neither iptables-save's output nor nft's: * a list",
        ),
        ("[2026-11-25 10:00:00] started\n", "saved: line 1: neither"),
        (":warning: text\n", "saved: line 1: neither"),
        ("-A option does things\n", "saved: line 1: neither"),
        ("hello\n", "saved: line 1: neither"),
        ("", "saved: neither iptables-save's output nor nft's: it is empty"),
        ("# only a comment\n", "saved: neither"),
        (
            f"{SAVED}root@n1:~# exit\n",
            "saved: line 75: iptables-save writes no such line: root@n1:~# exit",
        ),
        (f"$ sudo iptables-save\n{SAVED}", "saved: line 1: neither"),
        (
            "Chain INPUT (policy ACCEPT)\ntarget     prot opt source\n",
            "line 1: this is iptables -L",
        ),
        ("table ip nat {\n}\n", "saved: no table kube-proxy is in it"),
        ("table ip kube-proxy\ntable ip6 kube-proxy\n", "saved: line 1: neither"),
        (NFT[:3000], "saved: the listing ends within a table"),
        (f"{NFT}root@n1:~# exit\n", "nft lists no such thing: root@n1:~# exit"),
        (f"{NFT}}}\n", "nft lists no such thing: }"),
        (
            "table ip nat {\n\tchain KUBE-SERVICES {\n\t}\n}\n",
            "kube-proxy is in iptables mode here",
        ),
        ('{"items": []}', "saved: JSON, but not as nft -j list ruleset writes it"),
        ('{"nftables": [', "saved: line 1: no JSON"),
        (
            '{"nftables": [{"table": {"family": "ip", "name": "kube-proxy", "handle": 1}}]}',
            "saved: only names of tables are in it",
        ),
        (
            "table ip kube-proxy {\n\tchain a {\n"
            "\t\ttype nat hook output priority -100; policy accept;\n\t}\n"
            '\tchain b {\n\t\tcomment "for c"\n\t}\n}\n',
            "saved: nft list chains leaves out their rules",
        ),
        (SAVED[: SAVED.rindex("COMMIT")], "saved: table nat is cut off: its COMMIT is missing"),
        (SAVED.replace("COMMIT\n", "", 1), "table mangle is cut off: its COMMIT is missing"),
        ("\x1b[31m\n", "saved: line 1: neither iptables-save's output nor nft's: ?[31m"),
        (SAVED + SAVED, "table mangle is there once more (line 2)"),
        ("-N KUBE-PROXY-CANARY\n", "nothing tells which table this is of: say --table"),
        (
            "*nat\n:KUBE-SERVICES - [0:0]\n"
            "-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst "
            "-j ACCEPT\nCOMMIT\n",
            "kube-proxy is in ipvs mode here",
        ),
    ],
)
def test_what_is_no_listing_is_refused(diff: Diff, text: str, reason: str) -> None:
    code, out, error = diff(text)
    assert (code, out) == (2, "")
    assert reason in error and error.count("\n") == 1


def test_the_mode_that_a_listing_shows_must_be_the_one_that_was_asked_for(diff: Diff) -> None:
    code, out, error = diff(NFT, "--mode", "iptables")
    assert (code, out) == (2, "")
    assert error == (
        "kbe-nat: saved: shows kube-proxy's rules of mode nftables, "
        "but --mode or --config says iptables\n"
    )
    assert diff(SAVED, "--mode", "nftables")[0] == 2
    assert diff(NFT, "--mode", "nftables")[0] == diff(SAVED, "--mode", "iptables")[0] == 0


def test_each_rule_stands_on_one_line(diff: Diff) -> None:
    rule = next(line for line in SAVED.splitlines() if line.startswith("-A KUBE-FIREWALL "))
    assert len(rule) > 160
    _, out, _ = diff(SAVED.replace(f"{rule}\n", ""))
    assert out.splitlines() == [
        "1 difference in 0 service ports (- expected, + found):",
        "",
        "(none)  missing  filter KUBE-FIREWALL",
        f"- {rule}",
        "",
        "Compared: filter, mangle, nat.",
    ]


def test_a_choice_of_lines_is_compared_as_far_as_it_goes(diff: Diff) -> None:
    chain = "".join(
        f"{line}\n"
        for line in SAVED.splitlines()
        if line.startswith("-A KUBE-SVC-67NZLRHBNDSAWJRO")
    )
    told = (
        "No differences. Compared: nat (in part). "
        "Not compared: filter, mangle, nat (other chains).\n"
    )
    assert diff(chain) == (2, told, "")
    assert diff("-N KUBE-SVC-67NZLRHBNDSAWJRO\n" + chain, "--partial") == (0, told, "")
    code, out, _ = diff(chain.partition("\n")[2])
    assert code == 1 and "missing  nat KUBE-SVC-67NZLRHBNDSAWJRO" in out
    grepped = "".join(f"{line}\n" for line in SAVED.splitlines() if "KUBE-" in line)
    code, _, error = diff(grepped, "--partial")
    assert code == 2 and "give iptables-save's whole output" in error


def test_rules_of_both_families_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = next(case for case in CASES if str(case) == "dual-stack")
    four, six = (
        (case.folder / f"{name}.golden").read_text() for name in ("iptables-save", "ip6tables-save")
    )
    saved = tmp_path / "saved"
    flags = ("diff", *case.flags("iptables", tmp_path), str(saved))
    saved.write_text(four + six)
    assert main(flags) == 0
    saved.write_text(
        f"# Generated by ip6tables-save v1.8.9\n{six}# Generated by iptables-save v1.8.9\n{four}"
    )
    assert main(flags) == 0
    saved.write_text(
        four + six.replace(":KUBE-MARK-MASQ -\n", "").replace("-A KUBE-MARK-MASQ ", "-A OTHER ")
    )
    capsys.readouterr()
    assert main(flags) == 1
    assert "missing  ip6 nat KUBE-MARK-MASQ" in capsys.readouterr().out
    assert main([*flags, "--family", "ipv4"]) == 0
    saved.write_text(four)
    assert main([*flags, "--family", "ipv6"]) == 2
    capsys.readouterr()
    assert main(flags) == 0
    assert "ip6tables-save shows its rules, which are not compared" in capsys.readouterr().err
    assert main([*flags, "--family", "ipv4"]) == 0
    assert capsys.readouterr().err == ""


def test_a_table_of_the_other_family_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = next(case for case in CASES if str(case) == "dual-stack")
    text = (case.folder / "nft.golden").read_text()
    saved = tmp_path / "saved"
    saved.write_text(text[: text.index("table ip6 ")])
    flags = ("diff", *case.flags("nftables", tmp_path), str(saved))
    assert main(flags) == 2
    told = capsys.readouterr().out
    assert told == "No differences. Compared: ip kube-proxy. Not compared: ip6 kube-proxy.\n"
    assert main([*flags, "--partial"]) == main([*flags, "--family", "ipv4"]) == 0


def test_what_explains_most_differences_is_said(diff: Diff) -> None:
    terse = re.sub(r"\n\t\telements = \{[^}]*\}", "", NFT)
    assert diff(terse)[2] == "kbe-nat: saved: no set in it has elements: nft -t leaves them out\n"
    older = SAVED.replace("*nat\n", "*nat\n:KUBE-XLB-67NZLRHBNDSAWJRO - [0:0]\n")
    code, out, error = diff(older)
    assert (
        code == 1 and "extra  nat KUBE-XLB-67NZLRHBNDSAWJRO" in out and "older kube-proxy" in error
    )
    code, _, error = diff("*filter\n:INPUT ACCEPT [0:0]\n:KUBE-FIREWALL-X - [0:0]\nCOMMIT\n")
    assert code == 1 and "no chain of kube-proxy's is in it" in error


def test_pieces_of_one_table(diff: Diff) -> None:
    def piece(name: str) -> str:
        start = NFT.index(f"\tchain {name} {{")
        end = NFT.index("\n\t}", start)
        return f"table ip kube-proxy {{\n{NFT[start:end]}\n\t}}\n}}\n"

    text = piece("services") + piece("firewall-check")
    assert diff(text, "--partial")[:2] == (
        0,
        "No differences. Compared: ip kube-proxy (in part). "
        "Not compared: ip kube-proxy (other chains).\n",
    )
    assert diff(text.replace("@service-ips", "@others"), "--partial")[0] == 1
    assert diff(NFT + NFT) == (0, ALL_RIGHT, "")


def test_kubelet_writes_to_a_chain_of_kube_proxy(diff: Diff) -> None:
    marked = (
        '-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" '
        "-m mark --mark 0x8000/0x8000 -j DROP\n"
    )
    rule = next(line for line in SAVED.splitlines() if line.startswith("-A KUBE-FIREWALL "))
    both = SAVED.replace(rule, marked + rule)
    for text in (both, SAVED.replace(rule, f"{rule}\n{marked}")):
        assert diff(text) == (0, ALL_RIGHT, "")
    # Without node ports on 127.0.0.1 kube-proxy does not write the rule, but kubelet does.
    assert "KUBE-FIREWALL" not in diff(both, "--no-localhost-nodeports")[1]
    assert "missing  filter KUBE-FIREWALL" in diff(SAVED.replace(f"{rule}\n", marked))[1]
    assert (
        "extra  filter KUBE-FIREWALL"
        in diff(both.replace("-j DROP", "-j DROP\n-A KUBE-FIREWALL -j DROP", 1))[1]
    )


def test_a_chain_that_kube_proxy_will_delete(diff: Diff) -> None:
    empty = "\tchain service-ABCDEFGH-shop/gone/tcp/http {\n\t}\n"
    assert diff(NFT.replace("\tchain services {", f"{empty}\tchain services {{")) == (
        0,
        ALL_RIGHT,
        "",
    )
    full = empty.replace("{\n", "{\n\t\tdrop\n")
    assert diff(NFT.replace("\tchain services {", f"{full}\tchain services {{"))[0] == 1


def test_node_ports_come_last(diff: Diff) -> None:
    jump = next(
        line for line in SAVED.splitlines() if line.endswith("-j KUBE-NODEPORTS") and "NOTE" in line
    )
    first = next(line for line in SAVED.splitlines() if line.startswith("-A KUBE-SERVICES -d "))
    code, out, _ = diff(SAVED.replace(f"{jump}\n", "").replace(first, f"{jump}\n{first}"))
    assert code == 1 and "different  nat KUBE-SERVICES (order)" in out


def test_objects_and_rules_from_one_standard_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "-f", "-", "-"]) == 2
    assert "only one of objects and rules" in capsys.readouterr().err
