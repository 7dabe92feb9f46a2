"""YAML and JSON files as plain values, and from there to types, with errors that name file, line and field."""

import json
import re
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from kbe_nat.errors import FileError
from kbe_nat.sources.files import content, label
from kbe_nat.sources.json_documents import is_json, json_documents, looks_like_json
from kbe_nat.sources.yaml_documents import yaml_documents

_T = TypeVar("_T")


def documents(path: str) -> list[Any]:
    """All documents of one file, or none: what stands before a mistake must not pass for the whole.

    Raises `FileError` when the file is missing, unreadable, no file, too large, or neither YAML nor JSON.
    """
    return parse_documents(content(path), label(path))


def parse_documents(text: bytes, name: str) -> list[Any]:
    """All documents of one text. Raises `FileError`, which names the text so, and the line."""
    try:
        if is_json(text):
            return _json_or_flow(text, name)
        return yaml_documents(text)
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from None
    except RecursionError:
        raise FileError(f"{name}: {TOO_DEEP}") from None


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
    except RecursionError:
        raise FileError(f"{path}: {TOO_DEEP}") from None


def reason_and_path(message: str) -> tuple[str, str]:
    """What msgspec says is wrong, and the path of the field; patterns of names are put into words."""
    reason, _, path = message.rpartition(" - at ")
    if not reason:
        reason, path = path, ""
    if "matching regex" in reason:
        reason = "is no valid name: lower case letters, digits and '-' only"
    return reason[:1].lower() + reason[1:].replace("`", ""), _PATH_ROOT.sub("", path.strip("`"))


def _json_or_flow(text: bytes, name: str) -> list[Any]:
    """A bracket opens JSON, or YAML in flow style."""
    try:
        return json_documents(text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        what = f"{error.msg[:1].lower()}{error.msg[1:]}"
        not_json = FileError(f"{name}, line {error.lineno}, column {error.colno}: not JSON: {what}")
    except UnicodeDecodeError as error:
        not_json = FileError(f"{name}: not JSON: byte {error.start} is no UTF-8")
    except ValueError as error:
        # To YAML its numbers would be texts.
        raise FileError(f"{name}: not JSON: {error}") from None
    try:
        return yaml_documents(text)
    except yaml.YAMLError:
        if looks_like_json(text):
            raise not_json from None
        raise


def _not_yaml(error: yaml.YAMLError, name: str) -> FileError:
    if not isinstance(error, yaml.MarkedYAMLError):
        return FileError(f"{name}: not YAML: {' '.join(str(error).split())}")
    if "nesting depth" in str(error):
        # The C library's own limit, in its newer versions.
        return FileError(f"{name}: {TOO_DEEP}")
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    what = " ".join(str(part) for part in (error.context, error.problem) if part)
    return FileError(f"{name}{where}: not YAML: {what}")


TOO_DEEP: Final = "not read: it is nested too deeply, or contains itself"
_PATH_ROOT: Final = re.compile(r"^\$\.?")
