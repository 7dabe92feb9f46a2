"""`kbe-nat replay`: a capture through the engine, as if the node had carried it."""

import secrets
import sys
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from kbe_nat._native import Engine, Loop
from kbe_nat.cli.comparison import Comparison
from kbe_nat.cli.flags.node import NODE_FLAGS, node_options
from kbe_nat.cli.flags.objects import OBJECT_FLAGS, ObjectSettings, read_objects
from kbe_nat.cli.flags.options import (
    DefaultStrategy,
    Format,
    OutputFormat,
    Seed,
    parse,
    warn,
)
from kbe_nat.cli.flags.parameters import takes_flags
from kbe_nat.cli.output import show, show_json
from kbe_nat.cli.summary import doubts, summary, tables
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.drivers.queue import PacketQueue
from kbe_nat.engine_tables import native_tables
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Strategy
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.address import parse_address


@takes_flags(objects=OBJECT_FLAGS, node=NODE_FLAGS)
def replay(
    capture: Annotated[Path, typer.Argument(help="pcap or pcapng file, or - for standard input.")],
    target: Annotated[
        Path | None,
        typer.Option(
            "--write",
            "-w",
            help="Write what would be sent on to this capture file, or - for standard output.",
        ),
    ] = None,
    compare: Annotated[
        list[str],
        typer.Option(help="Other objects, as with -f: say which flows would fare differently."),
    ] = [],  # noqa: B006
    strategy: DefaultStrategy = Strategy.RANDOM,
    seed: Seed = None,
    masquerade_address: Annotated[
        list[str],
        typer.Option(
            help="Address of the node that masqueraded flows get as their source; repeatable."
        ),
    ] = [],  # noqa: B006
    *,
    objects: ObjectSettings,
    node: NodeSettings,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Send a capture through the engine and say what became of it, per service and backend.

    Without --masquerade-address flows that need it are counted, but keep their source.
    """
    masquerade = [parse(parse_address, text, "--masquerade-address") for text in masquerade_address]
    seed = secrets.randbits(64) if seed is None else seed

    def plan_of(objects: ObjectSettings) -> Plan:
        snapshot = read_objects(objects, needs_service=True)
        result = plan(snapshot, node_options(node, snapshot, strategy))
        warn(*result.notes)
        return result

    def engine_for(plan: Plan) -> Engine:
        engine = Engine(seed=seed, snat_addresses=masquerade)
        engine.replace_services(*native_tables(plan))
        return engine

    first = plan_of(objects)
    engine = engine_for(first)
    comparison: Comparison | None = None
    with ExitStack() as stack:
        bar = stack.enter_context(_progress())
        task = bar.add_task(
            capture.name, total=capture.stat().st_size if capture.is_file() else None
        )
        source = CaptureQueue(
            capture,
            target,
            answer=node.reject_with,
            inputs=[
                name for name in (*objects.files, *compare, node.config) if name not in (None, "-")
            ],
            progress=lambda position: bar.update(task, completed=position),
        )
        queue: PacketQueue = stack.enter_context(source)
        if compare:
            second = plan_of(replace(objects, files=tuple(compare)))
            queue = comparison = Comparison(queue, engine_for(second), (first, second))
        Loop(engine, queue).run()
    result = summary(str(capture), seed, engine.stats(), source.unread, source.cut)
    warn(*doubts(result))
    # Text in the middle of a capture would spoil it.
    with redirect_stdout(sys.stderr) if source.is_standard_output else nullcontext():
        if output is Format.JSON:
            show_json(result | ({"comparison": comparison.summary()} if comparison else {}))
        else:
            show(*tables(result), *(["", *comparison.tables()] if comparison else []))


def _progress() -> Progress:
    """Bytes read, on standard error, and only where somebody watches."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
    )
