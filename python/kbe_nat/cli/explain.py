"""`kbe-nat explain`: what would happen to a packet, and why. Nothing is sent, and no table changes."""

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from kbe_nat import packet as wire
from kbe_nat._native import EXPIRY_BUDGET, Engine
from kbe_nat.cli.flags.node import NODE_FLAGS, NODE_PARAMETERS, node_options
from kbe_nat.cli.flags.options import (
    SOCKET,
    Format,
    ObjectFiles,
    OutputFormat,
    PodRange,
    Socket,
    Strict,
    parse,
    read_objects,
    refuse_given,
    warn,
)
from kbe_nat.cli.flags.parameters import takes_flags
from kbe_nat.cli.flows import FlowQuestion, read_flows
from kbe_nat.cli.output import show, show_json, table
from kbe_nat.daemon.control_socket import ask
from kbe_nat.daemon.verbs import Row, consequences, context, explanation_row
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.engine_tables import native_tables
from kbe_nat.family import Family
from kbe_nat.kubeproxy.settings import NodeSettings, matches
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.address import split_address
from kbe_nat.sources.manifests.defaults import POD_RANGE

VERDICTS = {"translate": "dnat", "accept": "pass"}
"""Actions of the engine in words of this verb; the others have the same name in both."""
OTHER_INTERFACE, POD_INTERFACE = 1, 2
"""Numbers that stand for a device of the node, and for one behind which pods are."""
EPHEMERAL_PORT = 49152
OFFLINE = ("objects", *NODE_PARAMETERS, "pod_range", "strict")
"""What says more about objects that are read."""


@takes_flags(node=NODE_FLAGS)
def explain(
    command: typer.Context,
    objects: ObjectFiles = [],  # noqa: B006
    capture: Annotated[
        Path | None, typer.Argument(help="Capture that the packet is taken from.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--packet", min=1, help="Number of the packet in the capture.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Source, as ADDRESS or ADDRESS:PORT.")
    ] = None,
    destination: Annotated[
        str | None, typer.Option("--to", help="Destination, as ADDRESS:PORT.")
    ] = None,
    protocol: Annotated[str, typer.Option("--proto", help="tcp, udp or sctp.")] = "tcp",
    interface: Annotated[
        str,
        typer.Option(
            "--iif",
            help="Device that the packet comes in by. Default: eth0, and none for the node's own.",
        ),
    ] = "",
    flows: Annotated[
        Path | None,
        typer.Option(
            help="YAML file with a list of packets (from, to, proto, iif); answered in its order."
        ),
    ] = None,
    *,
    node: NodeSettings,
    pod_range: PodRange = POD_RANGE,
    strict: Strict = True,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Ask the running daemon, with its connections, instead of reading objects.",
        ),
    ] = False,
    socket: Socket = SOCKET,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Say what happens to a packet, and why.

    The packet is described by --from, --to and --proto, or taken from a capture with --packet; the
    packets before it are then processed first, so that connections are known as they were.
    """
    ways = (capture is not None, source is not None or destination is not None, flows is not None)
    if (
        sum(ways) != 1
        or (capture is None) != (number is None)
        or (source is None) != (destination is None)
    ):
        raise typer.BadParameter(
            "give --from and --to, or --flows, or a capture and --packet", param_hint="packet"
        )
    if source is None:
        refuse_given(
            command, ["protocol", "interface"], "it has no effect: it belongs to --from and --to"
        )
    if live:
        refuse_given(command, OFFLINE, "it has no effect: with --live the daemon knows it")
        if source is None or destination is None:
            raise typer.BadParameter(
                "the daemon explains packets that are described", param_hint="--live"
            )
        data = _described(source, destination, protocol)
        (told,) = ask(
            socket, "explain", packet=data.hex(), interface=OTHER_INTERFACE if interface else 0
        )
        _tell(data, told, output)
        return
    refuse_given(command, ["socket"], "it has no effect without --live")
    if not objects:
        raise typer.BadParameter("say where the objects are, or --live", param_hint="--filename")
    snapshot = read_objects(objects, pod_range, is_strict=strict)
    options = node_options(node, snapshot)
    if options.pod_interface:
        # Packets are described by names of devices: numbers stand for "one of the pods'" and
        # "another".
        options = replace(options, pod_interfaces=(POD_INTERFACE,))
    made = plan(snapshot, options)
    warn(*made.notes)
    engine = Engine(seed=0)
    engine.replace_services(*native_tables(made))
    ports = {(port.name, port.family): port for port in made.ports}

    def answered(
        source: str, destination: str, protocol: str, interface: str | None
    ) -> tuple[bytes, Row]:
        data = _described(source, destination, protocol)
        device = _device(made, data, interface)
        told = engine.explain(data, 0, interface=device, incomplete_checksum=True)
        number = Family.IPV6 if data[0] >> 4 == Family.IPV6 else Family.IPV4
        port = ports.get((told.service or "", number))
        row = explanation_row(told) | context(snapshot, made, port, told)
        return data, row | {"kernel": consequences(row)}

    if flows is not None:
        wanted = read_flows(flows)
        told_all = [
            answered(flow.source, flow.destination, flow.protocol, flow.interface)
            for flow in wanted
        ]
        _tell_all(wanted, told_all, output)
    elif capture is not None and number is not None:
        _tell(*_captured(engine, capture, number), output)
    else:
        _tell(*answered(source or "", destination or "", protocol, interface), output)


def _tell_all(wanted: list[FlowQuestion], told: list[tuple[bytes, Row]], output: Format) -> None:
    if output is Format.JSON:
        show_json(
            [
                ({"name": flow.name} if flow.name else {}) | _answer(explanation)
                for flow, (_, explanation) in zip(wanted, told, strict=True)
            ]
        )
        return
    for number, (flow, (data, explanation)) in enumerate(zip(wanted, told, strict=True), 1):
        show(Text(f"{'' if number == 1 else chr(10)}{number}. {flow.name}".rstrip(), style="bold"))
        _show(data, _answer(explanation), explanation)


def _tell(data: bytes, explanation: Row, output: Format) -> None:
    answer = _answer(explanation)
    if output is Format.JSON:
        show_json(answer)
    else:
        _show(data, answer, explanation)


def _described(source: str, destination: str, protocol: str) -> bytes:
    if protocol.lower() not in wire.NUMBERS:
        raise typer.BadParameter(
            f"{protocol!r} is none of {', '.join(wire.NUMBERS)}", param_hint="--proto"
        )
    from_address, from_port = parse(split_address, source, "--from")
    to_address, to_port = parse(split_address, destination, "--to")
    if to_port is None:
        raise typer.BadParameter(f"{destination!r} has no port", param_hint="--to")
    from_end = (from_address, EPHEMERAL_PORT if from_port is None else from_port)
    try:
        return wire.opening(protocol.lower(), from_end, (to_address, to_port))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--to") from None


def _captured(engine: Engine, capture: Path, number: int) -> tuple[bytes, Row]:
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
                data = bytes(batch.packets[start:end])
                if not data:
                    raise typer.BadParameter(
                        f"number {number} of {capture} is no IP packet", param_hint="--packet"
                    )
                row = explanation_row(engine.explain(data, batch.now, captured=batch.is_captured))
                return data, row | {"kernel": consequences(row)}
            engine.expire(batch.now, EXPIRY_BUDGET)
            before -= len(batch)
    total = number - 1 - before
    raise typer.BadParameter(
        f"{capture} has {total} packets, so there is no number {number}", param_hint="--packet"
    )


def _device(made: Plan, data: bytes, interface: str | None) -> int:
    """The number of the device that a described packet comes in by: none for a packet of the node
    itself.
    """
    described = wire.ends(data)
    source = described.source[0] if described else ""
    if source in made.addresses or (source and ip_address(source).is_loopback):
        return 0
    return (
        POD_INTERFACE
        if matches(made.options.pod_interface, interface or "eth0")
        else OTHER_INTERFACE
    )


def _answer(explanation: Row) -> dict[str, Any]:
    refused = explanation["refused"]
    is_drawn = any(endpoint == explanation["backend"] for endpoint, _, _ in refused)
    verdict = VERDICTS.get(explanation["action"], explanation["action"])
    if is_drawn and explanation["candidates"]:
        # The next such packet is refused, but what is asked for is what may come.
        verdict = "dnat"
    destinations = sorted(explanation["candidates"]) if verdict == "dnat" else []
    masqueraded = sorted(set(explanation["masqueraded"]) & set(destinations))
    masquerade: bool | str = explanation["masquerade"] and verdict == "dnat"
    if destinations:
        masquerade = "mixed" if 0 < len(masqueraded) < len(destinations) else bool(masqueraded)
    answer: dict[str, Any] = {
        "verdict": verdict,
        "service": explanation["service"],
        "destinations": destinations,
        "backend": explanation["backend"] if verdict == "dnat" and not is_drawn else None,
        "masquerade": masquerade,
    }
    if masquerade == "mixed":
        answer["masqueraded"] = masqueraded
    answer["refused"] = [
        {"endpoint": endpoint, "verdict": action, "reason": cause}
        for endpoint, action, cause in refused
    ]
    answer["excluded"] = [
        {"endpoint": endpoint, "reason": reason}
        for endpoint, reason in explanation.get("excluded", ())
    ]
    answer["chains"] = explanation.get("chains", [])
    answer["kernel"] = explanation["kernel"]
    answer["reasons"] = [f"{check}: {found}" for check, found in explanation["steps"]]
    return answer


def _show(data: bytes, answer: dict[str, Any], explanation: Row) -> None:
    described = wire.ends(data)
    what = "A packet that cannot be read"
    if described is not None:
        source, destination = wire.show(described.source), wire.show(described.destination)
        what = f"{described.protocol.upper()} {source} to {destination}"
    service = f" by {answer['service']}" if answer["service"] else ""
    outcome = {
        "dnat": f"is sent to {answer['backend'] or 'one of several endpoints'}{service}",
        "pass": "passes untouched",
        "reject": f"is refused{service} ({explanation['cause']})",
        "drop": f"is dropped{service} ({explanation['cause']})",
        "hold": "waits for the first fragment of its datagram",
    }[answer["verdict"]]
    steps = table("Why", "checked", "found")
    for check, found in explanation["steps"]:
        steps.add_row(check, found)
    parts: list[Any] = [Text(f"{what} {outcome}.", style="bold"), "", steps]
    if answer["destinations"]:
        masqueraded = {
            "mixed": answer.get("masqueraded", []),
            True: answer["destinations"],
        }.get(answer["masquerade"], [])
        candidates = table("Who may serve it", "endpoint", "source is masqueraded", "")
        for one in answer["destinations"]:
            mark = "this packet's" if one == answer["backend"] else ""
            candidates.add_row(one, "yes" if one in masqueraded else "no", mark)
        parts += ["", candidates]
    if answer["refused"]:
        refused = table(
            "Who would serve it, but is another Service's frontend", "endpoint", "verdict there", ""
        )
        for own in answer["refused"]:
            refused.add_row(own["endpoint"], own["verdict"], own["reason"])
        parts += ["", refused]
    if answer["excluded"]:
        excluded = table("Who may not", "endpoint", "because")
        for own in answer["excluded"]:
            excluded.add_row(own["endpoint"], own["reason"])
        parts += ["", excluded]
    kernel = table("What the kernel does with it", "datapath", "")
    for way, consequence in answer["kernel"].items():
        kernel.add_row(way, consequence)
    parts += ["", kernel]
    if answer["chains"]:
        parts += ["", Text("kube-proxy's chains: " + " -> ".join(answer["chains"]))]
    show(*parts)
