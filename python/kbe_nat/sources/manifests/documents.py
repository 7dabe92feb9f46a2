"""YAML and JSON files as plain values, and from there to types, with errors that name file, line
and field.
"""

import json
import re
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

from kbe_nat.errors import FileError
from kbe_nat.sources.json_documents import begins_as_json, is_json, json_documents
from kbe_nat.sources.manifests.files import content, label
from kbe_nat.sources.manifests.yaml_documents import yaml_documents

_T = TypeVar("_T")


def documents(path: str) -> list[Any]:
    """All documents of one file, or none: the part before a mistake must not pass for the whole.

    Raises `FileError` when the file is missing, unreadable, no file, too large, or neither YAML nor
    JSON.
    """
    return parse_documents(content(path), label(path))


def parse_documents(text: bytes, name: str, *, is_strict: bool = False) -> list[Any]:
    """All documents of one text; where it `is_strict`, a key that is there twice is a mistake.
    Raises `FileError`, which names the text so, and the line.
    """
    text = utf8(text)
    try:
        if is_json(text):
            return _json_or_flow(text, name, is_strict=is_strict)
        return yaml_documents(text, is_strict=is_strict)
    except yaml.YAMLError as error:
        raise _not_yaml(error, name) from None
    except RecursionError:
        raise FileError(f"{name}: {TOO_DEEP}") from None


def document(path: Path, kind: type[_T], empty: object = None, *, is_strict: bool = False) -> _T:
    """The one document of a file, as this type; of an empty file, `empty`. Where it `is_strict`, a
    key that is there twice is a mistake. Raises `FileError`, with the field.
    """
    text, name = content(str(path)), label(str(path))
    parsed = parse_documents(text, name, is_strict=is_strict)
    values = [value for value in parsed if value is not None]
    if len(values) > 1:
        raise FileError(f"{path}: one document is expected, not {len(values)}")
    try:
        return msgspec.convert(values[0] if values else empty, kind)
    except msgspec.ValidationError as error:
        reason, field = reason_and_path(str(error))
        raise FileError(f"{path}: {field}: {reason}" if field else f"{path}: {reason}") from None
    except RecursionError:
        raise FileError(f"{path}: {TOO_DEEP}") from None


def reason_and_path(message: str) -> tuple[str, str]:
    """The mistake in msgspec's message, and the path of the field; a pattern of names becomes
    words.
    """
    reason, _, path = message.rpartition(" - at ")
    if not reason:
        reason, path = path, ""
    if path.startswith(_KEY):
        reason = f"one of its names is no text: {reason[:1].lower()}{reason[1:]}"
        path = path.removeprefix(_KEY)
    if "matching regex" in reason:
        reason = "is no valid name: lower case letters, digits and '-' only"
    return reason[:1].lower() + reason[1:].replace("`", ""), _PATH_ROOT.sub("", path.strip("`"))


def _json_or_flow(text: bytes, name: str, *, is_strict: bool) -> list[Any]:
    """A bracket opens JSON, or YAML in flow style."""
    try:
        return json_documents(text.decode(), is_strict=is_strict)
    except json.JSONDecodeError as error:
        # To YAML a comment of JavaScript is part of the key behind it, which would get lost.
        if begins_as_json(error.doc, error.pos):
            what = f"{error.msg[:1].lower()}{error.msg[1:]}"
            where = f"line {error.lineno}, column {error.colno}"
            raise FileError(f"{name}, {where}: not JSON: {what}") from None
    except ValueError as error:
        # To YAML its numbers would be texts.
        raise FileError(f"{name}: not JSON: {error}") from None
    return yaml_documents(text, is_strict=is_strict)


def check_text(text: bytes, name: str) -> None:
    """Raises `FileError` for a file that is no text in UTF-8, or in UTF-16 with its mark: where no
    byte may be replaced.
    """
    if text.startswith(UTF16):
        return
    if b"\0" in text:
        raise FileError(f"{name}: it is no text, but a binary file")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        byte = text[error.start]
        raise FileError(f"{name}, line {line}: byte 0x{byte:02x} is not UTF-8") from None


def utf8(text: bytes) -> bytes:
    """The text as kubectl takes it: UTF-8 or, with its mark, UTF-16; all else becomes
    U+FFFD, such as an umlaut in an old Windows editor's comment. Other marks may stand where files
    were put together.
    """
    if text.startswith(UTF16):
        return text.decode("utf-16", "replace").encode(errors="replace")
    if not text.isascii():
        text = text.removeprefix(BOM).decode(errors="replace").encode()
        text = _LATER_BOM.sub(b"", text)
    return text


def _not_yaml(error: yaml.YAMLError, name: str) -> FileError:
    if not isinstance(error, yaml.MarkedYAMLError):
        return FileError(f"{name}: not YAML: {' '.join(str(error).split())}")
    if "nesting depth" in str(error):
        # The C library's own limit, in its newer versions.
        return FileError(f"{name}: {TOO_DEEP}")
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    parts = (error.context, error.problem)
    what = NO_BEGINNING if NO_TOKEN in parts else " ".join(str(part) for part in parts if part)
    return FileError(f"{name}{where}: not YAML: {what}")


NO_TOKEN: Final = "found character that cannot start any token"
"""libyaml's words for a tab that indents, above all."""
NO_BEGINNING: Final = (
    "no value begins with this character; a tab cannot indent, and @, ` and % need quotes"
)
TOO_DEEP: Final = "not read: it is nested too deeply, or contains itself"
UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
"""The marks of UTF-16."""
BOM: Final = b"\xef\xbb\xbf"
_LATER_BOM: Final = re.compile(
    rb"(?m)(?<=^---\n)\xef\xbb\xbf|(?<=^---\r\n)\xef\xbb\xbf|^\xef\xbb\xbf(?=---\s)"
)
_PATH_ROOT: Final = re.compile(r"^\$\.?")
_KEY: Final = "`key` in `"
