"""The demo as a user runs it, and what it leaves behind: nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "kbe_nat", "demo")


def namespaces() -> set[str]:
    folder = Path("/run/netns")
    return (
        {path.name for path in folder.iterdir() if path.name.startswith("kbe-")} if folder.exists() else set()
    )


def servers() -> list[str]:
    listed = subprocess.run(
        ["pgrep", "-f", "kbe_nat.playground|kbe_nat proxy"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split()


def demo(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_page_comes_alive() -> None:
    done = demo("-o", "json", "--seed", "7")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
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
    assert namespaces() == set()


def test_round_robin_shares_evenly() -> None:
    result = json.loads(demo("-o", "json", "--strategy", "rr", "--requests", "20").stdout)
    assert list(result["shares"].values()) == [10, 10]


def test_people_see_each_command_and_its_output() -> None:
    said = demo("--requests", "3").stdout
    assert '$ kbe-nat playground apply -f rc.yaml\nreplicationcontroller "rcsise" created\n' in said
    assert '/info\n{"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.15"}\n' in said
    assert "--probability 0.50000000000 -j KUBE-SEP-4SQFZS32ZVMTQEZV" in said
    assert "3 requests by the client, 3 answered" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [0.0, 0.3, 1.0])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, moment: float) -> None:
    before = servers()
    process = subprocess.Popen(
        [*DEMO, "--requests", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    # Until Python has found our code, a signal is its own affair.
    while not namespaces():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(moment)
    # Like Ctrl-C at a terminal: everybody in the process group gets it.
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert b"Traceback" not in said, said
    assert process.returncode != 0
    assert namespaces() == set()
    assert set(servers()) <= set(before)


def test_the_demo_needs_no_root_where_users_may_make_namespaces() -> None:
    user = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if subprocess.run([*user, "unshare", "--user", "--net", "true"], check=False).returncode:
        pytest.skip("user namespaces cannot be made here")
    done = demo("-o", "json", "--requests", "10", prefix=user)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == 10
