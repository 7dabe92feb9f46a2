"""docs/json.md as an oracle: whether a value has the fields and types of the page."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[2] / "docs/json.md"
FIELD: Final = re.compile(r"^\| `([^`]+)` \| (.+?) \| ", re.MULTILINE)
BASE: Final = re.compile(r"^First the fields of \[(\w+)\]", re.MULTILINE)
LINK: Final = re.compile(r"\[(\w+)\]\(#\w+\)")
PLURAL: Final = re.compile(r"^(\[\w+\]\(#\w+\)|\w+)s\b")
SCALARS: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "object": (dict,),
}
ABSENT: Final = ", or absent"


@cache
def fields(struct: str) -> dict[str, str]:
    """The type of each field of a struct, in their order."""
    sections = PAGE.read_text().split("\n## ")
    [section] = [text for text in sections if text.startswith(f"{struct}\n")]
    base = BASE.search(section)
    inherited = fields(base[1]) if base else {}
    return inherited | dict(FIELD.findall(section))


def mismatches(value: Any, kind: str, place: str = "") -> Iterator[str]:
    """Each place where a value is not of this type, as the page writes types."""
    if " or " in kind:
        answers = [list(mismatches(value, each, place)) for each in kind.split(" or ")]
        yield from () if [] in answers else answers[0]
    elif kind.startswith("array of "):
        if not isinstance(value, list):
            yield f"{place}: no array"
            return
        for number, element in enumerate(value):
            yield from mismatches(element, kind.removeprefix("array of "), f"{place}[{number}]")
    elif kind.startswith("object of "):
        inner = PLURAL.sub(r"\1", kind.removeprefix("object of "))
        for name, element in value.items():
            yield from mismatches(element, inner, f"{place}.{name}")
    elif link := LINK.fullmatch(kind):
        yield from _struct_mismatches(value, link[1], place)
    elif kind.startswith("["):
        kinds = kind[1:-1].split(", ")
        if not isinstance(value, list) or len(value) != len(kinds):
            yield f"{place}: {value!r} is not {kind}"
            return
        for number, pair in enumerate(zip(value, kinds, strict=True)):
            yield from mismatches(*pair, f"{place}[{number}]")
    elif not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind == "number"):
        yield f"{place}: {value!r} is no {kind}"


def _struct_mismatches(value: Any, struct: str, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: {value!r} is no {struct}"
        return
    kinds = fields(struct)
    expected = [name for name in kinds if name in value or not kinds[name].endswith(ABSENT)]
    if list(value) != expected:
        yield f"{place}: has {list(value)}, and {struct} has {expected}"
        return
    for name in expected:
        yield from mismatches(value[name], kinds[name].removesuffix(ABSENT), f"{place}.{name}")
