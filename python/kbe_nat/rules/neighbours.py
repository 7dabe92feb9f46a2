"""Other programs of a node that have a say in the same packets: CNIs that translate Services
themselves, rules that write bits of our marks, rules that fill our queue.

They are told by what they leave where the commands `ip`, `nft` and `iptables-save` show it, and by
BPF programs that are pinned under /sys/fs/bpf. A program that leaves nothing there is not seen.
Changes nothing.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from kbe_nat.errors import RulesError
from kbe_nat.rules import nft_tables
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.rule import Marks


class Neighbour(NamedTuple):
    """A program that clashes with us, or may."""

    name: str
    signs: tuple[str, ...]
    """Devices, chains, tables and files by which it is told."""
    remedy: str
    """What would clash, and what to do."""


class MarkWriter(NamedTuple):
    """A chain of others whose rules write bits of ours."""

    place: str
    bits: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the commands list."""

    devices: tuple[str, ...]
    with_programs: tuple[str, ...]
    """Devices at which BPF programs see packets before any rule does: by XDP, or by tc."""
    rules: tuple[tuple[str, str], ...]
    """Rules of others, each with its table and chain."""
    places: frozenset[str]
    """Names of chains and of nft's tables."""
    pins: tuple[str, ...]
    """Files of BPF programs and maps."""
    unread: tuple[str, ...] = ()
    """Programs that are installed and were refused a list, and the folder of pins where it may not
    be read, as without the privilege.
    """

    @classmethod
    def of(cls, runner: Runner, pins: Path = Path("/sys/fs/bpf")) -> "Surroundings":
        """The surroundings of a network namespace. Cost: six commands."""
        reader = _Reader(runner)
        links = reader.rows(("ip", "-json", "-details", "link", "show"))
        filters = reader.rows(("tc", "-json", "qdisc", "show"))
        saved = [reader.text((command,)) for command in ("iptables-save", "ip6tables-save")]
        ruleset = reader.text(("nft", "--stateless", "--terse", "list", "ruleset"))
        rules = [rule for text in saved for rule in _iptables_rules(text)]
        rules += _nft_rules(ruleset)
        lines = [line for text in saved for line in text.splitlines()]
        chains = {line[1:].split()[0] for line in lines if line.startswith(":")}
        tables = {line.split()[-1] for line in nft_tables.tables(reader.text(nft_tables.LIST))}
        if not os.access(pins, os.R_OK | os.X_OK) and pins.exists():
            reader.unread[str(pins)] = None
        programs = [str(link.get("ifname")) for link in links if "xdp" in link]
        programs += [str(row.get("dev")) for row in filters if row.get("kind") == "clsact"]
        return cls(
            tuple(str(link.get("ifname")) for link in links),
            tuple(dict.fromkeys(programs)),
            tuple(rules),
            frozenset(chains | tables),
            tuple(path.name for folder in PIN_FOLDERS for path in (pins / folder).glob("*")),
            tuple(reader.unread),
        )


def neighbours(surroundings: Surroundings) -> list[Neighbour]:
    """The programs that are known by name."""
    return [
        Neighbour(name, signs, remedy)
        for name, pattern, remedy in KNOWN
        if (signs := tuple(_signs(surroundings, re.compile(pattern))))
    ]


def mark_writers(surroundings: Surroundings, marks: Marks) -> list[MarkWriter]:
    """Chains of others whose rules write bits of ours on packets, each once."""
    ours = marks.flow | marks.reject | marks.masquerade | marks.backend
    written: dict[str, int] = {}
    for place, rule in surroundings.rules:
        bits = _written_bits(rule) & ours
        if bits and not KUBE_PROXY.search(place):
            written[place] = written.get(place, 0) | bits
    return [MarkWriter(place, bits) for place, bits in written.items()]


def queue_users(surroundings: Surroundings, number: int) -> list[str]:
    """Chains of others whose rules send packets to this queue."""
    users = []
    for place, rule in surroundings.rules:
        for first, last in QUEUE.findall(rule):
            if int(first) <= number <= int(last or first) and place not in users:
                users.append(place)
    return users


def _signs(surroundings: Surroundings, pattern: re.Pattern[str]) -> Iterator[str]:
    signs = [f"device {name}" for name in surroundings.devices if pattern.fullmatch(name)]
    signs += [f"rules {name}" for name in sorted(surroundings.places) if pattern.fullmatch(name)]
    signs += [f"BPF {name}" for name in surroundings.pins if pattern.fullmatch(name)]
    yield from signs[:MOST_SIGNS]


def _written_bits(rule: str) -> int:
    """The bits of the packet mark that a rule writes."""
    bits = 0
    for value, mask in XMARK.findall(rule):
        bits |= int(value, 0) | int(mask or "0xffffffff", 0)
    for expression in NFT_MARK.findall(rule):
        numbers = [int(number, 16) for number in re.findall(r"0x[0-9a-f]+", expression)]
        if "mark" not in expression or not numbers:
            # Another mark, or one that a map has: any bit.
            bits |= 0xFFFFFFFF
        for operator, number in zip(re.findall(r"[&|^]", expression), numbers, strict=False):
            bits |= number ^ 0xFFFFFFFF if operator == "&" else number
    return bits


def _iptables_rules(saved: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") and OURS not in line.lower():
            yield f"{table} {line.split()[1]}", line


def _nft_rules(listed: str) -> Iterator[tuple[str, str]]:
    """Rules of nft's own tables: those of iptables stand in its listing too."""
    table = chain = ""
    for line in listed.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table = " ".join(words[1:3])
        elif words[:1] == ["chain"]:
            chain = words[1]
        elif OURS not in table and not IPTABLES_TABLE.fullmatch(table):
            yield f"{table} {chain}", line


class _Reader:
    """Runs commands that list, and notes which have not."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.unread: dict[str, None] = {}
        """The names of programs."""

    def text(self, command: Sequence[str]) -> str:
        """The listing; empty where the program is not installed, or refused."""
        try:
            return self._runner.run(command)
        except RulesError as error:
            if "is not installed" not in str(error):
                self.unread[command[0]] = None
            return ""

    def rows(self, command: Sequence[str]) -> Iterable[dict[str, object]]:
        """A listing in JSON."""
        try:
            rows = json.loads(self.text(command) or "[]")
        except ValueError:
            return ()
        return [row for row in rows if isinstance(row, dict)]


OURS: Final = "kbe-nat"
PIN_FOLDERS: Final = (".", "tc/globals", "calico")
MOST_SIGNS: Final = 3
KUBE_PROXY: Final = re.compile(r"KUBE-(?!ROUTER)|kube-proxy")
"""Its marks never meet ours: see docs/coexistence.md."""
IPTABLES_TABLE: Final = re.compile("ip6? (raw|mangle|nat|filter|security)")
XMARK: Final = re.compile(r"-j MARK --set-x?mark (0x[0-9a-f]+)(?:/(0x[0-9a-f]+))?")
NFT_MARK: Final = re.compile(r"meta mark set (.*)")
QUEUE: Final = re.compile(
    r"(?:--queue-num |--queue-balance |queue (?:flags \S+ )?to )(\d+)(?:[:-](\d+))?"
)
"""Its first and last number."""
KNOWN: Final = (
    (
        "Cilium",
        r"cilium_.*|CILIUM_.*|cilium",
        "where Cilium replaces kube-proxy it translates Services ahead of all rules, in sockets and"
        " at devices: set kubeProxyReplacement to false; it keeps identities in the mark's upper"
        " half: see marks",
    ),
    (
        "Calico's eBPF data plane",
        r"bpf(in|out)\.cali|cali_v[46]_.*",
        "it translates Services ahead of all rules, in sockets and at devices: set bpfEnabled to"
        " false",
    ),
    (
        "Calico",
        r"cali[0-9a-f]{11}|vxlan\.calico|cali-.*|calico",
        "it keeps what it knows of a packet in the mark's upper half, where --mark-backend is too:"
        " give one of them other bits, Calico by iptablesMarkMask or nftablesMarkMask",
    ),
    (
        "kube-router",
        r"kube-bridge|kube-dummy-if|KUBE-ROUTER-.*",
        "its service proxy (IPVS) takes the addresses of Services for its own: start it with"
        " --run-service-proxy=false",
    ),
    (
        "kube-proxy in ipvs mode",
        r"kube-ipvs0",
        "the addresses of Services are the node's own while this device stands: end kube-proxy, and"
        " delete the device (ip link delete kube-ipvs0)",
    ),
)
"""Name, what its devices, chains, tables and pins are called, and what to do."""
