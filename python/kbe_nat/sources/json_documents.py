"""JSON texts: one value, or a stream of them, as kubectl reads what begins with a bracket."""

import json
import math
import re
from typing import Any, Final


def json_documents(text: str, *, is_strict: bool = False) -> list[Any]:
    """All values of the text: side by side, one a line, or with lines of `---` between. Of two
    equal keys the last one counts; half of a surrogate pair becomes U+FFFD, as in Go.

    Raises `json.JSONDecodeError`, or ValueError for a number that JSON does not have, and where it
    `is_strict` for equal keys.
    """
    values = []
    decoder = _STRICT_DECODER if is_strict else _DECODER
    place = _BETWEEN.match(text, 0).end()  # type: ignore[union-attr]
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        values.append(value)
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
    return [_join_surrogates(value) for value in values] if _SURROGATE.search(text) else values


def is_json(text: bytes) -> bool:
    """Whether the first character that is no space opens an object or an array: JSON, or YAML in
    flow style.
    """
    return _OPENING.match(text) is not None


def begins_as_json(text: str, place: int) -> bool:
    """Whether the document at a place has in its first bracket what JSON has there: a text in
    quotes. Comments of JavaScript do not count.
    """
    start = text.rfind("\n---", 0, place)
    return _QUOTED.match(text, text.find("\n", start + 1) if start >= 0 else 0) is not None


def _join_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_join_surrogates(inner) for inner in value]
    if isinstance(value, dict):
        return {_join_surrogates(key): _join_surrogates(inner) for key, inner in value.items()}
    return value


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return values


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_float)
_STRICT_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_float, object_pairs_hook=_unique
)
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]|(?<![^\n])---[ \t]*(?=[\r\n]|\Z))*")
_OPENING: Final = re.compile(rb"[ \t\r\n]*[{\[]")
_QUOTED: Final = re.compile(
    r'[ \t\r\n]*[{\[](?:[{\[ \t\r\n]|//[^\n]*\n|/\*(?:[^*]|\*(?!/))*\*/)*(?:"|\Z)'
)
_SURROGATE: Final = re.compile(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
