"""Output of iptables-save, `iptables -S`, `nft list` and `nft -j` in one comparable form: listings
give the same lines if they differ only in ways that mean nothing to kube-proxy.

The first line that is no comment tells the kind of a listing. `iptables_listing.py`,
`nft_listing.py` and `nft_json.py` read one kind each, strictly: a line that those programs never
write is an error, since a listing that is read in part would show rules as missing that are there.
Counters, handles and sizes are taken away; numbers and names that versions print differently become
one text; chains, sets and elements are sorted, and rules are, where kube-proxy writes them in no
order. tests/conformance/README.md gives the reason for each change.

The result is text of the same kind again, and normalising it once more changes nothing.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from kbe_nat.errors import FileError
from kbe_nat.family import Family
from kbe_nat.kubeproxy.iptables_listing import abbreviate, is_iptables, option, read_iptables, words
from kbe_nat.kubeproxy.nft_json import read_nft_json
from kbe_nat.kubeproxy.nft_listing import Body, read_nft, table_lines

__all__ = ["Kind", "Listing", "Part", "normalise", "option", "read_listing", "words"]


class Kind(StrEnum):
    """Whose tables a listing shows."""

    IPTABLES = "iptables"
    NFT = "nft"


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a listing."""

    name: str
    """Such as "nat", or with nft's family "ip kube-proxy"."""
    family: Family | None
    """None when nothing in the listing tells, or the table is of no IP family."""
    lines: tuple[str, ...]
    """Normalised, without the lines that begin and end the table."""
    line: int = 0
    """Where it begins in the listing."""
    is_whole: bool = True
    """False when the listing shows a choice of its chains or lines."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The tables of a node, as some program listed them."""

    kind: Kind
    parts: tuple[Part, ...]


def read_listing(text: str, origin: str, table: str = "") -> Listing:
    """The tables of a listing of any kind, which is recognised by its first line. `table` is the
    name of the one that `iptables -S` shows. Cost: linear.

    Raises `FileError` with `origin` and line, for an empty listing and for text that is none.
    """
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line.startswith("{"):
            return Listing(Kind.NFT, _nft_parts(read_nft_json(text, origin)))
        if line.startswith("table ") and "{" in line:
            return Listing(Kind.NFT, _nft_parts(read_nft(text, origin)))
        if is_iptables(line) or line.startswith("Chain "):
            parts = (
                Part(
                    section.name,
                    section.family,
                    tuple(section.lines()),
                    section.line,
                    section.is_whole,
                )
                for section in read_iptables(text, origin, table)
            )
            return Listing(Kind.IPTABLES, tuple(parts))
        if line and not line.startswith("#"):
            raise FileError(f"{origin}: line {number}: {NEITHER}: {abbreviate(line)}")
    raise FileError(f"{origin}: {NEITHER}: it is empty")


def normalise(text: str) -> list[str]:
    """The lines of a listing of any kind, tables sorted.

    Raises `FileError` as `read_listing` does.
    """
    listing = read_listing(text, "listing")
    lines = []
    for part in sorted(listing.parts, key=lambda part: part.name):
        head, end = (
            (f"table {part.name} {{", "}")
            if listing.kind is Kind.NFT
            else (f"*{part.name}", "COMMIT")
        )
        lines += [head, *part.lines, end]
    return lines


def _nft_parts(tables: list[tuple[str, Body]]) -> tuple[Part, ...]:
    """The tables; the pieces of one that is listed in several are put together."""
    bodies: dict[str, Body] = {}
    for name, body in tables:
        bodies.setdefault(name, []).extend(body)
    return tuple(
        Part(
            name, FAMILIES.get(name.split()[0]), tuple(table_lines(body)), is_whole=_is_whole(body)
        )
        for name, body in bodies.items()
    )


def _is_whole(body: Body) -> bool:
    """Lists of one chain or set, of all maps or of all sets show them within their tables.
    kube-proxy's tables have chains and sets.
    """
    kinds = {head.partition(" ")[0] for head, block in body if block is not None}
    return not kinds or ("chain" in kinds and len(kinds) > 1)


FAMILIES: Final = {"ip": Family.IPV4, "ip6": Family.IPV6}
NEITHER: Final = "neither iptables-save's output nor nft's"
