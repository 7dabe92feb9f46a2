"""The bytes of a file that somebody names: regular files, or standard input. Whatever else a path
may lead to (a FIFO, a device, an endless file) is refused before it can hold us up.
"""

import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kbe_nat.errors import FileError, UnreadableError


def content(path: str) -> bytes:
    """The whole file, in a time and memory that `MAX_SIZE` bounds. Raises `FileError`, with the
    file's name; `UnreadableError` where it may be otherwise when it is tried again.
    """
    try:
        return _stream(path) if is_stream(path) else _file(path)
    except OSError as error:
        raise UnreadableError(f"{label(path)}: {error.strerror or error}") from None


def is_stream(path: str) -> bool:
    """Whether the path is that of something that can be read once: "-", or what a shell makes of
    <(command).
    """
    return path == STANDARD_INPUT or _DESCRIPTOR.fullmatch(path) is not None


def is_meant(name: str) -> bool:
    """Whether a file of this name in a directory counts. As for kubelet, a name that begins with a
    dot is private: an editor's lock, a copy that is not done.
    """
    return name.endswith(SUFFIXES) and not name.startswith(".")


def label(path: str) -> str:
    """How a file is called in messages."""
    return "standard input" if path == STANDARD_INPUT else path


def _stream(path: str) -> bytes:
    if path != STANDARD_INPUT:
        with Path(path).open("rb") as stream:
            return _read_bounded(path, stream.read)
    if sys.stdin is None:
        raise FileError(f"{label(path)}: it is closed")
    return _read_bounded(path, sys.stdin.buffer.read)


def _file(path: str) -> bytes:
    # Looked at before it is opened: opening some devices does something.
    _check(path, Path(path).stat())
    # Without O_NONBLOCK a FIFO that took its place just now would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(descriptor))
        return _read_bounded(path, lambda size: os.read(descriptor, min(size, CHUNK)))
    finally:
        os.close(descriptor)


def _check(path: str, status: os.stat_result) -> None:
    kind = next((name for is_kind, name in KINDS if is_kind(status.st_mode)), None)
    if kind is not None:
        raise FileError(f"{path}: it is {kind}, not a file")
    if status.st_size > MAX_SIZE:
        raise FileError(_too_large(path))


def _read_bounded(path: str, read: Callable[[int], bytes]) -> bytes:
    parts, rest = [], MAX_SIZE + 1
    while rest and (part := read(rest)):
        parts.append(part)
        rest -= len(part)
    if not rest:
        raise FileError(_too_large(path))
    return b"".join(parts)


def _too_large(path: str) -> str:
    return f"{label(path)}: not read: it is larger than {MAX_SIZE >> 20} MiB"


STANDARD_INPUT: Final = "-"
SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_SIZE: Final = 256 << 20
"""Bytes. The slices of 150,000 endpoints are half of it, as `kubectl get -o json` indents them."""
CHUNK: Final = 1 << 20
KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_DESCRIPTOR: Final = re.compile(r"/dev/stdin|/(?:dev|proc/self)/fd/[0-9]+")
