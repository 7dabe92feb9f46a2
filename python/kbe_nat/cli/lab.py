"""`kbe-nat lab`: balancing strategies compared."""

import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import click
import msgspec
from click.exceptions import Exit

from kbe_nat.cli.flags.flag import Argument, Flag
from kbe_nat.cli.flags.listing import (
    DOCUMENT_FLAGS,
    DocumentSettings,
    Output,
    output_flag,
)
from kbe_nat.cli.flags.options import warn
from kbe_nat.cli.lab_progress import run_progress
from kbe_nat.cli.output import API_VERSION, show, show_json, show_rows, table, write_document
from kbe_nat.cli.verb import VerbGroup
from kbe_nat.errors import FileError, KbeNatError, LabError, ScenarioError, SettingError
from kbe_nat.lab.comparability import notes
from kbe_nat.lab.fields import schema as scenario_schema
from kbe_nat.lab.folder import RunFolder
from kbe_nat.lab.html import write_report
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.parallel import RESUME, Cluster, Workers
from kbe_nat.lab.preflight import LabWarning, origin_of
from kbe_nat.lab.preflight import validate as validate_scenario
from kbe_nat.lab.reading import KIND, AnyScenario, gallery, read_scenario, scenario_file
from kbe_nat.lab.report import headline
from kbe_nat.lab.report import report as pages_of
from kbe_nat.lab.result import Result, differences, has_different_rows
from kbe_nat.lab.runs import Watch
from kbe_nat.lab.runs import reproduce as reproduce_run
from kbe_nat.lab.runs import run as run_scenario
from kbe_nat.lab.shards import merge as merge_shards
from kbe_nat.lab.shards import shard_of
from kbe_nat.playground.privileges import ensure_root
from kbe_nat.sources.manifests.files import is_stream

lab = VerbGroup(
    "lab", "Balancing strategies compared by simulation, and ways through a node on real packets."
)


class ScenarioWord(click.ParamType[str]):
    """The name of a scenario. One that there is not is told before a flag that is missing."""

    name = "scenario"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click. Raises `ScenarioError`, and `FileError` for a file that is not there."""
        path = scenario_file(value)
        if not is_stream(value) and not path.exists():
            raise FileError(f"{path}: No such file or directory")
        return value


ScenarioName = Annotated[
    str,
    Argument(
        metavar="NAME|FILE", help="A scenario of the gallery, or a file.", type=ScenarioWord()
    ),
]
Jobs = Annotated[
    int | None, Flag("--jobs", "-j", min=1, help="Processes that run cells [default: 1].")
]
Run = Annotated[Path, Argument(metavar="DIR", help="The folder of a run.")]


class BackendName(StrEnum):
    """`--backend`."""

    LOKY = "loky"
    DASK = "dask"
    RAY = "ray"


class ScenarioRow(msgspec.Struct, frozen=True):
    """`lab list`: a scenario of the gallery. `lab show` has all fields of its file beside these."""

    name: str
    """As `lab run` takes it."""
    question: str
    """The question that it asks."""
    expect: str
    """The answer to expect, and why."""


@lab.verb("list", document={"output": output_flag("text", "yaml", "json", "name")})
def list_scenarios(document: DocumentSettings) -> None:
    """List the scenarios of the gallery.

    Examples:
      kbe-nat lab list
      kbe-nat lab list -o json
    """
    if document.output.form == "name":
        show("\n".join(gallery()))
        return
    scenarios = [read_scenario(name)[0] for name in gallery()]
    rows = [ScenarioRow(value.name, value.question, value.expect) for value in scenarios]
    if document.output.is_document:
        show_rows(rows, KIND, document.output)
        return
    listing = table("", "name", "question", is_wrapped=True)
    for row in rows:
        listing.add_row(row.name, row.question)
    show(listing)


@lab.verb("show", document=DOCUMENT_FLAGS)
def show_scenario(name: ScenarioName, document: DocumentSettings) -> None:
    """Print a scenario with all defaults, as YAML, which is the default, or JSON: lab run reads
    both.

    Examples:
      kbe-nat lab show node-loss
    """
    values = msgspec.to_builtins(read_scenario(name)[0])
    if document.output.is_document:
        write_document({"apiVersion": API_VERSION, "kind": KIND, **values}, document.output)
        return
    import yaml

    sys.stdout.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))


@lab.verb()
def validate(names: Annotated[list[str], Argument(metavar="NAME|FILE")]) -> None:
    """Check scenarios, their traces and their strategies in Python; a wrong one ends with 2 and the
    path of each wrong field. What has no effect is told.

    Examples:
      kbe-nat lab validate my-scenario.yaml
    """
    sys.path.insert(0, "")
    is_wrong = False
    for name in names:
        try:
            origin = origin_of(name)
            doubts = validate_scenario(origin)
            show(f"{name}: {origin.scenario.name} is valid")
            warn(*(f"{name}: {line}" for line in doubts))
        except ScenarioError as error:
            is_wrong = True
            each = (ScenarioError(error.origin, *mistake) for mistake in error.mistakes)
            warn(*(" ".join(str(single).split()) for single in each))
        except KbeNatError as error:
            is_wrong = True
            warn(" ".join(str(error).split()))
    if is_wrong:
        raise Exit(2)


@lab.verb()
def schema() -> None:
    """Print the JSON schema of a scenario's file.

    Examples:
      kbe-nat lab schema > lab-scenario.schema.json
    """
    show_json(scenario_schema())


@lab.verb(document=DOCUMENT_FLAGS)
def run(
    name: ScenarioName,
    directory: Annotated[
        Path,
        Flag(
            "--directory", "-d", metavar="DIR", help="Where results go; an interrupted run goes on."
        ),
    ],
    seed: Annotated[
        int | None, Flag(min=0, max=2**63 - 1, help="In the place of the scenario's.")
    ] = None,
    repeats: Annotated[
        int | None,
        Flag(min=1, max=10_000, help="In place of the scenario's; rounds of a live one."),
    ] = None,
    jobs: Jobs = None,
    backend: Annotated[
        BackendName, Flag(help="joblib's: processes of this machine, or a cluster.")
    ] = BackendName.LOKY,
    scheduler: Annotated[
        str | None, Flag(metavar="ADDRESS", help="The cluster's: tcp://10.0.0.1:8786.")
    ] = None,
    shard: Annotated[
        str | None, Flag(metavar="I/N", help="Run the I-th of N parts: see lab merge.")
    ] = None,
    *,
    document: DocumentSettings,
) -> None:
    """Run a scenario into a folder, and report. A live one needs root, or a system that lets users
    make namespaces.

    Examples:
      kbe-nat lab run my-scenario.yaml -d results
      kbe-nat lab run my-scenario.yaml -d part-1 --shard 1/4
    """
    part = None if shard is None else shard_of(shard)
    workers = _workers(jobs, backend, scheduler)
    origin = origin_of(name)
    _ensure_privileges(name, origin.scenario)
    # Strategies in Python lie beside the work, as a program's modules do.
    sys.path.insert(0, "")
    with _interruptible(directory), _doubts_told(), run_progress(name, directory) as watch:
        result = run_scenario(
            origin,
            directory,
            seed=seed,
            repeats=repeats,
            jobs=workers,
            shard=part,
            watch=_start_told(directory, watch, "this is its report"),
        )
    if part is not None:
        show(f"{directory}: shard {part} is finished; kbe-nat lab merge puts shards together.")
        return
    _present([result], None, document.output)


@lab.verb(document=DOCUMENT_FLAGS)
def merge(
    directory: Annotated[
        Path, Flag("--directory", "-d", metavar="DIR", help="Where the whole run goes.")
    ],
    shards: Annotated[list[Path], Argument(metavar="SHARD", help="Folders of shards.")],
    *,
    document: DocumentSettings,
) -> None:
    """Put the shards of a run together, and report.

    Examples:
      kbe-nat lab merge part-1 part-2 -d results
    """
    result = merge_shards(directory, shards)
    _present([result], None, document.output)


@lab.verb(document=DOCUMENT_FLAGS)
def report(
    runs: Annotated[list[Path], Argument(metavar="DIR", help="Folders of runs.")],
    html: Annotated[
        Path | None,
        Flag(metavar="FILE", help="Write HTML there, and not as DIR/report.html of a run."),
    ] = None,
    *,
    document: DocumentSettings,
) -> None:
    """Report on a run, or compare runs of one scenario; others are refused.

    Examples:
      kbe-nat lab report results
      kbe-nat lab report before after --html comparison.html
    """
    results, output = [Result(path) for path in runs], document.output
    if html is not None or (len(results) == 1 and output.is_table):
        _present(results, html, output)
    else:
        _report(results, output)


@lab.verb()
def reproduce(
    directory: Run,
    target: Annotated[
        Path | None,
        Flag("--directory", "-d", metavar="DIR", help="Keep the results in this folder."),
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Run again what a folder's manifest says, and tell what differs; rows or medians that do end
    with 1.

    Examples:
      kbe-nat lab reproduce results
    """
    _ensure_privileges(str(directory), Result(directory).scenario)
    sys.path.insert(0, "")
    with tempfile.TemporaryDirectory(prefix="kbe-nat-lab-") as temporary:
        place = target or Path(temporary) / "run"
        with _interruptible(target), run_progress(str(directory), place) as watch:
            watch = _start_told(place, watch, "it is compared as it is")
            second = reproduce_run(directory, place, jobs=jobs or 1, watch=watch)
        lines = differences(Result(directory), second)
    for line in lines:
        show(line)
    if has_different_rows(lines):
        raise Exit(1)
    if isinstance(second.scenario, LiveScenario):
        show("No median differs by more than chance and the machine's noise.")
    else:
        show("All tables are equal; those of processor time are not compared.")


@contextmanager
def _doubts_told() -> Iterator[None]:
    """A line for each part of a scenario that has no effect."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LabWarning)
        others = warnings.showwarning

        def tell(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, LabWarning):
                warn(str(message))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = tell
        yield


def _start_told(directory: Path, watch: Watch, use: str) -> Watch:
    """Says first what an earlier run has left in the folder, and what becomes of a finished one."""
    is_told = False

    def tell(done: int, total: int) -> None:
        nonlocal is_told
        if not is_told and done == total:
            warn(f"{directory}: this run was finished before; {use}")
        elif not is_told and done:
            warn(f"{directory}: {done} of {total} cells were finished before; the run goes on")
        is_told = True
        watch(done, total)

    return tell


@contextmanager
def _interruptible(directory: Path | None) -> Iterator[None]:
    """Says after Ctrl-C how the run goes on, where it was begun in a folder that stays."""
    try:
        yield
    except KeyboardInterrupt:
        if directory is not None and RunFolder(directory).has_manifest:
            warn(f"{directory}: interrupted; {RESUME}")
        raise


def _ensure_privileges(name: str, scenario: AnyScenario) -> None:
    if isinstance(scenario, LiveScenario):
        ensure_root(name)


def _workers(jobs: int | None, backend: BackendName, scheduler: str | None) -> Workers:
    if backend is BackendName.LOKY:
        if scheduler is not None:
            raise SettingError("--scheduler", "has no effect without --backend dask or ray")
        return jobs or 1
    if not scheduler:
        raise SettingError("--backend", f"{backend} needs --scheduler ADDRESS")
    if jobs is not None:
        raise SettingError("--jobs", f"has no effect with {backend}, which uses all its workers")
    return Cluster("dask" if backend is BackendName.DASK else "ray", scheduler)


def _report(results: list[Result], output: Output) -> None:
    pages = pages_of(results)
    if output.is_document:
        show_rows(pages, "LabPage", output)
        return
    show(*headline(results[0]))
    show(*notes(results))
    for page in pages:
        listing = table(page.title, *page.columns, right=page.numbers)
        for row in page.rows:
            listing.add_row(*row)
        show("", listing)


def _present(results: list[Result], file: Path | None, output: Output) -> None:
    """Write HTML, for a run its plots too, and what it tells as text: the page first, so that
    whoever reads no further than the first lines has it too. What hinders it is an error only where
    a file was asked for: the tables are there.
    """
    folder = results[0].folder.path
    page = file or folder / "report.html"
    complaint = ""
    try:
        write_report(results, page, None if file else folder / "plots")
    except LabError as error:
        if file is not None:
            raise
        complaint = str(error)
    _report(results, output)
    if complaint:
        warn(complaint)
    elif output.is_table:
        show("", f"Report with plots: {page}")
