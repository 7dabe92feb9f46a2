"""kubectl's JSONPath: `{.items[*].name}`, with text around it, `{range ...}` and `{end}`.

A template is text and actions in braces. An action is a path, a text in quotation marks, `range`
with a path, or `end`. A path begins at the root, within `range` at the element; `$` is always the
root. Its steps are `.field`, `['field']`, `['one','other']`, `[2]`, `[-1]`, `[0,2]`, `[1:3]`,
`[::2]`, `[*]`, `.*`, `..field` and `[?(@.field=="x")]`, with `== != < <= > >=` or nothing for
"is there". A dot within a name is written `\\.`; within brackets it may stand as it is. A field
that is not there gives nothing, an index past the end is an error, as in kubectl. Texts are printed
as they are, other values as JSON.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from kbe_nat.spelling import hint

Values: TypeAlias = list[Any]
Step: TypeAlias = Callable[[Values], Values]
"""From values to those that the step leads to."""


@dataclass(frozen=True, slots=True)
class Path:
    """Steps from a value to others."""

    steps: tuple[Step, ...]
    is_absolute: bool = False
    """It begins at the root wherever it stands."""
    text: str = ""
    """As it was written."""

    def values(self, start: Any) -> Values:  # noqa: ANN401
        """All values that it leads to."""
        values = [start]
        for step in self.steps:
            values = step(values)
        return values


@dataclass(frozen=True, slots=True)
class Loop:
    """`range`: the body for each value of a path."""

    path: Path
    body: tuple["Part", ...]


Part: TypeAlias = str | Path | Loop


class Template:
    """A parsed template."""

    def __init__(self, text: str) -> None:
        """A path may stand without braces where it is all. Raises ValueError, which names the
        place.
        """
        if text.startswith((".", "$", "[")) and "{" not in text:
            text = f"{{{text}}}"
        self.is_of_list = _LIST.search(text) is not None
        """Whether it asks for the items of a list, so that it wants one even around a thing that is
        alone.
        """
        self.text = text
        """As it was written, with braces."""
        tokens = list(_tokens(text))
        self._parts, rest = _body(tokens, is_loop=False)
        assert not rest

    def render(self, value: Any) -> str:  # noqa: ANN401
        """The text for a value of JSON. Raises ValueError for an index past the end of a list."""
        return "".join(_render(self._parts, value, value))


def parse_path(text: str) -> Path:
    """A path as of --sort-by: `{.name}` or `.name` or `name`. Raises ValueError."""
    inner = text.removeprefix("{").removesuffix("}").strip()
    return _path(inner if inner.startswith((".", "[", "$", "@")) else f".{inner}")


def nearest_field(text: str, fields: Iterable[str]) -> str:
    """Behind a path that leads nowhere: the field that may have been meant."""
    names = [name for name in _WORD.findall(text) if name not in ("items", *fields)]
    fields = list(fields)
    for name in reversed(names):
        if near := hint(name, fields, "."):
            return near
    return "; -o json shows the fields"


def _render(parts: Iterable[Part], root: Any, current: Any) -> Iterator[str]:  # noqa: ANN401
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Path):
            start = root if part.is_absolute else current
            yield " ".join(map(_text, part.values(start)))
        else:
            start = root if part.path.is_absolute else current
            for element in part.path.values(start):
                yield from _render(part.body, root, element)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tokens(text: str) -> Iterator[tuple[bool, str]]:
    """Pieces of text, and actions: whether it is an action, and its content."""
    place = 0
    while place < len(text):
        start = text.find("{", place)
        if start < 0:
            yield False, text[place:]
            return
        if start > place:
            yield False, text[place:start]
        match = _ACTION.match(text, start)
        if match is None:
            raise ValueError(f"no brace closes that of {text[start : start + 20]!r}")
        yield True, match[1].strip()
        place = match.end()


def _body(
    tokens: list[tuple[bool, str]], *, is_loop: bool
) -> tuple[tuple[Part, ...], list[tuple[bool, str]]]:
    """Parts up to the end, or up to `end` of a loop, and the tokens behind them."""
    parts: list[Part] = []
    while tokens:
        (is_action, content), tokens = tokens[0], tokens[1:]
        if not is_action:
            parts.append(content)
        elif content == "end" and is_loop:
            return tuple(parts), tokens
        elif content == "end":
            raise ValueError("{end} without {range}")
        elif content.startswith("range "):
            body, tokens = _body(tokens, is_loop=True)
            parts.append(Loop(_path(content.removeprefix("range ").strip()), body))
        elif content[:1] in ('"', "'"):
            parts.append(_quoted(content))
        else:
            parts.append(_path(content))
    if is_loop:
        raise ValueError("{range} without {end}")
    return tuple(parts), []


def _quoted(content: str) -> str:
    if len(content) < 2 or content[-1] != content[0]:
        raise ValueError(f"no quotation mark closes {content}")
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[1]), content[1:-1])


def _path(text: str) -> Path:
    rest = text
    is_absolute = rest.startswith("$")
    rest = rest[1:] if rest[:1] in ("$", "@") else rest
    steps: list[Step] = []
    while rest:
        if rest == ".":
            break
        match = _STEP.match(rest)
        if match is None:
            raise ValueError(f"{rest!r} is no step of a path, such as .name, [0], [*] or ..name")
        steps.append(_step(match))
        rest = rest[match.end() :]
    return Path(tuple(steps), is_absolute, text)


def _step(match: re.Match[str]) -> Step:
    if match["deep"] is not None:
        name = _ESCAPE.sub(r"\1", match["deep"])
        return lambda values: [inner for value in values for inner in _deep(value, name)]
    if (name := match["name"]) is not None:
        return _elements if name == "*" else _field(_ESCAPE.sub(r"\1", name))
    if match["quoted"] is not None:
        return _union([_key(name) for name in _NAME.findall(match["quoted"])])
    if match["index"] is not None:
        return _union([_index(int(place)) for place in match["index"].split(",")])
    if match["slice"] is not None:
        return _slice(match["slice"])
    if match["field"] is not None:
        return _filter(match["field"], match["operator"], match["right"])
    return _elements


def _field(name: str) -> Step:
    if name == "metadata":
        return _metadata
    return lambda values: [
        value[name] for value in values if isinstance(value, dict) and name in value
    ]


def _metadata(values: Values) -> Values:
    """What objects of Kubernetes have there (name, namespace, labels), a row has itself."""
    return [
        value.get("metadata", value)
        for value in values
        if isinstance(value, dict) and ("metadata" in value or "name" in value)
    ]


def _union(steps: list[Step]) -> Step:
    """What each of the steps leads to, one behind the other."""
    return lambda values: [element for step in steps for element in step(values)]


def _key(name: str) -> Step:
    """A name in brackets. As kubectl reads it, a dot begins the next field unless it is escaped; a
    field that has the dot in its name comes first.
    """
    whole = _ESCAPE.sub(r"\1", name)
    path = [_ESCAPE.sub(r"\1", part) for part in _DOT.split(name)]

    def step(values: Values) -> Values:
        direct = _field(whole)(values)
        if direct or len(path) == 1:
            return direct
        for part in path:
            values = _field(part)(values)
        return values

    return step


def _index(place: int) -> Step:
    return lambda values: [
        value[_within(place, value)] for value in values if isinstance(value, list)
    ]


def _within(place: int, value: Values) -> int:
    """An index. Raises ValueError for one that is past the end."""
    if not -len(value) <= place < len(value):
        raise ValueError(f"array index out of bounds: index {place}, length {len(value)}")
    return place


def _slice(text: str) -> Step:
    start, stop, step = [int(part) if part else None for part in f"{text}:".split(":")][:3]
    if step is not None and step < 1:
        raise ValueError(f"[{text}]: a step is at least 1")

    def take(values: Values) -> Values:
        parts = []
        for value in values:
            if isinstance(value, list):
                if start != stop and start is not None:
                    _within(start, value)
                if start != stop and stop is not None and abs(stop) > len(value):
                    _within(stop - 1 if stop > 0 else stop, value)
                parts += value[start:stop:step]
        return parts

    return take


def _elements(values: Values) -> Values:
    return [
        element
        for value in values
        if isinstance(value, list | dict)
        for element in (value.values() if isinstance(value, dict) else value)
    ]


def _deep(value: Any, name: str) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(value, dict) and name in value:
        yield value[name]
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _deep(inner, name)


def _filter(field: str, operator: str | None, right: str | None) -> Step:
    path = _path(field)
    wanted: Any = None
    if operator:
        text = (right or "").strip()
        try:
            wanted = _quoted(text) if text[:1] in ('"', "'") else json.loads(text)
        except ValueError:
            raise ValueError(f"{text!r} is no number and no text in quotation marks") from None

    def is_met(element: object) -> bool:
        values = path.values(element)
        if not operator:
            return bool(values)
        try:
            return any(_COMPARISONS[operator](value, wanted) for value in values)
        except TypeError:
            return False

    return lambda values: [element for element in _elements(values) if is_met(element)]


_WORD: Final = re.compile(r"""(?:\.|\[['"])([A-Za-z_][\w-]*)""")
_LIST: Final = re.compile(r"""\{\s*(?:range\s+)?\$?(?:\.items\b|\[['"]items['"]\])""")
_ACTION: Final = re.compile(r"""\{((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^{}"'])*)\}""")
_STEP: Final = re.compile(
    r"""\.\.(?P<deep>(?:\\.|[\w-])+)
    | \.(?P<name>\*|(?:\\.|[\w/-])+)
    | \.?\[\s*(?P<quoted>(?:'[^']+'|"[^"]+")(?:\s*,\s*(?:'[^']+'|"[^"]+"))*)\s*\]
    | \.?\[\s*(?P<index>-?\d+(?:\s*,\s*-?\d+)*)\s*\]
    | \.?\[(?P<slice>-?\d*:-?\d*(?::-?\d*)?)\]
    | \.?\[\?\(\s*(?P<field>@[^=!<>]*?)\s*(?:(?P<operator>==|!=|<=|>=|<|>)(?P<right>.+?))?\s*\)\]
    | \.?\[\*\]""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_DOT: Final = re.compile(r"(?<!\\)\.")
_NAME: Final = re.compile(r"""['"]([^'"]+)['"]""")
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": lambda value, wanted: bool(value == wanted),
    "!=": lambda value, wanted: bool(value != wanted),
    "<": lambda value, wanted: bool(value < wanted),
    "<=": lambda value, wanted: bool(value <= wanted),
    ">": lambda value, wanted: bool(value > wanted),
    ">=": lambda value, wanted: bool(value >= wanted),
}
