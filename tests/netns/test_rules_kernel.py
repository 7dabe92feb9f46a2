"""The rules in a real kernel: replaced where they stand, changed by elements, missed when somebody
removes them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.policy.options import Mode, Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import DiversionRules, rule_sets
from kbe_nat.rules.installer import InstallerName, probe
from kbe_nat.rules.iptables import Iptables
from kbe_nat.rules.nftables import PROBE, Nftables
from kbe_nat.rules.rule import Marks, RuleSet, SetChange, SetKind

QUEUES = (7, 7)
QUEUE = re.compile(r"queue (flags bypass to|to|num) \S+")


def rules(
    services: int, families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)
) -> tuple[RuleSet, ...]:
    return rule_sets(plan(services, families), QUEUES)


def changes(before: int, after: int) -> list[SetChange]:
    """The changes from the rules of so many Services to those of others."""
    diversion = DiversionRules(QUEUES, Marks())
    diversion.rebuild(plan(before))
    diversion.take_changes()
    diversion.rebuild(plan(after))
    return diversion.take_changes()


def plan(services: int, families: tuple[Family, ...] = (Family.IPV4, Family.IPV6)) -> Plan:
    addresses = {Family.IPV4: "172.30.{}.{}", Family.IPV6: "fd00::{}:{}"}
    ports = tuple(
        PlannedPort(
            "default", f"s{n}", "", "tcp", family, (frontend,), (Backend("10.0.0.1", 80),), ()
        )
        for family in families
        for n in range(services)
        for frontend in [
            Frontend("cluster-ip", addresses[family].format(n // 250, n % 250 + 1), 80)
        ]
    )
    return Plan(ports)


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-rules-{os.getpid()}") as namespace:
        namespace.call("iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
        namespace.call("ip6tables", "-t", "mangle", "-N", "FOREIGN")
        namespace.call(
            "iptables",
            "-t",
            "raw",
            "-A",
            "PREROUTING",
            "-m",
            "comment",
            "--comment",
            "kbe-nat",
            "-j",
            "ACCEPT",
        )
        namespace.call("ipset", "create", "foreign", "hash:ip")
        yield namespace


def saved(node: Namespace) -> list[str]:
    """Rules, chains that are not built in, and sets, without counters."""
    lines = [
        line
        for save in ("iptables-save", "ip6tables-save")
        for line in node.call(save).splitlines()
    ]
    rules = [line for line in lines if line.startswith("-A") or " - [" in line]
    return [
        *(re.sub(r" \[.*", "", line) for line in rules),
        *node.call("ipset", "list", "-name").split(),
    ]


class Unqueued:
    """Commands in a namespace, everywhere: nft without its queue statement, where the kernel has
    none.
    """

    def __init__(self, node: Namespace) -> None:
        self._commands = Commands(node.prefix)
        try:
            self._commands.run(("nft", "-f", "-"), PROBE)
            self._has_queue = True
        except RulesError:
            self._has_queue = False

    def run(self, command: Sequence[str], text: str = "") -> str:
        return self._commands.run(command, text if self._has_queue else QUEUE.sub("accept", text))


def traces(node: Namespace) -> list[str]:
    """Everything in the namespace by which an installation may be seen."""
    tables = node.call("nft", "list", "tables").splitlines()
    return [*saved(node), *(table for table in tables if "kbe-nat" in table)]


@pytest.mark.parametrize("name", [name for name in InstallerName if name.create])
def test_each_installer_keeps_its_promises(node: Namespace, name: InstallerName) -> None:
    assert name.create
    before, runner = traces(node), Unqueued(node)
    name.create(runner).install(rules(5))
    installer = name.create(runner)
    assert installer.is_present(), "an earlier run has left its rules"
    installer.install(rules(3))
    once = traces(node)
    assert installer.missing() == ()
    installer.install(rules(3))
    assert traces(node) == once, "installing twice is installing once"
    for before_and_after in ((3, 4), (4, 2)):
        installer.change(changes(*before_and_after))
        assert installer.missing() == ()
    for wanted in (rules(2), rule_sets(plan(2), (8, 9)), rules(1, families=(Family.IPV4,))):
        installer.install(wanted)
        assert installer.missing() == ()
    installer.remove()
    assert not installer.is_present()
    assert traces(node) == before, "foreign rules stay"
    installer.remove()


def test_everything_of_ours_comes_and_goes_and_nothing_else(node: Namespace) -> None:
    before = saved(node)
    installer = Iptables(Commands(node.prefix))
    installer.install(rules(3))
    once = saved(node)
    assert [line for line in once if "KBE-NAT" not in line and "kbe-nat-" not in line] == before
    installer.install(rules(3))
    assert saved(node) == once, "installing twice is installing once"
    other = Iptables(Commands(node.prefix))
    other.install(rules(1, families=(Family.IPV4,)))
    assert "kbe-nat-frontends-6" not in saved(node), "what an earlier run had beyond is gone"
    other.remove()
    assert saved(node) == before
    other.remove()


def test_elements_change_alone(node: Namespace) -> None:
    commands = Commands(node.prefix)
    calls: list[tuple[str, str]] = []

    class Watched:
        def run(self, command: Sequence[str], text: str = "") -> str:
            calls.append((" ".join(command), text))
            return commands.run(command, text)

    installer = Iptables(Watched())
    installer.install(rules(3))
    calls.clear()
    installer.change(changes(3, 4))
    assert calls == [
        (
            "ipset restore",
            "add kbe-nat-frontends-4 172.30.0.4,tcp:80 -exist\n"
            "add kbe-nat-addresses-4 172.30.0.4 -exist\n"
            "add kbe-nat-frontends-6 fd00::0:4,tcp:80 -exist\n"
            "add kbe-nat-addresses-6 fd00::0:4 -exist\n",
        )
    ]
    installer.change(changes(4, 2))
    assert node.call("ipset", "list", "kbe-nat-addresses-4").count("172.30.0.") == 2
    assert installer.missing() == ()


@pytest.mark.parametrize(
    ("command", "missed"),
    [
        ("iptables -t raw -F KBE-NAT-PREROUTING", "IPv4 raw: -A KBE-NAT-PREROUTING"),
        ("iptables -t raw -R KBE-NAT-PREROUTING 2 -j ACCEPT", "IPv4 raw: -A KBE-NAT-PREROUTING"),
        (
            "iptables -t raw -I KBE-NAT-OUTPUT -j ACCEPT",
            "IPv4 raw: -A KBE-NAT-OUTPUT -j ACCEPT: not ours",
        ),
        ("iptables -t raw -A PREROUTING -j ACCEPT", "raw: -A PREROUTING -j ACCEPT: behind ours"),
        ("iptables -t mangle -F POSTROUTING", "IPv4 mangle: -A POSTROUTING"),
        ("ip6tables -t filter -F", "IPv6 filter: -A FORWARD"),
        ("ipset flush kbe-nat-frontends-4", "kbe-nat-frontends-4"),
        ("ipset del kbe-nat-addresses-6 fd00::0:1", "kbe-nat-addresses-6"),
        (
            "ipset del kbe-nat-addresses-6 fd00::0:1; ipset add kbe-nat-addresses-6 fd00::99",
            "kbe-nat-addresses-6",
        ),
        (
            "ipset del kbe-nat-frontends-4 172.30.0.1,tcp:80; "
            "ipset add kbe-nat-frontends-4 172.30.0.1,tcp:81",
            "kbe-nat-frontends-4",
        ),
    ],
)
def test_f13_f133_what_somebody_removes_or_changes_is_missed_and_put_back(
    node: Namespace, command: str, missed: str
) -> None:
    installer = Iptables(Commands(node.prefix))
    installer.install(rules(2))
    whole = sorted(saved(node))
    assert installer.missing() == ()
    for words in map(str.split, command.split("; ")):
        node.call(*words)
    assert any(line.startswith(missed) for line in installer.missing())
    installer.install(rules(2))
    ours = [line for line in sorted(saved(node)) if "KBE-NAT" in line]
    assert ours == [line for line in whole if "KBE-NAT" in line and line in saved(node)]
    assert installer.missing() == ()


class Meddled:
    """Where somebody changes rules right after each installation, while `damage` is set."""

    def __init__(self, node: Namespace, installing: tuple[str, ...]) -> None:
        self.damage = ""
        self._node = node
        self._installing = installing
        self._commands = Commands(node.prefix)

    def run(self, command: Sequence[str], text: str = "") -> str:
        output = self._commands.run(
            command, QUEUE.sub("accept", text) if command[0] == "nft" else text
        )
        if self.damage and tuple(command[: len(self._installing)]) == self._installing:
            self._node.call(*self.damage.split())
        return output


MEDDLING = [
    pytest.param(
        Iptables,
        ("iptables-restore",),
        "iptables -t mangle -F KBE-NAT-OUTPUT",
        "IPv4 mangle: -A KBE-NAT-OUTPUT",
        id="iptables",
    ),
    pytest.param(
        Nftables,
        ("nft", "-f"),
        "nft flush chain ip kbe-nat mangle-output",
        "ip: meta mark & 0x",
        id="nft",
    ),
]


@pytest.mark.parametrize(("kind", "installing", "damage", "missed"), MEDDLING)
def test_f13_what_somebody_removes_during_the_installation_is_missed(
    node: Namespace,
    kind: type[Iptables | Nftables],
    installing: tuple[str, ...],
    damage: str,
    missed: str,
) -> None:
    runner = Meddled(node, installing)
    installer = kind(runner)
    runner.damage = damage
    with pytest.raises(
        RulesError, match="somebody has changed our rules while they were installed"
    ):
        installer.install(rules(2))
    runner.damage = ""
    installer.install(rules(2))
    assert installer.missing() == ()
    runner.damage = damage
    installer.install(rules(2))
    assert any(line.startswith(missed) for line in installer.missing())
    runner.damage = ""
    installer.install(rules(2))
    assert installer.missing() == ()


def test_ten_thousand_services_need_no_more_rules_than_one(node: Namespace) -> None:
    installer = Iptables(Commands(node.prefix))
    installer.install(rules(1, families=(Family.IPV4,)))
    few = [line for line in saved(node) if line.startswith("-A")]
    installer.install(rules(10_000, families=(Family.IPV4,)))
    assert sorted(line for line in saved(node) if line.startswith("-A")) == sorted(few)
    assert installer.missing() == ()


def test_f133_nft_gets_the_same_rules(node: Namespace) -> None:
    node.call("nft", "add table ip somebodys")
    before = node.call("nft", "list", "tables")
    installer = Nftables(Unqueued(node))
    installer.install(rules(3))
    tables = node.call("nft", "list", "table", "ip", "kbe-nat")
    assert "172.30.0.3 . tcp . 80" in tables
    assert tables.count("ct mark set ct mark | 0x00001000") == 2
    assert installer.missing() == ()
    installer.change(changes(3, 2))
    assert "172.30.0.3 . tcp . 80" not in node.call("nft", "list", "table", "ip", "kbe-nat")
    assert installer.missing() == ()
    node.call("nft", "flush", "chain", "ip6", "kbe-nat", "raw-output")
    assert any(line.startswith("ip6: ip6 daddr") for line in installer.missing())
    installer.install(rules(2))
    for damage, missed in (
        (
            "delete element ip kbe-nat frontends { 172.30.0.1 . tcp . 80 }",
            "ip: elements of frontends",
        ),
        ("add element ip6 kbe-nat addresses { fd00::99 }", "ip6: elements of addresses"),
        ("insert rule ip kbe-nat mangle-output accept", "ip: accept: not ours"),
        ("chain ip kbe-nat filter-input { policy drop; }", "ip: type filter hook input"),
    ):
        assert installer.missing() == ()
        node.call("nft", damage)
        assert any(line.startswith(missed) for line in installer.missing()), damage
        installer.install(rules(2))
    assert installer.missing() == ()
    installer.remove()
    assert node.call("nft", "list", "tables") == before
    installer.remove()


def test_the_choice_says_why(node: Namespace) -> None:
    before = saved(node), node.call("nft", "list", "tables")
    installer, reason = probe(InstallerName.AUTO, Commands(node.prefix))
    assert reason
    assert isinstance(installer, Iptables | Nftables)
    assert (saved(node), node.call("nft", "list", "tables")) == before, "a probe leaves nothing"
    with pytest.raises(RulesError, match=r"nft: .*; iptables: "):
        probe(InstallerName.AUTO, Commands(("no-such-command",)))


def test_f133_ranges_are_compared_as_the_kernel_spells_them(node: Namespace) -> None:
    ranges = ("172.30.0.0/16", "192.0.2.7/32", "fd00:0:0::/112")
    options = Options(mode=Mode.NFTABLES)
    wanted = rule_sets(Plan(rules_ports(), service_ranges=ranges, options=options), QUEUES)
    assert any(SetKind.REFUSED in of_family.sets for of_family in wanted)
    installer = Iptables(Commands(node.prefix))
    installer.install(wanted)
    assert installer.missing() == ()
    node.call("ipset", "del", "kbe-nat-refused-4", "192.0.2.7")
    node.call("ipset", "add", "kbe-nat-refused-4", "192.0.2.8")
    assert installer.missing() == ("kbe-nat-refused-4",)


def test_marks_can_be_others(node: Namespace) -> None:
    [wanted] = rule_sets(Plan(rules_ports()), (7, 7), replace(Marks(), flow=0x10))
    Iptables(Commands(node.prefix)).install([wanted])
    assert any("--mark 0x10/0x10 -j CONNMARK" in line for line in saved(node))


def rules_ports() -> tuple[PlannedPort, ...]:
    return (
        PlannedPort(
            "default",
            "s",
            "",
            "tcp",
            Family.IPV4,
            (Frontend("cluster-ip", "172.30.0.1", 80),),
            (),
            (),
        ),
    )
