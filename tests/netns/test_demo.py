"""The demo as a user runs it, and what it leaves behind: nothing."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.json_page import mismatches
from harness.waiting import eventually
from kbe_nat.playground.namespaces import FOLDER
from kbe_nat.playground.world import EXAMPLES, World

DEMO = (sys.executable, "-m", "kbe_nat", "demo")


def namespaces(folder: Path) -> set[str]:
    """Those of the playground whose state is in a folder of this one; others may be there at the
    same time.
    """
    suffixes = {World(own).node.name.rpartition("-")[2] for own in folder.iterdir()}
    return {path.name for path in FOLDER.glob("kbe-*") if path.name.rpartition("-")[2] in suffixes}


def demo(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_page_comes_alive() -> None:
    done = demo("-o", "json", "--seed", "7")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result.pop("apiVersion"), result.pop("kind")) == ("kbe-nat.io/v1", "Demo")
    assert list(mismatches(result, "[DemoRow](#demorow)")) == []
    answers = {who: json.loads(text) for who, text in result["answers"].items()}
    assert answers == {
        "pod": {"host": "172.17.0.3:9876", "version": "0.5.0", "from": "172.17.0.1"},
        "node": {"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.15"},
        "client": {"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.100"},
    }
    assert (result["requests"], result["answered"]) == (300, 300)
    shares = result["shares"]
    assert set(shares) == {"172.17.0.3:9876", "172.17.0.4:9876"}
    assert sum(shares.values()) == 300
    # Binomial with 300 trials: outside this the chance is below one in a million.
    assert all(107 < flows < 193 for flows in shares.values()), shares
    assert len(result["rules"]) == 7
    assert result["explained"]["action"] == "translate"
    assert result["seconds"] < 60


def test_round_robin_shares_evenly() -> None:
    result = json.loads(demo("-o", "json", "--strategy", "rr", "--requests", "20").stdout)
    assert list(result["shares"].values()) == [10, 10]


def test_people_see_each_command_and_its_output() -> None:
    said = demo("--requests", "3").stdout
    # What explain prints of this packet, from its sentence to its last table.
    socket = "--socket /run/kbe-nat-playground/control.sock"
    explained = said.partition(f"--to svc/simpleservice --iif eth0 {socket}\n")[2].splitlines()
    assert explained[0].startswith("TCP 10.0.2.100:40000 to 172.30.228.255:80 is sent to 172.17.0.")
    assert explained[1:4:2] == ["", "checked     found"] and explained[2] == "Why"
    assert "Who may serve it" in explained
    applied = f"$ kbe-nat playground apply -f {EXAMPLES}/rc.yaml\n"
    assert f'{applied}replicationcontroller "rcsise" created\n' in said
    assert '/info\n{"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.15"}\n' in said
    assert "--probability 0.50000000000 -j KUBE-SEP-4SQFZS32ZVMTQEZV" in said
    assert "3 requests by the client, 3 answered" in said


def test_each_command_of_the_demo_can_be_pasted(tmp_path: Path) -> None:
    """Behind `playground up`, in the folder that stands for the default one here."""
    commands = [
        shlex.split(line.removeprefix("$ kbe-nat "))
        for line in demo("--requests", "0").stdout.splitlines()
        if line.startswith("$ kbe-nat ")
    ]
    assert len(commands) > 12
    own = tmp_path / "state"
    environment = {**os.environ, "KBE_NAT_PLAYGROUND": str(own)}
    try:
        for words in (["playground", "up"], *commands):
            changed = [word.replace("/run/kbe-nat-playground", str(own)) for word in words]
            done = subprocess.run(
                [*DEMO[:-1], *changed], capture_output=True, text=True, env=environment, timeout=60
            )
            assert done.returncode == 0, (words, done.stderr)
    finally:
        subprocess.run([*DEMO[:-1], "playground", "down"], env=environment, check=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [0.0, 0.3, 1.0])
def test_an_interrupted_demo_leaves_nothing(
    number: signal.Signals, moment: float, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [*DEMO, "--requests", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # Until Python has found our code, a signal is its own affair.
    made = eventually(lambda: process.poll() is not None or namespaces(tmp_path))
    assert process.poll() is None and isinstance(made, set)
    # Not a wait for a state: the signal comes at several moments of its life.
    time.sleep(moment)
    # Like Ctrl-C at a terminal: everybody in the process group gets it.
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said, said
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == [], "the folder goes when all processes have ended"
    suffix = made.pop().rpartition("-")[2]
    assert list(FOLDER.glob(f"kbe-*-{suffix}")) == []


def test_the_demo_needs_no_root_where_users_may_make_namespaces() -> None:
    user = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if subprocess.run([*user, "unshare", "--user", "--net", "true"], check=False).returncode:
        pytest.skip("user namespaces cannot be made here")
    done = demo("-o", "json", "--requests", "10", prefix=user)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == 10
