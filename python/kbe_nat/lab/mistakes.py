"""All mistakes of a scenario's values at once, each with its field's path.

msgspec ends at the first one. Here every field is converted alone, so that each says what is wrong
with it; and contradictions are searched for in what is left when the wrong fields are taken out.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec

from kbe_nat.sources.manifests.documents import reason_and_path
from kbe_nat.spelling import hint, none_of

Mistake: TypeAlias = tuple[str, str]
"""The field's path, and the reason."""


def mistakes(value: object, kind: Any, path: str = "") -> Iterator[Mistake]:  # noqa: ANN401
    """What hinders the conversion of a value to a type of msgspec's. Cost: a conversion for each
    level of the type.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        errors = list(_inner(value, kind, path))
        if not errors:
            reason, place = reason_and_path(str(error))
            hint = QUOTES if NO_TEXT.search(reason) else ""
            errors = [(_joined(path, place), reason + hint)]
        yield from errors


def without(
    values: Mapping[str, Any], errors: Iterable[Mistake], fields: Iterable[str]
) -> dict[str, Any]:
    """A scenario's values with something harmless in the place of its wrong fields, which are those
    of the mistakes and all unknown ones. Contradictions of the result are the scenario's own.
    """
    paths = [path for path, _ in errors]
    wrong = {TOP.split(path, maxsplit=1)[0] for path in paths}
    if "nodes" in wrong:
        # Losses of nodes name some of them.
        wrong.add("timeline")
    sound = {name: value for name, value in values.items() if name in fields and name not in wrong}
    services = values.get("services")
    rows = services if isinstance(services, list | tuple) else ()
    names = [row.get("name") for row in rows if isinstance(row, Mapping)]
    whole = {
        "name": "x",
        "duration": 1e7,
        "strategies": ["mh"],
        "services": [{"name": name, "backends": [{}]} for name in names],
        "traffic": [{"service": name, "arrivals": HARMLESS} for name in names[:1]],
    }
    for field in ("strategies", "traffic", "timeline"):
        items = values.get(field)
        matches = [match for path in paths if (match := ITEM.match(path)) and match[1] == field]
        places = {int(match[2]) for match in matches}
        # Two protocols of one Service are told by the kinds of its traffic, and losses of nodes
        # need nodes.
        is_known = not any(KIND.match(path) for path in paths) if field == "traffic" else True
        if places and is_known and not (field == "timeline" and "nodes" in wrong):
            assert isinstance(items, list | tuple)
            sound[field] = [
                _harmless(field, place, item, names) if place in places else item
                for place, item in enumerate(items)
            ]
    return whole | sound


def _harmless(field: str, place: int, item: object, names: list[Any]) -> dict[str, Any]:
    """An entry of a list in the place of a wrong one, with the Service that this one names."""
    if field == "strategies":
        # No other has its label.
        return {"name": "ring", "virtual_nodes": 99_999 - place % 10_000}
    service = item.get("service") if isinstance(item, Mapping) else None
    same = {"service": service if isinstance(service, str) else next(iter(names), None)}
    if field == "timeline":
        return same | {"event": "scale", "at": 0, "backends": 0}
    kind = item.get("kind", "tcp") if isinstance(item, Mapping) else "tcp"
    return same | {"kind": kind, "arrivals": HARMLESS}


def _inner(value: object, kind: Any, path: str) -> Iterator[Mistake]:  # noqa: ANN401
    """The mistakes of a value's parts, and of words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _inner(value, parts[0], path)
    elif origin in (Union, UnionType):
        yield from _of_union(value, parts, path)
    elif origin is Literal:
        if isinstance(value, str):
            yield path, none_of(value, parts)
    elif origin in (tuple, list) and isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from mistakes(item, parts[0], f"{path}[{place}]")
    elif origin is dict and isinstance(value, Mapping):
        for name, item in value.items():
            yield from mistakes(item, parts[1], _joined(path, str(name)))
    elif isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield from _of_struct(value, kind, path)


def _of_union(value: object, parts: tuple[Any, ...], path: str) -> Iterator[Mistake]:
    kinds = [part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)]
    if isinstance(value, str) and str not in parts:
        words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
        if words:
            yield path, none_of(value, words)
    if not isinstance(value, Mapping) or not kinds:
        return
    field = kinds[0].__struct_config__.tag_field
    if field is None:
        yield from _of_struct(value, kinds[0], path)
        return
    by_tag = {str(kind.__struct_config__.tag): kind for kind in kinds}
    tag = value.get(field)
    if field in value and isinstance(tag, str):
        if tag in by_tag:
            yield from _of_struct(value, by_tag[tag], path)
        else:
            yield _joined(path, field), none_of(tag, by_tag)


def _of_struct(
    value: Mapping[Any, Any], kind: type[msgspec.Struct], path: str
) -> Iterator[Mistake]:
    if not all(isinstance(name, str) for name in value):
        # Of names that are no text msgspec's words are as good.
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    tag = kind.__struct_config__.tag_field
    for name in value:
        if name not in fields and name != tag:
            yield path, f"{name!r} is none of its fields: {', '.join(fields)}{hint(name, fields)}"
    for name, field in fields.items():
        if name in value:
            yield from mistakes(value[name], field.type, _joined(path, name))
        elif field.required:
            yield path, f"object missing required field {name}"


def _joined(path: str, field: str) -> str:
    return path + field if field.startswith("[") else ".".join(filter(None, (path, field)))


HARMLESS: Final = {"kind": "poisson", "rate": 1}
TOP: Final = re.compile(r"[.\[]")
"""Ends the first field of a path."""
ITEM: Final = re.compile(r"(\w+)\[(\d+)\]")
"""An entry of a list at the top."""
KIND: Final = re.compile(r"traffic\[\d+\](\.kind)?$")
NO_TEXT: Final = re.compile(r"^expected str\b.*, got (bool|int|float|null)$")
QUOTES: Final = (
    ": put it in quotes, since YAML reads n, y, no, yes, off, on, true and false as booleans, "
    "7 and 1e3 as numbers, and ~ and null as nothing"
)
