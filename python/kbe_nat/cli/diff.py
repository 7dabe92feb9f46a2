"""`kbe-nat diff`: rules that were taken from a node, against those that kube-proxy should have
written there.
"""

from enum import StrEnum
from typing import Annotated, Final

import click
import msgspec

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings, Output
from kbe_nat.cli.flags.node import NODE_FLAGS, NodeCommand, configuration, node_options
from kbe_nat.cli.flags.objects import OBJECT_FLAGS, ObjectSettings, read_objects
from kbe_nat.cli.flags.options import refuse_on_command_line, warn
from kbe_nat.cli.output import show_document
from kbe_nat.cli.verb import verb
from kbe_nat.errors import FileError, SettingError
from kbe_nat.family import Family
from kbe_nat.kubeproxy.diff import Comparison, Difference, compare, kube_proxy_tables, notes
from kbe_nat.kubeproxy.dump import FamilyName, Form, families, plan_for
from kbe_nat.kubeproxy.dump import dump as dump_rules
from kbe_nat.kubeproxy.normalise import Kind, Listing, Part, read_listing
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Snapshot
from kbe_nat.policy.options import Mode, Options
from kbe_nat.port_rows import OptionalPortRow, optional_port_fields
from kbe_nat.sources.manifests.files import content


class Table(StrEnum):
    """Tables of iptables that kube-proxy writes to."""

    FILTER = "filter"
    MANGLE = "mangle"
    NAT = "nat"


class RuleDifferenceRow(OptionalPortRow, frozen=True, rename={"actual": "found"}):
    """A difference between the rules of a node and those that it should have."""

    kind: str
    """missing, extra or different."""
    place: str
    """Table and chain, set or map."""
    expected: list[str]
    """The rules that should be there."""
    actual: list[str]
    """The rules that are there."""


class DiffRow(msgspec.Struct, frozen=True):
    """`diff`: the rules of a node against those that it should have."""

    compared: list[str]
    """Tables of which the listing has all, or a part."""
    not_compared: list[str]
    """Tables of kube-proxy that the listing lacks."""
    differences: list[RuleDifferenceRow]
    """Each difference; empty where the node is as it should be."""


@verb(kind=NodeCommand, objects=OBJECT_FLAGS, node=NODE_FLAGS, document=DOCUMENT_FLAGS)
def diff(
    command: click.Context,
    saved: Annotated[
        str,
        Argument(
            help="What iptables-save, ip6tables-save, iptables -S, nft list ruleset or"
            " nft -j list ruleset said there; - for stdin."
        ),
    ],
    family: Annotated[
        FamilyName | None,
        Flag(help="Compare one address family. Default: those that are listed."),
    ] = None,
    tables: Annotated[
        list[Table],
        Flag(
            "--table",
            help="Compare this table of iptables only; repeatable."
            " Also names the one that iptables -S shows.",
        ),
    ] = [],  # noqa: B006
    partial: Annotated[
        bool,
        Flag("--partial", help="Be content with the tables and chains that are listed."),
    ] = False,
    *,
    objects: ObjectSettings,
    node: NodeSettings,
    document: DocumentSettings,
) -> int:
    """Compare rules of a real node with those that kube-proxy writes for these objects.

    Says by Service what is missing, extra or different. Ends with 1 when anything is, and with 2
    when nothing is but the listing lacks tables of kube-proxy's: unless --table or --partial says
    that it may.

    Examples:
      iptables-save | kbe-nat diff -f objects.yaml --node node-1 -
      nft -j list ruleset | kbe-nat diff -f objects.yaml --node node-1 -
    """
    if saved == "-" and "-" in objects.files:
        raise SettingError("-", "only one of objects and rules can come from standard input")
    refuse_on_command_line(
        command, ["reject_with"], "it has no effect: kube-proxy's rules refuse by ICMP"
    )
    listing = _read(saved, family, tables)
    snapshot = read_objects(objects)
    _check_mode(saved, listing, node.stated_mode(configuration(node.config)))
    expected = _expected_listing(listing, snapshot, node_options(node, snapshot), family)
    comparison = compare(expected, listing)
    warn(*(f"{saved}: {note}" for note in notes(listing)))
    _print(comparison, document.output)
    if comparison.differences:
        return DIFFERS
    return NOT_COMPARED if comparison.not_compared and not (tables or partial) else 0


def _print(comparison: Comparison, output: Output) -> None:
    if output.is_document:
        differences = [_row(difference) for difference in comparison.differences]
        compared, lacking = list(comparison.compared), list(comparison.not_compared)
        show_document(DiffRow(compared, lacking, differences), output)
    else:
        print("\n".join(_lines(comparison)))


def _read(saved: str, family: FamilyName | None, tables: list[Table]) -> Listing:
    """The tables of the file to be compared. Raises `FileError` when they are not there."""
    listing = read_listing(_text(saved), saved, tables[0] if len(tables) == 1 else "")
    if listing.kind is Kind.NFT and tables:
        raise SettingError("--table", f"{saved} shows tables of nft; --family chooses among them")
    chosen = kube_proxy_tables(listing, saved, family.family if family else None)
    lacking = [name for name in tables if name not in {part.name for part in chosen.parts}]
    if lacking:
        raise FileError(f"{saved}: table {lacking[0]} is not in it")
    parts = tuple(part for part in chosen.parts if not tables or part.name in tables)
    return Listing(chosen.kind, parts)


def _text(saved: str) -> str:
    """The file's text; PowerShell's > writes UTF-16."""
    try:
        text = content(saved)
        return text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise FileError(f"{saved}: not a text") from None


def _check_mode(saved: str, listing: Listing, stated: Mode | None) -> None:
    """The listing decides which mode is followed, and contradicts no flag or configuration file."""
    shown = Mode.NFTABLES if listing.kind is Kind.NFT else Mode.IPTABLES
    if stated not in (None, shown):
        raise FileError(
            f"{saved}: shows kube-proxy's rules of mode {shown}, "
            f"but --mode or --config says {stated}"
        )


def _expected_listing(
    listing: Listing, snapshot: Snapshot, options: Options, family: FamilyName | None
) -> Listing:
    """The rules of kube-proxy for the families that are listed; in nft's mode also for the other
    families that it serves, since one listing shows them all.
    """
    is_nft = listing.kind is Kind.NFT
    form = Form.NFT if is_nft else Form.IPTABLES_SAVE
    plan = plan_for(snapshot, options, form)
    warn(*plan.notes)
    listed = {part.family for part in listing.parts}
    served = set(families(plan)) if family is None else set()
    if is_nft:
        listed |= served
    elif served - listed:
        other = "ip6tables-save" if Family.IPV6 in served - listed else "iptables-save"
        warn(
            f"the node serves the other family too: {other} shows its rules, which are not compared"
        )
    parts: list[Part] = []
    for each in sorted(each for each in listed if each is not None):
        wanted = FamilyName.IPV6 if each == Family.IPV6 else FamilyName.IPV4
        text = dump_rules(plan, snapshot, form, wanted=wanted)
        parts += kube_proxy_tables(read_listing(text, "expected"), "expected", each).parts
    return Listing(listing.kind, tuple(parts))


def _row(difference: Difference) -> RuleDifferenceRow:
    return RuleDifferenceRow(
        **optional_port_fields(difference.service),
        kind=difference.kind,
        place=difference.place,
        expected=list(difference.expected),
        actual=list(difference.actual),
    )


def _lines(comparison: Comparison) -> list[str]:
    """The verdict, and each rule on one line: it can be searched for and pasted."""
    rows, lacking = comparison.differences, comparison.not_compared
    extent = f"Compared: {', '.join(comparison.compared)}."
    if lacking:
        extent = f"{extent} Not compared: {', '.join(lacking)}."
    if not rows:
        return [
            f"No differences. {extent}"
            if lacking
            else "The node has the rules that it should have."
        ]
    services = len({row.service for row in rows if row.service})
    count = "1 difference" if len(rows) == 1 else f"{len(rows)} differences"
    ports = "1 service port" if services == 1 else f"{services} service ports"
    lines = [f"{count} in {ports} (- expected, + found):"]
    for row in rows:
        lines += ["", f"{row.service or '(none)'}  {row.kind}  {row.place}"]
        lines += [f"- {line}" for line in row.expected]
        lines += [f"+ {line}" for line in row.actual]
    return [*lines, "", extent]


DIFFERS: Final = 1
NOT_COMPARED: Final = 2
