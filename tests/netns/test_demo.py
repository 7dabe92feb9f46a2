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
        ["pgrep", "-f", "kbe_nat.playground"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split()


def demo(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *DEMO, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_virtual_ip_answers_and_requests_are_shared() -> None:
    done = demo("-o", "json", "--seed", "7")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    node, client = (json.loads(result["answers"][who]) for who in ("node", "client"))
    assert node == {"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.15"}
    assert client == {"host": "172.30.228.255", "version": "0.5.0", "from": "10.0.2.100"}
    assert (result["requests"], result["answered"], result["flows"], result["panics"]) == (200, 200, 202, 0)
    [service] = result["services"]
    shares = {own["address"]: own["flows"] for own in service["backends"]}
    assert set(shares) == {"172.17.0.3", "172.17.0.4"}
    # Binomial with 202 trials: outside this the chance is below one in a million.
    assert all(65 < flows < 137 for flows in shares.values()), shares
    assert set(result["causes"]) == {"new", "established"}
    assert namespaces() == set()


def test_round_robin_shares_evenly() -> None:
    result = json.loads(demo("-o", "json", "--strategy", "rr", "--requests", "20").stdout)
    assert [own["flows"] for own in result["services"][0]["backends"]] == [11, 11]


def test_people_see_the_answers() -> None:
    done = demo("--requests", "3")
    assert '[client] $ curl 172.30.228.255:80/info\n{"host": "172.30.228.255"' in done.stdout
    assert "3 more requests: 3 answered" in done.stdout
    assert "default/simpleservice" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", [0.0, 0.3, 1.0])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, moment: float) -> None:
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
    assert servers() == []


def test_a_demo_that_fails_leaves_nothing(tmp_path: Path) -> None:
    # A second pod with the address of the node's own bridge: its packets never come back.
    objects = tmp_path / "objects.yaml"
    seed = Path(__file__).parents[2] / "examples/seed/cluster.yaml"
    objects.write_text(seed.read_text().replace("172.17.0.4", "192.0.2.4"))
    done = demo("-f", str(objects))
    assert (done.returncode, "192.0.2.4" in done.stderr) == (2, True)
    assert namespaces() == set()


def test_the_demo_needs_no_root_where_users_may_make_namespaces() -> None:
    user = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if subprocess.run([*user, "unshare", "--user", "--net", "true"], check=False).returncode:
        pytest.skip("user namespaces cannot be made here")
    done = demo("-o", "json", "--requests", "10", prefix=user)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answered"] == 10
