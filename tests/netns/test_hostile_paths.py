"""A daemon whose paths lie where others may write, and clients of its control socket that say
nothing.
"""

import os
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from harness.daemons import NOBODY, SEED, Daemon, curl, until_pages_answer
from harness.waiting import eventually


def plant_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (os.mkfifo, "it is a FIFO"),
        (plant_sparse, "it holds something else"),
        (lambda path: path.symlink_to("/etc/hostname"), "it is a symbolic link"),
    ],
    ids=["fifo", "sparse", "link"],
)
def test_f135_a_trap_in_the_place_of_its_state_is_said_and_left_alone(
    daemon: Daemon, plant: Callable[[Path], None], reason: str
) -> None:
    state, hostname = daemon.folder / "state", Path("/etc/hostname").read_bytes()
    plant(state)
    before = state.lstat()
    daemon.start()
    assert f"{state}: {reason}; no connections are taken over" in daemon.log
    assert daemon.log.count(f"connections cannot be kept: {state}: {reason}") == 1
    assert "172.30.228.255" in curl(daemon.cluster)
    assert daemon.end() < 5
    found = state.lstat()
    assert (found.st_ino, found.st_mode, found.st_size) == (
        before.st_ino,
        before.st_mode,
        before.st_size,
    )
    assert Path("/etc/hostname").read_bytes() == hostname
    assert {own.name for own in daemon.folder.iterdir() if "state" in own.name} == {"state"}


def test_f135_what_is_in_the_place_of_its_socket_is_left_alone(
    daemon: Daemon, tmp_path: Path
) -> None:
    other = tmp_path / "other.sock"
    other.write_text("precious")
    done = daemon.run("--socket", str(other))
    assert (done.returncode, other.read_text()) == (2, "precious")
    assert f"{other}: it is no socket, and is left alone" in done.stderr
    other.unlink()
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(other))
        mute.listen()
        done = daemon.run("--socket", str(other))
    assert done.returncode == 2
    assert f"{other}: another daemon answers here, or at least listens" in done.stderr
    assert stat.S_ISSOCK(other.lstat().st_mode)
    assert not (daemon.folder / "state").exists(), "the file may be that of whoever listens there"


def test_f127_idle_clients_of_the_control_socket_hold_up_nobody(daemon: Daemon) -> None:
    daemon.start()
    pid = daemon.get("status")["pid"]

    def threads() -> int:
        return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())

    def sockets() -> int:
        """Not all descriptors: a flow cache opens some for each device that appears."""
        count = 0
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                count += str(descriptor.readlink()).startswith("socket:")
        return count

    # The last that it opens.
    until_pages_answer(daemon)
    before = threads(), sockets()
    with ExitStack() as stack:
        for number in range(500):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(daemon.socket))
            if number % 2:
                client.send(b'{"verb"')
        assert "172.30.228.255" in curl(daemon.cluster)
        assert daemon.get("status")["pid"] == pid
        assert threads() <= before[0] + 2
        assert sockets() <= before[1] + 70
        eventually(lambda: sockets() <= before[1] + 2)
    assert "172.30.228.255" in curl(daemon.cluster)
    assert "ERROR" not in daemon.log


def test_f132_services_stay_when_their_file_system_is_unmounted(daemon: Daemon) -> None:
    objects = daemon.folder / "objects"
    (objects / "cluster.yaml").unlink()
    mount = ("mount", "-t", "tmpfs", "tmpfs", str(objects))
    subprocess.run(mount, check=True)
    try:
        daemon.write("cluster.yaml", SEED)
        daemon.start()
        assert len(daemon.get("services")) == 1
        subprocess.run(("umount", "--lazy", str(objects)), check=True)
        complaint = (
            "it is empty, and on another file system than before: was that unmounted?; "
            "what was served"
        )
        # inotify tells nothing while another mount namespace holds the file system (a container's,
        # made meanwhile): then the look every 30 s notices.
        eventually(lambda: f"{objects}: {complaint}" in daemon.log, 60)
        # Another one, in which nothing is yet.
        subprocess.run(mount, check=True)
        eventually(lambda: daemon.get("status")["refused"], 60)
        assert len(daemon.get("services")) == 1
        assert "172.30.228.255" in curl(daemon.cluster)
        daemon.write("cluster.yaml", SEED)
        daemon.write("nobody.yaml", NOBODY)
        eventually(lambda: len(daemon.get("services")) == 2, 60)
        assert not daemon.get("status")["refused"]
        for name in ("cluster.yaml", "nobody.yaml"):
            (objects / name).unlink()
        eventually(lambda: not daemon.get("services"), 60)
    finally:
        subprocess.run(("umount", "--lazy", str(objects)), check=True)
