"""Files that change, come and go while a source follows them."""

import errno
import gc
import os
import random
import re
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from harness.manifests import SERVICE, SLICE, endpoints
from kbe_nat.errors import FileError, KbeNatError
from kbe_nat.sources.manifests import file_watch as watching
from kbe_nat.sources.manifests import listing, manifests, writing
from kbe_nat.sources.manifests.file_watch import Changes, FileWatch
from kbe_nat.sources.manifests.files import content
from kbe_nat.sources.manifests.manifests import Manifests, read_manifests
from kbe_nat.sources.source import SourceUpdate


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        read_manifests([tmp_path / "nothing.yaml"])
    assert read_manifests([tmp_path]).snapshot.services == (), (
        "a directory may be empty for a while"
    )
    (tmp_path / "b.yaml").write_text(SLICE)
    (tmp_path / "a.yml").write_text(SERVICE)
    (tmp_path / "notes.txt").write_text("not read")
    (tmp_path / ".#a.yml").symlink_to("somebody@somewhere.1234")
    (tmp_path / ".c.yaml").write_text(SERVICE.replace("web", "half"))
    assert len(read_manifests([tmp_path]).snapshot.services) == 1


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    path.write_text(SERVICE)
    source = Manifests([path])
    first = source.read()
    assert first is not None and first.snapshot.generation == 1
    assert source.read() is None
    path.write_text("]")
    os.utime(path, ns=(1, 1))
    broken = source.read()
    assert broken is not None and "not YAML" in str(broken.errors[0])
    assert broken.snapshot.services == first.snapshot.services, "the last good state stays"
    assert source.read() is None, "it is said once"
    path.write_text(SERVICE.replace("web", "shop"))
    second = source.read()
    assert second is not None and not second.errors
    assert [service.name for service in second.snapshot.services] == ["shop"]


def test_f130_a_file_that_cannot_be_read_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    other = SERVICE.replace("web", "other").replace(".0.1", ".0.2")
    (folder / "a.yaml").write_text(SERVICE)
    (folder / "b.yaml").write_text("not: [closed")
    os.mkfifo(folder / "c.yaml")
    (folder / "d.yaml").symlink_to("/dev/zero")
    (folder / "e.yaml").symlink_to(".")
    source = Manifests([folder])

    def named(update: SourceUpdate | None) -> tuple[list[str], list[str]]:
        assert update is not None
        broken = [str(error).removeprefix(f"{folder}/")[:6] for error in update.errors]
        return [service.name for service in update.snapshot.services], broken

    assert (
        named(source.read())
        == named(read_manifests([folder]))
        == (["web"], ["b.yaml", "c.yaml", "d.yaml", "e.yaml"])
    )
    (folder / "b.yaml").write_text(other)
    assert named(source.read()) == (["web", "other"], ["c.yaml", "d.yaml", "e.yaml"])
    # What was good stays, and what is written beside it applies.
    (folder / "b.yaml").write_text("{")
    assert named(source.read()) == (["web", "other"], ["b.yaml", "c.yaml", "d.yaml", "e.yaml"])
    (folder / "a.yaml").write_text(SERVICE.replace("web", "new"))
    assert named(source.read()) == (["new", "other"], ["b.yaml", "c.yaml", "d.yaml", "e.yaml"])
    for name in "bcde":
        (folder / f"{name}.yaml").unlink()
    assert named(source.read()) == (["new"], [])


def test_each_path_says_what_is_read_of_it(tmp_path: Path) -> None:
    folder, single = tmp_path / "folder", tmp_path / "single.yaml"
    folder.mkdir()
    (folder / "a.yaml").write_text(SERVICE)
    other = SERVICE.replace("web", "other").replace(".0.1", ".0.2")
    wrong = other.replace("other", "wrong").replace("port: ", "port: -")
    single.write_text(f"{other}---{wrong}")
    source = Manifests([folder, single])
    started = time.time()
    assert source.files() == (), "nothing was read"
    source.read()
    first, second = source.files()
    assert (first.path, first.files, first.objects, first.refused) == (str(folder), 1, 1, 0)
    assert (second.path, second.files, second.objects, second.refused) == (str(single), 1, 2, 1)
    assert started <= first.changed <= second.changed <= time.time()
    (folder / "b.yaml").write_text("not: [closed")
    source.read()
    assert source.files() == (replace(first, unread=1), second), "no object has changed"
    (folder / "b.yaml").write_text(SERVICE.replace("web", "third").replace(".0.1", ".0.3"))
    source.read()
    third, same = source.files()
    assert (third.files, third.objects, third.unread, same) == (2, 2, 0, second)
    assert third.changed > first.changed
    for name in "ab":
        (folder / f"{name}.yaml").unlink()
    source.read()
    gone, same = source.files()
    assert (gone.files, gone.objects, same) == (0, 0, second) and gone.changed > third.changed


def test_a_file_counts_once_for_the_first_path_that_leads_to_it(tmp_path: Path) -> None:
    folder, inner = tmp_path / "folder", tmp_path / "folder/inner.yaml"
    folder.mkdir()
    other = SERVICE.replace("web", "other").replace(".0.1", ".0.2")
    inner.write_text(f"{SERVICE}---{other}")
    source = Manifests([folder, inner])

    def counted() -> list[tuple[int, int]]:
        source.read()
        return [(state.files, state.objects) for state in source.files()]

    assert counted() == [(1, 2), (0, 0)]
    inner.write_text(SERVICE)
    assert counted() == [(1, 1), (0, 0)], "what it had counts no longer"
    (folder / "other.yaml").write_text(other)
    assert counted() == [(2, 2), (0, 0)]


def test_f128_a_file_that_cannot_be_opened_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(SERVICE)
    source = Manifests([tmp_path])

    def refused(path: str, mode: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        update = source.read()
        assert update is not None and "Too many open files" in str(update.errors[0])
        assert source.read() is None
    update = source.read()
    assert update is not None and not update.errors and update.snapshot.services


def test_a_named_file_must_be_there_when_it_is_read_first(tmp_path: Path) -> None:
    path = tmp_path / "objects.yaml"
    source = Manifests([path])
    with pytest.raises(FileError, match="No such file"):
        source.read()
    path.write_text(SERVICE)
    first = source.read()
    assert first is not None
    path.unlink()
    gone = source.read()
    assert gone is not None and "No such file" in str(gone.errors[0])
    assert gone.snapshot.services == first.snapshot.services
    path.write_text(SERVICE.replace("web", "shop"))
    back = source.read()
    assert back is not None and not back.errors
    assert [service.name for service in back.snapshot.services] == ["shop"]


def test_where_nothing_is_served_it_says_so(tmp_path: Path) -> None:
    source = Manifests([tmp_path])
    update = source.read()
    assert update is not None and update.warnings == (
        f"no Service in {tmp_path}: nothing is served",
    )
    assert source.read() is None
    (tmp_path / "a.yaml").write_text(SERVICE)
    update = source.read()
    assert update is not None and not update.warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SERVICE.replace("port: 80", "port: 0"), "expected int >= 1"),
        ("a: [", "not YAML"),
        ("", "no Service in"),
    ],
)
def test_a_strict_source_does_not_begin_with_what_is_wrong(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert Manifests([tmp_path]).read() is not None
    source = Manifests([tmp_path], is_strict=True)
    with pytest.raises(KbeNatError, match=message):
        source.read()
    (tmp_path / "a.yaml").write_text(SERVICE)
    assert source.read() is not None
    (tmp_path / "a.yaml").write_text(text)
    assert source.read() is not None, "later it goes on"


def test_what_is_refused_stays_as_it_was_and_the_others_apply(tmp_path: Path) -> None:
    other = SERVICE.replace("web", "other").replace("172.30.0.1", "172.30.0.2")
    path = tmp_path / "objects.yaml"
    path.write_text("\n---\n".join((SERVICE, SLICE, other)))
    source = Manifests([path])
    before = source.read()
    assert before is not None
    wrong = (
        SERVICE.replace("port: 80", "port: 99999"),
        SLICE.replace("addressType: IPv4", "addressType: IPv5"),
        other.replace("port: 80", "port: 81"),
        SERVICE.replace("web", "new").replace("172.30.0.1", "nowhere"),
    )
    path.write_text("\n---\n".join(wrong))
    after = source.read()
    assert after is not None
    assert len(after.errors) == 3
    ports = {service.name: service.ports[0].port for service in after.snapshot.services}
    assert ports == {"web": 80, "other": 81}
    assert endpoints(after, "shop", "web") == [("10.0.0.1", 8080)]
    path.write_text(other)
    gone = source.read()
    assert gone is not None
    assert [service.name for service in gone.snapshot.services] == ["other"], (
        "what is taken away is gone"
    )


def test_a_refused_object_without_a_namespace_is_in_the_default_one(tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    path.write_text(SERVICE.replace("namespace: shop", "labels: {}"))
    source = Manifests([path])
    assert source.read() is not None
    path.write_text(path.read_text().replace("port: 80", "port: 99999"))
    after = source.read()
    assert after is not None and len(after.errors) == 1
    assert [service.key for service in after.snapshot.services] == [("default", "web")]


def test_reading_what_has_changed_is_as_reading_everything(tmp_path: Path) -> None:
    """Random edits of random files, one after the other."""
    chance = random.Random(7)

    def slice_of(name: str, service: str) -> str:
        ready = chance.choice(("true", "false"))
        addresses = [
            f"10.0.{chance.randrange(9)}.{chance.randrange(1, 9)}"
            for _ in range(chance.randrange(4))
        ]
        endpoints = ", ".join(
            f"{{addresses: [{own}], conditions: {{ready: {ready}}}}}" for own in addresses
        )
        kind = chance.choice(("IPv4", "IPv4", "IPv4", "FQDN"))
        return SLICE_OF.format(name=name, service=service, kind=kind, endpoints=endpoints)

    def service_of(number: int) -> str:
        port = chance.choice((80, 80, 81))
        named = SERVICE.replace("web", f"web-{number}").replace(".0.1", f".0.{number + 1}")
        return named.replace("80", str(port))

    amended = 0
    source = Manifests([tmp_path])
    for turn in range(150):
        number = chance.randrange(6)
        file = tmp_path / f"{number}.yaml"
        if chance.random() < 0.1:
            file.unlink(missing_ok=True)
        elif chance.random() < 0.3 or not file.exists():
            texts = [service_of(number), slice_of(f"web-{number}-a", f"web-{number}")]
            texts += [slice_of(f"web-{number}-b", f"web-{chance.randrange(6)}")] * chance.randrange(
                2
            )
            file.write_text("---\n".join(chance.sample(texts, len(texts))))
        else:
            parts = file.read_text().split("---\n")
            place = next(n for n, text in enumerate(parts) if "Slice" in text)
            name, service = re.findall(r"(?:{name|service-name): (web-[-\w]+)", parts[place])
            parts[place] = slice_of(name, service)
            file.write_text("---\n".join(parts))
            amended += 1
        update = source.read()
        everything = read_manifests([tmp_path]).snapshot
        if update is not None:
            assert not update.errors
            last = update.snapshot
            assert last.generation > 0
        elif turn == 0:
            continue
        assert structs.replace(last, generation=0) == everything, f"turn {turn}"
    assert amended > 50


def test_only_what_has_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        (tmp_path / f"{number}.yaml").write_text(SERVICE.replace("web", f"web-{number}"))
    (tmp_path / "slice.yaml").write_text(SLICE)
    source = Manifests([tmp_path])
    before = source.read()
    assert before is not None
    read_again: list[str] = []

    def content_again(path: str) -> bytes:
        read_again.append(path)
        return content(path)

    monkeypatch.setattr(manifests, "content", content_again)
    (tmp_path / "slice.yaml").write_text(SLICE.replace("10.0.0.1", "10.0.0.9"))
    after = source.read()
    assert after is not None
    assert endpoints(after, "shop", "web") == [("10.0.0.9", 8080)]
    assert read_again == [str(tmp_path / "slice.yaml")]
    assert after.snapshot.services is before.snapshot.services, "nor are the others looked at"


def test_it_hears_of_every_kind_of_change(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    (folder / "..first").mkdir(parents=True)
    named = tmp_path / "named.yaml"
    for path, number in ((named, 1), (folder / "a.yaml", 2), (folder / "..first/c.yaml", 3)):
        path.write_text(SERVICE.replace("web", f"web-{number}").replace(".0.1", f".0.{number}"))
    # As Kubernetes mounts a ConfigMap.
    (folder / "..data").symlink_to("..first")
    (folder / "c.yaml").symlink_to("..data/c.yaml")
    source = Manifests([named, folder])

    def ports() -> dict[str, int]:
        update = source.read()
        assert update is not None
        return {service.name: service.ports[0].port for service in update.snapshot.services}

    assert ports() == {"web-1": 80, "web-2": 80, "web-3": 80}

    def written(path: Path, port: int) -> None:
        path.write_text(path.read_text().replace("port: 80", f"port: {port}"))

    def replaced() -> None:
        (tmp_path / "new").write_text(
            (folder / "a.yaml").read_text().replace("port: 82", "port: 83")
        )
        (tmp_path / "new").replace(folder / "a.yaml")

    def swapped() -> None:
        (folder / "..second").mkdir()
        text = (folder / "c.yaml").read_text()
        (folder / "..second/c.yaml").write_text(text.replace("port: 80", "port: 84"))
        (folder / "..next").symlink_to("..second")
        (folder / "..next").replace(folder / "..data")

    def linked() -> None:
        (folder / "d.yaml").symlink_to(named)
        (folder / "a.yaml").unlink()

    for change, expected in (
        (lambda: written(named, 81), {"web-1": 81, "web-2": 80, "web-3": 80}),
        (lambda: written(folder / "a.yaml", 82), {"web-1": 81, "web-2": 82, "web-3": 80}),
        (replaced, {"web-1": 81, "web-2": 83, "web-3": 80}),
        (swapped, {"web-1": 81, "web-2": 83, "web-3": 84}),
        (linked, {"web-1": 81, "web-3": 84}),
    ):
        assert source.read() is None
        hearer = threading.Thread(target=change)
        hearer.start()
        assert source.wait(5), "it wakes up"
        hearer.join()
        assert ports() == expected
    assert not source.wait(0.01)


def test_a_named_file_of_a_mounted_config_map_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    for name, number in (("..first", 80), ("..second", 81)):
        (folder / name).mkdir(parents=True)
        (folder / name / "web.yaml").write_text(SERVICE.replace("port: 80", f"port: {number}"))
    (folder / "..data").symlink_to("..first")
    (folder / "web.yaml").symlink_to("..data/web.yaml")
    source = Manifests([folder / "web.yaml"])
    assert source.read() is not None
    assert source.read() is None
    (tmp_path / "next").symlink_to("..second")
    (tmp_path / "next").replace(folder / "..data")
    assert source.wait(5), "it wakes up"
    update = source.read()
    assert update is not None
    assert update.snapshot.services[0].ports[0].port == 81


def test_without_inotify_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise OSError("too many users")

    monkeypatch.setattr(watching, "INotify", refused)
    path = tmp_path / "objects.yaml"
    path.write_text(SERVICE)
    source = Manifests([path])
    assert source.read() is not None
    assert source.read() is None
    assert not source.wait(0.01)
    path.write_text(SERVICE.replace("web", "shop"))
    assert source.read() is not None


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory with files for six turns of a rescan, links to others: inotify tells nothing of
    their targets.
    """
    folder, elsewhere = tmp_path / "objects", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    for number in range(110):
        target = elsewhere / f"{number}.yaml"
        text = SERVICE.replace("web", f"web-{number}")
        target.write_text(text.replace("10.0.0.1", f"10.0.0.{number}"))
        (folder / target.name).symlink_to(target)
    return folder


def count_looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that were looked at."""
    looks: list[str] = []

    def stamp(file: str) -> writing.Stamp:
        looks.append(file)
        return writing.stamp(file)

    monkeypatch.setattr(listing, "stamp", stamp)
    monkeypatch.setattr(manifests, "stamp", stamp)
    return looks


def test_a_rescan_looks_at_some_files_in_each_turn_and_goes_on_where_it_was(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = count_looks(monkeypatch)
    monkeypatch.setattr(listing, "FILES_A_TURN", 20)
    source = Manifests([many])
    assert source.read() is not None
    looks.clear()
    assert source.read() is None
    assert not looks, "it is too early"
    now = time.monotonic() + listing.LOOK_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    changed = many.parent / "elsewhere/77.yaml"
    changed.write_text(changed.read_text().replace("port: 80", "port: 81"))
    updates, turns = [], []
    for turn in range(8):
        if turn == 2:
            # What inotify names is looked at in its turn, between two parts of the rescan.
            (many.parent / "new").write_text(SERVICE)
            (many.parent / "new").rename(many / "0.yaml")
        looks.clear()
        update = source.read()
        updates += [] if update is None else [{s.ports[0].port for s in update.snapshot.services}]
        turns.append(len(looks))
    assert updates[-1] == {80, 81}
    assert max(turns) <= 20 + 2
    assert 110 <= sum(turns) <= 110 + 2 and turns[-2:] == [0, 0]


def test_a_rescan_finds_files_that_came_and_went(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FILES_A_TURN", 20)
    source = Manifests([many])
    assert source.read() is not None
    nothing = Changes(frozenset(), is_any=False, is_beside=False)
    monkeypatch.setattr(FileWatch, "changes", lambda _: nothing)
    (many / "5.yaml").unlink()
    (many / "new.yaml").write_text(SERVICE)
    now = time.monotonic() + listing.LOOK_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    updates = [source.read() for _ in range(6)]
    assert updates[:5] == [None] * 5
    assert updates[5] is not None
    names = {service.name for service in updates[5].snapshot.services}
    assert "web-5" not in names and "web" in names and len(names) == 110


def test_what_a_link_among_the_files_leads_to_is_followed(tmp_path: Path) -> None:
    for release, port in (("first", 80), ("second", 81)):
        (tmp_path / release).mkdir()
        text = SERVICE.replace("port: 80", f"port: {port}")
        (tmp_path / release / "web.yaml").write_text(text)
    folder = tmp_path / "objects"
    folder.mkdir()
    (folder / "current").symlink_to(tmp_path / "first")
    (folder / "web.yaml").symlink_to("current/web.yaml")
    source = Manifests([folder])
    assert source.read() is not None
    assert source.read() is None
    (folder / "next").symlink_to(tmp_path / "second")
    (folder / "next").rename(folder / "current")
    update = source.read()
    assert update is not None
    assert update.snapshot.services[0].ports[0].port == 81


def test_the_copy_that_a_writer_renames_leaves_other_files_alone(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "FILES_A_TURN", 20)
    source = Manifests([many])
    assert source.read() is not None
    looks = count_looks(monkeypatch)
    looks.clear()
    (many / "all.new").write_text(SERVICE.replace("port: 80", "port: 81"))
    (many / "all.new").rename(many / "7.yaml")
    update = source.read()
    assert update is not None
    assert 81 in {service.ports[0].port for service in update.snapshot.services}
    # The rest is a part of a rescan.
    assert looks[-1] == str(many / "7.yaml") and len(looks) == 1 + 20


SLICE_OF = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {kind}
ports: [{{port: 8080}}]
endpoints: [{endpoints}]
"""


def test_the_api_server_s_refusal_takes_nothing_away(tmp_path: Path) -> None:
    """curl saves it, and ends with 0."""
    written = tmp_path / "all.json"
    written.write_text(
        '{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, '
        '"spec": {"clusterIP": '
        '"10.96.0.20", "ports": [{"port": 80}]}}'
    )
    source = Manifests([tmp_path])
    first = source.read()
    assert first and [service.name for service in first.snapshot.services] == ["web"]
    written.write_text(
        '{"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "Unauthorized"}'
    )
    second = source.read()
    assert second and second.snapshot.services == first.snapshot.services
    assert [str(error) for error in second.errors] == [
        f"{written}: the API server's answer is a failure: 'Unauthorized'"
    ]


def test_an_empty_name_is_not_the_current_directory() -> None:
    with pytest.raises(FileError, match="the name of a file or directory is empty"):
        Manifests([""]).read()
    with pytest.raises(FileError, match="the name of a file or directory is empty"):
        read_manifests([""])


def test_the_collector_of_cycles_runs_after_a_file_whatever_is_in_it(tmp_path: Path) -> None:
    for text in (SERVICE, "a: [1"):
        (tmp_path / "objects.yaml").write_text(text)
        assert read_manifests([tmp_path]) and Manifests([tmp_path]).read()
        assert gc.isenabled()
