"""Cells in other processes: of this machine by loky, and of a Dask cluster on loopback."""

import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import pytest

from harness.scenarios import poisson, scenario, service, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.cells import cells
from kbe_nat.lab.folder import RunFolder
from kbe_nat.lab.jobs import jobs_of
from kbe_nat.lab.reading import offline_scenario_of
from kbe_nat.lab.tables import TIMED


def values(**changes: Any) -> dict[str, Any]:
    parts = {"services": [service(4)], "traffic": [poisson(100)], "strategies": ["rr", "mh"]}
    return scenario(**parts | {"repeats": 2} | changes)


def same_bytes(first: lab.Result, second: lab.Result) -> None:
    assert first.tables == second.tables
    for table in set(first.tables) - set(TIMED):
        assert first.folder.table(table).read_bytes() == second.folder.table(table).read_bytes()


def deadly(flag: Path) -> type:
    """A strategy that kills its process while the file holds a number, which each death lowers."""

    class Deadly:
        def __init__(self, backends: list[Any], seed: int) -> None:
            pass

        def pick(self, hash: int, loads: list[int]) -> int | None:
            if flag.exists():
                deaths = int(flag.read_text())
                if deaths > 1:
                    flag.write_text(str(deaths - 1))
                else:
                    flag.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

    return Deadly


DEADLY = {"name": "python", "class": "deadly"}


def test_a_process_that_dies_is_named_by_its_cell_and_the_run_goes_on(tmp_path: Path) -> None:
    """The cell beside it runs long: loky kills it too."""
    (tmp_path / "flag").write_text("1")
    classes = {"deadly": deadly(tmp_path / "flag")}
    mixture = values(strategies=["mh", DEADLY], duration=100, repeats=1)
    with pytest.raises(lab.LabError) as error:
        lab.run(mixture, tmp_path / "run", jobs=2, classes=classes)
    assert str(error.value) == (
        "small: the process that ran python(class=deadly), conntrack, repeat 0 died; "
        "finished cells are kept, and the same command goes on with the others"
    )
    assert not (tmp_path / "run/balance.csv").exists()
    resumed = lab.run(mixture, tmp_path / "run", jobs=2, classes=classes)
    same_bytes(resumed, lab.run(mixture, classes=classes))


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def members(group: int) -> list[int]:
    """Processes of the group, but for those that ended and were not waited for."""
    listing = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            listing.append(int(entry.parent.name))
    return listing


def hears(pid: int) -> bool:
    """Whether Ctrl-C interrupts a process that is there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    rows = (line.split() for line in status.splitlines())
    masks = [int(row[1], 16) for row in rows if row[0] in ("SigBlk:", "SigIgn:")]
    return not any(mask >> (signal.SIGINT - 1) & 1 for mask in masks)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_all_processes_and_keeps_finished_cells(tmp_path: Path, jobs: int) -> None:
    """At a terminal it comes to all of them. The second cell would take a minute."""
    sweep = {"field": "traffic[0].arrivals.rate", "values": [10, 500]}
    long = values(strategies=["rr"], repeats=1, sweep=[sweep], duration=1000)
    (tmp_path / "long.yaml").write_text(json.dumps(long))
    verb = [
        sys.executable,
        "-m",
        "kbe_nat",
        "lab",
        "run",
        "long.yaml",
        "-d",
        "run",
        "-j",
        str(jobs),
    ]
    process = subprocess.Popen(
        verb, cwd=tmp_path, start_new_session=True, text=True, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    folder = tmp_path / "run"

    def has_begun_the_second_cell() -> bool:
        # At no moment: not while Python starts in them either.
        assert not [pid for pid in members(process.pid) if pid != process.pid and hears(pid)]
        return any(folder.glob("cells/*.json")) and any(folder.glob("cells/*.part"))

    wait(has_begun_the_second_cell)
    os.killpg(process.pid, signal.SIGINT)
    assert process.stderr.read() == (
        "kbe-nat: run: interrupted; finished cells are kept, and the same command goes on "
        "with the others\n"
    )
    assert process.wait() == 130
    wait(lambda: not members(process.pid))
    assert len(list(folder.glob("cells/*.json"))) == 1
    assert not (folder / "balance.csv").exists()


LEFT_ALONE = """
import sys
from pathlib import Path
from kbe_nat.lab.roll import enter
with enter(Path(sys.argv[1]), 7):
    print(input(), flush=True)
print("goes on")
"""


def test_a_process_whose_caller_was_killed_ends_after_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "roll"
    with socket.socket(socket.AF_UNIX) as caller:
        caller.bind(str(path))
        caller.listen()
        command = [sys.executable, "-c", LEFT_ALONE, str(path)]
        process = subprocess.Popen(
            command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        connection, _ = caller.accept()
        assert connection.recv(10) == b"7\n"
        connection.close()
    assert process.communicate("cell ends\n")[0] == "cell ends\n"
    assert process.returncode == 1


def test_without_joblib_one_process_runs_and_more_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("joblib", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    assert lab.run(values(), tmp_path / "run").tables
    with pytest.raises(
        lab.LabError, match=r"joblib is not installed: pip install 'kbe-nat\[lab\]'"
    ):
        lab.run(values(), jobs=2)
    with pytest.raises(lab.LabError, match=r"distributed is not .* 'kbe-nat\[lab-cluster\]'"):
        lab.run(values(), jobs=lab.Cluster("dask", "tcp://127.0.0.1:1"))


def test_a_job_needs_nothing_of_the_caller_but_itself(tmp_path: Path) -> None:
    """Neither the trace's file, nor the folder of the run, nor the module of the strategy."""
    trace = tmp_path / "trace.csv"
    trace.write_text("time,client,bytes,lifetime\n1,5,700,2\n0,3,10,1\n")
    arrivals = {"kind": "trace", "file": str(trace)}
    python = {"name": "python", "class": "deadly"}
    document = values(traffic=[traffic(arrivals=arrivals)], strategies=[python], repeats=1)
    work = list(cells(offline_scenario_of(document), tmp_path))
    (job,) = jobs_of(work, {"deadly": deadly(tmp_path / "flag")}, None)
    pickled = cloudpickle.dumps(job)
    trace.unlink()
    number, files = pickle.loads(pickled)()
    run = RunFolder(tmp_path / "run")
    run.make_cells()
    assert not run.is_finished(work[number])
    run.store(files)
    assert run.is_finished(work[number])
    assert len(files) == 3
    other = dataclasses.replace(job, version="0.0.1")
    with pytest.raises(lab.LabError, match=r"a worker runs kbe-nat .*, and the caller 0\.0\.1"):
        other()


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A cluster of two workers, each a process with a guardian that starts it anew. A task is given
    up when two workers died with it.
    """
    logs = {"distributed.nanny": "critical", "distributed.scheduler": "critical"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1, "logging": logs}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            worker_dashboard_address=None,
        ) as cluster,
    ):
        yield cluster.scheduler_address


def test_a_dask_cluster_gives_the_same_tables(scheduler: str, tmp_path: Path) -> None:
    there = lab.run(values(), tmp_path / "run", jobs=lab.Cluster("dask", scheduler))
    same_bytes(lab.run(values()), there)


def test_a_strategy_beside_the_scenario_goes_to_workers_that_do_not_have_it(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_caller.py").write_text(
        "PLACE = 2\n\n\nclass Third:\n"
        "    def __init__(self, backends, seed):\n        pass\n\n"
        "    def pick(self, hash, loads):\n        return PLACE\n"
    )
    strategy = {"name": "python", "class": "of_the_caller:Third"}
    (tmp_path / "x.yaml").write_text(json.dumps(values(strategies=[strategy], repeats=1)))
    monkeypatch.chdir(tmp_path)
    verb = ["lab", "run", "x.yaml", "-d", "run", "--backend", "dask", "--scheduler", scheduler]
    assert main(verb) == 0
    shares = [row["connections_share"] for row in lab.Result("run").rows("backends")]
    assert shares == [0, 0, 1, 0]


def test_dask_replaces_a_worker_that_dies_and_gives_up_a_cell_that_kills_them(
    scheduler: str, tmp_path: Path
) -> None:
    flag, cluster = tmp_path / "flag", lab.Cluster("dask", scheduler)
    classes = {"deadly": deadly(flag)}
    mixture = values(strategies=[DEADLY, "rr"], repeats=1)
    flag.write_text("1")
    result = lab.run(mixture, tmp_path / "once", jobs=cluster, classes=classes)
    same_bytes(lab.run(mixture, classes=classes), result)
    with distributed.Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2)
    flag.write_text("1000")
    message = rf"Dask at {scheduler}: small: python\(class=deadly\), conntrack, repeat 0: .* died"
    with pytest.raises(lab.LabError, match=message):
        lab.run(mixture, tmp_path / "again", jobs=cluster, classes=classes)
    flag.unlink()
    resumed = lab.run(mixture, tmp_path / "again", jobs=cluster, classes=classes)
    same_bytes(result, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheduler", "tcp://x:1"], "--scheduler: has no effect without --backend dask or ray"),
        (["--backend", "dask"], "--backend: dask needs --scheduler ADDRESS"),
        (["--backend", "dask", "--scheduler", ""], "--backend: dask needs --scheduler ADDRESS"),
        (
            ["--backend", "dask", "--scheduler", "tcp://x:1", "-j", "2"],
            "-j: has no effect with dask, which uses all its workers",
        ),
        (["--backend", "dask", "--scheduler", "x"], "Dask at 'x': missing port number in address"),
    ],
)
def test_clusters_that_cannot_be(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "run", "two-endpoints", "-d", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
