"""joblib's back end for Dask, which ends when Dask gives a job up."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import distributed
from joblib._dask import DaskDistributedBackend


class _Client(distributed.Client):
    """A connection to a scheduler. When it cannot be made, distributed's waits 20 s for the end of
    what never began, and then prints a traceback.
    """

    def __del__(self) -> None:
        if self.status == "running":
            super().__del__()  # type: ignore[no-untyped-call]


def connect(address: str, timeout: str) -> distributed.Client:
    """A connection to the scheduler at this address. Raises whatever distributed does."""
    return _Client(address, timeout=timeout, set_as_default=False)  # type: ignore[no-untyped-call]


class DaskBackend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's tells `Parallel` of jobs that ended, and of errors that they raised. It says nothing
    of jobs that Dask gave up: four workers died with it, or none could load it. `Parallel` waits
    for them forever then.
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Threads of all workers; 2 at least, since joblib runs a single job in the caller."""
        threads: int = super().effective_n_jobs(n_jobs)
        return max(2, threads)

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None
    ) -> "Future[Any]":
        """Run a job, and tell `Parallel` of its end."""
        future: Future[Any] = super().submit(func, callback)

        def end(future: "Future[Any]") -> None:
            error = future.exception()
            if error is not None and callback is not None:
                callback(_Failure(error))

        future.add_done_callback(end)
        return future

    def retrieve_result_callback(self, out: object) -> object:
        """The result, or the error, of a job that ended."""
        if isinstance(out, _Failure):
            raise out.error
        if isinstance(out, BaseException):
            # Of jobs that were cancelled, with the scheduler they were at.
            raise out
        result: object = super().retrieve_result_callback(out)
        return result


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error
