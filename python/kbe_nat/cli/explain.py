"""`kbe-nat explain`: the verdict on a packet, and why. Nothing is sent, and no table changes.

A packet is described by flags, listed in a file, or taken from a capture. Its explanation comes
from tables of the objects (`_Offline`), or from a running daemon.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, cast

import click
from msgspec import ValidationError, convert

from kbe_nat import packets as wire
from kbe_nat._native import EXPIRY_BUDGET, Engine
from kbe_nat.cli.destination import Place, Reachable, frontend_of, is_name
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings, Output
from kbe_nat.cli.flags.live import LIVE_FLAGS, LiveSettings
from kbe_nat.cli.flags.node import NODE_FLAGS, NODE_PARAMETERS, NodeCommand, node_options
from kbe_nat.cli.flags.objects import (
    OBJECT_FLAGS,
    OBJECT_PARAMETERS,
    ObjectSettings,
    read_objects,
)
from kbe_nat.cli.flags.options import parse, refuse_on_command_line, warn
from kbe_nat.cli.flags.parameters import Flags
from kbe_nat.cli.flows import FlowQuestion, Protocol, read_flows
from kbe_nat.cli.kinds import service_name
from kbe_nat.cli.output import bold, show, show_document, show_rows, table
from kbe_nat.cli.verb import verb
from kbe_nat.client import ask, ask_rows
from kbe_nat.counting import counted
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import MissingSettingError, SettingError
from kbe_nat.explain import (
    MIXED_MASQUERADE,
    ExplanationRow,
    VerdictRow,
    device_of,
    explain_in_plan,
    explain_packet,
    sentence,
    verdict_of,
)
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Snapshot
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.address import split_address, without_port
from kbe_nat.spelling import none_of


@dataclass(frozen=True)
class PacketDescription:
    """The first packet of a connection, as flags describe it."""

    source: str | None = None
    destination: str | None = None
    protocol: str = ""
    interface: str = ""


PACKET_FLAGS: Final[Flags] = {
    "source": Flag("--from", help="Source, as ADDRESS or ADDRESS:PORT."),
    "destination": Flag(
        "--to",
        help="Destination, as ADDRESS:PORT; or a Service, as NAME:PORT or svc/NAME.",
        names_of="services",
    ),
    "protocol": Flag(
        "--proto",
        "-p",
        help="tcp, udp or sctp. Default: that of the Service, or tcp.",
        words=wire.WITH_PORTS,
    ),
    "interface": Flag(
        "--iif",
        help="Device that the packet comes in by. Default: eth0, and none for the node's own.",
    ),
}
POD_INTERFACE: Final = 1
"""A number that stands for a device behind which pods are."""
EPHEMERAL_PORT: Final = 49152
OFFLINE: Final = (*OBJECT_PARAMETERS, *NODE_PARAMETERS)
"""Flags that say more about objects that are read."""


@verb(
    kind=NodeCommand,
    packet=PACKET_FLAGS,
    objects=OBJECT_FLAGS,
    node=NODE_FLAGS,
    live=LIVE_FLAGS,
    document=DOCUMENT_FLAGS,
)
def explain(
    command: click.Context,
    capture: Annotated[Path | None, Argument(help="Capture that the packet is taken from.")] = None,
    number: Annotated[
        int | None, Flag("--packet", min=1, help="Number of the packet in the capture.")
    ] = None,
    flows: Annotated[
        Path | None,
        Flag(
            help="YAML file with a list of packets (from, to, proto, iif); answered in its order."
        ),
    ] = None,
    *,
    packet: PacketDescription,
    objects: ObjectSettings,
    node: NodeSettings,
    live: LiveSettings,
    document: DocumentSettings,
) -> None:
    """Say what happens to a packet, and why.

    The packet is described by --from, --to and --proto, or taken from a capture with --packet; the
    packets before it are then processed first, so that connections are known as they were.

    Examples:
      kbe-nat explain -f objects.yaml --from 10.0.2.15 --to 172.30.228.255:80
      kbe-nat explain --live --from 10.0.2.15 --to svc/web
      kbe-nat explain --live --from 203.0.113.9 --to 192.0.2.1:30080 --iif eth0
      kbe-nat explain -f objects.yaml traffic.pcap --packet 42
    """
    output = document.output
    question = _question(packet)
    if (capture is not None) + (question is not None) + (flows is not None) != 1 or (
        (capture is None) != (number is None)
    ):
        raise _which(packet, capture, number, flows)
    if question is None:
        refuse_on_command_line(
            command, ["proto", "iif"], "it has no effect: it belongs to --from and --to"
        )
    if live.is_live:
        refuse_on_command_line(
            command, OFFLINE, "it has no effect: with --live the daemon knows it"
        )
        if question is None:
            raise SettingError("--live", "the daemon explains packets that are described")
        _show(*ask_daemon(live.socket, question), output)
        return
    refuse_on_command_line(command, ["socket"], "it has no effect without --live")
    if not objects.files:
        raise MissingSettingError("-f", "say where the objects are, or --live")
    offline = _Offline(objects, node)
    if flows is not None:
        questions = read_flows(flows)
        _show_all(questions, [offline.explain(each) for each in questions], output)
    elif capture is not None and number is not None:
        _show(*_explain_in_capture(offline.engine, capture, number), output)
    elif question is not None:
        _show(*offline.explain(question), output)


class _Offline:
    """Tables of objects that were read."""

    def __init__(self, objects: ObjectSettings, node: NodeSettings) -> None:
        self._snapshot: Snapshot = read_objects(objects)
        options = node_options(node, self._snapshot)
        if options.pod_interface:
            # No device needs to be here: a number stands for "one of the pods'".
            options = replace(options, pod_interfaces=(POD_INTERFACE,))
        self._plan: Plan = plan(self._snapshot, options)
        warn(*self._plan.notes)
        self.engine = Engine(seed=0)
        self.engine.replace_services(*native_tables(self._plan))

    def explain(self, question: FlowQuestion) -> tuple[bytes, ExplanationRow]:
        """The packet that is described, and its explanation."""
        ports = (
            Reachable(
                port.name,
                port.protocol,
                [Place(each.address or None, each.port) for each in port.frontends],
            )
            for port in self._plan.ports
        )
        packet = _describe(question, ports)
        device = device_of(packet, self._plan, question.interface or "")
        explanation = self.engine.explain(packet, 0, interface=device, incomplete_checksum=True)
        return packet, explain_in_plan(explanation, packet, self._snapshot, self._plan)


def _which(
    packet: PacketDescription, capture: Path | None, number: int | None, flows: Path | None
) -> SettingError:
    """What is missing or too much, where not one packet or list is described."""
    ways = "give --from and --to, or --flows, or a capture and --packet"
    if capture is not None and not capture.exists():
        return SettingError("CAPTURE", f"there is no file {capture}; --to names a Service")
    if capture is not None and number is None:
        return MissingSettingError("--packet", f"say which packet of {capture} is meant")
    if number is not None and capture is None:
        return SettingError("--packet", f"say which capture it is of; {ways}")
    if flows is not None:
        return SettingError("--flows", f"one description is enough: {ways}")
    if packet.source:
        return SettingError("--from", f"one description is enough: {ways}")
    return MissingSettingError("--from", ways)


def _question(packet: PacketDescription) -> FlowQuestion | None:
    """The packet of the flags, if they describe one. Raises `SettingError` for half of one."""
    if packet.source is None and packet.destination is None:
        return None
    if packet.source is None or packet.destination is None:
        missing = "--to" if packet.destination is None else "--from"
        raise MissingSettingError(missing, "a packet has both ends: give --from and --to")
    try:
        protocol = convert(packet.protocol.lower(), Protocol) if packet.protocol else None
    except ValidationError:
        raise SettingError("--proto", none_of(packet.protocol, wire.WITH_PORTS)) from None
    return FlowQuestion(packet.source, packet.destination, protocol, packet.interface)


def _describe(question: FlowQuestion, ports: Iterable[Reachable]) -> bytes:
    """The bytes of a packet; its destination may be the name of one of these service ports. Raises
    `SettingError`, `NotFoundError`.
    """
    from_address, from_port = parse(split_address, question.source, "--from")
    destination, protocol = question.destination, question.protocol or "tcp"
    if is_name(destination):
        destination, word = frontend_of(destination, ports, question.protocol)
        protocol = cast(Protocol, word)
    to_address, to_port = parse(split_address, destination, "--to")
    if to_port is None:
        raise SettingError("--to", without_port(question.destination))
    from_end = (from_address, EPHEMERAL_PORT if from_port is None else from_port)
    try:
        return wire.opening(protocol, from_end, (to_address, to_port))
    except ValueError as error:
        raise SettingError("--to", str(error)) from None


def ask_daemon(socket: Path, question: FlowQuestion) -> tuple[bytes, ExplanationRow]:
    """A packet, and its explanation by a running daemon. Raises `ControlError`, `NotFoundError`."""
    ports: Iterable[Reachable] = ()
    if is_name(question.destination):
        names = [service_name(question.destination)]
        ports = ask_rows(socket, "services", Reachable, names=names)
    packet = _describe(question, ports)
    (explanation,) = ask(
        socket,
        "explain",
        ExplanationRow,
        packet=packet.hex(),
        device=question.interface or "",
    )
    return packet, explanation


def _explain_in_capture(engine: Engine, capture: Path, number: int) -> tuple[bytes, ExplanationRow]:
    """The packet of this number, and its explanation after all before it were processed."""
    before = number - 1
    with CaptureQueue(capture) as queue:
        while (batch := queue.receive()) is not None:
            here = min(before, len(batch))
            with memoryview(batch.packets) as packets:
                engine.process_batch(
                    packets[: batch.offsets[here]],
                    batch.now,
                    offsets=batch.offsets[: here + 1],
                    captured=batch.is_captured,
                )
            engine.released()
            if here < len(batch):
                start, end = batch.offsets[here : here + 2]
                packet = bytes(batch.packets[start:end])
                if not packet:
                    raise SettingError("--packet", f"number {number} of {capture} is no IP packet")
                explanation = engine.explain(packet, batch.now, captured=batch.is_captured)
                return packet, explain_packet(explanation)
            engine.expire(batch.now, EXPIRY_BUDGET)
            before -= len(batch)
    total = number - 1 - before
    raise SettingError(
        "--packet", f"{capture} has {counted(total, 'packet')}, so there is no number {number}"
    )


def _show_all(
    questions: list[FlowQuestion], answers: list[tuple[bytes, ExplanationRow]], output: Output
) -> None:
    pairs = list(zip(questions, answers, strict=True))
    if output.is_document:
        verdicts = (verdict_of(answer, question.name) for question, (_, answer) in pairs)
        show_rows(verdicts, "Verdict", output)
        return
    for number, (question, (packet, explanation)) in enumerate(pairs, 1):
        gap = "" if number == 1 else "\n"
        show(gap + bold(f"{number}. {question.name}".rstrip()))
        show(*explanation_parts(packet, explanation))


def _show(packet: bytes, explanation: ExplanationRow, output: Output) -> None:
    if output.is_document:
        show_document(verdict_of(explanation), output)
    else:
        show(*explanation_parts(packet, explanation))


def explanation_parts(packet: bytes, explanation: ExplanationRow) -> list[Any]:
    """An explanation for people, as the verb prints it."""
    verdict = verdict_of(explanation)
    steps = table("Why", "checked", "found", is_wrapped=True)
    for check, finding in explanation.steps:
        steps.add_row(check, finding)
    parts: list[Any] = [bold(sentence(packet, explanation)), "", steps]
    parts += _endpoint_tables(verdict)
    kernel = table("What the kernel does with it", "datapath", "what it does", is_wrapped=True)
    for kind, consequence in verdict.kernel.items():
        kernel.add_row(kind, consequence)
    parts += ["", kernel]
    if verdict.chains:
        parts += ["", "kube-proxy's chains: " + " -> ".join(verdict.chains)]
    return parts


def _endpoint_tables(verdict: VerdictRow) -> list[Any]:
    """Tables of the endpoints that may serve a packet, and of those that may not."""
    parts: list[Any] = []
    if verdict.destinations:
        masqueraded = verdict.destinations if verdict.masquerade is True else []
        if verdict.masquerade == MIXED_MASQUERADE:
            masqueraded = verdict.masqueraded or []
        titles = ("endpoint", "masqueraded", *(["chosen"] if verdict.backend else []))
        candidates = table("Who may serve it", *titles)
        for endpoint in verdict.destinations:
            facts = (endpoint in masqueraded, endpoint == verdict.backend)
            cells = (endpoint, *("yes" if fact else "no" for fact in facts))
            candidates.add_row(*cells[: len(titles)])
        parts += ["", candidates]
    if verdict.refused:
        refused = table(
            "Who would serve it, but is another Service's frontend",
            "endpoint",
            "verdict",
            "why",
            is_wrapped=True,
        )
        for refusal in verdict.refused:
            refused.add_row(refusal.endpoint, refusal.verdict, refusal.reason)
        parts += ["", refused]
    if verdict.excluded:
        excluded = table("Who may not", "endpoint", "because", is_wrapped=True)
        for exclusion in verdict.excluded:
            excluded.add_row(exclusion.endpoint, exclusion.reason)
        parts += ["", excluded]
    return parts
