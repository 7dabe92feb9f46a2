"""`kbe-nat replay`: a capture through the engine, as if the node had carried it."""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, cast

from msgspec import structs

from kbe_nat import words
from kbe_nat._native import Engine, Loop, Snat
from kbe_nat.cli.comparison import Comparison
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.node import NODE_FLAGS, NodeCommand, node_options
from kbe_nat.cli.flags.objects import OBJECT_FLAGS, ObjectSettings, read_objects
from kbe_nat.cli.flags.options import (
    SEED_FLAG,
    STRATEGY_FLAG,
    Format,
    OutputFormat,
    warn,
)
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.output import show, show_document
from kbe_nat.cli.progress import progress_bar
from kbe_nat.cli.summary import ReplayRow, doubts, summary, tables
from kbe_nat.cli.verb import verb
from kbe_nat.drivers.capture import CaptureQueue
from kbe_nat.drivers.queue import PacketQueue
from kbe_nat.engine_tables import native_tables
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Strategy
from kbe_nat.policy.plan import Plan
from kbe_nat.policy.planner import plan
from kbe_nat.sources.address import parse_address


@dataclass(frozen=True)
class ChoiceSettings:
    """How the engine chooses backends, and sources of masqueraded flows."""

    strategy: Strategy = Strategy.RANDOM
    seed: int | None = None
    masquerade_addresses: tuple[str, ...] = ()


CHOICE_FLAGS: Final[Flags] = {
    "strategy": STRATEGY_FLAG,
    "seed": SEED_FLAG,
    "masquerade_addresses": TextFlag(
        Flag(
            "--masquerade-address",
            help="Address of the node that masqueraded flows get as their source; repeatable.",
        ),
        lambda texts: tuple(map(parse_address, texts)),
        list[str],
    ),
}


@verb(kind=NodeCommand, choice=CHOICE_FLAGS, objects=OBJECT_FLAGS, node=NODE_FLAGS)
def replay(
    capture: Annotated[Path, Argument(help="pcap or pcapng file, or - for standard input.")],
    target: Annotated[
        Path | None,
        Flag(
            "--write",
            "-w",
            help="Write what would be sent on to this capture file, or - for standard output.",
        ),
    ] = None,
    compare: Annotated[
        list[str],
        Flag(help="Other objects, as with -f: say which flows would fare differently."),
    ] = [],  # noqa: B006
    *,
    choice: ChoiceSettings,
    objects: ObjectSettings,
    node: NodeSettings,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Send a capture through the engine and say what became of it, per service and backend.

    Without --masquerade-address flows that need it are counted, but keep their source.

    Examples:
      kbe-nat replay -f objects.yaml traffic.pcap -w translated.pcap
      kbe-nat replay -f objects.yaml traffic.pcap --compare after.yaml
      kbe-nat replay -f objects.yaml traffic.pcap --strategy mh --seed 1 -o json
    """
    seed = secrets.randbits(64) if choice.seed is None else choice.seed

    def engine_for(plan: Plan) -> Engine:
        engine = Engine(seed=seed, snat=Snat(choice.masquerade_addresses))
        engine.replace_services(*native_tables(plan))
        return engine

    first = _plan(objects, node, choice)
    engine = engine_for(first)
    comparison: Comparison | None = None
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(capture))
        source = CaptureQueue(
            capture,
            target,
            answer=cast(words.Answer, node.reject_with),
            inputs=[
                name for name in (*objects.files, *compare, node.config) if name not in (None, "-")
            ],
            progress=progress,
        )
        queue: PacketQueue = stack.enter_context(source)
        if compare:
            second = _plan(replace(objects, files=tuple(compare)), node, choice)
            queue = comparison = Comparison(queue, engine_for(second), (first, second))
        Loop(engine, queue).run()
    result = summary(str(capture), seed, engine.stats(), source.unread, source.cut)
    warn(*doubts(result))
    # Text in the middle of a capture would spoil it.
    with redirect_stdout(sys.stderr) if source.is_standard_output else nullcontext():
        _print(result, comparison, output)


def _plan(objects: ObjectSettings, node: NodeSettings, choice: ChoiceSettings) -> Plan:
    """The plan of objects; its notes go to standard error."""
    snapshot = read_objects(objects, needs_service=True)
    result = plan(snapshot, node_options(node, snapshot, choice.strategy))
    warn(*result.notes)
    return result


def _print(result: ReplayRow, comparison: Comparison | None, output: Format) -> None:
    if output is Format.JSON:
        show_document(
            structs.replace(result, comparison=comparison.summary()) if comparison else result
        )
    else:
        show(*tables(result), *(["", *comparison.tables()] if comparison else []))


@contextmanager
def _progress(capture: Path) -> Iterator[Callable[[int], None]]:
    """Shows which part of the bytes was read, on standard error, and only on a terminal."""
    total = capture.stat().st_size if capture.is_file() else None
    with progress_bar(capture.name, total) as update:
        yield update
