"""Kubernetes objects from YAML (or JSON) files: several documents in a file, several files in a
directory, "-" for standard input.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kbe_nat.errors import FileError, ObjectError, UnreadableError
from kbe_nat.model import Snapshot
from kbe_nat.sources.decoding import decode, is_failure
from kbe_nat.sources.incremental import amend, can_be_amended
from kbe_nat.sources.last_good import retain
from kbe_nat.sources.manifests.defaults import POD_RANGE, complete
from kbe_nat.sources.manifests.documents import documents
from kbe_nat.sources.manifests.endpointslices import select
from kbe_nat.sources.manifests.file_watch import FileWatch
from kbe_nat.sources.manifests.files import is_stream, label
from kbe_nat.sources.manifests.mounts import Mounts
from kbe_nat.sources.manifests.writing import GONE, Stamp, Unsettled, stamp
from kbe_nat.sources.objects import ParsedObject
from kbe_nat.sources.snapshot import assemble
from kbe_nat.sources.source import SourceUpdate


class Manifests:
    """A `Source` of files. One that has changed is read again, and all when a directory has another
    set of them. An object that is refused stays as it was, and so do all those of a file that
    cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        pod_range: str = POD_RANGE,
        is_strict: bool = False,
        gone_seconds: float = 0.0,
    ) -> None:
        """With `is_strict` the first update is refused when anything is wrong in it, or nothing
        would be served. A file that is deleted, or left empty, may come back for `gone_seconds`:
        its objects stay meanwhile.
        """
        self._paths = [str(path) for path in paths]
        self._pod_range = pod_range
        self._is_strict = is_strict
        self._watch = FileWatch(path for path in self._paths if not is_stream(path))
        self._doubtful: set[str] | None = None
        """Files that are to be looked at; None: all."""
        self._told: set[str] = set()
        """Those of them whose writers are done."""
        self._unsettled = Unsettled(gone_seconds)
        self._mounts = Mounts()
        self._stamps: dict[str, Stamp] = {}
        self._contents: dict[str, _Content] = {}
        """Of all files, in the order in which they count."""
        self._unread: dict[str, FileError] = {}
        """Why files could not be read when they were tried last."""
        self._can_be_amended = False
        self._last: SourceUpdate | None = None

    def wait(self, seconds: float) -> bool:
        """See `Source.wait`."""
        return self._watch.wait(seconds)

    def read(self) -> SourceUpdate | None:
        """See `Source.read`. Raises `FileError` when a file that was named, and not found in a
        directory, cannot be read the first time. Cost: linear in the objects of files that have
        changed where only EndpointSlices have; else a pass over all objects.
        """
        now = time.monotonic()
        self._doubt(now)
        if self._doubtful == set():
            return None
        stamps, changed = self._settled(self._looked_at(), now)
        fresh, unread = self._tried(changed)
        kept = {
            file: error
            for file, error in self._unread.items()
            if file in stamps and file not in changed
        }
        if not fresh and _texts({**kept, **unread}) == _texts(self._unread) and self._has(stamps):
            self._stamps = stamps
            self._doubt_no_more()
            return None
        before, self._unread = self._unread, {**kept, **unread}
        try:
            update = self._taken(stamps, fresh)
        except FileError:
            self._unread = before
            raise
        self._doubt_no_more()
        self._last = update
        return update

    def _settled(
        self, found: dict[str, Stamp | None], now: float
    ) -> tuple[dict[str, Stamp], list[str]]:
        """The files that count, as they count, and those that are to be read. One that is being
        written counts as it was.
        """
        stamps, changed = {}, []
        for file, new in found.items():
            before = self._stamps.get(file)
            is_told = file in self._told
            # At the start there is nothing that could stay as it was.
            if self._last and not self._unsettled.counts(
                file, before, new or GONE, now, is_told=is_told
            ):
                if before is not None:
                    stamps[file] = before
            elif new is not None:
                stamps[file] = new
                # Of two changes within a tick of its clock a file system may show one only.
                if is_told or new != before or self._may_be_tried(file):
                    changed.append(file)
        return stamps, changed

    def _has(self, stamps: Mapping[str, Stamp]) -> bool:
        """Whether these are the files that were read last."""
        return self._last is not None and stamps.keys() == self._contents.keys()

    def _may_be_tried(self, file: str) -> bool:
        """Whether it could not be read for a reason that is not in the file."""
        return isinstance(self._unread.get(file), UnreadableError)

    def _tried(self, changed: Iterable[str]) -> tuple[dict[str, "_Content"], dict[str, FileError]]:
        """What is in these files, or why nobody knows."""
        fresh, unread = {}, {}
        for file in changed:
            try:
                fresh[file] = _content(file)
            except FileError as error:
                if file in self._paths and file not in self._contents:
                    raise
                unread[file] = error
        return fresh, unread

    def _doubt(self, now: float) -> None:
        """What could not be read last time is still in doubt."""
        told, is_any = self._watch.changed()
        self._told |= told
        # A file that comes or goes may change which of two objects counts.
        is_known = all(file in self._stamps and Path(file).exists() for file in self._told)
        if self._doubtful is None or is_any or not is_known or self._unsettled.is_due(now):
            self._doubtful = None
        else:
            self._doubtful |= told

    def _doubt_no_more(self) -> None:
        self._told = set()
        self._doubtful = {file for file in self._unread if self._may_be_tried(file)}

    def _looked_at(self) -> dict[str, Stamp | None]:
        """Every file, as it is now; None: it has gone."""
        if self._doubtful is not None:
            return {**self._stamps, **{file: stamp(file) for file in self._doubtful}}
        there = {file: stamp(file) for file in _files(self._paths)}
        self._check_mounts(there)
        missing = self._stamps.keys() - there.keys()
        return (
            {file: there.get(file) for file in _files(self._paths, missing)}
            if missing
            else {**there}
        )

    def _check_mounts(self, there: Iterable[str]) -> None:
        """Raises `UnreadableError`."""
        filled = {str(Path(file).parent) for file in there}
        for path in self._paths:
            if not is_stream(path) and Path(path).is_dir():
                self._mounts.check(path, has_files=str(Path(path)) in filled)

    def _taken(self, stamps: dict[str, Stamp], fresh: Mapping[str, "_Content"]) -> SourceUpdate:
        """The update, with these files in place of what they were."""
        last = self._last.snapshot if self._last else Snapshot()
        generation = last.generation + 1
        contents = {**self._contents, **fresh}
        if stamps.keys() != contents.keys() or self._doubtful is None:
            contents = {file: contents.get(file, NOTHING) for file in stamps}
        amended = None
        if self._last and self._can_be_amended and stamps.keys() == self._stamps.keys():
            pairs = [(self._contents[file], content) for file, content in fresh.items()]
            if all(not new.refused and new.notes == old.notes for old, new in pairs):
                objects = ((old.found, new.found) for old, new in pairs)
                amended = amend(self._last, objects, generation)
        if amended is None:
            amended = retain(_assembled(contents.values(), self._pod_range, generation), last)
            everything = (one for content in contents.values() for one in content.found)
            self._can_be_amended = not amended.errors and can_be_amended(everything)
        nothing = f"no Service in {', '.join(self._paths)}: nothing is served"
        warnings = () if amended.snapshot.services else (nothing,)
        errors = (*self._unread.values(), *amended.errors)
        update = replace(amended, errors=errors, warnings=warnings)
        if self._is_strict and self._last is None:
            for error in update.errors:
                raise error
            for warning in warnings:
                raise FileError(warning)
        self._stamps, self._contents = stamps, contents
        return update


def read_manifests(
    paths: Sequence[str | Path], *, pod_range: str = POD_RANGE, generation: int = 0
) -> SourceUpdate:
    """The snapshot of all objects in these files and directories, completed as
    `kbe_nat.sources.manifests.defaults` says.

    Raises `FileError` when a file that is named cannot be read; a file of a directory is listed in
    `SourceUpdate.errors`, and so is a wrong object.
    """
    contents, unread = [], []
    named = [str(path) for path in paths]
    for file in _files(named):
        try:
            contents.append(_content(file))
        except FileError as error:
            if file in named:
                raise
            unread.append(error)
    update = _assembled(contents, pod_range, generation)
    return replace(update, errors=(*unread, *update.errors))


@dataclass(frozen=True, slots=True)
class _Content:
    """What stands in a file."""

    found: tuple[ParsedObject, ...]
    refused: tuple[ObjectError, ...]
    notes: tuple[str, ...]


NOTHING: Final = _Content((), (), ())


def _content(path: str) -> _Content:
    written = documents(path)
    for document in written:
        if is_failure(document):
            # What it stands in place of has not gone.
            raise FileError(
                f"{label(path)}: the API server's answer is a failure: {document['message']!r}"
            )
    items = [
        item
        for number, document in enumerate(written, 1)
        if document is not None
        for item in decode(document, f"{label(path)}, document {number}")
    ]
    return _Content(
        tuple(item for item in items if isinstance(item, ParsedObject)),
        tuple(item for item in items if isinstance(item, ObjectError)),
        tuple(item for item in items if isinstance(item, str)),
    )


def _assembled(contents: Iterable[_Content], pod_range: str, generation: int) -> SourceUpdate:
    parts = list(contents)
    refused = [error for part in parts for error in part.refused]
    notes = [note for part in parts for note in part.notes]
    completed, filled_in = complete([one for part in parts for one in part.found], pod_range)
    slices = list(select(completed, filled_in))
    update = assemble([*completed, *slices], generation)
    return replace(
        update,
        errors=(*refused, *update.errors),
        notes=(*notes, *filled_in, *update.notes),
    )


def _files(paths: Sequence[str], held: Iterable[str] = ()) -> Iterator[str]:
    """All files in their order, with these that were in a directory before. As for kubelet, a name
    there that begins with a dot is somebody's own: an editor's lock, a copy that is not done.

    Raises `FileError` when a directory cannot be listed.
    """
    for path in paths:
        if not path:
            # To Python it is the current directory; here a variable was not set.
            raise FileError("the name of a file or directory is empty")
        try:
            if is_stream(path) or not Path(path).is_dir():
                yield path
                continue
            there = {str(file) for file in Path(path).iterdir() if _is_meant(file)}
        except OSError as error:
            raise UnreadableError(f"{path}: {error.strerror or error}") from None
        yield from sorted(there.union(file for file in held if Path(file).parent == Path(path)))


def _is_meant(file: Path) -> bool:
    return file.suffix in SUFFIXES and not file.name.startswith(".")


def _texts(errors: Mapping[str, FileError]) -> dict[str, str]:
    return {file: str(error) for file, error in errors.items()}


SUFFIXES: Final = (".yaml", ".yml", ".json")
