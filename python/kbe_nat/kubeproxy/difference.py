"""What differs between the rules that kube-proxy should have written and those of a real node, by Service.

Only kube-proxy's own rules are looked at: its chains and the jumps to them, or its tables. What depends on the
machine and not on Services (nfacct, random ports, sizes of sets, who is remembered now) does not count.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from kbe_nat.kubeproxy.normalise import normalise, option

Places: TypeAlias = dict[str, list[str]]
"""Lines by where they stand: "nat KUBE-SERVICES", or "ip kube-proxy map service-ips"."""


class Kind(StrEnum):
    """How a node differs."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where a node differs in what belongs to one Service."""

    service: str
    """As "namespace/name:port", or "namespace/name/protocol/port" in nft; empty for what belongs to none."""
    kind: Kind
    place: str
    expected: tuple[str, ...]
    found: tuple[str, ...]


def differences(expected: str, found: str) -> list[Difference]:
    """By Service and place; empty when the node has what it should. Cost: linear, but for sorting."""
    should, does = _places(expected), _places(found)
    owners = _owners(should) | _owners(does)
    rows: list[Difference] = []
    for place in sorted({*should, *does}):
        if place not in does:
            rows += _grouped(place, owners, should[place] or [NO_RULES], [])
        elif place not in should:
            rows += _grouped(place, owners, [], does[place] or [NO_RULES])
        elif should[place] != does[place]:
            lacking = Counter(should[place]) - Counter(does[place])
            more = Counter(does[place]) - Counter(should[place])
            if not lacking and not more:
                rows.append(
                    Difference(
                        owners.get(place, ""),
                        Kind.DIFFERENT,
                        f"{place} (order)",
                        tuple(should[place]),
                        tuple(does[place]),
                    )
                )
            rows += _grouped(place, owners, lacking.elements(), more.elements())
    return sorted(rows, key=lambda row: (row.service, row.place, row.kind))


def without_tables(text: str, names: Container[str]) -> str:
    """The rules of iptables-save's form without those of some tables."""
    kept = []
    table = ""
    for line in text.splitlines(keepends=True):
        table = line[1:].strip() if line.startswith("*") else table
        if table not in names:
            kept.append(line)
    return "".join(kept)


def _grouped(
    place: str, owners: dict[str, str], lacking: Iterable[str], more: Iterable[str]
) -> Iterator[Difference]:
    """The lines of one place by the Service that they belong to."""
    by_service: dict[str, tuple[list[str], list[str]]] = {}
    for side, lines in enumerate((lacking, more)):
        for line in lines:
            service = owners.get(place) or _service_of(line, place.split()[0], owners)
            by_service.setdefault(service, ([], []))[side].append(line)
    for service, (expected, found) in by_service.items():
        kind = Kind.DIFFERENT if expected and found else Kind.MISSING if expected else Kind.EXTRA
        yield Difference(service, kind, place, tuple(expected), tuple(found))


def _places(text: str) -> Places:
    lines = normalise(text)
    is_nft = any(line.startswith("table ") for line in lines)
    return _nft_places(lines) if is_nft else _iptables_places(lines)


def _iptables_places(lines: list[str]) -> Places:
    places: Places = {}
    table = ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chain = line[1:].split()[0]
            if chain.startswith(PREFIX) and chain not in KUBELET:
                places.setdefault(f"{table} {chain}", [])
        elif line.startswith("-A "):
            chain = line.split()[1]
            rule = _MACHINE.sub("", line)
            is_own = chain.startswith(PREFIX) or option(rule, "-j").startswith(PREFIX)
            if is_own and chain not in KUBELET and not _is_counter(rule):
                places.setdefault(f"{table} {chain}", []).append(rule)
    return places


def _is_counter(rule: str) -> bool:
    """Whether kube-proxy leaves a rule out where the kernel has no nfacct, or does not need it."""
    only_counts = rule.startswith("-A KUBE-NODEPORTS -d 127.0.0.0/8 ")
    return only_counts or "--ctstate INVALID" in rule


def _nft_places(lines: list[str]) -> Places:
    places: Places = {}
    table = place = ""
    for line in lines:
        if line.startswith("table "):
            table = line.removeprefix("table ").removesuffix(" {")
        elif table.endswith("kube-proxy") and line.startswith("\t\t"):
            own = _SET_OF_ONE.sub(r"\1\2", _NFT_MACHINE.sub("", line.strip()))
            is_remembered = "set affinity-" in place and line.startswith("\t\t\t")
            if own and not is_remembered and own not in ("elements = {", "}"):
                places[place].append(own.removesuffix(","))
        elif table.endswith("kube-proxy") and line.endswith("{"):
            place = f"{table} {line.strip().removesuffix(' {')}"
            places[place] = []
    return places


def _owners(places: Places) -> dict[str, str]:
    """The Service of every chain that belongs to one, also of those that only such chains lead to."""
    owners: dict[str, str] = {}
    for _ in range(3):
        # Dispatch, then the chains of a service port, then those of its endpoints.
        for place, lines in places.items():
            table = place.split()[0]
            named = _NFT_CHAIN.search(place)
            if named:
                owners[place] = named[1]
                continue
            for line in lines:
                chain = f"{table} {option(line, '-j')}"
                service = _named(line) or owners.get(place, "")
                if service and _OF_SERVICE.search(chain):
                    owners.setdefault(chain, service)
            if _OF_SERVICE.search(place) and place not in owners:
                service = next(filter(None, map(_named, lines)), "")
                if service:
                    owners[place] = service
    return owners


def _service_of(line: str, table: str, owners: dict[str, str]) -> str:
    return _named(line) or owners.get(f"{table} {option(line, '-j')}", "")


def _named(line: str) -> str:
    """The Service that a line names in its comment, or in the chain that it leads to."""
    named = _NFT_CHAIN.search(line)
    if named:
        return named[1]
    match = _COMMENT.search(line)
    name = _NAME.search(match[1]) if match else None
    return name[0] if name else ""


PREFIX: Final = "KUBE-"
KUBELET: Final = ("KUBE-KUBELET-CANARY",)
"""Chains that kubelet and not kube-proxy has made."""
NO_RULES: Final = "(a chain without rules)"
_MACHINE: Final = re.compile(r" --random-fully")
_NFT_MACHINE: Final = re.compile(r" fully-random|^size \d+$")
# Ranges that nft has joined to one keep their braces, until they are loaded again.
_SET_OF_ONE: Final = re.compile(r"(\b[sd]addr (?:!= )?)\{ ([^ ,]+) \}")
_OF_SERVICE: Final = re.compile(r" KUBE-(SVC|SVL|EXT|FW|SEP)-")
_NFT_CHAIN: Final = re.compile(
    r"\b(?:service|local|external|firewall|endpoint|affinity)-[A-Z2-7]{8}-([^/\s]+/[^/\s]+/[a-z]+/[^/\s_:]*)"
)
_COMMENT: Final = re.compile(r'comment "([^"]*)"')
_NAME: Final = re.compile(r"\b[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*(?::[-a-z0-9]*)?")
