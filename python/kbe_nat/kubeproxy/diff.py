"""The differences, by Service, between the rules that kube-proxy should have written and those of
a real node.

Both sides are listings (`normalise.py`). A place is a chain, map or set, with its lines in order.
`compare` puts the places of each table side by side and asks three questions of each: is it on both
sides, has each side the lines of the other, and do the same lines stand in an order that decides
otherwise. `_owners` then tells which Service a place belongs to: chains that only a Service's
chains lead to are the Service's too.

Only kube-proxy's own rules count: its chains and the jumps to them from built-in chains, or its
tables. `_OWN_CHAIN` lists the chains, because kubelet, kube-router and container runtimes have
chains that begin with KUBE- too. Differences between machines (nfacct, random ports, sizes of sets,
the clients that have affinity now) do not count, nor does the order of jumps in built-in chains,
where kubelet and kube-proxy both put theirs first.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from kbe_nat.errors import FileError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.kubeproxy.normalise import Kind as ListingKind
from kbe_nat.kubeproxy.normalise import Listing, Part, option, read_listing

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
    """As "namespace/name:port", or "namespace/name/protocol/port" in nft; empty for lines of no
    Service.
    """
    kind: Kind
    place: str
    expected: tuple[str, ...]
    actual: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences, and how much of a listing was compared."""

    compared: tuple[str, ...]
    """Tables, such as "nat" or "ip kube-proxy"."""
    not_compared: tuple[str, ...]
    """Tables of kube-proxy's that the listing lacks, or shows in part."""
    differences: tuple[Difference, ...]


def compare(expected: Listing, actual: Listing) -> Comparison:
    """The rules that kube-proxy should have written, against `kube_proxy_tables` of a node's.

    Cost: linear, but for sorting.
    """
    is_mixed = len({part.family for part in actual.parts}) > 1
    should, does = (
        {_label(part, is_mixed): part for part in listing.parts} for listing in (expected, actual)
    )
    rows: list[Difference] = []
    for label in sorted(does):
        wanted = _places(label, should[label]) if label in should else {}
        present = _places(label, does[label])
        if not does[label].is_whole:
            wanted = {place: lines for place, lines in wanted.items() if place in present}
        rows += _differences(wanted, present)
    in_part = [label for label in sorted(does) if not does[label].is_whole]
    return Comparison(
        tuple(f"{label} (in part)" if label in in_part else label for label in sorted(does)),
        (*sorted({*should} - {*does}), *(f"{label} (other chains)" for label in in_part)),
        tuple(sorted(rows, key=lambda row: (row.service, row.place, row.kind))),
    )


def differences(expected: str, actual: str) -> list[Difference]:
    """By Service and place, between two texts of one kind; empty when the node is right."""
    should, does = (read_listing(text, "listing") for text in (expected, actual))
    return list(
        compare(
            kube_proxy_tables(should, "listing"), kube_proxy_tables(does, "listing")
        ).differences
    )


def notes(listing: Listing) -> list[str]:
    """Traits of a listing that explain most of its differences, one line each."""
    lines = [line for part in listing.parts for line in part.lines]
    if listing.kind is ListingKind.NFT:
        if "\tchain mark-for-masquerade {" in lines:
            return [OLDER.format("chain mark-for-masquerade is")]
        has_services = any(_NFT_CHAIN.search(line) for line in lines)
        has_elements = any(line.strip() == "elements = {" for line in lines)
        return (
            ["no set in it has elements: nft -t leaves them out"]
            if has_services and not has_elements
            else []
        )
    if not any(map(_is_used, listing.parts)):
        return [
            "no chain of kube-proxy's is in it: in mode nftables, nft list ruleset shows its rules"
        ]
    if any(line.startswith(":KUBE-XLB-") for line in lines):
        return [OLDER.format("chains KUBE-XLB- are")]
    return []


def kube_proxy_tables(listing: Listing, origin: str, family: Family | None = None) -> Listing:
    """Only the tables that kube-proxy writes to, of one family or of all. Each has a family then:
    IPv4 where nothing in the listing tells.

    Raises `FileError` with `origin` when no table remains, or two listings of one table do.
    """
    if listing.kind is ListingKind.NFT:
        parts = [part for part in listing.parts if part.name in NFT_TABLES]
    else:
        stated = {part.family for part in listing.parts} - {None}
        assumed = family or (stated.pop() if len(stated) == 1 else Family.IPV4)
        parts = [
            replace(part, family=part.family or assumed)
            for part in listing.parts
            if part.name in iptables_save.CHAINS
        ]
    parts = [part for part in parts if family in (None, part.family)]
    if not parts:
        raise FileError(f"{origin}: {_lack(listing, family)}")
    if listing.kind is ListingKind.NFT and any(map(_has_chains_only, parts)):
        raise FileError(f"{origin}: {NO_RULES_LISTED}")
    if any(_IPVS.match(line) for part in parts for line in part.lines):
        raise FileError(f"{origin}: kube-proxy is in ipvs mode here, whose rules are not compared")
    chosen: dict[tuple[int | None, str], Part] = {}
    for part in parts:
        key = part.family, part.name
        other = chosen.get(key)
        if other and _is_used(other) and _is_used(part):
            raise FileError(
                f"{origin}: line {part.line}: table {part.name} is there once more "
                f"(line {other.line}), and kube-proxy's chains are in both: "
                "give the output of iptables-legacy-save or iptables-nft-save"
            )
        if other is None or _is_used(part):
            chosen[key] = part
    return Listing(listing.kind, tuple(chosen.values()))


def _lack(listing: Listing, family: Family | None) -> str:
    """Why nothing can be compared."""
    version = "" if family is None else f" of {'IPv6' if family == Family.IPV6 else 'IPv4'}"
    if listing.kind is ListingKind.IPTABLES:
        return f"none of kube-proxy's tables{version} is in it ({', '.join(iptables_save.CHAINS)})"
    if any("chain KUBE-SERVICES {" in line for part in listing.parts for line in part.lines):
        return "kube-proxy is in iptables mode here: give iptables-save's output"
    return f"no table kube-proxy{version} is in it"


def _is_used(part: Part) -> bool:
    """Whether kube-proxy has chains there."""
    return any(_OWN_CHAIN.fullmatch(_chain(line)) for line in part.lines)


def _has_chains_only(part: Part) -> bool:
    """Whether a table of nft is shown with several chains, but none of their rules."""
    if part.is_whole or sum(line.startswith("\tchain ") for line in part.lines) < 2:
        return False
    heads = ("\t\ttype ", "\t\tcomment ")
    return all(line.startswith(heads) for line in part.lines if line.startswith("\t\t"))


def _chain(line: str) -> str:
    """The chain that an iptables line makes or adds to."""
    return line.split()[0][1:] if line.startswith(":") else line.split()[1]


def _label(part: Part, is_mixed: bool) -> str:
    """The name of a table, with the family where an iptables listing has both."""
    if part.name in NFT_TABLES or not is_mixed:
        return part.name
    return f"{'ip6' if part.family == Family.IPV6 else 'ip'} {part.name}"


def _differences(should: Places, does: Places) -> list[Difference]:
    """Of one table."""
    if should == does:
        return []
    owners = _owners(should) | _owners(does)
    rows: list[Difference] = []
    for place in sorted({*should, *does}):
        if place not in does:
            rows += _group(place, owners, should[place] or [NO_RULES], [])
        elif place not in should and not does[place] and _NFT_CHAIN.search(place):
            # In mode nftables kube-proxy empties a chain that it needs no more, and deletes it
            # when it next has something to change.
            continue
        elif place not in should:
            rows += _group(place, owners, [], does[place] or [NO_RULES])
        elif should[place] != does[place]:
            lacking, more = (
                _without_matches(should[place], does[place]),
                _without_matches(does[place], should[place]),
            )
            more = [line for line in more if not _is_of_kubelet(line, should[place])]
            is_order = not lacking and len(should[place]) == len(does[place])
            if is_order and not more and _has_order(place, should[place], does[place]):
                ordered = f"{place} (order)"
                lines = tuple(should[place]), tuple(does[place])
                rows.append(Difference(owners.get(place, ""), Kind.DIFFERENT, ordered, *lines))
            rows += _group(place, owners, lacking, more)
    return rows


def _without_matches(lines: list[str], others: list[str]) -> list[str]:
    """The lines that the others lack."""
    partners = Counter(map(_meaning, others))
    unmatched = []
    for line in lines:
        if partners[_meaning(line)]:
            partners[_meaning(line)] -= 1
        else:
            unmatched.append(line)
    return unmatched


def _is_of_kubelet(rule: str, should: list[str]) -> bool:
    """Whether kubelet has written a rule to KUBE-FIREWALL: until 1.27 for its marks, and always
    against packets to 127.0.0.0/8, which kube-proxy only needs with node ports there.
    """
    return bool(_MARKED.fullmatch(rule)) or (rule == LOCALNET and LOCALNET not in should)


def _has_order(place: str, should: list[str], does: list[str]) -> bool:
    """Whether the same rules stand in an order that decides otherwise."""
    # kubelet and kube-proxy prepend their jumps one by one: the jumps of the later one come first.
    is_shared = place.rsplit(" ", 1)[1] in (*iptables_save.BUILTIN, "KUBE-FIREWALL")
    return not is_shared and list(map(_meaning, should)) != list(map(_meaning, does))


def _meaning(rule: str) -> str:
    """An iptables rule with its matches sorted: versions of iptables differ in their order."""
    if not rule.startswith("-A "):
        return rule
    head, *matches = _MATCH.split(rule.partition(" -j ")[0])
    return " ".join([head, *sorted(matches), rule.partition(" -j ")[2]])


def _places(label: str, part: Part) -> Places:
    return _nft_places(part) if part.name in NFT_TABLES else _iptables_places(label, part)


def _iptables_places(label: str, part: Part) -> Places:
    places: Places = {}
    for line in part.lines:
        chain = _chain(line)
        is_own = bool(_OWN_CHAIN.fullmatch(chain))
        if line.startswith(":") and is_own:
            places.setdefault(f"{label} {chain}", [])
        elif line.startswith("-A ") and (is_own or _is_jump(chain, line)):
            places.setdefault(f"{label} {chain}", []).append(_MACHINE.sub("", line))
    return {place: _without_counters(lines) for place, lines in places.items()}


def _is_jump(chain: str, rule: str) -> bool:
    """Whether a rule leads from a built-in chain to one of kube-proxy's."""
    end = option(rule, "-j") or option(rule, "-g")
    return chain in iptables_save.BUILTIN and bool(_OWN_CHAIN.fullmatch(end))


def _without_counters(rules: list[str]) -> list[str]:
    """Without the rules that kube-proxy leaves out where the kernel has no nfacct, or does not need
    them.
    """
    there = set(rules)
    return [
        rule
        for rule in rules
        if rule != DROP_INVALID
        and (LOCALHOST not in rule or rule.replace(LOCALHOST, "", 1) not in there)
    ]


def _nft_places(part: Part) -> Places:
    places: Places = {}
    place = part.name
    for line in part.lines:
        statement = _SET_OF_ONE.sub(r"\1\2", _NFT_MACHINE.sub("", line.strip()))
        if line.startswith("\t\t"):
            is_remembered = "set affinity-" in place and line.startswith("\t\t\t")
            if statement and not is_remembered and statement not in ("elements = {", "}"):
                places[place].append(statement.removesuffix(","))
        elif line.endswith("{"):
            place = f"{part.name} {statement.removesuffix(' {')}"
            places[place] = []
        elif statement and statement != "}":
            # Such as "flags dormant": none of the rules is in force.
            places.setdefault(part.name, []).append(statement)
    return places


def _group(
    place: str, owners: dict[str, str], lacking: Iterable[str], more: Iterable[str]
) -> Iterator[Difference]:
    """The lines of one place by the Service that they belong to."""
    by_service: dict[str, tuple[list[str], list[str]]] = {}
    for side, lines in enumerate((lacking, more)):
        for line in lines:
            service = owners.get(place) or _service_of(line, place.rsplit(" ", 1)[0], owners)
            by_service.setdefault(service, ([], []))[side].append(line)
    for service, (expected, actual) in by_service.items():
        kind = Kind.DIFFERENT if expected and actual else Kind.MISSING if expected else Kind.EXTRA
        yield Difference(service, kind, place, tuple(expected), tuple(actual))


def _owners(places: Places) -> dict[str, str]:
    """The Service of every chain that belongs to one, or that only such chains lead to."""
    owners: dict[str, str] = {}
    for _ in range(3):
        # Dispatch, then the chains of a service port, then those of its endpoints.
        for place, lines in places.items():
            table = place.rsplit(" ", 1)[0]
            named = _NFT_CHAIN.search(place)
            if named:
                owners[place] = named[1]
                continue
            for line in lines:
                chain = f"{table} {option(line, '-j')}"
                service = _service_in(line) or owners.get(place, "")
                if service and _OF_SERVICE.search(chain):
                    owners.setdefault(chain, service)
            if _OF_SERVICE.search(place) and place not in owners:
                service = next(filter(None, map(_service_in, lines)), "")
                if service:
                    owners[place] = service
    return owners


def _service_of(line: str, table: str, owners: dict[str, str]) -> str:
    return _service_in(line) or owners.get(f"{table} {option(line, '-j')}", "")


def _service_in(line: str) -> str:
    """The Service that a line names in its comment, or in the chain that it leads to."""
    named = _NFT_CHAIN.search(line)
    if named:
        return named[1]
    match = _COMMENT.search(line)
    name = _NAME.search(match[1]) if match else None
    return name[0] if name else ""


NO_RULES: Final = "(a chain without rules)"
NO_RULES_LISTED: Final = (
    "nft list chains leaves out their rules; give the output of nft list ruleset"
)
OLDER: Final = "{} of an older kube-proxy, whose rules differ from those of 1.36"
NFT_TABLES: Final = {"ip kube-proxy": Family.IPV4, "ip6 kube-proxy": Family.IPV6}
DROP_INVALID: Final = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"
LOCALHOST: Final = " -d 127.0.0.0/8"
_OWN_CHAIN: Final = re.compile(
    "KUBE-(?:SERVICES|EXTERNAL-SERVICES|NODEPORTS|FORWARD|FIREWALL|MARK-MASQ|POSTROUTING"
    "|PROXY-CANARY|PROXY-FIREWALL|(?:SVC|SVL|EXT|FW|SEP|XLB)-[A-Z2-7]{16})"
)
"""The chains of kube-proxy; KUBE-XLB- are those of releases until 1.23."""
LOCALNET: Final = f"-A KUBE-FIREWALL {iptables_save.BLOCK_LOCALNET}"
_MARKED: Final = re.compile(
    '-A KUBE-FIREWALL -m comment --comment "kubernetes firewall for dropping marked packets" '
    "-m mark --mark 0x[0-9a-f]+/0x[0-9a-f]+ -j DROP"
)
_IPVS: Final = re.compile(
    "-A KUBE-[A-Z-]+ .*"
    "--match-set KUBE-(?:CLUSTER-IP|LOOP-BACK|LOAD-BALANCER|EXTERNAL-IP|NODE-PORT)"
)
_MACHINE: Final = re.compile(r" --random-fully| -m nfacct --nfacct-name +[\w-]+")
_NFT_MACHINE: Final = re.compile(
    r" fully-random|^size \d+$|^comment \".*\"$|(?<=^flags )dynamic, ?"
)
# Ranges that nft has joined to one keep their braces, until they are loaded again.
_SET_OF_ONE: Final = re.compile(r"(\b[sd]addr (?:!= )?)\{ ([^ ,]+) \}")
_MATCH: Final = re.compile(r" (?=-m )")
_OF_SERVICE: Final = re.compile(r" KUBE-(SVC|SVL|EXT|FW|SEP|XLB)-")
_NFT_CHAIN: Final = re.compile(
    r"\b(?:service|local|external|firewall|endpoint|affinity)-[A-Z2-7]{8}-"
    r"([^/\s]+/[^/\s]+/[a-z]+/[^/\s_:]*)"
)
_COMMENT: Final = re.compile(r'comment "([^"]*)"')
_NAME: Final = re.compile(r"\b[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*(?::[-a-z0-9]*)?")
