"""The file that keeps connections: by which clock they are taken over, and what may stand at its
path.
"""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kbe_nat
from harness import traffic
from kbe_nat.daemon.checkpoints import HEAD_SIZE, MAGIC, MAX_AGE, CheckpointFile, Clocks
from kbe_nat.daemon.row_building import flow_row
from kbe_nat.engine_tables import native_tables
from kbe_nat.errors import StateError
from kbe_nat.family import Family
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import Backend, Frontend, Plan, PlannedPort

SYN = bytes.fromhex(
    "45000028000100004006dda20a00020fac1ee4ffc000005000000000000000005002200032650000"
)
SECOND = 10**9
HOUR = 3600 * SECOND
YEAR = 8766 * HOUR
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


class Hands(Clocks):
    """Clocks that a test moves by hand."""

    def __init__(self) -> None:
        self.boot_number, self.nanoseconds, self.set_by = 1, 5 * HOUR, 50 * YEAR

    def boot(self) -> bytes:
        return self.boot_number.to_bytes(16, "big")

    def since_boot(self) -> int:
        return self.nanoseconds

    def wall(self) -> int:
        return self.nanoseconds + self.set_by

    def restart(self, seconds_off: float) -> None:
        """Another boot: its clock goes on, `seconds_off` seconds later by the wall."""
        self.boot_number += 1
        self.set_by += self.nanoseconds + int(seconds_off * SECOND)
        self.nanoseconds = 0


def engine(*, has_flow: bool = False) -> kbe_nat.Engine:
    """An engine that serves one TCP service port."""
    made = kbe_nat.Engine(seed=1, limits=kbe_nat.Limits(max_flows=1000, max_affinities=1000))
    frontend = Frontend("cluster-ip", "172.30.228.255", 80)
    port = PlannedPort(
        "default", "web", "", "tcp", Family.IPV4, (frontend,), (Backend("10.0.0.1", 9876),), ()
    )
    made.replace_services(*native_tables(Plan((port,), options=Options())))
    if has_flow:
        made.process(SYN, time.monotonic_ns())
    return made


def taken_over(path: Path, clocks: Clocks | None = None) -> list[kbe_nat.Flow]:
    after = engine()
    restored = CheckpointFile(path, clocks).read(after)
    flows = list(after.flows())
    assert restored == len(flows)
    return flows


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A file with one connection, whose SYN has no answer: 120 s are left."""
    CheckpointFile(tmp_path / "deep/state").write(engine(has_flow=True))
    return tmp_path / "deep/state"


def test_f10_connections_are_kept_in_a_file(state: Path) -> None:
    assert [own.name for own in state.parent.iterdir()] == ["state"]
    assert state.stat().st_mode & 0o777 == 0o600
    [flow] = taken_over(state)
    assert flow_row(flow).reply_source == "10.0.0.1:9876"
    assert taken_over(state.parent / "none") == []
    nowhere = CheckpointFile(None)
    nowhere.write(engine())
    assert nowhere.read(engine()) == 0


@pytest.mark.parametrize(
    ("happens", "left"),
    [
        (lambda clocks: None, 120),
        pytest.param(lambda clocks: setattr(clocks, "set_by", 0), 120, id="set back by 50 years"),
        pytest.param(
            lambda clocks: setattr(clocks, "set_by", 90 * YEAR), 120, id="set forward by 40 years"
        ),
        pytest.param(
            lambda clocks: setattr(clocks, "nanoseconds", 5 * HOUR + 45 * SECOND), 75, id="slept"
        ),
        pytest.param(
            lambda clocks: setattr(clocks, "nanoseconds", 5 * HOUR + 130 * SECOND), None, id="over"
        ),
        pytest.param(
            lambda clocks: setattr(clocks, "nanoseconds", 7 * HOUR), None, id="slept for hours"
        ),
        pytest.param(lambda clocks: clocks.restart(45), 75, id="another boot"),
        pytest.param(lambda clocks: clocks.restart(-20), 120, id="another boot, a little set back"),
        pytest.param(
            lambda clocks: clocks.restart(-7200), None, id="another boot, set back by hours"
        ),
        pytest.param(lambda clocks: clocks.restart(86400), None, id="another boot, a day later"),
    ],
)
def test_f137_time_goes_on_by_the_clock_of_the_boot(
    tmp_path: Path, happens: Callable[[Hands], None], left: int | None
) -> None:
    clocks = Hands()
    CheckpointFile(tmp_path / "state", clocks).write(engine(has_flow=True))
    happens(clocks)
    flows = taken_over(tmp_path / "state", clocks)
    assert [round(flow.timeout) for flow in flows] == ([] if left is None else [left])


@pytest.mark.parametrize(("seconds", "count"), [(590, 1), (610, 0)])
def test_f137_an_old_file_is_a_cold_start_however_long_its_connections_live(
    tmp_path: Path, seconds: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = engine()
    client, vip, backend = ("10.0.2.15", 4444), ("172.30.228.255", 80), ("10.0.0.1", 9876)
    for source, target, flags, seq, ack in (
        (client, vip, traffic.SYN, 1, 0),
        (backend, client, traffic.SYN | traffic.ACK, 1, 2),
        (client, vip, traffic.ACK, 2, 2),
    ):
        segment = traffic.tcp(source[1], target[1], flags, seq, ack)
        before.process(traffic.ip(source[0], target[0], traffic.TCP, segment), time.monotonic_ns())
    assert [flow.state for flow in before.flows()] == ["ESTABLISHED"]
    clocks = Hands()
    CheckpointFile(tmp_path / "state", clocks).write(before)
    clocks.nanoseconds += seconds * SECOND
    assert len(taken_over(tmp_path / "state", clocks)) == count
    assert ("10m0s" in caplog.text) == (not count)


def test_f137_the_machine_has_these_clocks(state: Path) -> None:
    clocks = Clocks()
    assert len(clocks.boot()) == 16
    assert clocks.boot() == Clocks().boot()
    assert clocks.since_boot() >= time.monotonic_ns() - SECOND
    assert abs(clocks.wall() - time.time_ns()) < HOUR
    assert MAX_AGE == 600 * SECOND


def test_f10_every_flipped_bit_and_every_cut_is_a_cold_start(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = state.read_bytes()
    places = [*range(HEAD_SIZE + 30), *range(HEAD_SIZE + 30, len(content), 7)]
    wrong = [content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :] for at in places]
    wrong += [
        content[:length]
        for length in (0, 1, 8, HEAD_SIZE - 1, HEAD_SIZE, HEAD_SIZE + 20, len(content) - 1)
    ]
    wrong += [
        content + b"x",
        b"nonsense" * 100,
        b"\0" * 1000,
        content[HEAD_SIZE:],
        content[HEAD_SIZE - 8 :],
    ]
    for number, bad in enumerate(wrong):
        state.write_bytes(bad)
        caplog.clear()
        assert taken_over(state) == [], number
        [record] = caplog.records
        assert record.levelname == "WARNING"
        assert str(state) in record.message and "\n" not in record.message
    # Only what holds something else is left as it is.
    for replaceable in (
        b"",
        content[:60],
        content[HEAD_SIZE:],
        content[HEAD_SIZE - 8 :],
        b"\1" + content[1:],
    ):
        state.write_bytes(replaceable)
        CheckpointFile(state).write(engine(has_flow=True))
        assert len(taken_over(state)) == 1


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (2, "it has version 2; this program reads version 1"),
        (2**32 - 1, "it has version 4294967295"),
    ],
)
def test_f10_f112_another_version_is_refused_with_a_word(
    state: Path, version: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = state.read_bytes()
    state.write_bytes(MAGIC + version.to_bytes(4, "little") + content[12:])
    assert taken_over(state) == []
    assert f"{state}: {reason}" in caplog.text
    CheckpointFile(state).write(engine(has_flow=True))
    assert len(taken_over(state)) == 1, "the next one has this version"


def test_f112_the_format_before_this_one_is_refused_with_a_word(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state.write_bytes(b"\0" * 8 + state.read_bytes()[HEAD_SIZE:])
    assert taken_over(state) == []
    assert "an earlier version of this program wrote it" in caplog.text
    CheckpointFile(state).write(engine(has_flow=True))
    assert len(taken_over(state)) == 1


def plant_link(path: Path) -> None:
    path.symlink_to(path.with_name("victim"))


def plant_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


def plant_long(path: Path) -> None:
    with path.open("wb") as file:
        file.write(MAGIC)
        file.truncate(10 << 30)


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def plant_shared(path: Path) -> None:
    CheckpointFile(path).write(engine(has_flow=True))
    path.chmod(0o620)


def plant_foreign(path: Path) -> None:
    CheckpointFile(path).write(engine(has_flow=True))
    os.chown(path, 1234, -1)


def looked_at(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_link, "it is a symbolic link"),
        (os.mkfifo, "it is a FIFO"),
        (Path.mkdir, "it is a directory"),
        (plant_socket, "it is a socket"),
        (plant_sparse, "it holds something else"),
        (plant_long, "it has 10737418240 bytes, more than the "),
        (plant_shared, "others may write to it"),
        pytest.param(plant_foreign, "it belongs to user 1234", marks=needs_root),
        pytest.param(
            lambda path: os.mknod(path, 0o20600, os.makedev(1, 5)),
            "it is a device",
            marks=needs_root,
        ),
        (lambda path: path.write_text("127.0.0.1 localhost\n"), "it holds something else"),
    ],
)
def test_f135_a_trap_at_the_path_is_neither_followed_nor_replaced_nor_waited_for(
    tmp_path: Path, plant: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "victim").write_text("precious")
    path = tmp_path / "state"
    plant(path)
    before = looked_at(path)
    file = CheckpointFile(path)
    started = time.monotonic()
    assert taken_over(path) == []
    [record] = caplog.records
    assert record.message.startswith(f"{path}: {reason}")
    if plant is not plant_long:
        with pytest.raises(StateError, match=reason):
            file.write(engine(has_flow=True))
        assert looked_at(path) == before
    assert time.monotonic() - started < 10
    assert (tmp_path / "victim").read_text() == "precious"
    assert {own.name for own in tmp_path.iterdir()} == {"victim", "state"}


def test_f135_a_link_that_takes_the_files_place_meanwhile_is_not_followed(
    state: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the look at it and its opening; what it leads to could be ours."""
    sound = os.open

    def racing(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if path == state.name:
            state.rename(state.with_name("ours"))
            state.symlink_to("ours")
        return sound(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", racing)
    assert taken_over(state) == []
    assert f"{state}: Too many levels of symbolic links" in caplog.text


def test_f135_what_is_planted_at_temporary_names_is_left_alone(tmp_path: Path) -> None:
    path, victim = tmp_path / "state", tmp_path / "victim"
    victim.write_text("precious")
    planted = [
        tmp_path / f".state.{own}"
        for own in (os.getpid(), "0" * 16, "f" * 16, "new", "tmp", "0" * 17)
    ]
    for own in planted:
        own.symlink_to(victim)
    left = tmp_path / f".state.{'a' * 16}"
    left.write_bytes(b"what a run that was killed has left")
    file = CheckpointFile(path)
    file.write(engine(has_flow=True))
    assert len(taken_over(path)) == 1
    assert victim.read_text() == "precious"
    assert all(own.is_symlink() for own in planted)
    assert not left.exists()
    assert not path.is_symlink()


def test_f19_a_path_that_cannot_be_written_is_said_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (Path("/proc/nowhere/state"), "No such file or directory"),
        (tmp_path / "file/state", "Not a directory|File exists"),
        (Path("/proc/state"), "No such file or directory|Permission denied"),
    ):
        with pytest.raises(StateError, match=f"^{path}: ({reason})$"):
            CheckpointFile(path).write(engine())


def test_f19_a_file_that_could_not_be_written_whole_is_as_it_was(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="No space left on device"):
        CheckpointFile(state).write(engine())
    assert state.read_bytes() == before
    assert [own.name for own in state.parent.iterdir()] == ["state"]
