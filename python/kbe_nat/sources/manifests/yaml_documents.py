"""YAML texts as kubectl reads them: sigs.k8s.io/yaml, which turns what go-yaml v2 has read into
JSON.

So `yes`, `on` and `y` are true, `0o17`, `017` and `0xf` are 15, `1_000` is 1000 and `1e3` too; but
`22:30` and dates are texts, and so is `=`. Keys are texts, whatever they look like. `<<` merges
where it stands: later keys count for more. Of two equal keys the last one counts, unless the text
is read strictly.
"""

import base64
import math
import re
from typing import Any, Final, TypeAlias

import yaml

_Event: TypeAlias = Any
"""One of PyYAML's events, whose types its stubs do not tell apart."""


def yaml_documents(text: bytes, *, is_strict: bool = False) -> list[Any]:
    """The values of all documents. Aliases share their value, and a value may contain itself. Where
    it `is_strict`, a mapping that writes a key twice is refused.

    Raises `yaml.YAMLError`, or `RecursionError` for what is nested too deeply. Cost: linear in the
    text; no step is recursive, so that no text can exhaust the stack.
    """
    builder = _Builder(is_strict=is_strict)
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        builder.take(event)
    return builder.documents


class _Frame:
    """A collection that is not yet closed."""

    __slots__ = ("anchor", "is_mapping", "key", "start", "value", "written")

    def __init__(self, value: Any, anchor: str | None, start: int) -> None:  # noqa: ANN401
        self.value = value
        self.anchor = anchor
        self.is_mapping = isinstance(value, dict)
        self.key: Any = _NO_KEY
        self.start = start
        self.written: set[str] = set()
        """Keys, where texts are read strictly; without merged ones, which may be written too."""


class _Builder:
    """Makes values of events, one after the other."""

    def __init__(self, *, is_strict: bool = False) -> None:
        self._is_strict = is_strict
        self.documents: list[Any] = []
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        """The value, and of how many nodes it is with all aliases in it."""
        self._nodes = 0
        """So far, with all aliases written out."""
        self._aliased = 0
        """The values that come from aliases."""

    def take(self, event: _Event) -> None:
        """One event after the other. Raises `yaml.YAMLError`, and `RecursionError`."""
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._nodes += 1
            frame = self._frames[-1] if self._frames else None
            if frame and frame.key is _NO_KEY and frame.is_mapping and _is_merge(event):
                frame.key = _MERGE
                return
            value = _scalar(event)
            if event.anchor is not None:
                self._anchors[event.anchor] = value, 1
            self._put(value, event)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self._open({} if kind is yaml.MappingStartEvent else [], event)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            frame = self._frames.pop()
            if frame.anchor is not None:
                self._anchors[frame.anchor] = frame.value, self._nodes - frame.start
            self._put(frame.value, event)
        elif kind is yaml.AliasEvent:
            self._put(self._alias(event), event)
        elif kind is yaml.DocumentStartEvent:
            # An anchor is known in its own document only.
            self._anchors = {}

    def _open(self, value: Any, event: _Event) -> None:  # noqa: ANN401
        _known_tag(event)
        if len(self._frames) >= MAX_DEPTH:
            raise RecursionError
        self._nodes += 1
        self._frames.append(_Frame(value, event.anchor, self._nodes - 1))
        if event.anchor is not None:
            self._anchors[event.anchor] = value, 1

    def _alias(self, event: _Event) -> Any:  # noqa: ANN401
        if event.anchor not in self._anchors:
            raise _error(f"unknown anchor {event.anchor!r}", event)
        value, nodes = self._anchors[event.anchor]
        self._nodes += 1 + nodes
        self._aliased += nodes
        # go-yaml's own limits.
        if (
            self._aliased > 100
            and self._nodes > 1000
            and self._aliased > self._nodes * self._allowed()
        ):
            raise _error("aliases make it many times as large as it is written", event)
        return value

    def _allowed(self) -> float:
        """The part of all nodes that may be aliases: 0.99 of a small text, 0.1 of a large one."""
        share = (self._nodes - FEW_NODES) / (MANY_NODES - FEW_NODES)
        return 0.99 - 0.89 * min(max(share, 0.0), 1.0)

    def _put(self, value: Any, event: _Event) -> None:  # noqa: ANN401
        if not self._frames:
            self.documents.append(value)
            return
        frame = self._frames[-1]
        if not frame.is_mapping:
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            frame.key = value if type(value) is str else _key(value, event)
            if self._is_strict:
                if frame.key in frame.written:
                    raise _error(f"the key {frame.key[:60]!r} is there twice", event)
                frame.written.add(frame.key)
        else:
            if frame.key is _MERGE:
                _merge(frame.value, value, event)
            else:
                frame.value[frame.key] = value
            frame.key = _NO_KEY


def _merge(into: dict[str, Any], value: Any, event: _Event) -> None:  # noqa: ANN401
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, dict) for part in parts):
        raise _error("<< wants a mapping or a sequence of mappings", event)
    # Of several the first one counts.
    for part in reversed(parts):
        into.update(part)


def _is_merge(event: _Event) -> bool:
    return bool(event.value == "<<" and (event.implicit[0] or event.tag == f"{YAML_TAG}merge"))


def _key(value: object, event: _Event) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.9g}"
    kinds = {type(None): "null", list: "a sequence", dict: "a mapping"}
    raise _error(f"{kinds[type(value)]} is no key", event)


def _scalar(event: _Event) -> Any:  # noqa: ANN401
    text: str = event.value
    tag: str | None = event.tag
    if tag is None:
        return _resolve(text, event) if event.implicit[0] else text
    name = _known_tag(event)
    if name == "binary":
        try:
            return base64.b64decode(text, validate=False).decode(errors="replace")
        except ValueError:
            # binascii.Error is one, and so is what characters beyond ASCII raise.
            raise _error("!!binary is no base64", event) from None
    kinds = _TAGS.get(name)
    if kinds is None:
        return text
    value = _resolve(text, event)
    if not isinstance(value, kinds) or (isinstance(value, bool) and name != "bool"):
        raise _error(f"{text[:40]!r} is no !!{name}", event)
    return value


def _known_tag(event: _Event) -> str:
    """The name of a tag of YAML; empty for another's, which means nothing to JSON."""
    tag = event.tag or ""
    name = tag.removeprefix(YAML_TAG) if tag.startswith(YAML_TAG) else ""
    if name.startswith("python/"):
        raise _error(f"the tag {tag[:80]!r} would make objects of Python", event)
    return name


def _resolve(text: str, event: _Event) -> Any:  # noqa: ANN401
    """The value of a text that is not quoted."""
    if text and text[0] not in _HINTS:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    first = text[0]
    if first in _LETTERS:
        return text
    number = _number(text)
    if isinstance(number, float) and not math.isfinite(number):
        raise _error(f"{text[:40]} is no number of JSON", event)
    return number


def _number(text: str) -> int | float | str:
    """The number that a text stands for; the text when it stands for none."""
    if text in _NOT_FINITE:
        return math.inf
    # Other than in front of a whole number, an underscore is of no use after a point.
    plain = text if text[0] == "." else text.replace("_", "")
    try:
        if _WHOLE.fullmatch(plain):
            number = _whole(plain)
            if -(1 << 63) <= number < 1 << 64 or not plain.lstrip("+-").isdecimal():
                return number
        if _FLOAT.fullmatch(plain):
            real = float(plain)
            if math.isinf(real):
                return text
            # As JSON has it.
            return int(real) if real.is_integer() and abs(real) < 1e21 else real
    except ValueError:
        # Python reads no number of thousands of digits.
        return text
    return text


def _whole(plain: str) -> int:
    sign, digits = (-1, plain[1:]) if plain[0] == "-" else (1, plain.removeprefix("+"))
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdecimal()
    return sign * int(digits, 8 if is_octal else 0)


def _error(problem: str, event: _Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


MAX_DEPTH: Final = 1000
YAML_TAG: Final = "tag:yaml.org,2002:"
FEW_NODES, MANY_NODES = 400_000, 4_000_000
_NO_KEY: Final = object()
_MERGE: Final = object()
_LETTERS: Final = frozenset("yYnNtTfFoO~")
_HINTS: Final = _LETTERS | frozenset("+-0123456789.")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True
    ),
    **dict.fromkeys(
        ("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False
    ),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_NOT_FINITE: Final = frozenset(
    sign + name
    for sign in ("", "+", "-")
    for name in (".inf", ".Inf", ".INF", *((".nan", ".NaN", ".NAN") if not sign else ()))
)
_WHOLE: Final = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TAGS: Final[dict[str, Any]] = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}
