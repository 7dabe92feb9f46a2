"""Which files have changed, as the kernel tells (inotify(7)).

Theory of operation. Only directories are watched: the given ones, and those that hold a given file.
A watch on a file itself would end when the file is replaced, and editors, `kubectl` and ConfigMaps
all replace. An event is then one of four things:

1. A writer has closed a file, or a whole file has been put in place (renamed, linked): that file is
   named, and is to be read whatever its stamp says.
2. A file has left a directory: any file may count now, since of one object in two files the later
   one counts.
3. Something beside the files has changed: mostly the copy that a writer renames when it is done.
   But a link among the files may lead there, so all files are to be looked at, which may take a
   while.
4. Anything vaguer: a directory is gone or new, events were lost, or Kubernetes has swapped the link
   `..data` beneath all files of a ConfigMap. All files are in doubt.

inotify does not tell everything: other machines write to a file system of the network, the target
of a link changes elsewhere. So the caller looks at all files now and then, and adds the watches
anew before (`renew`), since their directories may be others by now; for a directory that is still
watched this does nothing. Without inotify, or with a directory that cannot be watched, all files
are always in doubt.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inotify_simple import Event, INotify, flags

from kbe_nat.sources.manifests.files import is_meant


@dataclass(frozen=True, slots=True)
class Changes:
    """Events of the files, as the kernel tells them."""

    closed: frozenset[str]
    """Files that writers have closed, or that were put in place whole."""
    is_any: bool
    """Whether any other may have changed, come or gone."""
    is_beside: bool
    """Whether something else has changed in a directory: a copy that is not done yet, or the target
    of a link among the files.
    """


class FileWatch:
    """Watches files, and directories with the files that come into them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {path: Path(path) for path in paths}
        self._places: dict[int, list[tuple[Path, str]]] = {}
        """By number of a watch, what is watched there: a directory, and a file in it that was named
        or "".
        """
        self._events: list[Event] = []
        """Events that came while waiting."""
        self._is_blind = True
        """Whether a path is not watched."""
        self._inotify = _inotify()

    def wait(self, seconds: float) -> bool:
        """Wait until something happens to a file, at most so long; whether it did."""
        if self._inotify is None:
            time.sleep(seconds)
            return False
        events = self._inotify.read(timeout=round(seconds * 1000))
        self._events += events
        return bool(events)

    def descriptors(self) -> list[int]:
        """Readable when something may have happened; none without inotify."""
        return [] if self._inotify is None else [self._inotify.fileno()]

    def changes(self) -> Changes:
        """The events since the last call."""
        events, self._events = self._events, []
        if self._inotify is not None:
            events += self._inotify.read(timeout=0)
        closed: set[str] = set()
        is_any = self._is_blind or any(map(_is_vague, events))
        is_beside = False
        for event in events:
            files = list(self._files(event))
            is_beside |= not files
            if event.mask & LEAVING:
                is_any |= bool(files)
            else:
                closed.update(file for file in files if _is_whole(event, Path(file)))
        if is_any:
            self.renew()
        return Changes(frozenset(closed), is_any=is_any, is_beside=is_beside)

    def renew(self) -> None:
        """Watch the directories that the paths lead to now. Cost: a system call for each path."""
        self._inotify = self._inotify or _inotify()
        self._is_blind = self._inotify is None
        self._places = {}
        for path, watched in self._paths.items():
            self._watch(watched, path)

    def _watch(self, watched: Path, path: str) -> None:
        if self._inotify is None:
            return
        try:
            is_directory = watched.is_dir()
            place = watched if is_directory else watched.parent
            number = self._inotify.add_watch(place, EVENTS)
        except OSError:
            # It is not there, not ours, or the user watches as much as may be: all files stay in
            # doubt.
            self._is_blind = True
        else:
            self._places.setdefault(number, []).append((watched, "" if is_directory else path))

    def _files(self, event: Event) -> Iterator[str]:
        """The files that count and that an event is about."""
        for watched, path in self._places.get(event.wd, ()):
            if path and watched.name == event.name:
                yield path
            elif not path and is_meant(event.name):
                yield str(watched / event.name)


def _inotify() -> INotify | None:
    try:
        return INotify()
    except OSError:
        # The user has as many as may be (fs.inotify.max_user_instances), or there is no descriptor.
        return None


def _is_vague(event: Event) -> bool:
    """Something other than one file; names with two dots are how Kubernetes swaps whole
    directories.
    """
    return bool(event.mask & VAGUE) or event.name.startswith("..")


def _is_whole(event: Event, path: Path) -> bool:
    """Whether a file has its content. One that is written is heard of again: a writer's CLOSE_WRITE
    follows the CREATE of a new file. A link has no writer that could close it.
    """
    try:
        return not event.mask & flags.CREATE or path.is_symlink() or path.stat().st_nlink > 1
    except OSError:
        return False


EVENTS: Final = (
    flags.CLOSE_WRITE
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
LEAVING: Final = flags.DELETE | flags.MOVED_FROM
VAGUE: Final = (
    flags.Q_OVERFLOW
    | flags.IGNORED
    | flags.UNMOUNT
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ISDIR
)
