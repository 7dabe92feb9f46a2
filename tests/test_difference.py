"""A node's rules that are not as they should be: each kind of change is named, with its Service."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.conformance_cases import CASES, Case, run
from kbe_nat.cli import app
from kbe_nat.errors import FileError
from kbe_nat.kubeproxy.diff import Kind, compare, differences, kube_proxy_tables
from kbe_nat.kubeproxy.normalise import read_listing

OVERALL = next(case for case in CASES if str(case) == "overall")
IPTABLES = (OVERALL.folder / "iptables-save.golden").read_text()
NFT = (OVERALL.folder / "nft.golden").read_text()
DNAT = next(line for line in IPTABLES.splitlines() if "--to-destination 10.180.0.4:80" in line)
CHAIN = DNAT.split()[1]
PORTAL = next(
    line for line in IPTABLES.splitlines() if line.startswith("-A KUBE-SERVICES -d 172.30.0.43")
)


@pytest.mark.parametrize("text", [IPTABLES, NFT], ids=["iptables", "nft"])
def test_nothing_differs_from_itself(text: str) -> None:
    assert differences(text, text) == []


def test_what_depends_on_the_machine_does_not_count() -> None:
    lines = IPTABLES.replace(" --random-fully", "").splitlines()
    # Without nfacct the rule is not there at all.
    other = "\n".join(
        line for line in lines if "INVALID" not in line and "localhost_nps" not in line
    )
    assert "localhost_nps" in IPTABLES
    other = other.replace("*nat\n", "*nat\n:CNI-HOSTPORT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n")
    other += "\n-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\n"
    assert differences(IPTABLES, other) == []
    remembered = NFT.replace(
        "\t\ttimeout 10800s\n\t\ttype ipv4_addr\n",
        "\t\ttimeout 10800s\n\t\ttype ipv4_addr\n"
        "\t\telements = { 10.0.0.7 timeout 3h expires 2h }\n",
    )
    assert (
        differences(NFT, remembered.replace("size 65535", "size 1000").replace(" fully-random", ""))
        == []
    )
    joined = NFT.replace("ip saddr != 203.0.113.0/25 drop", "ip saddr != { 203.0.113.0/25 } drop")
    assert joined != NFT and differences(NFT, joined) == []


def rows(other: str) -> list[tuple[str, Kind, str]]:
    return [(own.service, own.kind, own.place) for own in differences(IPTABLES, other)]


def test_a_rule_that_is_gone() -> None:
    assert rows(IPTABLES.replace(f"{PORTAL}\n", "")) == [
        ("ns3/svc3:p80", Kind.MISSING, "nat KUBE-SERVICES")
    ]


def test_another_endpoint() -> None:
    [own] = differences(
        IPTABLES, IPTABLES.replace("--to-destination 10.180.0.4:80", "--to-destination 10.9.9.9:80")
    )
    assert (own.service, own.kind, own.place) == ("ns4/svc4:p80", Kind.DIFFERENT, f"nat {CHAIN}")
    assert own.expected == (DNAT,) and "10.9.9.9" in own.actual[0]


def test_a_chain_that_is_gone() -> None:
    other = "\n".join(
        line for line in IPTABLES.splitlines() if not line.startswith((f":{CHAIN}", f"-A {CHAIN}"))
    )
    assert rows(other) == [("ns4/svc4:p80", Kind.MISSING, f"nat {CHAIN}")]


def test_a_service_that_nobody_knows() -> None:
    portal = PORTAL.replace("ns3/svc3", "ns9/svc9").replace("172.30.0.43", "172.30.0.99")
    other = portal.replace("X27LE4BHSL4DOUIK", "AAAAAAAAAAAAAAAA")
    extra = ":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n"
    assert rows(
        IPTABLES.replace(PORTAL, f"{PORTAL}\n{other}").replace("*nat\n", f"*nat\n{extra}")
    ) == [
        ("ns9/svc9:p80", Kind.EXTRA, "nat KUBE-SERVICES"),
        ("ns9/svc9:p80", Kind.EXTRA, "nat KUBE-SVC-AAAAAAAAAAAAAAAA"),
    ]


def test_the_order_of_rules_counts_where_it_has_a_meaning() -> None:
    lines = IPTABLES.splitlines()
    first = next(n for n, line in enumerate(lines) if "--probability 0.5" in line)
    lines[first : first + 2] = lines[first + 1], lines[first]
    assert rows("\n".join(lines)) == [
        ("ns4/svc4:p80", Kind.DIFFERENT, "nat KUBE-SVC-4SW47YFZTEDKD3PK (order)")
    ]


def test_what_belongs_to_no_service() -> None:
    gone = '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
    assert rows(IPTABLES.replace(gone, "")) == [("", Kind.MISSING, "nat OUTPUT")]


def test_elements_of_nft() -> None:
    other = NFT.replace(
        "\t\t\t172.30.0.43 . tcp . 80 : goto service-4AT6LBPK-ns3/svc3/tcp/p80,\n", ""
    )
    other = other.replace("0 : 10.180.0.4 . 80", "0 : 10.180.0.9 . 80")
    found = [(own.service, own.kind, own.place) for own in differences(NFT, other)]
    assert found == [
        ("ns3/svc3/tcp/p80", Kind.MISSING, "ip kube-proxy map service-ips"),
        (
            "ns4/svc4/tcp/p80",
            Kind.DIFFERENT,
            "ip kube-proxy chain service-LAUZTJTB-ns4/svc4/tcp/p80",
        ),
    ]


def changed(case: Case, folder: Path) -> Path:
    own = folder / "saved"
    own.write_text(
        (case.folder / "iptables-save.golden").read_text().replace("10.180.0.4:80", "10.9.9.9:80")
    )
    return own


def test_the_command(tmp_path: Path) -> None:
    flags = OVERALL.flags("iptables", tmp_path)
    told = run("diff", *flags, str(OVERALL.folder / "iptables-save.golden"))
    assert told == "The node has the rules that it should have.\n"
    (tmp_path / "nft").mkdir()
    nft_flags = OVERALL.flags("nftables", tmp_path / "nft")
    told = run("diff", *nft_flags, str(OVERALL.folder / "nft.golden"), "-o", "json")
    assert json.loads(told) == {
        "apiVersion": "kbe-nat.io/v1",
        "kind": "Diff",
        "compared": ["ip kube-proxy"],
        "not_compared": [],
        "differences": [],
    }
    # Run as by the shell, which sees the exit code.
    done = CliRunner().invoke(
        app, ["diff", *flags, str(changed(OVERALL, tmp_path))], standalone_mode=False
    )
    assert done.return_value == 1
    assert "ns4/svc4:p80  different  nat KUBE-S" in done.stdout
    done = CliRunner().invoke(
        app, ["diff", *flags, str(changed(OVERALL, tmp_path)), "-o", "json"], standalone_mode=False
    )
    told = json.loads(done.stdout)
    assert {row["service"] for row in told["differences"]} == {"ns4/svc4:p80"}
    assert told["compared"] == ["filter", "mangle", "nat"]


def test_every_rule_of_iptables_counts() -> None:
    """Whichever is gone, there twice, or altered."""
    lines = IPTABLES.splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("-A ")]
    # These depend on the machine.
    rules = [number for number in rules if "nfacct" not in lines[number]]
    assert len(rules) > 50
    for number in rules:
        line = lines[number]
        altered = re.sub(r"-j \S+", "-j RETURN", line) if " -j " in line else f"{line} -j RETURN"
        for others in ([], [line, line], [altered]):
            if others != [line]:
                assert rows("\n".join([*lines[:number], *others, *lines[number + 1 :]])), others


def test_every_line_of_nft_counts() -> None:
    lines = NFT.splitlines()
    count = 0
    for number, line in enumerate(lines):
        text = line.strip()
        is_machine = text.startswith(("size", "comment")) or text in ("", "}", "elements = {")
        if not line.startswith("\t\t") or is_machine:
            continue
        count += 1
        for others in ([], [f"{line}\n{line}"], [re.sub(r"\d+", "7", line)]):
            changed = "\n".join([*lines[:number], *others, *lines[number + 1 :]])
            assert others == [line] or differences(NFT, changed), (line, others)
    assert count > 80


WORD = st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12
)
CHAINS_OF_OTHERS = st.one_of(
    st.builds(
        "{}{}".format,
        st.sampled_from(
            [
                "KUBE-POD-FW-",
                "KUBE-NWPLCY-",
                "KUBE-ROUTER-",
                "KUBE-HP-",
                "KUBE-HOSTPORTS",
                "KUBE-KUBELET-",
                "KUBE-SVC-",
                "cali-",
                "CILIUM_",
                "OLD_CILIUM_",
                "CNI-DN-",
                "FLANNEL-",
                "DOCKER",
                "ufw-",
                "IN_public",
                "ISTIO_",
                "ts-",
                "AWS-SNAT-",
                "ANTREA-",
                "IP-MASQ-",
                "WEAVE-",
                "KUBE-FIREWALL-",
                "KUBE-SERVICES-",
            ]
        ),
        WORD,
    ),
    st.sampled_from(
        ["KUBE-MARK-DROP", "KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "CNI-HOSTPORT-SETMARK"]
    ),
)
MATCHES = st.sampled_from(
    [
        "",
        "-s 10.0.0.0/8 ",
        "! -i lo ",
        '-m comment --comment "default/web:http -j KUBE-SERVICES" ',
        "-m comment --comment cali:0123-aBc_ ",
        "-m mark --mark 0x4000/0x4000 ",
        "-p tcp -m tcp --dport 80 ",
        "-m set --match-set KUBE-SRC-0123 src ",
    ]
)


@given(st.data())
@settings(max_examples=60)
def test_rules_of_others_never_count(data: st.DataObject) -> None:
    lines = IPTABLES.splitlines()
    for _ in range(data.draw(st.integers(1, 8))):
        chain = data.draw(CHAINS_OF_OTHERS)
        line = data.draw(
            st.one_of(
                st.just(f":{chain} - [0:0]"),
                st.builds(
                    "-A {} {}-j {}".format,
                    st.just(chain),
                    MATCHES,
                    st.sampled_from(
                        ["KUBE-MARK-MASQ", "KUBE-SERVICES", "DROP", "KUBE-SVC-4SW47YFZTEDKD3PK"]
                    ),
                ),
                st.builds(
                    "-A {} {}-j {}".format,
                    st.sampled_from(["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"]),
                    MATCHES,
                    st.sampled_from([chain, "ACCEPT", "MASQUERADE"]),
                ),
            )
        )
        places = [place for place in range(1, len(lines)) if lines[place - 1] != "COMMIT"]
        lines.insert(data.draw(st.sampled_from(places)), line)
    assert differences(IPTABLES, "\n".join(lines)) == []


NFT_OF_OTHERS = """
table inet firewalld {
	comment "kube-proxy { is no other"
	flags owner,persist
	flowtable f {
		hook ingress priority filter
		devices = { eth0, eth1 }
	}
	ct helper ftp-standard {
		type "ftp" protocol tcp
		l3proto ip
	}
	set services { # handle 4
		type inet_service
		flags interval
		elements = { 22, 80-90 }
	}
	chain mangle_PREROUTING { # handle 5
		type filter hook prerouting priority mangle + 10; policy accept;
		meta priority set 1:2 # handle 6
		log prefix "} table ip kube-proxy {" jump KUBE-SERVICES
		ip daddr vmap { 10.0.0.1 : accept, 10.0.0.2 : drop }
	}
}
table ip nat {
	chain KUBE-SERVICES {
		ct state new xt match "comment" counter packets 0 bytes 0 # xt_comment
	}
}
table bridge kube-proxy {
	chain services {
		type filter hook prerouting priority out; policy accept;
	}
}
table ip kube-proxy-other {
}
"""


@given(st.booleans(), st.permutations(NFT_OF_OTHERS.split("\ntable ")[1:]))
def test_tables_of_others_never_count(is_before: bool, tables: list[str]) -> None:
    others = "".join(f"table {table}\n" for table in tables)
    assert differences(NFT, others + NFT if is_before else NFT + others) == []


OWN = {"family": "ip", "table": "kube-proxy"}
MATCH = {"op": "==", "left": {"meta": {"key": "mark"}}, "right": {"set": [1, [2, 3]]}}
RULE = [{"match": MATCH}, {"dnat": {"addr": "10.0.0.1", "port": 80}}]
JSON = json.dumps(
    {
        "nftables": [
            {"table": {"family": "ip", "name": "kube-proxy"}},
            {
                "map": {
                    **OWN,
                    "name": "m",
                    "type": ["inet_proto"],
                    "map": "verdict",
                    "elem": [["tcp", 1]],
                }
            },
            {"chain": {**OWN, "name": "services"}},
            {"rule": {**OWN, "chain": "services", "expr": RULE}},
        ]
    }
)


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_listing_is_compared_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([IPTABLES, NFT, JSON]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 40)))
        piece = data.draw(st.text('{}"#;:*-[]\\\n\t, .0123456789abcKUBE@', max_size=6))
        text = text[:start] + piece + text[end:]
    try:
        found = kube_proxy_tables(read_listing(text, "saved"), "saved")
        compare(kube_proxy_tables(read_listing(IPTABLES, "expected"), "expected"), found)
    except FileError as error:
        assert str(error).startswith("saved: ")
        assert "\n" not in str(error)
