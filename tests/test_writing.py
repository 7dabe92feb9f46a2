"""Manifests while a program writes them: their last good content stays until it is done (F132)."""

import errno
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import eventually
from kbe_nat.sources.manifests import file_watch as watching
from kbe_nat.sources.manifests import manifests, writing
from kbe_nat.sources.manifests.manifests import Manifests

SERVICE = """apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: 172.30.0.{number}, ports: [{{port: {port}}}]}}
"""


def service(name: str, number: int, port: int = 80) -> str:
    return SERVICE.format(name=name, number=number, port=port)


class Followed:
    """A directory that is followed, with a clock that a test moves."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = time.monotonic()
        self.source = Manifests([folder], **options)
        self.served: dict[str, int] = {}

    def ports(self) -> dict[str, int]:
        update = self.source.read()
        if update is not None:
            assert not update.errors
            self.served = {own.name: own.ports[0].port for own in update.snapshot.services}
        return self.served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(f"{service('one', 1)}---\n{service('two', 2)}")
    (tmp_path / "b.yaml").write_text(service("other", 3))
    return tmp_path


@pytest.fixture(params=[0.0, 2.0], ids=["at-once", "patient"])
def followed(
    folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Followed]:
    own = Followed(folder, gone_seconds=request.param)

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return own.now

        sleep = time.sleep
        time = time.time

    for module in (manifests, watching):
        monkeypatch.setattr(module, "time", Clock)
    assert own.ports() == ALL
    yield own


ALL = {"one": 80, "two": 80, "other": 80}


def test_f132_a_file_that_is_truncated_and_open_stays_as_it_was(
    folder: Path, followed: Followed
) -> None:
    with (folder / "a.yaml").open("w") as file:
        # Every look at all files, and events of others, fall into this minute.
        for second in range(61):
            followed.now += 1
            (folder / "b.yaml").write_text(service("other", 3, 80 + second % 5))
            if second % 20 == 10:
                (folder / f"new-{second}.yaml").write_text("")
            assert followed.ports() == {**ALL, "other": 80 + second % 5}
        # It grows, and what is in it may be read, or not.
        file.write(service("one", 1, 90))
        file.flush()
        for text in ("---\napiVersion: v1\n", "kind: Ser", "vice\nmetadata: {na"):
            followed.now += 40
            file.write(text)
            file.flush()
            assert followed.ports()["two"] == 80
        file.write("me: two}\nspec: {clusterIP: 172.30.0.2, ports: [{port: 91}]}\n")
    assert followed.ports() == {"one": 90, "two": 91, "other": followed.served["other"]}


def test_f132_one_that_is_never_closed_counts_when_it_stays_as_it_is(
    folder: Path, followed: Followed
) -> None:
    with (folder / "a.yaml").open("w") as file:
        file.write(service("one", 1, 90))
        file.flush()
        for _ in range(3):
            followed.now += 31
            assert followed.ports() == ALL
        followed.now += writing.WRITING_SECONDS
        assert followed.ports() == {"one": 90, "other": 80}


def test_f132_a_new_file_counts_when_it_is_whole(folder: Path, followed: Followed) -> None:
    with (folder / "c.yaml").open("w") as file:
        file.write(service("half", 4) + "---\nkind: [")
        file.flush()
        followed.now += 31
        (folder / "d.yaml").write_text(service("fourth", 5))
        assert followed.ports() == {**ALL, "fourth": 80}
    (folder / "c.yaml").write_text(service("half", 4))
    assert followed.ports() == {**ALL, "fourth": 80, "half": 80}


def test_f132_what_is_replaced_by_rename_counts_at_once(folder: Path, followed: Followed) -> None:
    (folder / ".a.yaml.swp").write_text("kind: [")
    (folder / ".#a.yaml").symlink_to("somebody@somewhere.1")
    new = folder / "a.yaml.new"
    with new.open("w") as file:
        file.write(service("one", 1, 90))
        file.flush()
        followed.now += 31
        assert followed.ports() == ALL
    new.rename(folder / "a.yaml")
    assert followed.ports() == {"one": 90, "other": 80}
    (folder / "a.yaml").write_text(service("one", 1, 91))
    assert followed.ports() == {"one": 91, "other": 80}, "written in place"


@pytest.mark.parametrize("leaving", ["delete", "rename", "truncate"])
def test_f132_a_file_may_go_and_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, leaving: str
) -> None:
    """As vim writes with a backup, and scripts that delete before they write."""
    followed = Followed(folder, gone_seconds=2.0)
    monkeypatch.setattr("kbe_nat.sources.manifests.manifests.time.monotonic", lambda: followed.now)
    assert followed.ports() == ALL

    def leave() -> None:
        if leaving == "delete":
            (folder / "a.yaml").unlink()
        elif leaving == "rename":
            (folder / "a.yaml").rename(folder / "a.yaml~")
        else:
            (folder / "a.yaml").write_text("")

    leave()
    followed.now += 1.9
    assert followed.ports() == ALL
    with (folder / "a.yaml").open("w") as file:
        followed.now += 31
        assert followed.ports() == ALL, "it is back, and being written"
        file.write(service("one", 1, 90))
    assert followed.ports() == {"one": 90, "other": 80}
    leave()
    assert followed.ports() == {"one": 90, "other": 80}
    followed.now += 2.1
    assert followed.ports() == {"other": 80}, "it stays away"


def test_f132_deleted_files_go_at_once_where_nobody_has_patience(folder: Path) -> None:
    followed = Followed(folder)
    assert followed.ports() == ALL
    (folder / "a.yaml").unlink()
    assert followed.ports() == {"other": 80}
    (folder / "b.yaml").write_text("")
    assert followed.ports() == {}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EINVAL])
def test_f132_where_there_are_no_leases_shorter_files_wait(
    folder: Path, followed: Followed, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on a file system of another machine, whose writers the kernel does not know."""

    def refused(*_: object) -> int:
        raise OSError(number, "no leases here")

    monkeypatch.setattr(fcntl, "fcntl", refused)
    monkeypatch.setattr(watching.FileWatch, "_files", lambda *_: ())
    (folder / "a.yaml").write_text(service("one", 1, 90))
    followed.now += 31
    assert followed.ports() == ALL
    followed.now += writing.WRITING_SECONDS
    assert followed.ports() == {"one": 90, "other": 80}
    (folder / "b.yaml").write_text(service("other-with-a-longer-name", 3, 90))
    followed.now += 31
    assert followed.ports() == {"one": 90, "other-with-a-longer-name": 90}


def test_without_inotify_a_writer_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise OSError("too many users")

    with monkeypatch.context() as patch:
        patch.setattr(watching, "INotify", refused)
        followed = Followed(folder)
        assert followed.ports() == ALL
        with (folder / "a.yaml").open("w") as file:
            assert followed.ports() == ALL
            file.write(service("one", 1, 90))
        assert followed.ports() == {"one": 90, "other": 80}
    followed.ports()
    (folder / "a.yaml").write_text(service("one", 1, 91))
    assert followed.source.wait(30), "it is tried again"
    eventually(lambda: followed.ports() == {"one": 91, "other": 80})
