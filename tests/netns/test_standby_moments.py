"""Packets that come in the very moment in which a frontend's standby changes: none passes
untranslated.
"""

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from harness import traffic
from harness.stage import FAMILIES, VIPS, add_ipv6
from harness.waiting import eventually
from kbe_nat._native import NftTables
from kbe_nat.family import Family
from kbe_nat.packets import NUMBERS
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.nat_program import NatProgram, NatTableChange
from kbe_nat.rules.nat_table import FAMILIES as WORDS
from kbe_nat.rules.nat_table import KernelChoice, NatTable
from kbe_nat.rules.rule import Marks
from kbe_nat.rules.slots import DEFAULT_SLOTS, SlotClasses
from kbe_nat.rules.standby import Standby, StandbyChange, StandbyDecision

PODS = {Family.IPV4: "172.17.0.3", Family.IPV6: "fd00:17::3"}
CLASSES = SlotClasses(DEFAULT_SLOTS)
PORT = 80
BEHIND = """table {family} seen {{
  chain behind {{
    type filter hook prerouting priority 0;
    {family} daddr {address} counter
  }}
}}
"""


def decisions(family: Family) -> list[StandbyDecision]:
    """One of each kind, no two alike in rules, sets and maps."""
    pod = (PODS[family], 9876)
    spread, by_source = CLASSES.all[0], CLASSES.all[1]
    return [
        StandbyDecision((pod,) * spread.size, spread.first),
        StandbyDecision((pod,), keeps_source=True),
        StandbyDecision((pod,) * by_source.size, by_source.first),
        StandbyDecision((pod, pod, pod), CLASSES.exact[1].first, is_chosen=True),
        StandbyDecision((pod,)),
        StandbyDecision((pod, pod), CLASSES.exact[0].first, is_chosen=True, is_cluster_ip=True),
    ]


def standby(family: Family, decision: StandbyDecision) -> Standby:
    return {(VIPS[family], protocol, PORT): decision for protocol in ("tcp", "udp", "sctp")}


@pytest.fixture
def program(cluster: Cluster) -> Iterator[NatProgram]:
    """No queue has a listener."""
    add_ipv6(cluster)
    node = cluster.node
    made = NatProgram(Commands(node.prefix), inside(node.path, NftTables), Marks(), (100, 100))
    choice = KernelChoice(frozenset(CLASSES.exact[:2]))
    made.install(
        NatTable(family, {}, standby(family, decisions(family)[0]), slot_classes=CLASSES.all,
                 choice=choice)
        for family in Family
    )  # fmt: skip
    # Packets of this test have no checksums.
    node.write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0")
    # Behind NAT: what still has the Service's address was not translated.
    for family, word in WORDS.items():
        Commands(node.prefix).run(
            ("nft", "-f", "-"), BEHIND.format(family=word, address=VIPS[family])
        )
    yield made


def untranslated(cluster: Cluster, family: Family) -> int:
    words = cluster.node.call("nft", "list", "table", WORDS[family], "seen").split()
    return int(words[words.index("packets") + 1])


def translated(cluster: Cluster) -> int:
    """Packets that the pod has got, of all protocols."""
    lines = cluster.pods[0].call("cat", "/proc/net/dev").splitlines()
    return next(int(line.split()[2]) for line in lines if "eth0:" in line)


def opened(family: Family, protocol: str) -> socket.socket:
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
    return socket.socket(domain, socket.SOCK_RAW, NUMBERS[protocol])


def packet(protocol: str, number: int) -> bytes:
    """The first of a flow, without a checksum."""
    if protocol == "tcp":
        return traffic.tcp(number, PORT, traffic.SYN, 1, 0)
    if protocol == "udp":
        return traffic.udp(number, PORT, b"first")
    # An INIT, which has no verification tag.
    init = bytes.fromhex("0100001400000007000100000001000100000007")
    return struct.pack(">HHII", number, PORT, 0, 0) + init


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_frontend_of_ours_that_leads_nowhere_drops(
    cluster: Cluster, program: NatProgram, family: Family, protocol: str
) -> None:
    """As between a rule that sees the frontend before a change, and a map that has it after."""
    before = decisions(family)[0]
    name = program.table_names()[family]
    with inside(cluster.client.path, lambda: opened(family, protocol)) as own:
        for number, decision in enumerate(decisions(family), 2000):
            if decision != before:
                program.update([change(family, before, decision)])
                before = decision
            for table in ("standby", "standby-slots"):
                cluster.node.call("nft", "flush", "map", WORDS[family], name, table)
            own.sendto(packet(protocol, number), (VIPS[family], 0))
            assert untranslated(cluster, family) == 0, decision
            held = standby(family, decision)
            program.install(
                NatTable(each, {}, held if each == family else {}, slot_classes=CLASSES.all,
                         choice=KernelChoice(frozenset(CLASSES.exact[:2])))
                for each in Family
            )  # fmt: skip
            name = program.table_names()[family]


def change(family: Family, former: StandbyDecision, new: StandbyDecision) -> NatTableChange:
    return NatTableChange(
        family, standby=StandbyChange(standby(family, former), standby(family, new))
    )


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_none_passes_while_a_frontend_changes_its_class(
    cluster: Cluster, program: NatProgram, family: Family, protocol: str
) -> None:
    """A flood of first packets, and some hundred changes meanwhile."""
    is_over = threading.Event()

    def flood() -> None:
        with inside(cluster.client.path, lambda: opened(family, protocol)) as own:
            packets = [packet(protocol, number) for number in range(1024, 65536)]
            for each in packets:
                own.sendto(each, (VIPS[family], 0))
                if is_over.is_set():
                    break
            is_over.set()

    before, first = decisions(family)[0], translated(cluster)
    with inside(cluster.client.path, lambda: opened(family, protocol)) as own:
        # A node that asks for the pod's link address keeps few packets meanwhile.
        own.sendto(packet(protocol, 1000), (VIPS[family], 0))
        eventually(lambda: translated(cluster) > first, 5)
    sender, count = threading.Thread(target=flood), 0
    sender.start()
    try:
        # On a busy machine the flood may begin late.
        while not is_over.is_set() and (count < CHANGES or translated(cluster) <= first + 1000):
            for decision in (*decisions(family)[1:], decisions(family)[0]):
                program.update([change(family, before, decision)])
                before = decision
                count += 1
    finally:
        is_over.set()
        sender.join()
    assert translated(cluster) > first + 1000 and count >= 100
    assert untranslated(cluster, family) == 0, f"after {count} changes"


CHANGES = 6000
