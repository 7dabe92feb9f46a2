"""Executors of joblib: processes of this machine (loky), or the workers of a Dask or Ray cluster.

joblib hands out each job as it ends. So an interrupted run keeps all cells that ended before,
wherever they ran. Two things are added to joblib: `Roll` names the cell whose process died, and
`DaskBackend` ends when Dask gives a cell up.
"""

import re
import signal
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from kbe_nat.errors import ArgumentError, KbeNatError, LabError
from kbe_nat.lab.arguments import whole
from kbe_nat.lab.cells import Cell
from kbe_nat.lab.classes import Classes
from kbe_nat.lab.execution import Executor, in_this_process
from kbe_nat.lab.jobs import Job, Outcome, collect, jobs_of
from kbe_nat.lab.roll import Roll


class Cluster(NamedTuple):
    """The workers of a cluster, by joblib's back end of this name."""

    backend: Literal["dask", "ray"]
    scheduler: str
    """Its address, such as tcp://10.0.0.1:8786."""


Workers: TypeAlias = int | Cluster
"""So many processes of this machine, or a cluster."""


def executor(workers: Workers) -> Executor:
    """For these workers. Raises `ArgumentError`."""
    if isinstance(workers, Cluster):
        if workers.backend not in ("dask", "ray"):
            raise ArgumentError(f"jobs: backend {workers.backend!r} is none of dask, ray")
        return partial({"dask": in_dask, "ray": in_ray}[workers.backend], workers.scheduler)
    count = whole("jobs", workers, 1)
    return in_this_process if count == 1 else partial(in_processes, count)


def in_processes(
    count: int, cells: Sequence[Cell], folder: Path, classes: Classes
) -> Iterator[Cell]:
    """So many at a time, one for each cell at most. Raises `LabError` with the name of the cell
    when a process dies.
    """
    with _needs("joblib", "lab"):
        import joblib
    count = max(min(count, len(cells)), 1)
    with Roll() as roll:
        with joblib.parallel_config(backend="loky", n_jobs=count):
            parallel = joblib.Parallel(return_as=AS_THEY_END, batch_size=1)
        jobs = jobs_of(cells, classes, folder, roll.path)
        outcomes = _outcomes(parallel, jobs, _interrupts_blocked())
        try:
            yield from collect(outcomes, cells, folder)
        except BrokenProcessPool as error:
            number = roll.first_lost()
            words = next((cell.words for cell in cells if cell.number == number), "no cell")
            name = cells[0].scenario.name
            raise LabError(f"{name}: the process that ran {words} died; {RESUME}") from error


def in_dask(address: str, cells: Sequence[Cell], folder: Path, classes: Classes) -> Iterator[Cell]:
    """On all threads of a Dask cluster's workers. A worker that dies costs nothing but time: Dask
    gives its cell to another one, three times. Raises `LabError`.
    """
    with _needs("distributed", "lab-cluster"):
        import joblib

        from kbe_nat.lab.dask_backend import DaskBackend, connect
    joblib.register_parallel_backend("kbe-nat-dask", DaskBackend)
    try:
        client = connect(address, CONNECT)
    except Exception as error:
        # An address of no form, of no scheme, of nobody, or of a scheme that needs settings.
        words = " ".join(str(error).split()) or type(error).__name__
        raise LabError(f"Dask at {address!r}: {words}; tcp://HOST:PORT is expected") from error
    settings = joblib.parallel_config(backend="kbe-nat-dask", client=client)
    with client, _failures(f"Dask at {address}", cells), settings:
        # No cell waits at a worker: Dask would count the worker's death against it too.
        parallel = joblib.Parallel(return_as=AS_THEY_END, batch_size=1, pre_dispatch="n_jobs")
        outcomes = _outcomes(parallel, jobs_of(cells, classes, None), nullcontext())
        yield from collect(outcomes, cells, folder)


def in_ray(address: str, cells: Sequence[Cell], folder: Path, classes: Classes) -> Iterator[Cell]:
    """On all processors of a Ray cluster. Ray's pool cannot hand out results as they come: it gets
    some cells for each processor at a time. Raises `LabError`.
    """
    with _needs("ray", "lab-cluster"):
        import joblib
        import ray
        from ray.util.joblib import register_ray
    register_ray()
    with _failures(f"Ray at {address}", cells):
        ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        portion = PORTION * int(ray.cluster_resources()["CPU"])
        pending = jobs_of(cells, classes, None)
        with joblib.parallel_config(backend="ray", n_jobs=-1):
            while jobs := list(islice(pending, portion)):
                outcomes = joblib.Parallel(batch_size=1)(joblib.delayed(job)() for job in jobs)
                yield from collect(outcomes, cells, folder)


def _outcomes(
    parallel: Callable[..., Generator[Outcome]],
    jobs: Iterable[Job],
    start: AbstractContextManager[None],
) -> Iterator[Outcome]:
    """As they end. Whatever joblib starts begins within `start`."""
    import joblib

    with ExitStack() as stack:
        with start:
            outcomes = parallel(joblib.delayed(job)() for job in jobs)
            stack.callback(_end, outcomes)
        yield from outcomes


def _end(outcomes: Generator[Outcome]) -> None:
    """After an error, or when the caller has had enough, joblib ends all processes at once, and
    warns that their work is lost. It is not: the folder says what is finished.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Ctrl-C at a terminal comes to all processes, and this one ends the others. Processes and
    threads that begin in the block inherit its mask, so that none is interrupted, not even while
    Python starts in it. This thread is interrupted when the block is over.
    """
    # Python's tracker, which a worker needs, would unblock them as it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _needs(package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise LabError(f"{package} is not installed: pip install 'kbe-nat[{extra}]'") from error


@contextmanager
def _failures(place: str, cells: Sequence[Cell]) -> Iterator[None]:
    """A cluster may fail in ways of its own: each is a line, with the cell where it is known."""
    try:
        yield
    except KbeNatError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        if job := re.search(r"cell-(\d+)", words):
            cell = next(cell for cell in cells if cell.number == int(job[1]))
            words = f"{cell.scenario.name}: {cell.words}: {words.partition('. ')[0]}"
        raise LabError(f"{place}: {words}; {RESUME}") from error


AS_THEY_END: Final = "generator_unordered"
CONNECT: Final = "10s"
PORTION: Final = 4
"""Cells for each processor of a Ray cluster."""
RESUME: Final = "finished cells are kept, and the same command goes on with the others"
