"""Kubernetes objects from YAML (or JSON) files: several documents in a file, several files in a
directory, "-" for standard input.

Theory of operation. Each file is an origin of a `kbe_nat.sources.store.Store`, and reading a file
replaces what its origin has. `read` therefore only decides which files to read:

1. doubt: inotify names files, and where it is vague, all files are in doubt. Now and then a
   `Rescan` looks at all files, some in each `read`, and those that differ are in doubt.
2. look: the stamp (inode, time, size) of each file in doubt, compared with the one it had.
3. settle: a file that is being written, or that is gone for a moment, counts as it was.
4. read: the files that are left. One that cannot be read keeps the objects that it had.

A file that fails for a reason outside of it (no descriptor, no right) stays in doubt, so the next
`read` tries it again.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbe_nat.collector import uncollected
from kbe_nat.errors import FileError, UnreadableError
from kbe_nat.sources.decoding import decode, is_failure
from kbe_nat.sources.file_state import FileState
from kbe_nat.sources.json_objects import Items, json_objects
from kbe_nat.sources.manifests.completion import FileCompletion
from kbe_nat.sources.manifests.defaults import POD_RANGE
from kbe_nat.sources.manifests.documents import parse_documents, utf8
from kbe_nat.sources.manifests.file_watch import FileWatch
from kbe_nat.sources.manifests.files import content, is_stream, label
from kbe_nat.sources.manifests.listing import LOOK_SECONDS, Rescan, list_files
from kbe_nat.sources.manifests.mounts import Mounts
from kbe_nat.sources.manifests.writing import GONE, Stamp, Unsettled, stamp
from kbe_nat.sources.objects import Origin, ParsedObject
from kbe_nat.sources.snapshot import convert_early
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.store import Store


class Manifests:
    """A `Source` of files. One that has changed is read again. An object that is refused stays as
    it was, and so do all those of a file that cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        store: Store | None = None,
        *,
        base_rank: int = 0,
        is_strict: bool = False,
        gone_seconds: float = 0.0,
    ) -> None:
        """The objects go into `store`, or into one of our own that completes them; origins have the
        ranks from `base_rank` on, a path each. With `is_strict` the first update is refused when
        anything is wrong in it, or nothing would be served. A file that is deleted, or left empty,
        may come back for `gone_seconds`: its objects stay meanwhile.
        """
        self._paths = [str(path) for path in paths]
        self._is_strict = is_strict
        self._store = Store(FileCompletion()) if store is None else store
        self._base_rank = base_rank
        self._watch = FileWatch(path for path in self._paths if not is_stream(path))
        self._doubtful: set[str] | None = None
        """Files to look at; None: all."""
        self._closed: set[str] = set()
        """Files among them whose writers are done."""
        self._rescan: Rescan | None = None
        self._next_rescan = 0.0
        """As of `time.monotonic`."""
        self._unsettled = Unsettled(gone_seconds)
        self._mounts = Mounts()
        self._stamps: dict[str, Stamp] = {}
        """Of all files that count, as they count."""
        self._ranks: dict[str, int] = {}
        """The rank of the path that leads to a file."""
        self._origins: dict[str, Origin] = {}
        """Of all files whose objects are in the store."""
        self._unread: dict[str, FileError] = {}
        """Why files could not be read when they were tried last."""
        self._failures: dict[str, Origin] = {}
        """The origins of these, as the store knows them."""
        self._objects: dict[str, int] = {}
        """How many objects each of them has, refused ones too."""
        self._sums: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        """How many files, and how many of their objects, each path has, by its rank: a change of
        one file must not cost a look at all.
        """
        self._changes: dict[int, float] = {}
        """When the objects of a path last changed, by its rank."""
        self._states: tuple[FileState, ...] = ()
        self._has_read = False

    def wait(self, seconds: float) -> bool:
        """See `Source.wait`."""
        return self._watch.wait(seconds)

    def descriptors(self) -> list[int]:
        """See `Source.descriptors`."""
        return self._watch.descriptors()

    def watches(self) -> tuple[()]:
        """See `Source.watches`: files have none."""
        return ()

    def files(self) -> tuple[FileState, ...]:
        """See `Source.files`."""
        return self._states

    def close(self) -> None:
        """See `Source.close`: the kernel's watch ends with this object."""

    def read(self) -> SourceUpdate | None:
        """See `Source.read`. Raises `FileError` when a file that was named, and not found in a
        directory, cannot be read the first time. Cost: linear in the objects of files that have
        changed, and in the files when any of them may have come or gone.
        """
        now = time.monotonic()
        self._doubt(now)
        if self._doubtful == set():
            return None
        settled, changed = self._settle(self._look(), now)
        with uncollected():
            fresh, failed = self._try(changed)
        gone_files = {file for file, new in settled.items() if new is None} & self._stamps.keys()
        others = self._unread.keys() - gone_files - set(changed)
        unread = {file: error for file, error in self._unread.items() if file in others} | failed
        update = None
        has_change = fresh or gone_files or _texts(unread) != _texts(self._unread)
        if has_change or not self._has_read:
            with uncollected():
                update = self._take_over(fresh, gone_files, unread)
        self._stamps |= {file: new for file, new in settled.items() if new is not None}
        for file in gone_files:
            del self._stamps[file]
        self._unread, self._has_read = unread, True
        # Only files that could not be read stay in doubt.
        self._closed = set()
        self._doubtful = {file for file in unread if self._is_retried(file)}
        return update

    def _doubt(self, now: float) -> None:
        """Learn which files to look at."""
        changes = self._watch.changes()
        self._closed |= changes.closed
        # A file that comes or goes may change which of two objects counts.
        is_present = all(file in self._stamps and Path(file).exists() for file in self._closed)
        if (
            self._doubtful is None
            or changes.is_any
            or not is_present
            or self._unsettled.is_due(now)
        ):
            self._doubtful = None
        else:
            self._doubtful |= changes.closed
            if changes.is_beside:
                self._next_rescan = now
            self._go_on_with_rescan(now)
        if self._doubtful is None:
            # All files are looked at now.
            self._rescan, self._next_rescan = None, now + LOOK_SECONDS

    def _go_on_with_rescan(self, now: float) -> None:
        """Put files that differ in doubt: all files, when others are there than before."""
        if self._rescan is None:
            if now < self._next_rescan:
                return
            self._next_rescan = now + LOOK_SECONDS
            # First, so that no change is missed between the two.
            self._watch.renew()
            self._rescan = Rescan(self._paths, self._base_rank)
        rescan, doubtful = self._rescan, self._doubtful or set()
        try:
            # A file that is new has no rank yet.
            self._doubtful = doubtful | rescan.turn(self._stamps) & self._ranks.keys()
            if not rescan.is_over:
                return
            self._rescan = None
            if rescan.ranks == self._ranks:
                self._check_mounts()
            else:
                self._doubtful = None
        except (FileError, OSError):
            # It is raised again, to the caller, where all files are looked at.
            self._doubtful = None

    def _look(self) -> dict[str, Stamp | None]:
        """The files in doubt, as they are now; None: the file is gone."""
        if self._doubtful is not None:
            return {file: stamp(file) for file in self._doubtful}
        self._ranks = {}
        for rank, file in list_files(self._paths):
            # A file that two paths lead to counts where it comes first.
            self._ranks.setdefault(file, self._base_rank + rank)
        self._check_mounts()
        missing = self._stamps.keys() - self._ranks.keys()
        return {**{file: stamp(file) for file in self._ranks}, **dict.fromkeys(missing)}

    def _check_mounts(self) -> None:
        """Raises `UnreadableError`."""
        filled = {file.rpartition("/")[0] or "." for file in self._ranks}
        for path in self._paths:
            if not is_stream(path) and Path(path).is_dir():
                self._mounts.check(path, has_files=str(Path(path)) in filled)

    def _settle(
        self, looks: Mapping[str, Stamp | None], now: float
    ) -> tuple[dict[str, Stamp | None], list[str]]:
        """The files that count as they are now, and those among them to be read. One that is being
        written counts as it was.
        """
        settled: dict[str, Stamp | None] = {}
        changed = []
        for file, new in looks.items():
            before = self._stamps.get(file)
            is_closed = file in self._closed
            # At the start there is nothing that could stay as it was.
            if self._has_read and not self._unsettled.counts(
                file, before, new or GONE, now, is_closed=is_closed
            ):
                continue
            settled[file] = new
            # mtime can miss the second of two quick writes, so files that inotify names are always
            # read again.
            if new and (is_closed or new != before or self._is_retried(file) or self._moves(file)):
                changed.append(file)
        return settled, changed

    def _is_retried(self, file: str) -> bool:
        """Whether it could not be read for a reason that is not in the file."""
        return isinstance(self._unread.get(file), UnreadableError)

    def _moves(self, file: str) -> bool:
        """Whether another path leads to it now: one that was no directory may be one."""
        return file in self._origins and self._origins[file].rank != self._ranks[file]

    def _try(self, changed: Iterable[str]) -> tuple[dict[str, Items], dict[str, FileError]]:
        """The items of these files, or why they cannot be read."""
        fresh, failed = {}, {}
        for file in changed:
            try:
                fresh[file] = _items(file)
            except FileError as error:
                if file in self._paths and file not in self._origins:
                    raise
                failed[file] = error
        return fresh, failed

    def _take_over(
        self,
        fresh: Mapping[str, Items],
        gone_files: Iterable[str],
        unread: Mapping[str, FileError],
    ) -> SourceUpdate:
        """The update, with these files in place of what they were."""
        for file in gone_files:
            origin = self._leave(file)
            if origin:
                self._store.replace(origin, ())
                self._changes[origin.rank] = time.time()
        for file, items in fresh.items():
            origin = Origin(self._ranks[file], file)
            before = self._leave(file)
            if before and before != origin:
                self._store.replace(before, ())
            self._store.replace(origin, items)
            self._enter(file, origin, sum(not isinstance(item, str) for item in items))
            self._changes[origin.rank] = time.time()
        self._report(unread)
        update = self._store.update()
        self._states = tuple(self._state_of(unread))
        nothing = f"no Service in {', '.join(self._paths)}: nothing is served"
        warnings = () if update.snapshot.services else (nothing,)
        update = replace(update, warnings=warnings)
        if self._is_strict and not self._has_read:
            for error in update.errors:
                raise error
            for warning in warnings:
                raise FileError(warning)
        return update

    def _enter(self, file: str, origin: Origin, objects: int) -> None:
        """Have this file count, with so many objects."""
        self._origins[file], self._objects[file] = origin, objects
        files, sum_of_objects = self._sums[origin.rank]
        self._sums[origin.rank] = files + 1, sum_of_objects + objects

    def _leave(self, file: str) -> Origin | None:
        """Have this file count no longer; its origin, if it did."""
        origin = self._origins.pop(file, None)
        if origin:
            files, objects = self._sums[origin.rank]
            self._sums[origin.rank] = files - 1, objects - self._objects.pop(file)
        return origin

    def _state_of(self, unread: Iterable[str]) -> Iterator[FileState]:
        """Of each path. Cost: linear in the paths, and in the files with refused objects."""
        refused: Counter[int] = Counter()
        for origin, count in self._store.refusals().items():
            refused[origin.rank] += count
        failed = Counter(self._failures[file].rank for file in unread)
        for place, path in enumerate(self._paths):
            rank = self._base_rank + place
            files, objects = self._sums[rank]
            yield FileState(
                path=label(path),
                files=files,
                objects=objects,
                refused=refused[rank],
                unread=failed[rank],
                changed=self._changes.get(rank, 0.0),
            )

    def _report(self, unread: Mapping[str, FileError]) -> None:
        """Tell the store which files cannot be read now."""
        for origin in self._failures.values():
            self._store.fail(origin, None)
        # A file that is gone for a moment has no rank, and fails as it did.
        self._failures = {
            file: Origin(self._ranks[file], file) if file in self._ranks else self._failures[file]
            for file in unread
        }
        for file, origin in self._failures.items():
            self._store.fail(origin, unread[file])


def read_manifests(
    paths: Sequence[str | Path], *, pod_range: str = POD_RANGE, generation: int = 0
) -> SourceUpdate:
    """The snapshot of all objects in these files and directories, completed as
    `kbe_nat.sources.manifests.completion` says.

    Raises `FileError` when a file that is named cannot be read; a file of a directory is listed in
    `SourceUpdate.errors`, and so is a wrong object.
    """
    store = Store(FileCompletion(pod_range), generation - 1)
    names = [str(path) for path in paths]
    for rank, file in list_files(names):
        try:
            with uncollected():
                items = _items(file)
            store.replace(Origin(rank, file), items)
        except FileError as error:
            if file in names:
                raise
            store.fail(Origin(rank, file), error)
    return store.update()


def _items(path: str) -> Items:
    text, name = utf8(content(path)), label(path)
    # Even a cluster without objects is written as a list: the command before the pipe has failed.
    if is_stream(path) and not text.strip():
        raise FileError(f"{name}: it is empty")
    items = json_objects(text, f"{name}, document 1")
    return _items_of_values(parse_documents(text, name), name) if items is None else items


def _items_of_values(written: Sequence[Any], name: str) -> Items:
    for document in written:
        if is_failure(document):
            # The objects in whose place it stands are not gone.
            raise FileError(
                f"{name}: the API server's answer is a failure: {document['message']!r}"
            )
    return [
        convert_early(item) if isinstance(item, ParsedObject) else item
        for number, document in enumerate(written, 1)
        if document is not None
        for item in decode(document, f"{name}, document {number}")
    ]


def _texts(errors: Mapping[str, FileError]) -> dict[str, str]:
    return {file: str(error) for file, error in errors.items()}
