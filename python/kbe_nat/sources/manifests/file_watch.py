"""Which files have changed, as the kernel tells (inotify(7)).

Theory of operation. Only directories are watched: the given ones, and those that hold a given file.
A watch on a file itself would end when the file is replaced, and editors, `kubectl` and ConfigMaps
all replace. An event is then one of three things:

1. A writer has closed a file, or a whole file has been put in place (renamed, linked): that file is
   named, and is to be read whatever its stamp says.
2. A file has left a directory: any file may count now, since of one object in two files the later
   one counts.
3. Anything vaguer: a directory is gone or new, events were lost, or Kubernetes has swapped the link
   `..data` beneath all files of a ConfigMap. All files are in doubt.

inotify does not tell everything: other machines write to a file system of the network, the target
of a link changes elsewhere. So all files are in doubt each `LOOK_SECONDS`, and always where there
is no inotify. Watches are added anew at each such look, since their directories may be others by
now; for a directory that is still watched this does nothing.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from inotify_simple import Event, INotify, flags


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
        self._last_look = -LOOK_SECONDS
        self._inotify = _inotify()

    def wait(self, seconds: float) -> bool:
        """Wait until something happens to a file, at most so long; whether it did."""
        if self._inotify is None:
            time.sleep(seconds)
            return False
        events = self._inotify.read(timeout=round(seconds * 1000))
        self._events += events
        return bool(events)

    def changes(self) -> tuple[set[str], bool]:
        """Since the last call: files that writers have closed, or that were put in place whole; and
        whether any other may have changed, come or gone.
        """
        now = time.monotonic()
        since = now - self._last_look
        if self._inotify is None and since >= LOOK_SECONDS:
            self._inotify = _inotify()
        events, self._events = self._events, []
        if self._inotify is not None:
            events += self._inotify.read(timeout=0)
        named = {file for event in events for file in self._named_files(event)}
        # Ten thousand files take longer to look at than a change may wait: the look gives way to
        # files that are named, for once.
        is_look_due = since >= (2 * LOOK_SECONDS if named else LOOK_SECONDS)
        is_anything = self._inotify is None or is_look_due or any(map(_is_vague, events))
        if is_anything:
            self._last_look = now
            self._places = {}
            for path, watched in self._paths.items():
                self._watch(watched, path)
        return named, is_anything or any(event.mask & LEAVING for event in events)

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
            self._last_look = -LOOK_SECONDS
        else:
            self._places.setdefault(number, []).append((watched, "" if is_directory else path))

    def _named_files(self, event: Event) -> Iterator[str]:
        if event.mask & LEAVING:
            return
        for watched, path in self._places.get(event.wd, ()):
            if path and watched.name == event.name:
                file = path
            elif not path:
                file = str(watched / event.name)
            else:
                continue
            # A writer's CLOSE_WRITE follows the CREATE of a new file; a link has no writer that
            # could close it.
            if not event.mask & flags.CREATE or _is_whole(Path(file)):
                yield file


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


def _is_whole(path: Path) -> bool:
    """Whether what was just created has its content: a file that is written is heard of again."""
    try:
        return path.is_symlink() or path.stat().st_nlink > 1
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
LOOK_SECONDS: Final = 30.0
"""How often all files are in doubt."""
