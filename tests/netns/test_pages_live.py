"""The pages' commands that need root or a daemon run as they stand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemons import COMMAND
from harness.pages import PAGES, check, checkout, shown
from harness.waiting import eventually
from kbe_nat.playground.cluster import Cluster

AS_ROOT = {
    page: commands
    for page in PAGES
    if (commands := [each for each in shown(page) if each.surroundings == "run: as root"])
}
AT_A_DAEMON = [
    each for page in PAGES for each in shown(page) if each.surroundings == "run: at a daemon"
]
ROOM = (
    "mount -t tmpfs tmpfs /run && mkdir /run/netns && ip link set lo up "
    "&& mkdir -p /etc/kbe-nat && mount -t tmpfs tmpfs /etc/kbe-nat && echo ready && exec sleep 600"
)
"""A view of the file system where /run and /etc/kbe-nat are empty."""


def entered(folder: Path, *prefix: str) -> tuple["subprocess.Popen[str]", tuple[str, ...]]:
    """A process that holds mounts of its own, and what leads a command there."""
    room = subprocess.Popen(
        [*prefix, "unshare", "--mount", "--propagation", "private", "sh", "-ec", ROOM],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert room.stdout is not None and room.stdout.readline() == "ready\n"
    return room, ("nsenter", f"--target={room.pid}", "--mount", "--net", f"--wd={folder}")


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
        yield prefix
    finally:
        daemon.terminate()
        daemon.wait(30)
        room.kill()
        room.wait()


def test_commands_at_a_daemon(serving: tuple[str, ...], tmp_path: Path) -> None:
    for command in AT_A_DAEMON:
        check(command, tmp_path, *serving)
