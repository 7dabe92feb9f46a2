"""`kbe-nat replay`: a capture through the engine, as if the node had carried it."""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, cast

import click
from msgspec import UNSET, structs

from kbe_nat import words
from kbe_nat._native import Engine, Loop, Snat
from kbe_nat.cli.annotation import Annotation, Pcapng
from kbe_nat.cli.capture_replies import CaptureReplies
from kbe_nat.cli.comparison import Comparison
from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import DOCUMENT_FLAGS, DocumentSettings, Output
from kbe_nat.cli.flags.node import NODE_FLAGS, NodeCommand, node_options
from kbe_nat.cli.flags.objects import OBJECT_FLAGS, ObjectSettings, read_objects
from kbe_nat.cli.flags.options import (
    SEED_FLAG,
    STRATEGY_FLAG,
    warn,
)
from kbe_nat.cli.flags.parameters import Flags, TextFlag
from kbe_nat.cli.flow_log import FlowLog, write_csv, write_parquet
from kbe_nat.cli.object_changes import Change, ChangingObjects, split_changes
from kbe_nat.cli.output import show, show_document
from kbe_nat.cli.progress import progress_bar
from kbe_nat.cli.summary import ReplayRow, doubts, summary, tables
from kbe_nat.cli.verb import verb
from kbe_nat.drivers.capture import CaptureQueue, check_target, is_standard_output
from kbe_nat.drivers.queue import PacketQueue
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import SettingError
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


@dataclass(frozen=True)
class ResultSettings:
    """Files that are written, and objects that are compared."""

    target: Path | None = None
    is_annotated: bool = False
    flows_csv: Path | None = None
    flows_parquet: Path | None = None
    compare: tuple[str, ...] = ()


RESULT_FLAGS: Final[Flags] = {
    "target": Flag(
        "--write",
        "-w",
        help="Write what would be sent on to this capture file, or - for standard output.",
    ),
    "is_annotated": Flag(
        "--annotate",
        help="Write pcapng with Service, backend and cause in each packet's comment, from the IP"
        " header on; dropped packets are in it too.",
    ),
    "flows_csv": Flag(
        "--flows-csv",
        help="Write one row for each connection to this file, or - for standard output.",
    ),
    "flows_parquet": Flag("--flows-parquet", help="The same as Parquet, with polars."),
    "compare": TextFlag(
        Flag(
            "--compare",
            metavar="FILE",
            help="Other objects, as with -f: say which flows would fare differently.",
        ),
        tuple,
        list[str],
    ),
}


class ReplayCommand(NodeCommand):
    """`kbe-nat replay`: files behind an --at count from then on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class. Raises `SettingError`."""
        rest, ctx.meta[CHANGES_KEY] = split_changes(args)
        return super().parse_args(ctx, rest)


CHANGES_KEY: Final = "kbe_nat.changes"


@verb(
    kind=ReplayCommand,
    results=RESULT_FLAGS,
    choice=CHOICE_FLAGS,
    objects=OBJECT_FLAGS,
    node=NODE_FLAGS,
    document=DOCUMENT_FLAGS,
)
def replay(
    context: click.Context,
    capture: Annotated[Path, Argument(help="pcap or pcapng file, or - for standard input.")],
    at: Annotated[
        list[str],
        Flag(
            "--at",
            metavar="DURATION",
            help="The objects of each -f behind it take the place of all before, from so long after"
            " the first packet on, such as 50s; repeatable.",
        ),
    ] = [],  # noqa: B006
    *,
    results: ResultSettings,
    choice: ChoiceSettings,
    objects: ObjectSettings,
    node: NodeSettings,
    document: DocumentSettings,
) -> None:
    """Send a capture through the engine and say what became of it, per service and backend.

    Without --masquerade-address flows that need it are counted, but keep their source.

    Examples:
      kbe-nat replay -f objects.yaml traffic.pcap -w translated.pcap
      kbe-nat replay -f objects.yaml traffic.pcap --annotate -w explained.pcapng
      kbe-nat replay -f before.yaml traffic.pcap --at 50s -f after.yaml --flows-csv flows.csv
      kbe-nat replay -f objects.yaml traffic.pcap --compare after.yaml
      kbe-nat replay -f objects.yaml traffic.pcap --strategy mh --seed 1 -o json
    """
    changes: list[Change] = context.meta[CHANGES_KEY]
    _check(results, changes)
    run = _Run(capture, results, objects, node, choice, changes)
    result, comparison, is_standard_output = run.result()
    warn(*doubts(result))
    # Text in the middle of a capture or a table would spoil it.
    with redirect_stdout(sys.stderr) if is_standard_output else nullcontext():
        _print(result, comparison, document.output)


def _check(results: ResultSettings, changes: list[Change]) -> None:
    """Raises `SettingError` for flags that contradict each other."""
    if results.is_annotated and (results.target is None or is_standard_output(results.target)):
        reason = "name the file that is written, which cannot be standard output: -w out.pcapng"
        raise SettingError("--annotate", reason)
    if results.is_annotated and results.target and results.target.suffix == ".pcap":
        reason = f"comments need pcapng: name it so, as in {results.target.with_suffix('.pcapng')}"
        raise SettingError("--write", reason)
    targets = [
        target.resolve()
        for target in (results.target, results.flows_csv, results.flows_parquet)
        if target is not None and str(target) != "-"
    ]
    if len(set(targets)) < len(targets):
        raise SettingError("--write", "two results would be written to one file")
    outputs = {
        "--write": results.target,
        "--flows-csv": results.flows_csv,
        "--flows-parquet": results.flows_parquet,
    }
    streams = [flag for flag, path in outputs.items() if path and is_standard_output(path)]
    if len(streams) > 1:
        reason = f"{streams[0]} is written to standard output already"
        raise SettingError(streams[1], reason)
    if results.compare and changes:
        raise SettingError("--compare", "it compares objects that do not change: leave out --at")


@dataclass
class _Run:
    """One replay."""

    capture: Path
    results: ResultSettings
    objects: ObjectSettings
    node: NodeSettings
    choice: ChoiceSettings
    changes: list[Change]

    def result(self) -> tuple[ReplayRow, Comparison | None, bool]:
        """The counters, a comparison if there is one, and whether standard output is taken."""
        choice, results = self.choice, self.results
        seed = secrets.randbits(64) if choice.seed is None else choice.seed

        def engine_for(plan: Plan) -> Engine:
            engine = Engine(seed=seed, snat=Snat(choice.masquerade_addresses))
            engine.replace_services(*native_tables(plan))
            return engine

        # All objects are read ahead of the bar of progress, which their warnings would break.
        first = _plan(self.objects, self.node, choice)
        second = self._plan_of(results.compare) if results.compare else None
        plans = [self._plan_of(change.files) for change in self.changes]
        engine = engine_for(first)
        comparison: Comparison | None = None
        log: FlowLog | None = None
        with ExitStack() as stack:
            source = self._source(stack)
            queue: PacketQueue = stack.enter_context(source)
            queue = replies = CaptureReplies(queue)
            replies.follow(first)
            annotation = None
            if results.is_annotated and results.target is not None:
                pcapng = stack.enter_context(Pcapng(results.target))
                answer = cast(words.Answer, self.node.reject_with)
                queue = annotation = Annotation(queue, source, pcapng, answer)
                annotation.follow(first)
            if second is not None:
                queue = comparison = Comparison(queue, engine_for(second), (first, second))
            if results.flows_csv or results.flows_parquet:
                queue = log = FlowLog(queue, source, engine)
            pending = self._pending(plans, engine, annotation, replies)
            if pending:
                queue = ChangingObjects(queue, source, pending)
            Loop(engine, queue).run()
        for change, _ in pending:
            warn(f"--at {change.text}: the capture ends before")
        if log is not None:
            self._write_flows(log)
        if replies.unmatched:
            warn(self._doubt(replies.unmatched, seed))
        result = summary(str(self.capture), seed, engine.stats(), source.unread, source.cut)
        tables = (results.flows_csv, results.flows_parquet)
        is_table_shown = any(path is not None and is_standard_output(path) for path in tables)
        return result, comparison, source.is_standard_output or is_table_shown

    def _source(self, stack: ExitStack) -> CaptureQueue:
        results = self.results
        others = [name for change in self.changes for name in change.files]
        names = (*self.objects.files, *results.compare, *others, self.node.config)
        inputs = [name for name in names if name not in (None, "-")]
        for target in (results.flows_csv, results.flows_parquet, results.target):
            if target is not None and str(target) != "-":
                check_target(target, [self.capture, *inputs])
        return CaptureQueue(
            self.capture,
            None if results.is_annotated else results.target,
            answer=cast(words.Answer, self.node.reject_with),
            inputs=inputs,
            progress=stack.enter_context(_progress(self.capture)),
        )

    def _doubt(self, unmatched: int, seed: int) -> str:
        """A warning about so many replies of endpoints that were not chosen here."""
        count = "1 reply comes" if unmatched == 1 else f"{unmatched} replies come"
        return (
            f"{self.capture}: {count} from an endpoint that was not chosen here, and passed:"
            " the choices differ from the capture's. Another --seed chooses otherwise;"
            f" --seed {seed} repeats this"
        )

    def _plan_of(self, files: tuple[str, ...]) -> Plan:
        """The plan of other files than --filename names."""
        return _plan(replace(self.objects, files=files), self.node, self.choice)

    def _pending(
        self,
        plans: list[Plan],
        engine: Engine,
        annotation: Annotation | None,
        replies: CaptureReplies,
    ) -> list[tuple[Change, Callable[[], None]]]:
        """Each change with what it does, by its plan."""

        def application(plan: Plan) -> Callable[[], None]:
            replies.follow(plan)

            def apply() -> None:
                engine.replace_services(*native_tables(plan))
                if annotation is not None:
                    annotation.follow(plan)

            return apply

        return [
            (change, application(plan)) for change, plan in zip(self.changes, plans, strict=True)
        ]

    def _write_flows(self, log: FlowLog) -> None:
        log.finish()
        if self.results.flows_csv is not None:
            write_csv(log.rows, self.results.flows_csv)
        if self.results.flows_parquet is not None:
            write_parquet(log.rows, self.results.flows_parquet)


def _plan(objects: ObjectSettings, node: NodeSettings, choice: ChoiceSettings) -> Plan:
    """The plan of objects; its notes go to standard error."""
    snapshot = read_objects(objects, needs_service=True)
    result = plan(snapshot, node_options(node, snapshot, choice.strategy))
    warn(*result.notes)
    return result


def _print(result: ReplayRow, comparison: Comparison | None, output: Output) -> None:
    if output.is_document:
        compared = comparison.summary() if comparison else UNSET
        show_document(structs.replace(result, comparison=compared), output)
    else:
        show(*tables(result), *(["", *comparison.tables()] if comparison else []))


@contextmanager
def _progress(capture: Path) -> Iterator[Callable[[int], None]]:
    """Shows which part of the bytes was read, on standard error, and only on a terminal."""
    total = capture.stat().st_size if capture.is_file() else None
    with progress_bar(capture.name, total) as update:
        yield update
