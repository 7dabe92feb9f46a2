"""The examples run as they stand, and print what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OBJECTS = "examples/simpleservice/cluster.yaml"
PRINTED = {
    ("capture.py", OBJECTS, "examples/traffic.pcap"): (
        "10 connections to 172.17.0.3:9876\n10 connections to 172.17.0.4:9876\n"
        "the last one: 10.0.2.101:40019 by rr\n"
    ),
    ("batch.py", OBJECTS): (
        "10000 packets: translate\n5083 packets to 172.17.0.3\n4917 packets to 172.17.0.4\n"
    ),
    ("queue_loop.py", OBJECTS): (
        "translate ('10.0.2.100', 1024) -> ('172.17.0.3', 9876)\n"
        "translate ('10.0.2.100', 1025) -> ('172.17.0.4', 9876)\n"
        "pass ('10.0.2.100', 1026) -> ('192.0.2.1', 80)\n"
    ),
    ("strategy.py",): (
        "random               largest load over the mean: 1.034\n"
        "lc                   largest load over the mean: 1.000\n"
        "python(class=least)  largest load over the mean: 1.008\n"
    ),
}


@pytest.mark.parametrize("command", PRINTED, ids=lambda command: command[0])
def test_an_example_prints(command: tuple[str, ...]) -> None:
    assert run(*command) == PRINTED[command]


def test_flows_become_a_data_frame() -> None:
    pytest.importorskip("polars")
    printed = run("table.py", OBJECTS)
    assert "│ 172.17.0.3           ┆ 50  │\n│ 172.17.0.4           ┆ 50  │" in printed


@pytest.mark.parametrize("name", ["batch.py", "capture.py", "queue_loop.py", "table.py"])
def test_an_example_without_arguments_says_what_it_takes(name: str) -> None:
    if name == "table.py":
        pytest.importorskip("polars")
    command = [sys.executable, f"examples/{name}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"usage: python examples/{name} OBJECTS.yaml")
    assert done.stderr.count("\n") == 1


def test_every_example_is_tried() -> None:
    tried = {command[0] for command in PRINTED} | {"table.py", "callback.py"}
    assert tried == {path.name for path in (ROOT / "examples").glob("*.py")}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_objects_are_files_of_their_own_and_those_of_the_playground() -> None:
    examples = ROOT / "examples"
    assert [path for path in examples.rglob("*") if path.is_symlink()] == []
    for name in ("rc.yaml", "svc.yaml"):
        ours, playgrounds = examples / "simpleservice" / name, ROOT / "python/kbe_nat/playground"
        assert ours.read_bytes() == (playgrounds / name).read_bytes()
