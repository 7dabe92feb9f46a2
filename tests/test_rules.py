"""Diversion rules as values, and the transactions that install and remove them."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

import kbe_nat
from kbe_nat.family import Family
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import installed
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.memory import Memory
from kbe_nat.rules.rule import Marks

POD = Backend("172.17.0.3", 9876)


def policy(
    name: str, *frontends: Frontend, family: Family = Family.IPV4, protocol: str = "tcp"
) -> PlannedPort:
    return PlannedPort("default", name, "", protocol, family, frontends, (POD,), ())


PLAN = Plan(
    ports=(
        policy(
            "web", Frontend("cluster-ip", "172.30.228.255", 80), Frontend("node-port", "", 30080)
        ),
        policy("dns", Frontend("cluster-ip", "172.30.0.10", 53), protocol="udp"),
        policy(
            "six",
            Frontend("cluster-ip", "fd00::1", 80),
            Frontend("node-port", "", 30080),
            family=Family.IPV6,
        ),
    ),
    addresses=("192.0.2.1", "2001:db8::1"),
    node_port_addresses=("192.0.2.1", "127.0.0.1", "2001:db8::1"),
    pod_ranges=(),
)


class Recorded:
    """A `Runner` that answers from a script, or with what was restored, and keeps what it was
    asked.
    """

    def __init__(self, answers: dict[str, str] | None = None) -> None:
        self.answers = answers or {}
        self.calls: list[tuple[str, str]] = []

    def run(self, command: Sequence[str], text: str = "") -> str:
        line = " ".join(command)
        self.calls.append((line, text))
        if command[0].endswith("-restore"):
            self.answers[command[0].replace("restore", "save")] = re.sub(
                r"-I (\S+) 1", r"-A \1", text
            )
        return self.answers.get(line, "")


def test_sets_hold_every_frontend_of_their_family() -> None:
    four, six = rule_sets(PLAN, (7, 7))
    assert four.sets == {
        "kbe-nat-frontends-4": (
            "127.0.0.1,tcp:30080",
            "172.30.0.10,udp:53",
            "172.30.228.255,tcp:80",
            "192.0.2.1,tcp:30080",
        ),
        "kbe-nat-addresses-4": ("127.0.0.1", "172.30.0.10", "172.30.228.255", "192.0.2.1"),
    }
    assert six.sets["kbe-nat-frontends-6"] == ("2001:db8::1,tcp:30080", "fd00::1,tcp:80")


def test_where_node_ports_are_closed_those_that_refuse_somebody_are_diverted() -> None:
    port = Frontend("node-port", "", 30080)
    served, unserved = policy("web", port), replace(policy("web", port), cluster_backends=())
    for own, expected in ((served, ()), (unserved, ("192.0.2.9,tcp:30080",))):
        [made] = rule_sets(Plan((own,), (), (), (), closed_addresses=("192.0.2.9", "::1")), (7, 7))
        assert made.sets["kbe-nat-frontends-4"] == expected


def test_the_number_of_rules_does_not_grow_with_services() -> None:
    many = tuple(policy(f"s{n}", Frontend("cluster-ip", f"172.30.1.{n}", 80)) for n in range(250))
    [few] = rule_sets(Plan(many[:1], (), (), ()), (7, 7))
    [lots] = rule_sets(Plan(many, (), (), ()), (7, 7))
    assert few.rules == lots.rules
    assert len(lots.sets["kbe-nat-frontends-4"]) == 250


def test_marks_are_single_bits_that_others_do_not_use() -> None:
    marks = Marks()
    bits = (marks.flow, marks.reject, marks.masquerade)
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert len(set(bits)) == 3
    # kube-proxy, Cilium, Tailscale, Calico, Istio.
    for foreign in (0x4000, 0x8000, 0xF00, 0xFF0000, 0xFFFF0000, 0x539):
        assert not sum(bits) & foreign


def test_every_rule_stands_in_a_chain_that_is_jumped_to() -> None:
    for own in rule_sets(PLAN, (7, 7)):
        places = {(jump.table, jump.hook) for jump in own.jumps}
        assert {(rule.table, rule.chain) for rule in own.rules} == places


def test_nothing_but_icmp_passes_while_nobody_listens() -> None:
    """Frontends must not be reached untranslated; a node may be asked whether it is there."""
    for own in rule_sets(PLAN, (7, 7)):
        diverting = [
            rule.words for rule in own.rules if rule.table == "raw" and "NFQUEUE" in rule.words
        ]
        bypassing = [words for words in diverting if "--queue-bypass" in words]
        assert bypassing == [words for words in diverting if "-p" in words]
        assert 0 < len(bypassing) < len(diverting)


def test_one_transaction_for_each_family_sets_first() -> None:
    runner = Recorded()
    Iptables(runner).install(rule_sets(PLAN, (7, 7)))
    commands = [command for command, text in runner.calls if text]
    assert commands == [
        "ipset restore",
        "iptables-restore --noflush -w",
        "ipset restore",
        "ip6tables-restore --noflush -w",
    ]
    rules = dict(runner.calls)["iptables-restore --noflush -w"]
    assert rules.count("COMMIT") == 4
    divert = "-m set --match-set kbe-nat-frontends-4 dst,dst -j NFQUEUE --queue-num 7"
    assert f"-A KBE-NAT-PREROUTING -m comment --comment kbe-nat {divert}\n" in rules
    assert "-I PREROUTING 1 -m comment --comment kbe-nat -j KBE-NAT-PREROUTING\n" in rules


def test_only_what_is_ours_is_removed() -> None:
    saved = """\
*raw
:PREROUTING ACCEPT [0:0]
:KBE-NAT-PREROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment kbe-nat -j KBE-NAT-PREROUTING
-A PREROUTING -m comment --comment "kbe-nat -j KBE-NAT-PREROUTING" -j KUBE-SERVICES
-A KBE-NAT-PREROUTING -m comment --comment kbe-nat -j NFQUEUE --queue-num 7
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j ACCEPT
COMMIT
"""
    runner = Recorded(
        {"iptables-save": saved, "ipset list -name": "kbe-nat-frontends-4\nkbe-natural\nother\n"}
    )
    Iptables(runner).remove()
    assert [call for call in runner.calls if call[1]] == [
        (
            "iptables-restore --noflush -w",
            "*raw\n"
            "-D PREROUTING -m comment --comment kbe-nat -j KBE-NAT-PREROUTING\n"
            "-F KBE-NAT-PREROUTING\n-X KBE-NAT-PREROUTING\nCOMMIT\n",
        ),
        ("ipset restore", "destroy kbe-nat-frontends-4\n"),
    ]


def test_rules_are_removed_also_when_the_block_or_the_installation_fails() -> None:
    memory = Memory()
    with pytest.raises(ZeroDivisionError), installed(memory, rule_sets(PLAN, (7, 7))):
        assert "raw: -A KBE-NAT-PREROUTING -m set --match-set kbe-nat-frontends-4" in str(memory)
        raise ZeroDivisionError
    assert memory.rules == ()


def test_a_command_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(kbe_nat.RulesError, match="false: exit code 1"):
        Commands().run(["false"])
    with pytest.raises(kbe_nat.RulesError, match="no-such-command is not installed"):
        Commands().run(["no-such-command"])
    assert Commands(["env"]).run(["cat"], "text") == "text"
