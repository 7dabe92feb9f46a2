"""The files that the given paths lead to, and the look at all of them that is done in parts.

Theory of operation. inotify does not tell everything (`kbe_nat.sources.manifests.file_watch`), so
all files are looked at each `LOOK_SECONDS`. Ten thousand files take longer to look at than a change
may wait, so a `Rescan` looks at `FILES_A_TURN` of them in each turn of its caller, and goes on in
the next turn where it was. It compares each file with the stamp that the file has by then: a file
that is read between two turns differs no more. A directory may change between two turns; a file
that comes or goes after the walk has passed is seen by the next rescan.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from kbe_nat.errors import FileError, UnreadableError
from kbe_nat.sources.manifests.files import is_meant, is_stream
from kbe_nat.sources.manifests.writing import Stamp, stamp


class Rescan:
    """One look at all files."""

    def __init__(self, paths: Sequence[str], base_rank: int) -> None:
        self.ranks: dict[str, int] = {}
        """The files so far, each with `base_rank` and the number of the first path that leads to
        it.
        """
        self._base_rank = base_rank
        self.is_over = False
        self._walk = _walk(paths)

    def turn(self, stamps: Mapping[str, Stamp]) -> set[str]:
        """Look at the next `FILES_A_TURN` files. Returns the files that differ from their stamps.
        Raises `FileError` when a directory cannot be listed.
        """
        part = list(islice(self._walk, FILES_A_TURN))
        self.is_over = len(part) < FILES_A_TURN
        for rank, file in part:
            self.ranks.setdefault(file, self._base_rank + rank)
        return {file for _, file in part if stamp(file) != stamps.get(file)}


def list_files(paths: Sequence[str]) -> Iterator[tuple[int, str]]:
    """All files in their order, with the number of the path that leads to each.

    Raises `FileError` when a directory cannot be listed.
    """
    for rank, path in enumerate(paths):
        for file in sorted(_files(path)):
            yield rank, file


def check_paths(paths: Iterable[str | Path]) -> None:
    """Raises `UnreadableError` for the first one that is not there: a daemon should say so before
    it asks the kernel anything.
    """
    for path in map(str, paths):
        try:
            # Reading has words of its own for an empty one.
            if path and not is_stream(path):
                Path(path).stat()
        except OSError as error:
            raise UnreadableError(f"{path}: {error.strerror or error}") from None


def _walk(paths: Sequence[str]) -> Iterator[tuple[int, str]]:
    """As `list_files`, each directory in an order of its own; it is listed while it is walked."""
    for rank, path in enumerate(paths):
        for file in _files(path):
            yield rank, file


def _files(path: str) -> Iterator[str]:
    if not path:
        # To Python it is the current directory; here a variable was not set.
        raise FileError("the name of a file or directory is empty")
    try:
        if is_stream(path) or not Path(path).is_dir():
            yield path
            return
        # Texts alone: a `Path` for each of ten thousand files would cost more than all else.
        # It ends in a slash, and is empty for the current directory.
        directory = str(Path(path) / "x").removesuffix("x")
        with os.scandir(path) as entries:
            for entry in entries:
                if is_meant(entry.name):
                    yield f"{directory}{entry.name}"
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from None


LOOK_SECONDS: Final = 30.0
"""How often all files are looked at."""
FILES_A_TURN: Final = 500
"""Two milliseconds of work."""
