"""The kernel's NAT in a real kernel: one transaction, elements alone, and nothing left
behind.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import pytest

from harness.cached_router import skip_without_cache
from harness.stage import FOREIGN
from kbe_nat._native import NftTables, Transaction
from kbe_nat.datapath.detect import choose
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.frontends import ElementChange
from kbe_nat.rules.nat_program import NatProgram, NatTableChange
from kbe_nat.rules.nat_table import KernelChoice, NatTable
from kbe_nat.rules.rule import DatapathKind, Marks
from kbe_nat.rules.slots import DEFAULT_SLOTS, SlotClasses
from kbe_nat.rules.standby import Standby, StandbyChange, StandbyDecision

PODS = {Family.IPV4: "10.0.0.{}", Family.IPV6: "fd00:10::{:x}"}
VIPS = {Family.IPV4: "172.30.{}.{}", Family.IPV6: "fd00:30::{:x}:{:x}"}
BOTH = (Family.IPV4, Family.IPV6)
CLASSES = SlotClasses(DEFAULT_SLOTS).all
EXACT = SlotClasses(DEFAULT_SLOTS).exact[1]
RANGES = {Family.IPV4: "10.0.0.0/16", Family.IPV6: "fd00:10::/64"}


class Watched:
    """Counts the commands that are run."""

    def __init__(self, node: Namespace) -> None:
        self.count = 0
        self._commands = Commands(node.prefix)

    def run(self, command: Sequence[str], text: str = "") -> str:
        self.count += 1
        return self._commands.run(command, text)


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace(f"kbe-nat-program-{os.getpid()}") as namespace:
        Commands(namespace.prefix).run(("nft", "-f", "-"), FOREIGN)
        yield namespace


@pytest.fixture
def runner(node: Namespace) -> Watched:
    return Watched(node)


@pytest.fixture
def program(node: Namespace, runner: Watched) -> NatProgram:
    return NatProgram(runner, inside(node.path, NftTables), Marks(), (100, 101))


def backends(family: Family, count: int) -> dict[tuple[str, int], int]:
    return {(PODS[family].format(1 + n % 200), n): n for n in range(1, count + 1)}


def standby(family: Family, count: int, pod: int = 1) -> Standby:
    """One frontend is rejected, one keeps the source, one has slots, for the fifth the kernel
    chooses, others have one backend.
    """
    keys = [(VIPS[family].format(n // 250, n % 250), "tcp", 80) for n in range(1, count + 1)]
    backend, other = ((PODS[family].format(number), 80) for number in (pod, 77))
    return {
        **dict.fromkeys(keys[:1], StandbyDecision()),
        **dict.fromkeys(keys[1:2], StandbyDecision((backend,), keeps_source=True)),
        **dict.fromkeys(keys[2:3], StandbyDecision((backend, other) * 4, CLASSES[0].first)),
        **dict.fromkeys(keys[3:4], StandbyDecision((backend,))),
        **dict.fromkeys(
            keys[4:5], StandbyDecision((backend, other, backend), EXACT.first, is_chosen=True)
        ),
        **dict.fromkeys(keys[5:], StandbyDecision((backend,))),
    }


def nat_tables(count: int, families: Sequence[Family] = BOTH) -> list[NatTable]:
    return [
        NatTable(
            family,
            backends(family, count),
            standby(family, count),
            slot_classes=CLASSES,
            hairpins=[PODS[family].format(number) for number in range(4, 7)],
            choice=KernelChoice(frozenset(SlotClasses(DEFAULT_SLOTS).exact[:3]), (RANGES[family],)),
        )
        for family in families
    ]


def listed(node: Namespace) -> str:
    return node.call("nft", "--stateless", "list", "ruleset")


def test_it_comes_and_goes_and_leaves_others_as_they_are(
    node: Namespace, program: NatProgram
) -> None:
    before = listed(node)
    assert "192.0.2.7" in before
    program.install(nat_tables(4))
    text = listed(node)
    assert all(
        address in text for address in ("172.30.0.4", "fd00:30::4", "10.0.0.5", "fd00:10::5")
    )
    assert missing(program, node) == ()
    program.install(nat_tables(3))
    assert listed(node).count("table ip kbe-nat-translation") == 1, "one takes the other's place"
    program.install(nat_tables(2, families=(Family.IPV4,)))
    assert "table ip6" not in listed(node)
    program.remove()
    assert listed(node) == before
    program.remove()


def test_a_later_run_finds_what_an_earlier_one_has_left(
    node: Namespace, program: NatProgram
) -> None:
    before = listed(node)
    program.install(nat_tables(2))
    other = NatProgram(Commands(node.prefix), inside(node.path, NftTables), Marks(), (7, 7))
    other.install(nat_tables(5))
    assert listed(node).count("table ip kbe-nat-translation") == 1
    assert any("the table" in line for line in program.missing())
    other.remove()
    assert listed(node) == before


EARLIER_VERSION = """
table ip kbe-nat-translation-0 {{
  {flags}
  map backends {{ type mark : ipv4_addr . inet_service; elements = {{ 0x4000 : 10.0.0.1 . 80 }}; }}
  chain translated {{ meta l4proto tcp dnat ip to meta mark & 0xffffc000 map @backends; }}
  chain decided {{ jump translated; }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    ip daddr 172.30.0.1 goto decided
  }}
}}
"""


@pytest.mark.parametrize("flags", ["", "flags dormant;"], ids=["awake", "asleep"])
def test_the_table_of_an_earlier_version_is_replaced(
    node: Namespace, program: NatProgram, flags: str
) -> None:
    """Tables are told by the beginning of their names, whatever chains and maps are in them."""
    before = listed(node)
    Commands(node.prefix).run(("nft", "-f", "-"), EARLIER_VERSION.format(flags=flags))
    assert program.is_present()
    program.install(nat_tables(3))
    text = listed(node)
    assert text.count("table ip kbe-nat-translation") == 1
    assert "chain verdict" in text and "chain decided" not in text
    assert missing(program, node) == ()
    Commands(node.prefix).run(
        ("nft", "-f", "-"), EARLIER_VERSION.format(flags=flags).replace("-0", "-7")
    )
    program.remove()
    assert listed(node) == before


def test_elements_change_alone_and_without_a_command(
    node: Namespace, program: NatProgram, runner: Watched
) -> None:
    program.install(nat_tables(3))
    before, runner.count = listed(node), 0
    program.update(
        [
            NatTableChange(
                family,
                added={(PODS[family].format(99), 9): 9},
                removed={(PODS[family].format(2), 1): 1},
                standby=StandbyChange(standby(family, 3), standby(family, 3, pod=99)),
                addresses=ElementChange(added=frozenset({VIPS[family].format(7, 7)})),
            )
            for family in BOTH
        ]
    )
    assert runner.count == 0
    after = listed(node)
    assert "10.0.0.99" in after and "10.0.0.2 . 1" not in after and "172.30.7.7" in after
    assert missing(program, node) == ()
    back = [
        NatTableChange(
            family,
            added={(PODS[family].format(2), 1): 1},
            removed={(PODS[family].format(99), 9): 9},
            standby=StandbyChange(standby(family, 3, pod=99), standby(family, 3)),
            addresses=ElementChange(removed=frozenset({VIPS[family].format(7, 7)})),
        )
        for family in BOTH
    ]
    program.update(back)
    assert same(listed(node)) == same(before)


def with_class(family: Family, size: int) -> NatTableChange:
    """A change by which the kernel chooses for one more frontend, of a class of its own."""
    slot_class = SlotClasses(DEFAULT_SLOTS).exact[size - 2]
    backend = (PODS[family].format(1), 80)
    decision = StandbyDecision((backend,) * size, slot_class.first, is_chosen=True)
    added = {(VIPS[family].format(9, size), "tcp", 80): decision}
    return NatTableChange(
        family, standby=StandbyChange(added=added), choice_classes=frozenset((slot_class,))
    )


def test_a_new_class_adds_its_rule_alone(
    node: Namespace, program: NatProgram, runner: Watched
) -> None:
    """The tables stay, with all their elements."""
    program.install(nat_tables(3))
    names, runner.count = program.table_names(), 0
    changes = {family: with_class(family, 7) for family in BOTH}
    program.update(changes.values())
    assert (program.table_names(), runner.count) == (names, 0)
    assert listed(node).count("numgen random mod 7 offset") == 2
    assert missing(program, node) == ()
    held = changes[Family.IPV4].choice_classes
    program.update([NatTableChange(Family.IPV4, choice_classes=held)])
    assert listed(node).count("numgen random mod 7 offset") == 2, "the rule is there"
    node.call("nft", "flush", "chain", "ip", names[Family.IPV4], "choice-dnat")
    assert program.missing() == (f"ip {names[Family.IPV4]}: chain choice-dnat",)


def test_a_new_class_hides_no_change_of_others(node: Namespace, program: NatProgram) -> None:
    program.install(nat_tables(3))
    node.call("nft", "insert rule ip kbe-nat-translation-0 choice-dnat accept")
    program.update([with_class(Family.IPV4, 7)])
    assert program.missing() == ("ip kbe-nat-translation-0: chain choice-dnat",)


def test_a_later_program_inherits_the_seed_and_the_slots_of_hashed_clients(
    node: Namespace, program: NatProgram
) -> None:
    classes = SlotClasses(DEFAULT_SLOTS)
    hashed = classes.all[1]
    assert hashed.is_by_source and classes.hashed is not None
    tables, expected = [], {}
    for family in BOTH:
        slots = tuple((PODS[family].format(1 + n % 3), 80 + n) for n in range(hashed.size))
        key, drawn = ((VIPS[family].format(1, number), "sctp", 80) for number in (1, 2))
        decisions = {
            key: StandbyDecision(slots, hashed.first),
            drawn: StandbyDecision(slots, classes.all[0].first),
        }
        tables.append(
            NatTable(family, {}, decisions, slot_classes=classes.all, hash_seed=0x12345678)
        )
        expected[family] = {key: slots}
    program.install(tables)
    assert listed(node).count("seed 0x12345678") == 2 * 3
    later = NatProgram(Commands(node.prefix), inside(node.path, NftTables), Marks(), (7, 7), 5)
    assert later.inherit([hashed, classes.hashed]) == expected
    assert later.hash_seed == 0x12345678
    for family, name in program.table_names().items():
        # Half of a frontend's slots say nothing about the others.
        address = VIPS[family].format(1, 1)
        word = "ip6" if family == Family.IPV6 else "ip"
        element = f"{address} . sctp . 80 . {hashed.first + 3}"
        node.call("nft", f"delete element {word} {name} standby-slots {{ {element} }}")
    assert later.inherit([hashed]) == {family: {} for family in BOTH}
    program.remove()
    fresh = NatProgram(Commands(node.prefix), inside(node.path, NftTables), Marks(), (7, 7), 5)
    assert (fresh.inherit([hashed]), fresh.hash_seed) == ({}, 5)


def test_a_transaction_is_whole_or_nothing(node: Namespace, program: NatProgram) -> None:
    program.install(nat_tables(3))
    before = listed(node)
    wrong = NatTableChange(
        Family.IPV4,
        added={("10.0.0.77", 80): 77},
        # The map does not have it: the kernel refuses to remove it.
        removed={("10.0.0.66", 80): 66},
    )
    refusal = (
        "nf_tables: remove elements .1. from backends of table ip kbe-nat-translation-0: No such"
    )
    with pytest.raises(RulesError, match=refusal):
        program.update([wrong])
    assert listed(node) == before
    assert missing(program, node) == ()


@pytest.mark.parametrize(
    ("damage", "missed"),
    [
        ("flush chain ip {} verdict", "chain verdict"),
        ("flush chain ip {} queue-bypass", "chain queue-bypass"),
        ("flush map ip {} backends", "elements of backends"),
        ("flush set ip {} reject-unserved", "elements of reject-unserved"),
        ("flush set ip {} hash-seed", "elements of hash-seed"),
        ("delete table ip {}", "the table"),
        (
            "delete element ip {0} backends {{ 0x4000 }}; "
            "add element ip {0} backends {{ 0x4000 : 10.0.0.99 . 1 }}",
            "elements of backends",
        ),
        (
            "delete element ip6 {0} standby {{ fd00:30::4 . tcp . 80 }}; "
            "add element ip6 {0} standby {{ fd00:30::4 . tcp . 80 : fd00:10::99 . 80 }}",
            "elements of standby",
        ),
        (
            "delete element ip6 {0} standby-slots {{ fd00:30::3 . tcp . 80 . 65537 }}; "
            "add element ip6 {0} standby-slots "
            "{{ fd00:30::3 . tcp . 80 . 65537 : fd00:10::99 . 80 }}",
            "elements of standby-slots",
        ),
        ("flush chain ip {} standby-dnat", "chain standby-dnat"),
        ("flush chain ip {} choice-dnat", "chain choice-dnat"),
        ("flush chain ip {} choice", "chain choice"),
        ("flush set ip6 {} choice-masquerade", "elements of choice-masquerade"),
        (
            "delete element ip {} hairpins {{ 10.0.0.5 . 10.0.0.5 }}",
            "elements of hairpins",
        ),
        (
            "delete element ip {0} frontends {{ 172.30.0.3 . tcp . 80 }}; "
            "add element ip {0} frontends {{ 172.30.0.99 . tcp . 80 }}",
            "elements of frontends",
        ),
        ("add element ip {} addresses {{ 172.30.0.99 }}", "elements of addresses"),
        ("insert rule ip {} new accept", "chain new"),
        ("chain ip {} prerouting {{ policy drop; }}", "chain prerouting"),
        ("add chain ip {} another {{ type filter hook output priority 0; }}", "chain another"),
    ],
)
def test_f13_f133_what_somebody_takes_away_or_changes_is_missed(
    node: Namespace, program: NatProgram, damage: str, missed: str
) -> None:
    program.install(nat_tables(5))
    assert missing(program, node) == ()
    before = listed(node)
    node.call("nft", damage.format("kbe-nat-translation-0"))
    family = "ip6" if "ip6" in damage else "ip"
    assert f"{family} kbe-nat-translation-0: {missed}" in program.missing()
    program.install(nat_tables(5))
    assert missing(program, node) == ()
    assert same(listed(node)) == same(before)


def test_f13_what_somebody_removes_during_the_installation_is_missed(
    node: Namespace, runner: Watched
) -> None:
    class Meddled:
        """Tables of which somebody takes a rule away right after they have been put into the
        kernel.
        """

        is_meddling = False

        def __init__(self) -> None:
            self._tables = inside(node.path, NftTables)

        def __getattr__(self, name: str) -> object:
            return getattr(self._tables, name)

        def commit(self, transaction: Transaction) -> None:
            self._tables.commit(transaction)
            for step in transaction.steps:
                if self.is_meddling and step.startswith("activate table ip "):
                    node.call("nft", "flush", "chain", "ip", step.split()[-1], "new")

    tables = Meddled()
    program = NatProgram(runner, cast(NftTables, tables), Marks(), (100, 101))
    program.install(nat_tables(3))
    assert missing(program, node) == ()
    tables.is_meddling = True
    program.install(nat_tables(3))
    assert program.missing() == ("ip kbe-nat-translation-1: chain new",)
    tables.is_meddling = False
    program.install(nat_tables(3))
    assert missing(program, node) == ()


def test_f133_what_somebody_has_changed_is_missed_after_a_change_of_ours_too(
    node: Namespace, program: NatProgram
) -> None:
    program.install(nat_tables(3))
    assert missing(program, node) == ()
    node.call("nft", "add element ip kbe-nat-translation-0 addresses { 172.30.0.99 }")
    program.update([NatTableChange(Family.IPV4, added={(PODS[Family.IPV4].format(99), 9): 9})])
    assert program.missing() == ("ip kbe-nat-translation-0: elements of addresses",)


def missing(program: NatProgram, node: Namespace) -> tuple[str, ...]:
    """As the program says, which compares its tables after a transaction of another program."""
    node.call("nft", "add table ip other; delete table ip other")
    return program.missing()


def test_tables_are_compared_only_after_a_transaction_of_another_program(
    node: Namespace, runner: Watched
) -> None:
    class Counted:
        """Tables that count how often they are compared."""

        count = 0

        def __init__(self) -> None:
            self._tables = inside(node.path, NftTables)

        def __getattr__(self, name: str) -> object:
            self.count += name == "fingerprint"
            return getattr(self._tables, name)

    tables = Counted()
    program = NatProgram(runner, cast(NftTables, tables), Marks(), (100, 101))
    for _ in range(2):
        program.install(nat_tables(3))
        program.update([NatTableChange(Family.IPV4, added={(PODS[Family.IPV4].format(9), 9): 9})])
        assert program.missing() == ()
        assert tables.count == 0
    assert missing(program, node) == ()
    assert tables.count > 0


def same(text: str) -> list[str]:
    """Without the order of elements, and whose turn a name is."""
    return sorted(text.replace("translation-1", "translation-0").replace(",", "").split())


def test_ten_thousand_services_need_no_more_rules_than_one(
    node: Namespace, program: NatProgram
) -> None:
    def rules() -> str:
        text = node.call("nft", "--stateless", "--terse", "list", "ruleset")
        return text.replace("kbe-nat-translation-1", "kbe-nat-translation-0")

    program.install(nat_tables(1, families=(Family.IPV4,)))
    few = rules()
    program.install(nat_tables(10_000, families=(Family.IPV4,)))
    assert rules() == few
    assert missing(program, node) == ()


def test_the_choice_says_why_and_leaves_nothing(node: Namespace) -> None:
    skip_without_cache()
    before = listed(node)
    for kind in (None, *DatapathKind):
        chosen, reason = inside(node.path, partial(choose, kind, Commands(node.prefix)))
        assert reason
        assert chosen is (kind or DatapathKind.CACHED)
    assert listed(node) == before
    without = Commands(("env", "PATH=/nowhere", *node.prefix))
    chosen, reason = inside(node.path, lambda: choose(None, without))
    assert (chosen, "cannot carry flows" in reason) == ("every-packet", True)
    with pytest.raises(RulesError, match="first-packet does not work here"):
        inside(node.path, lambda: choose(DatapathKind.FIRST_PACKET, without))


def test_f09_what_a_probe_that_was_killed_has_left_goes(
    node: Namespace, program: NatProgram
) -> None:
    ended = subprocess.Popen(("true",))
    ended.wait()
    names = [f"kbe-nat-probe-{process}" for process in (ended.pid, os.getppid(), "else")]
    for clean in (program.probe, program.remove):
        for name in names:
            node.call("nft", "add", "table", "ip", name, "{ flags dormant; }")
        clean()
        left = node.call("nft", "list", "tables").splitlines()
        assert f"table ip {names[0]}" not in left
        assert f"table ip {names[1]}" in left, "its process goes on"
        assert "table ip kbe-nat-probe-else" not in left
