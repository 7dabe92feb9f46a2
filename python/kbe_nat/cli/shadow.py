"""`kbe-nat shadow`: decide beside the node's own proxy, and report where the two disagree."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Annotated, Final

import click
import msgspec

from kbe_nat._native import ConntrackEntry, ConntrackEvents, conntrack_entries
from kbe_nat.cli.flags.flag import Flag
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings, Output
from kbe_nat.cli.flags.node import NODE_FLAGS, NodeCommand, node_options
from kbe_nat.cli.flags.objects import OBJECT_FLAGS, ObjectSettings
from kbe_nat.cli.flags.options import refuse_on_command_line, warn
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.output import document_of, show, show_next, table
from kbe_nat.cli.verb import verb
from kbe_nat.errors import KbeNatError, MissingSettingError
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import join_address
from kbe_nat.policy.planner import plan
from kbe_nat.port_rows import OptionalPortRow, optional_port_fields
from kbe_nat.shadow import (
    DISAGREEMENTS,
    Finding,
    Outcome,
    Shadow,
    is_masqueraded,
    is_translated,
)
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.manifests.manifests import Manifests
from kbe_nat.sources.store import Store

POLL_SECONDS: Final = 1.0
WAIT_SECONDS: Final = 0.2
"""A wait for events lasts so long at most, and so does an interruption of it."""
EVENT_BYTES: Final = 4 << 20
"""Events that wait in the kernel."""
PROTOCOLS: Final = ("tcp", "udp", "sctp")
FOLLOWED_FLAGS: Final[Flags] = OBJECT_FLAGS | {
    "files": TextFlag(
        Flag(
            "--filename",
            "--manifests",
            "-f",
            metavar="FILE",
            help="Directory or file of Kubernetes objects, which is followed; repeatable.",
        ),
        tuple,
        list[str],
    )
}


class KernelFlowRow(msgspec.Struct, frozen=True):
    """The kernel's part in a connection."""

    backend: str | None
    """Address and port that it was sent to; null where it was not translated."""
    masquerade: bool
    """Whether its source was masqueraded."""


class DisagreementRow(OptionalPortRow, frozen=True, rename={"source": "from", "destination": "to"}):
    """`shadow`: a connection for which kbe-nat would decide otherwise, on one line."""

    outcome: str
    """The disagreement."""
    protocol: str
    """tcp, udp or sctp."""
    source: str
    """The client's address and port."""
    destination: str
    """The frontend's address and port."""
    kernel: KernelFlowRow
    """The kernel's decision."""
    verdict: str
    """kbe-nat's decision: translate, reject, drop, pass or hold."""
    destinations: list[str]
    """Every endpoint that kbe-nat may choose."""


class OutcomeRow(OptionalPortRow, frozen=True):
    """The connections to one service port with one outcome."""

    outcome: str
    """agreed, not ours, or a disagreement."""
    flows: int
    """Connections."""


class ShadowRow(msgspec.Struct, frozen=True):
    """`shadow`: the last line."""

    summary: list[OutcomeRow]
    """Connections by service port and outcome."""


@verb(kind=NodeCommand, objects=FOLLOWED_FLAGS, node=NODE_FLAGS, document=DOCUMENT_FLAGS)
def shadow(
    command: click.Context,
    duration: Annotated[
        float | None,
        Flag(min=0.1, is_duration=True, help="How long to watch. Default: until Ctrl-C."),
    ] = None,
    count: Annotated[
        int | None,
        Flag(min=1, help="Connections to Services to compare. Default: until Ctrl-C."),
    ] = None,
    existing: Annotated[
        bool, Flag("--existing", help="Compare the connections that there are, and end.")
    ] = False,
    *,
    objects: ObjectSettings,
    node: NodeSettings,
    document: DocumentSettings,
) -> int:
    """Watch a node's real traffic without touching it, and report where kbe-nat would decide
    otherwise.

    Reads the kernel's connection tracking (CAP_NET_ADMIN): every connection that begins is decided
    again, and compared with where the kernel has sent it. Ends with 1 when there was a
    disagreement. Connections that the kernel refuses never appear there, so they are not compared.

    Examples:
      kbe-nat shadow -f objects --node node-1 --duration 60
      kbe-nat shadow -f objects --existing -o json
    """
    if existing:
        refuse_on_command_line(
            command,
            ["duration", "count"],
            "it has no effect: nothing is waited for with --existing",
        )
    refuse_on_command_line(
        command, ["reject_with"], "it has no effect: what is refused never appears there"
    )
    if not objects.files:
        raise MissingSettingError("-f", "say where the objects are")
    store = Store(FileCompletion(objects.pod_range))
    source = Manifests(objects.files, store, is_strict=objects.is_strict)
    comparison = Shadow()
    warnings: set[str] = set()
    _follow(source, comparison, node, warnings, is_first=True)
    flows = (
        conntrack_entries()
        if existing
        else _new_flows(
            source, comparison, node, warnings, duration, is_said=document.output.is_table
        )
    )
    with suppress(KeyboardInterrupt):
        _compare(flows, comparison, count, document.output)
    _summarise(comparison, document.output)
    return 1 if any(outcome in DISAGREEMENTS for _, outcome in comparison.counts) else 0


def _compare(
    flows: Iterable[ConntrackEntry], comparison: Shadow, count: int | None, output: Output
) -> None:
    """Compares connections, and reports disagreements at once; ends after `count` to Services."""
    compared = 0
    for flow in flows:
        if flow.protocol not in PROTOCOLS:
            continue
        finding = comparison.compare(flow)
        if finding.outcome in DISAGREEMENTS:
            _report(finding, output)
        compared += finding.outcome is not Outcome.NOT_OURS
        if compared == count:
            break


def _new_flows(
    source: Manifests,
    comparison: Shadow,
    node: NodeSettings,
    warnings: set[str],
    duration: float | None,
    *,
    is_said: bool,
) -> Iterator[ConntrackEntry]:
    """Connections as they begin. Between events the objects are read again where they changed.
    `is_said` says to people that it has begun.
    """
    end = None if duration is None else time.monotonic() + duration
    events = ConntrackEvents(socket_buffer=EVENT_BYTES)
    if is_said:
        length = "until Ctrl-C" if duration is None else f"for {duration:g} s"
        warn(f"new connections are compared {length}; then comes a summary")
    newest_read = time.monotonic()
    while end is None or time.monotonic() < end:
        flows, is_overrun = events.receive(WAIT_SECONDS)
        if is_overrun:
            warn("the kernel dropped events, because there were too many: not all is compared")
        yield from flows
        if time.monotonic() - newest_read > POLL_SECONDS:
            newest_read = time.monotonic()
            _follow(source, comparison, node, warnings)


def _follow(
    source: Manifests,
    comparison: Shadow,
    node: NodeSettings,
    warnings: set[str],
    *,
    is_first: bool = False,
) -> None:
    """Takes changed objects over; objects that cannot be read leave everything as it is. `warnings`
    are those that still hold.
    """
    try:
        update = source.read()
        if update is None:
            return
        lines = dict.fromkeys((*map(str, update.errors), *update.notes, *update.warnings))
        warn(*(line for line in lines if line not in warnings))
        warnings.clear()
        warnings.update(lines)
        comparison.follow(plan(update.snapshot, node_options(node, update.snapshot)))
    except KbeNatError as error:
        if is_first:
            raise
        warn(f"{error}; all stays as it was")


def _row(finding: Finding) -> DisagreementRow:
    flow = finding.flow
    return DisagreementRow(
        **optional_port_fields(finding.service),
        outcome=finding.outcome,
        protocol=flow.protocol,
        source=join_address(*flow.source),
        destination=join_address(*flow.destination),
        kernel=KernelFlowRow(
            backend=join_address(*flow.reply_source) if is_translated(flow) else None,
            masquerade=is_masqueraded(flow),
        ),
        verdict=finding.verdict,
        destinations=list(finding.expected),
    )


def _report(finding: Finding, output: Output) -> None:
    """A disagreement, at once: a line for people, or of JSON."""
    row = _row(finding)
    if output.is_document:
        show_next(document_of(row), output)
        return
    kernel = row.kernel.backend or "untranslated"
    mask = ", masqueraded" if row.kernel.masquerade else ""
    ours = ", ".join(row.destinations) or row.verdict
    where = f" of {finding.service}" if finding.service else ""
    print(f"{row.protocol} {row.source} to {row.destination}{where}: {row.outcome}")
    print(f"  kernel: {kernel}{mask}; kbe-nat: {ours}")
    sys.stdout.flush()


def _summarise(comparison: Shadow, output: Output) -> None:
    if output.is_document:
        rows = [
            OutcomeRow(**optional_port_fields(service), outcome=outcome, flows=count)
            for (service, outcome), count in sorted(comparison.counts.items())
        ]
        show_next(document_of(ShadowRow(rows)), output)
        return
    rows_table = table("Flows", "service", "outcome", "flows", right=1)
    for (service, outcome), count in sorted(comparison.counts.items()):
        rows_table.add_row(service or "<none>", str(outcome), str(count))
    agreed = sum(
        count for (_, outcome), count in comparison.counts.items() if outcome is Outcome.AGREED
    )
    wrong = sum(
        count for (_, outcome), count in comparison.counts.items() if outcome in DISAGREEMENTS
    )
    if not comparison.counts:
        show("There was no connection to compare.")
        return
    show(
        "",
        rows_table,
        "",
        f"{agreed} {'flow' if agreed == 1 else 'flows'} agreed, {wrong} did not.",
    )
