"""joblib's back end for Dask, with a cluster that does as it is told."""

from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

pytest.importorskip("distributed")
from joblib._dask import DaskDistributedBackend

from kbe_nat.lab.dask_backend import DaskBackend


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> DaskBackend:
    """One whose jobs end when the test ends their futures."""
    monkeypatch.setattr(DaskDistributedBackend, "submit", lambda *_: Future())
    monkeypatch.setattr(DaskDistributedBackend, "effective_n_jobs", lambda *_: 1)
    monkeypatch.setattr(DaskDistributedBackend, "retrieve_result_callback", lambda _, out: out)
    return DaskBackend.__new__(DaskBackend)


def test_a_job_that_dask_gives_up_ends_with_its_error(backend: DaskBackend) -> None:
    told: list[Any] = []
    future = backend.submit(lambda: None, told.append)
    future.set_exception(RuntimeError("four workers died"))
    (out,) = told
    with pytest.raises(RuntimeError, match="four workers died"):
        backend.retrieve_result_callback(out)


def test_a_job_that_ends_well_is_told_by_joblib_alone(backend: DaskBackend) -> None:
    told: list[Any] = []
    backend.submit(lambda: None, told.append).set_result(7)
    backend.submit(lambda: None).set_exception(RuntimeError("nobody waits"))
    assert told == []
    assert backend.retrieve_result_callback(7) == 7


def test_a_cancelled_job_is_an_error_and_no_result(backend: DaskBackend) -> None:
    with pytest.raises(CancelledError):
        backend.retrieve_result_callback(CancelledError())


def test_a_cluster_of_one_thread_still_runs_jobs_itself(backend: DaskBackend) -> None:
    assert backend.effective_n_jobs(-1) == 2
