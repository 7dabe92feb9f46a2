"""Live scenarios of the lab on real packets, by the command line."""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kbe_nat.playground.namespaces import FOLDER

SCENARIO: dict[str, Any] = {
    "name": "tiny",
    "mode": "live",
    "ways": ["nft-dnat", "first-packet"],
    "rounds": 1,
    "idle": 0.05,
    "measures": [
        {"measure": "throughput", "loss": [0.005], "seconds": 0.02, "trials": 3},
        {"measure": "cpu", "packets": 2048, "rate": 20_000, "saturate": False},
        {"measure": "connections", "seconds": 0.1},
        {"measure": "establishment", "seconds": 0.02, "trials": 3},
        {"measure": "capacity", "limit": 100},
        {"measure": "latency", "count": 100, "loads": [0, 2000]},
        {"measure": "bulk", "megabytes": 5},
        {"measure": "programming", "changes": 2},
    ],
}
PATIENCE = 120


def rows(folder: Path, table: str) -> list[dict[str, str]]:
    with (folder / f"{table}.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def command(*words: str, prefix: Sequence[str] = ()) -> list[str]:
    return [*prefix, sys.executable, "-m", "kbe_nat", "lab", *words]


def test_a_live_run_is_interrupted_and_resumed(tmp_path: Path) -> None:
    file, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    file.write_text(json.dumps(SCENARIO))
    run = command("run", str(file), "-d", str(folder))
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while len(finished := sorted((folder / "cells").glob("*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and "Traceback" not in said, said
    assert list(FOLDER.glob(f"kbe-lab-*-{process.pid}.*")) == []
    before = {path: path.stat().st_mtime_ns for path in finished}
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    check_tables(folder)
    assert "Throughput: rate" in done.stdout and "Idle control" in done.stdout


def check_tables(folder: Path) -> None:
    """Every measure has its rows, and nothing is lost but what is counted."""
    assert rows(folder, "missing") == []
    cells = {("nft-dnat", "0"), ("nft-dnat", "1"), ("first-packet", "0")}
    for table in ("throughput", "cpu", "connections", "capacity", "bulk", "programming"):
        assert {(row["way"], row["run"]) for row in rows(folder, table)} == cells, table
    for row in rows(folder, "trials"):
        assert int(row["sent"]) == int(row["received"]) + int(row["lost"]) > 0
        assert int(row["lost"]) >= 0
    latencies = rows(folder, "latency")
    assert len(latencies) == 3 * 2 * 2
    for row in latencies:
        assert int(row["sent"]) == int(row["answered"]) + int(row["lost"]) == 100
    counts = sum(int(row["count"]) for row in rows(folder, "histograms"))
    assert counts == sum(int(row["answered"]) for row in latencies)
    for row in rows(folder, "capacity"):
        assert int(row["opened"]) == int(row["closed"]) == 100
    assert {int(row["bytes"]) for row in rows(folder, "bulk")} == {5 << 20}
    assert all(float(row["sender_ns"]) > 0 for row in rows(folder, "cpu"))
    assert len(rows(folder, "changes")) == 2 * 3
    medians = {(row["way"], row["table"], row["quantity"]) for row in rows(folder, "medians")}
    assert ("first-packet", "cpu", "net_ns") in medians
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["cells"][0]["way"] == "idle"
    for name in ("mitigations", "governor", "steal_share", "load"):
        assert name in manifest["machine"]


def test_every_method_measures_ipv6(tmp_path: Path) -> None:
    file, folder = tmp_path / "six.yaml", tmp_path / "run"
    file.write_text(json.dumps(SCENARIO | {"families": ["ipv6"]}))
    run = command("run", str(file), "-d", str(folder))
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    check_tables(folder)
    assert {row["family"] for row in rows(folder, "latency")} == {"ipv6"}


def test_a_live_run_needs_no_root_where_users_may_make_namespaces(tmp_path: Path) -> None:
    user = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if subprocess.run([*user, "unshare", "--user", "--net", "true"], check=False).returncode:
        pytest.skip("user namespaces cannot be made here")
    file, folder = tmp_path / "tiny.yaml", tmp_path / "run"
    measures = [{"measure": "connections", "seconds": 0.05}]
    file.write_text(json.dumps(SCENARIO | {"ways": ["forward"], "measures": measures}))
    tmp_path.chmod(0o777)
    run = command("run", str(file), "-d", str(folder), prefix=user)
    done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert all(int(row["opened"]) > 0 for row in rows(folder, "connections"))
