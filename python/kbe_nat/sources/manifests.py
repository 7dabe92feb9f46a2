"""Kubernetes objects from YAML (or JSON) files: several documents in a file, several files in a directory,
"-" for standard input.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from kbe_nat.errors import FileError, ObjectError
from kbe_nat.model import Snapshot
from kbe_nat.sources import Reading
from kbe_nat.sources.assembly import assemble
from kbe_nat.sources.completion import POD_RANGE, complete
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.objects import Found
from kbe_nat.sources.retention import retain
from kbe_nat.sources.selection import select

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]


class Manifests:
    """A `Source` of files. They are read again when one of them has changed, or a directory has another set
    of them. An object that is refused stays as it was.
    """

    def __init__(self, paths: Sequence[str | Path], *, pod_range: str = POD_RANGE) -> None:
        self._paths = [str(path) for path in paths]
        self._pod_range = pod_range
        self._generation = 0
        self._stamp: Stamp | None = None
        self._last = Snapshot()

    def read(self) -> Reading | None:
        """See `Source.read`. Raises `FileError` when a file is missing, unreadable or no YAML. Cost when
        nothing changed: one stat each.
        """
        files = list(_files(self._paths))
        stamp = _stamp(files)
        if stamp == self._stamp:
            return None
        reading = read_manifests(files, pod_range=self._pod_range, generation=self._generation + 1)
        reading = retain(reading, self._last)
        self._generation += 1
        self._stamp = stamp
        self._last = reading.snapshot
        return reading


def read_manifests(
    paths: Sequence[str | Path], *, pod_range: str = POD_RANGE, generation: int = 0
) -> Reading:
    """The snapshot of all objects in these files and directories, completed as `kbe_nat.sources.completion`
    says.

    Raises `FileError` when a file is missing, unreadable or no YAML; a wrong object is listed in
    `Reading.refused`.
    """
    found: list[Found] = []
    refused: list[ObjectError] = []
    notes: list[str] = []
    for path in _files([str(path) for path in paths]):
        for number, document in enumerate(_documents(path), 1):
            if document is None:
                continue
            for item in decode(document, f"{_label(path)}, document {number}"):
                if isinstance(item, Found):
                    found.append(item)
                elif isinstance(item, ObjectError):
                    refused.append(item)
                else:
                    notes.append(item)
    found, filled_in = complete(found, pod_range)
    reading = assemble([*found, *select(found)], generation)
    return Reading(reading.snapshot, (*refused, *reading.refused), (*notes, *filled_in, *reading.notes))


def _files(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path != STANDARD_INPUT and Path(path).is_dir():
            yield from sorted(str(file) for file in Path(path).iterdir() if file.suffix in SUFFIXES)
        else:
            yield path


def _stamp(files: Sequence[str]) -> Stamp:
    """Changes whenever a file is written or replaced; standard input is read once."""
    parts = []
    for file in files:
        if file == STANDARD_INPUT:
            parts.append((file, 0, 0, 0))
            continue
        try:
            status = Path(file).stat()
        except OSError as error:
            raise FileError(f"{file}: {error.strerror or error}") from None
        parts.append((file, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(parts)


def _documents(path: str) -> Iterator[Any]:
    """All documents of one file, or none: what stands before a mistake must not pass for the whole."""
    try:
        if path == STANDARD_INPUT:
            return iter(_parsed(sys.stdin.buffer.read()))
        return iter(_parsed(Path(path).read_bytes()))
    except OSError as error:
        raise FileError(f"{_label(path)}: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise FileError(f"{_label(path)}{where}: not YAML: {what}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"{_label(path)}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FileError(f"{_label(path)}: not read: it is nested too deeply") from None
    except (ValueError, OverflowError) as error:
        # A scalar that looks like a number or a date and is none.
        raise FileError(f"{_label(path)}: not YAML: {error}") from None


def _parsed(text: bytes) -> list[Any]:
    """All documents. The C library builds them by recursion and would exhaust the stack, which nothing can
    catch: so texts that might be nested too deeply are looked through first. Every level takes a bracket, or
    a column of its line.
    """
    brackets = text.count(b"[") + text.count(b"{")
    if brackets > MAX_DEPTH or max(map(len, text.split(b"\n"))) > MAX_DEPTH:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise RecursionError
    return list(yaml.load_all(text, Loader=_Loader))


def _label(path: str) -> str:
    return "standard input" if path == STANDARD_INPUT else path


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


STANDARD_INPUT: Final = "-"
MAX_DEPTH: Final = 1000
SUFFIXES: Final = (".yaml", ".yml", ".json")
