"""Diversion rules as values, and the transactions that install and remove them."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import kbe_nat
from kbe_nat.family import Family
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import DiversionRules, rule_sets
from kbe_nat.rules.installer import InstallerName, installation, probe
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.iptables_words import rule_words
from kbe_nat.rules.memory import Memory
from kbe_nat.rules.rule import (
    CtState,
    Element,
    Ending,
    Hook,
    Mark,
    Marks,
    NotConfirmed,
    Protocol,
    Queue,
    Rule,
    RuleSet,
    SetChange,
    SetKind,
)

POD = Backend("172.17.0.3", 9876)
GOLDENS = Path(__file__).parent / "rules"


def planned(
    name: str, *frontends: Frontend, family: Family = Family.IPV4, protocol: str = "tcp"
) -> PlannedPort:
    return PlannedPort("default", name, "", protocol, family, frontends, (POD,), ())


PLAN = Plan(
    ports=(
        planned(
            "web", Frontend("cluster-ip", "172.30.228.255", 80), Frontend("node-port", "", 30080)
        ),
        planned("dns", Frontend("cluster-ip", "172.30.0.10", 53), protocol="udp"),
        planned(
            "six",
            Frontend("cluster-ip", "fd00::1", 80),
            Frontend("node-port", "", 30080),
            family=Family.IPV6,
        ),
    ),
    addresses=("192.0.2.1", "2001:db8::1"),
    node_ports=NodePorts(("192.0.2.1", "127.0.0.1", "2001:db8::1")),
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
        SetKind.FRONTENDS: (
            ("127.0.0.1", "tcp", 30080),
            ("172.30.0.10", "udp", 53),
            ("172.30.228.255", "tcp", 80),
            ("192.0.2.1", "tcp", 30080),
        ),
        SetKind.ADDRESSES: ("127.0.0.1", "172.30.0.10", "172.30.228.255", "192.0.2.1"),
    }
    assert six.sets[SetKind.FRONTENDS] == (
        ("2001:db8::1", "tcp", 30080),
        ("fd00::1", "tcp", 80),
    )


def test_where_node_ports_are_closed_those_that_refuse_somebody_are_diverted() -> None:
    frontend = Frontend("node-port", "", 30080)
    served = planned("web", frontend)
    unserved = replace(served, cluster_backends=())
    for port, expected in ((served, ()), (unserved, (("192.0.2.9", "tcp", 30080),))):
        plan = Plan((port,), node_ports=NodePorts(reject_addresses=("192.0.2.9", "::1")))
        [rules] = rule_sets(plan, (7, 7))
        assert rules.sets[SetKind.FRONTENDS] == expected


def test_the_number_of_rules_does_not_grow_with_services() -> None:
    many = tuple(planned(f"s{n}", Frontend("cluster-ip", f"172.30.1.{n}", 80)) for n in range(250))
    [few] = rule_sets(Plan(many[:1]), (7, 7))
    [lots] = rule_sets(Plan(many), (7, 7))
    assert few.rules == lots.rules
    assert len(lots.sets[SetKind.FRONTENDS]) == 250


def test_marks_are_single_bits_that_others_do_not_use() -> None:
    marks = Marks()
    bits = (marks.flow, marks.reject, marks.masquerade)
    assert all(bit & (bit - 1) == 0 for bit in bits)
    assert len(set(bits)) == 3
    # kube-proxy, Cilium, Tailscale, Calico, Istio.
    for foreign in (0x4000, 0x8000, 0xF00, 0xFF0000, 0xFFFF0000, 0x539):
        assert not sum(bits) & foreign


def test_nothing_but_icmp_passes_while_nobody_listens() -> None:
    """Frontends must not be reached untranslated; a node may be asked whether it is there."""
    for rules in rule_sets(PLAN, (7, 7)):
        queues = [(rule, rule.target) for rule in rules.rules if isinstance(rule.target, Queue)]
        bypassing = [rule for rule, queue in queues if queue.bypass]
        assert bypassing == [rule for rule, _ in queues if Protocol.ICMP in rule.matches]
        assert 0 < len(bypassing) < len(queues)


OPTIONS = {
    "plain": (PLAN, (7, 7)),
    "resets": (replace(PLAN, options=Options(resets_tcp=True)), (7, 9)),
    "ranges": (
        replace(
            PLAN,
            options=Options(mode=Mode.NFTABLES),
            service_ranges=("172.30.0.0/16", "fd00::/112"),
        ),
        (7, 7),
    ),
}


INSTALLERS = [name for name in InstallerName if name.create]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("installer", INSTALLERS)
def test_rules_are_written_word_for_word(installer: InstallerName, name: str) -> None:
    assert installer.create
    plan, queues = OPTIONS[name]
    golden = GOLDENS / f"{installer}-{name}.txt"
    assert installer.create(Recorded()).render(rule_sets(plan, queues)) == golden.read_text()


def test_options_of_one_module_follow_each_other() -> None:
    """iptables makes a second match of a module that is named again."""
    rule = Rule(Hook.RAW_OUTPUT, (CtState.RELATED, NotConfirmed(), Mark(1)), Ending.DROP)
    assert rule_words(rule, Family.IPV4) == (
        "-m conntrack --ctstate RELATED ! --ctstatus CONFIRMED -m mark --mark 0x1/0x1 -j DROP"
    )


def test_only_elements_that_come_and_go_change() -> None:
    ranges = ("172.30.0.0/16", "172.29.0.0/16")
    few, more = (
        Plan(PLAN.ports[:ports], service_ranges=ranges[:ports], options=Options(mode=Mode.NFTABLES))
        for ports in (1, 2)
    )
    diversion = DiversionRules((7, 7), Marks())
    diversion.rebuild(few)
    diversion.take_changes()
    shape = diversion.shape()
    changed: tuple[tuple[SetKind, frozenset[Element]], ...] = (
        (SetKind.FRONTENDS, frozenset({("172.30.0.10", "udp", 53)})),
        (SetKind.ADDRESSES, frozenset({"172.30.0.10"})),
        (SetKind.REFUSED, frozenset({"172.29.0.0/16"})),
    )
    none: frozenset[Element] = frozenset()
    steps = [
        (few, more, [SetChange(Family.IPV4, *pair, none) for pair in changed]),
        (more, more, []),
        (more, few, [SetChange(Family.IPV4, kind, none, gone) for kind, gone in changed]),
    ]
    for before, after, changes in steps:
        diversion.apply(PlanDelta.between(before, after))
        assert diversion.take_changes() == changes
        assert diversion.shape() == shape
    resetting = replace(few, options=replace(few.options, resets_tcp=True))
    diversion.apply(PlanDelta.between(few, resetting))
    assert diversion.take_changes() == []
    assert diversion.shape() != shape


def test_an_address_may_come_for_the_range_of_its_own_that_goes() -> None:
    runner = Recorded()
    installer = Iptables(runner)
    rules = RuleSet(Family.IPV4, (), {SetKind.REFUSED: ("192.0.2.7/32",)})
    installer.install([rules])
    runner.calls.clear()
    change = SetChange(
        Family.IPV4, SetKind.REFUSED, frozenset({"192.0.2.7"}), frozenset({"192.0.2.7/32"})
    )
    installer.change([change])
    [(_, text)] = runner.calls
    assert [line.split()[0] for line in text.splitlines()] == ["del", "add"]


@pytest.mark.parametrize("name", INSTALLERS)
def test_every_name_creates_its_installer(name: InstallerName) -> None:
    installer, reason = probe(name, Recorded())
    assert isinstance(installer, name.create if isinstance(name.create, type) else ())
    assert "; not " not in reason


def test_the_reason_names_installers_that_do_not_work() -> None:
    class WithoutNft(Recorded):
        def run(self, command: Sequence[str], text: str = "") -> str:
            if command[0] == "nft":
                raise kbe_nat.RulesError("nft is not installed")
            return super().run(command, text)

    runner = WithoutNft({"iptables --version": "iptables v1.8"})
    installer, reason = probe(InstallerName.AUTO, runner)
    assert isinstance(installer, Iptables)
    assert reason == "iptables v1.8; not nft: nft is not installed"
    with pytest.raises(kbe_nat.RulesError, match="nft: nft is not installed"):
        probe(InstallerName.NFT, runner)


@pytest.mark.parametrize("lacks", ["queue", "table"])
def test_the_reason_says_what_nft_lacks(lacks: str) -> None:
    class Kernel(Recorded):
        def run(self, command: Sequence[str], text: str = "") -> str:
            if command[0] == "nft" and lacks in text:
                raise kbe_nat.RulesError(
                    "nft -f -: Could not process rule: No such file or directory"
                )
            return super().run(command, text)

    _, reason = probe(InstallerName.AUTO, Kernel({"iptables --version": "iptables v1.8"}))
    missing = {
        "queue": "the kernel has no queue statement (nft_queue)",
        "table": "nft -f -: Could not process rule: No such file or directory",
    }
    assert reason == f"iptables v1.8; not nft: {missing[lacks]}"


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
    with pytest.raises(ZeroDivisionError), installation(memory, rule_sets(PLAN, (7, 7))):
        assert "raw: -A KBE-NAT-PREROUTING -m set --match-set kbe-nat-frontends-4" in str(memory)
        raise ZeroDivisionError
    assert memory.rules == ()


def test_a_command_that_fails_is_named_with_its_reason() -> None:
    with pytest.raises(kbe_nat.RulesError, match="false: exit code 1"):
        Commands().run(["false"])
    with pytest.raises(kbe_nat.RulesError, match="no-such-command is not installed"):
        Commands().run(["no-such-command"])
    assert Commands(["env"]).run(["cat"], "text") == "text"
