"""YAML (or JSON) files as plain values, and from there to types, with errors that name file, line and field."""

import re
import sys
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from kbe_nat.errors import FileError

_T = TypeVar("_T")


def documents(path: str) -> list[Any]:
    """All documents of one file, or none: what stands before a mistake must not pass for the whole.

    Raises `FileError` when the file is missing, unreadable or no YAML.
    """
    try:
        if path == STANDARD_INPUT:
            return _parsed(sys.stdin.buffer.read())
        return _parsed(Path(path).read_bytes())
    except OSError as error:
        raise FileError(f"{label(path)}: {error.strerror or error}") from None
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error):
            # The C library's own limit, in its newer versions.
            raise FileError(f"{label(path)}: {TOO_DEEP}") from None
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise FileError(f"{label(path)}{where}: not YAML: {what}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileError(f"{label(path)}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise FileError(f"{label(path)}: {TOO_DEEP}") from None
    except (ValueError, OverflowError) as error:
        # A scalar that looks like a number or a date and is none.
        raise FileError(f"{label(path)}: not YAML: {error}") from None


def document(path: Path, kind: type[_T], empty: object = None) -> _T:
    """The one document of a file, as this type; of an empty file, `empty`. Raises `FileError`, with the field."""
    found = [own for own in documents(str(path)) if own is not None]
    if len(found) > 1:
        raise FileError(f"{path}: one document is expected, not {len(found)}")
    try:
        return msgspec.convert(found[0] if found else empty, kind)
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {field}: {reason}" if field else f"{path}: {reason}") from None


def label(path: str) -> str:
    """How a file is called in messages."""
    return "standard input" if path == STANDARD_INPUT else path


def reason_and_path(message: str) -> tuple[str, str]:
    """What msgspec says is wrong, and the path of the field; patterns of names are put into words."""
    reason, _, path = message.rpartition(" - at ")
    if not reason:
        reason, path = path, ""
    if "matching regex" in reason:
        reason = "is no valid name: lower case letters, digits and '-' only"
    return reason[:1].lower() + reason[1:].replace("`", ""), _PATH_ROOT.sub("", path.strip("`"))


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


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a date is a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


STANDARD_INPUT: Final = "-"
MAX_DEPTH: Final = 1000
TOO_DEEP: Final = "not read: it is nested too deeply"
_PATH_ROOT: Final = re.compile(r"^\$\.?")
