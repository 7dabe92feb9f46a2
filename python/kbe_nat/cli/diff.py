"""`kbe-nat diff`: rules that were taken from a node, against those that kube-proxy should have written there."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kbe_nat.cli.node import NodeFlags, takes_node_flags
from kbe_nat.cli.options import Format, ObjectFiles, OutputFormat, PodRange, Strict, read_objects, warn
from kbe_nat.cli.output import show, show_json, table
from kbe_nat.errors import FileError
from kbe_nat.kubeproxy import iptables_save
from kbe_nat.kubeproxy.difference import Difference, differences, without_tables
from kbe_nat.kubeproxy.dump import Family, Form, planned
from kbe_nat.kubeproxy.dump import dump as written
from kbe_nat.kubeproxy.normalise import normalise
from kbe_nat.sources.completion import POD_RANGE


@takes_node_flags
def diff(
    objects: ObjectFiles,
    saved: Annotated[
        str,
        typer.Argument(
            help="What iptables-save, ip6tables-save or nft list ruleset said there; - for stdin."
        ),
    ],
    family: Annotated[
        Family | None, typer.Option(help="Of an iptables dump. Default: what its addresses are.")
    ] = None,
    *,
    flags: NodeFlags,
    pod_range: PodRange = POD_RANGE,
    strict: Strict = False,
    output: OutputFormat = Format.TEXT,
) -> int:
    """Compare rules of a real node with those that kube-proxy writes for these objects.

    Says by Service what is missing, extra or different, and ends with 1 when anything is.
    """
    text = _read(saved)
    lines = normalise(text)
    if not lines:
        raise FileError(f"{saved}: neither iptables-save's output nor nft's")
    snapshot = read_objects(objects, pod_range, is_strict=strict)
    is_nft = lines[0].startswith("table ")
    if not is_nft and family is None:
        family = Family.IPV6 if _is_six(text) else Family.IPV4
    form = Form.NFT if is_nft else Form.IPTABLES_SAVE
    made = planned(snapshot, flags.options(snapshot), form)
    warn(*made.notes)
    expected = written(made, snapshot, form, wanted=family)
    if not is_nft:
        # iptables-save -t says no more.
        absent = [name for name in iptables_save.CHAINS if f"*{name}" not in lines]
        warn(*(f"{saved}: table {name} is not in it, and not compared" for name in absent))
        expected = without_tables(expected, absent)
    found = differences(expected, text)
    if output is Format.JSON:
        show_json([_row(own) for own in found])
    else:
        _show(found)
    return 1 if found else 0


def _read(saved: str) -> str:
    try:
        return sys.stdin.read() if saved == "-" else Path(saved).read_text()
    except OSError as error:
        raise FileError(f"{saved}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FileError(f"{saved}: not a text") from None


def _is_six(text: str) -> bool:
    """ip6tables-save says so in its first line; without that its refusals and prefix lengths do."""
    return "ip6tables-save" in text or "icmp6-port-unreachable" in text or "/128 " in text


def _row(own: Difference) -> dict[str, object]:
    return {
        "service": own.service or None,
        "kind": own.kind,
        "place": own.place,
        "expected": list(own.expected),
        "found": list(own.found),
    }


def _show(found: list[Difference]) -> None:
    if not found:
        show("The node has the rules that it should have.")
        return
    made = table("", "service", "what", "where", "", "rule")
    for own in found:
        head = (own.service or "(none)", str(own.kind), own.place)
        sides = [("-", line) for line in own.expected] + [("+", line) for line in own.found]
        for sign, line in sides:
            made.add_row(*head, sign, line)
            head = ("", "", "")
    services = len({own.service for own in found if own.service})
    show(f"{len(found)} differences in {services} service ports (- expected, + found):", "", made)
