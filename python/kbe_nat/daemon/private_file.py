"""A file of ours in a directory where others may write.

The path may lead into a trap: a link to another user's file, a FIFO that is never written to, a
file that another user can change. So the file is opened without following a link or waiting, and
examined once it is open. A file with a new, random name replaces it. Files that are not ours are
neither read nor replaced.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kbe_nat.errors import StateError


class PrivateFile:
    """A regular file that belongs to us or root, that nobody else may write, and whose contents
    begin with a signature of ours. The directories above it are followed wherever they lead.
    """

    def __init__(self, path: Path, signatures: tuple[bytes, ...]) -> None:
        """A file may be replaced that has one of `signatures` among its first bytes."""
        self._path = path
        self._signatures = signatures

    def read(self, limit: int) -> bytes:
        """All of it. Raises `StateError` when it is not ours or longer than `limit` bytes;
        FileNotFoundError, OSError.
        """
        with self._directory() as directory, self._open(directory) as (descriptor, length):
            self._check_signature(descriptor)
            if length > limit:
                raise StateError(
                    f"it has {length} bytes, more than the {limit} that we could have written"
                )
            # The file may be growing: no more is read than was looked at.
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return file.read(length)

    def replace(self, content: bytes) -> None:
        """Put another file in its place, at once and as a whole, on disk before it gets the name.
        Raises `StateError` when what stands there is not ours; OSError.
        """
        with self._fresh() as (directory, descriptor, partial):
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(content)
            os.fsync(descriptor)
            os.rename(partial, self._path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)

    def tidy(self) -> None:
        """Take away what a `replace` that was killed has left. Raises OSError."""
        partial = re.compile(re.escape(f".{self._path.name}.") + "[0-9a-f]{16}")
        with self._directory() as directory, os.scandir(directory) as entries:
            for name in [entry.name for entry in entries if partial.fullmatch(entry.name)]:
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    os.unlink(name, dir_fd=directory)

    @contextmanager
    def _directory(self) -> Iterator[int]:
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _open(self, directory: int) -> Iterator[tuple[int, int]]:
        """A descriptor of the file, and its length. To open a device may move something, so the
        kind is looked at before as well.
        """
        name = self._path.name
        _check_ours(os.stat(name, dir_fd=directory, follow_symlinks=False))
        descriptor = os.open(name, READING, dir_fd=directory)
        try:
            status = os.fstat(descriptor)
            _check_ours(status)
            yield descriptor, status.st_size
        finally:
            os.close(descriptor)

    @contextmanager
    def _fresh(self) -> Iterator[tuple[int, int, str]]:
        """Directory, descriptor and name of a new file, which is gone at the end unless it was
        renamed.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._directory() as directory:
            with suppress(FileNotFoundError), self._open(directory) as (descriptor, _):
                self._check_signature(descriptor)
            partial = f".{self._path.name}.{secrets.token_hex(8)}"
            descriptor = os.open(partial, WRITING, 0o600, dir_fd=directory)
            try:
                yield directory, descriptor, partial
            finally:
                os.close(descriptor)
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=directory)

    def _check_signature(self, descriptor: int) -> None:
        """An empty file has nothing to lose."""
        head = os.pread(descriptor, HEAD_BYTES, 0)
        if head and not any(signature in head for signature in self._signatures):
            raise StateError("it holds something else")


def _check_ours(status: os.stat_result) -> None:
    """Raises `StateError`."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise StateError(f"it is {KINDS.get(kind, 'no regular file')}")
    if status.st_uid not in (0, os.geteuid()):
        raise StateError(f"it belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateError("others may write to it")


KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
READING: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
WRITING: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
HEAD_BYTES: Final = 64
"""Signatures stand among these."""
