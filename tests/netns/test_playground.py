"""The playground's verbs as a user types them, one process each."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.json_page import mismatches

COMMAND = (sys.executable, "-m", "kbe_nat", "playground")
SEED = Path(__file__).parents[2] / "examples/simpleservice"


class Playground:
    def __init__(self, state: Path) -> None:
        self.state = state
        self.said = ""
        """By `up`."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [*COMMAND, verb, "--state", str(self.state), *arguments]

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        return done.stderr


@pytest.fixture
def playground(tmp_path: Path) -> Iterator[Playground]:
    cluster = Playground(tmp_path / "state")
    cluster.said = cluster("up")
    yield cluster
    cluster("down")


def test_the_page_by_hand(playground: Playground) -> None:
    assert "is up" in playground.fails("up")
    rc, svc = str(SEED / "rc.yaml"), str(SEED / "svc.yaml")
    assert playground("apply", "-f", rc, "-f", svc) == (
        'replicationcontroller "rcsise" created\nservice "simpleservice" created\n'
    )
    assert playground("apply", "-f", svc) == 'service "simpleservice" unchanged\n'
    lists = {
        "pods": "array of [PodRow](#podrow)",
        "svc": "array of [ServiceObjectRow](#serviceobjectrow)",
        "rc": "array of [ControllerRow](#controllerrow)",
        "endpoints": "array of [EndpointsRow](#endpointsrow)",
    }
    rows = {kind: json.loads(playground("get", kind, "-o", "json"))["items"] for kind in lists}
    for kind, row_type in lists.items():
        assert len(rows[kind]) == 1 and list(mismatches(rows[kind], row_type)) == []
    [pod] = rows["pods"]
    assert (pod["address"], pod["ready"], pod["status"]) == ("172.17.0.3", True, "Running")
    assert rows["svc"][0]["ports"] == ["80/TCP"]
    assert (rows["rc"][0]["desired"], rows["rc"][0]["ready"]) == (1, 1)
    assert rows["endpoints"][0]["endpoints"] == ["172.17.0.3:9876"]
    assert pod["name"] in playground("get", "pods", "-l", "app=sise")
    assert playground("get", "pods", "-l", "app=other") == ""
    assert "IP:                     172.17.0.3" in playground("describe", "pod", pod["name"])
    assert "Endpoints:              172.17.0.3:9876" in playground(
        "describe", "svc", "simpleservice"
    )
    assert playground("curl", "172.17.0.3:9876/info").endswith('"from": "172.17.0.1"}\n')
    assert playground("curl", "172.30.228.255:80/info").endswith('"from": "10.0.2.15"}\n')
    assert len(playground("rules").splitlines()) == 4
    assert (
        playground("scale", "--replicas=3", "rc/rcsise")
        == 'replicationcontroller "rcsise" scaled\n'
    )
    assert "172.17.0.3:9876,172.17.0.4:9876,172.17.0.5:9876" in playground("get", "endpoints")
    # A pod reaches its own Service, also when it is chosen itself (hairpin).
    hairpin = [
        playground("curl", "--from", pod["name"], "172.30.228.255:80/info") for _ in range(6)
    ]
    assert all('"version": "0.5.0"' in answer for answer in hairpin)
    playground("scale", "--replicas=1", "rc/rcsise")
    assert "172.17.0.4" not in playground("get", "endpoints")
    assert "1         1         1" in playground("get", "rc")
    playground("delete", "rc", "rcsise")
    done = playground.run("curl", "172.30.228.255:80/info")
    assert (done.returncode, done.stdout) == (7, ""), "curl's code for no endpoints: refused"
    assert done.stderr.startswith("curl: (7) ") and done.stderr.count("\n") == 1
    playground("delete", "svc", "simpleservice")
    assert playground("get", "svc") == ""


def test_what_up_says_can_be_pasted(playground: Playground) -> None:
    lines = [line.strip() for line in playground.said.splitlines() if "  kbe-nat " in line]
    assert len(lines) == 3
    for line in lines:
        done = pasted(line)
        assert done.returncode == 0, done.stderr
    assert "default/simpleservice" in done.stdout
    complaint = playground.fails("up")
    assert pasted(complaint.split("`")[1]).returncode == 0
    assert pasted(lines[-1]).returncode == 2, "it is down"
    playground("up")


def test_a_command_runs_inside(playground: Playground) -> None:
    assert "10.0.2.100/24" in playground("exec", "client", "--", "ip", "-brief", "address")
    done = playground.run("exec", "node", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    typed = playground.command("exec", "node", "cat")
    done = subprocess.run(typed, input="in", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "in"
    assert "COMMAND: is missing" in playground.fails("exec", "node")
    missing = playground.run("exec", "node", "--", "no-such-command")
    assert (missing.returncode, missing.stderr.count("\n")) == (127, 1)
    assert "no-such-command" in missing.stderr


def test_what_the_daemon_and_a_pod_write(playground: Playground) -> None:
    assert "serving 0 service ports" in playground("logs")
    with subprocess.Popen(
        playground.command("logs", "-f", "node"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout and follower.stderr
        playground("apply", "-f", str(SEED / "rc.yaml"), "-f", str(SEED / "svc.yaml"))
        assert any("1 service port" in line for line in follower.stdout)
        follower.send_signal(signal.SIGINT)
        assert follower.stderr.read() == ""
    assert follower.returncode == 130
    [pod] = json.loads(playground("get", "pods", "-o", "json"))["items"]
    assert "ready" in playground("logs", pod["name"])
    command = playground.command("logs", "-f", pod["name"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout and "ready" in follower.stdout.readline()
        playground("delete", "rc", "rcsise")
        assert follower.wait(30) == 0, "the pod has ended"


def pasted(line: str) -> subprocess.CompletedProcess[str]:
    name, *words = shlex.split(line)
    assert name == "kbe-nat"
    command = [sys.executable, "-m", "kbe_nat", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("delete", "dog", "none"), "'dog' is no kind of object"),
        (("scale", "--replicas=2", "rcsise"), "'rcsise' is not KIND NAME or KIND/NAME"),
        (("describe", "node", "none"), "cannot be described"),
        (("apply", "-f", "/nowhere.yaml"), "/nowhere.yaml: No such file"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    playground: Playground, arguments: tuple[str, ...], complaint: str
) -> None:
    assert complaint in playground.fails(*arguments)


@pytest.mark.parametrize(
    ("arguments", "thing"),
    [
        (("delete", "rc", "none"), 'replicationcontrollers "none"'),
        (("delete", "svc/none"), 'services "none"'),
        (("scale", "--replicas=2", "rc", "none"), 'replicationcontrollers "none"'),
        (("scale", "--replicas=2", "rc/none"), 'replicationcontrollers "none"'),
        (("curl", "--from", "moon", "172.17.0.3"), 'pods "moon"'),
        (("exec", "moon", "--", "true"), 'pods "moon"'),
        (("logs", "moon"), 'pods "moon"'),
        (("describe", "svc", "none"), 'services "none"'),
        (("describe", "po/none"), 'pods "none"'),
        (("rules", "svc/none"), 'services "none"'),
        (("get", "po", "none"), 'pods "none"'),
    ],
)
def test_a_name_of_nothing_is_not_found(
    playground: Playground, arguments: tuple[str, ...], thing: str
) -> None:
    done = playground.run(*arguments)
    line = f"Error from server (NotFound): {thing} not found\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)


def test_wrong_objects_change_nothing(playground: Playground, tmp_path: Path) -> None:
    for text, complaint in (
        ("kind: [", "not YAML"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 99999}]}",
            "spec.ports[0].port",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}",
            "Pod p: the playground has no such objects",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: other}",
            "metadata.namespace",
        ),
    ):
        (tmp_path / "wrong.yaml").write_text((SEED / "svc.yaml").read_text() + "---\n" + text)
        assert complaint in playground.fails("apply", "-f", str(tmp_path / "wrong.yaml"))
    assert playground("get", "svc") == ""


def test_nothing_is_up(tmp_path: Path) -> None:
    assert "no playground is up" in Playground(tmp_path / "none").fails("get", "pods")
    Playground(tmp_path / "none")("down")
