"""The pages' commands that need root or a daemon run as they stand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemons import COMMAND
from harness.pages import PAGES, check, checkout, entered, shown
from harness.waiting import eventually
from kbe_nat.playground.cluster import Cluster

AS_ROOT = {
    page: commands
    for page in PAGES
    if (commands := [each for each in shown(page) if each.surroundings == "run: as root"])
}
AT_A_DAEMON = {
    page: commands
    for page in PAGES
    if (commands := [each for each in shown(page) if each.surroundings == "run: at a daemon"])
}
REQUESTS = ("172.30.228.255:80/info",) * 4 + ("172.30.0.9:80/info",)
"""What the client has asked before a page's commands: four answers, and a refusal."""


@pytest.mark.parametrize("page", AS_ROOT, ids=lambda page: page.name)
def test_commands_that_need_root(page: Path, tmp_path: Path) -> None:
    room, prefix = entered(tmp_path, "unshare", "--net")
    try:
        checkout(tmp_path)
        for command in AS_ROOT[page]:
            check(command, tmp_path, *prefix)
    finally:
        # A command that failed leaves a playground behind.
        subprocess.run([*prefix, *COMMAND, "playground", "down"], capture_output=True)
        room.kill()
        room.wait()


@pytest.fixture
def serving(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """What leads a command to a daemon that serves the example's objects as operators have them."""
    room, prefix = entered(tmp_path, *cluster.node.prefix)
    checkout(tmp_path)
    objects = "mkdir /etc/kbe-nat/objects && cp examples/node/objects.yaml /etc/kbe-nat/objects"
    subprocess.run([*prefix, "sh", "-ec", objects], cwd=tmp_path, check=True)
    daemon = subprocess.Popen(
        [*prefix, *COMMAND, "proxy", "--manifests", "/etc/kbe-nat/objects"],
        stderr=subprocess.DEVNULL,
    )
    try:
        status = [*prefix, *COMMAND, "get", "services"]
        eventually(lambda: b"default/web" in subprocess.run(status, capture_output=True).stdout)
        for url in REQUESTS:
            ask = [*cluster.client.prefix, "curl", "-sS", "--max-time", "9", url]
            subprocess.run(ask, capture_output=True)
        yield prefix
    finally:
        daemon.terminate()
        daemon.wait(30)
        room.kill()
        room.wait()


@pytest.mark.parametrize("page", AT_A_DAEMON, ids=lambda page: page.name)
def test_commands_at_a_daemon(page: Path, serving: tuple[str, ...], tmp_path: Path) -> None:
    for command in AT_A_DAEMON[page]:
        check(command, tmp_path, *serving)
