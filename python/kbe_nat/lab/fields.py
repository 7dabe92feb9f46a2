"""The fields of scenarios in words: their JSON schema, and the page docs/lab-scenario.md.

Both are made of the structs alone. The docstring below a field says what it is and in which unit,
and is read from the source (`kbe_nat.field_docs`). Range and default follow from the type;
they are in the schema's keywords, and in words behind each description, because editors show
nothing else.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from kbe_nat._native import TIMEOUTS
from kbe_nat.field_docs import docstrings
from kbe_nat.lab.live import scenario as live
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.scenario import YEAR, Scenario
from kbe_nat.lab.validation import STRATEGIES

Schema = dict[str, Any]


def schema() -> Schema:
    """The JSON schema of a scenario's file."""
    kinds = (Scenario, live.LiveScenario)
    references, definitions = msgspec.json.schema_components(
        kinds, ref_template=f"{DEFINITIONS}{{name}}"
    )
    structs = {struct.__name__: struct for kind in kinds for struct in _structs(kind)}
    for name, definition in definitions.items():
        _describe(definition, structs[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A scenario of kbe-nat lab",
        "description": "Simulated, or with `mode: live` on real packets.",
        "anyOf": list(references),
        "$defs": definitions,
    }


def page() -> str:
    """docs/lab-scenario.md: a table of the fields of each definition of the schema."""
    definitions: Mapping[str, Schema] = schema()["$defs"]
    lines = [HEAD]
    for name, definition in definitions.items():
        lines += [f"\n## {name}\n", definition["description"], "", TABLE]
        for field, values in definition["properties"].items():
            is_required = field in definition["required"]
            default = "required" if is_required else f"`{_yaml(values['default'])}`"
            meaning = values["description"].removesuffix(_limits(values)).strip()
            lines.append(f"| `{field}` | {_kind(values)} | {default} | {meaning} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _describe(definition: Schema, struct: type[msgspec.Struct]) -> None:
    """Give a definition and its properties their descriptions."""
    definition["description"] = " ".join(inspect.cleandoc(struct.__doc__ or "").split())
    words = docstrings(struct)
    names = {field.encode_name: field.name for field in msgspec.structs.fields(struct)}
    for name, values in definition["properties"].items():
        if name not in names:
            values["description"] = f"Names the kind: {values['enum'][0]}."
            continue
        _choices(struct.__name__, name, values)
        meaning = " ".join(words[names[name]].split())
        values["description"] = f"{meaning} {_limits(values)}".strip()


def _structs(kind: object) -> Iterator[type[msgspec.Struct]]:
    """A struct, and all that its fields are made of."""
    seen: set[object] = set()
    pending: list[Any] = [msgspec.inspect.type_info(kind)]
    while pending:
        info = pending.pop()
        if isinstance(info, msgspec.inspect.StructType):
            if info.cls in seen:
                continue
            seen.add(info.cls)
            yield info.cls
            pending += [field.type for field in info.fields]
        for part in ("types", "item_types", "item_type", "value_type", "type"):
            inner = getattr(info, part, ())
            pending += inner if isinstance(inner, tuple) else [inner]


def _choices(struct: str, name: str, values: Schema) -> None:
    """Names, and numbers by name, which `validation` checks: msgspec's errors lose the name."""
    if name == "timeouts":
        values["propertyNames"] = {"enum": sorted(TIMEOUTS)}
        values["additionalProperties"] |= {"minimum": 0, "maximum": YEAR}
    listing = NAMES.get((struct, name))
    if listing is None:
        return
    for place in (values, values.get("items", {})):
        for part in (place, *place.get("anyOf", ())):
            if part.get("type") == "string":
                part["enum"] = list(listing)


def _limits(values: Schema) -> str:
    """Range and default in words."""
    parts = [f"Range: {text}." for text in _ranges(values)]
    if "default" in values:
        parts.append(f"Default: {_yaml(values['default'])}.")
    return " ".join(parts)


def _ranges(values: Schema) -> Iterator[str]:
    """The ranges of the numbers in a value, each once."""
    texts: dict[str, None] = {}
    for part in _parts(values):
        bounds = [_bound(part, side) for side in ("Minimum", "Maximum")]
        if all(bounds):
            texts[" to ".join(bounds)] = None
        if "maxLength" in part:
            texts[f"1 to {part['maxLength']} characters of a-z, 0-9 and -"] = None
    yield from texts


def _bound(part: Schema, side: str) -> str:
    """The least or the greatest number in words; empty where there is none."""
    exclusive, inclusive = f"exclusive{side}", side.lower()
    if exclusive in part:
        word = "above" if side == "Minimum" else "below"
        return f"{word} {_number(part[exclusive])}"
    return _number(part[inclusive]) if inclusive in part else ""


def _parts(values: Schema) -> Iterator[Schema]:
    """A value, and those that it is made of."""
    yield values
    items = values.get("items")
    for part in (*values.get("anyOf", ()), *values.get("prefixItems", ()), items):
        if isinstance(part, dict):
            yield from _parts(part)
    if isinstance(values.get("additionalProperties"), dict):
        yield from _parts(values["additionalProperties"])


def _kind(values: Schema) -> str:
    """The type of a value, with its range, as a table shows it."""
    words = _type(values)
    return f"{words}, {text}" if (text := ", or ".join(_ranges(values))) else words


def _type(values: Schema) -> str:
    if reference := values.get("$ref"):
        name = str(reference).removeprefix(DEFINITIONS)
        return f"[{name}](#{name.lower()})"
    if "anyOf" in values:
        return " or ".join(dict.fromkeys(map(_type, values["anyOf"])))
    if "enum" in values:
        return " ".join(f"`{name}`" for name in values["enum"])
    kind = str(values.get("type", "value"))
    if "prefixItems" in values:
        return f"[{', '.join(map(_type, values['prefixItems']))}]"
    if kind == "array":
        return f"list of {_type(values['items'])}"
    if kind == "object":
        return f"{_type(values['additionalProperties'])} by name"
    return {"boolean": "true or false", "string": "text"}.get(kind, kind)


def _number(value: float) -> str:
    """With commas; a large one that is no integer as a power of ten."""
    if isinstance(value, float) and value >= 1e12:
        return f"{value:.0e}".replace("e+", "e")
    return f"{value:,}".removesuffix(".0")


def _yaml(value: object) -> str:
    """A default as one would write it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(part)}" for key, part in value.items()) + "}"
        case list() | tuple():
            return f"[{', '.join(map(_yaml, value))}]"
    return str(value).removesuffix(".0") or '""'


DEFINITIONS: Final = "#/$defs/"
NAMES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("Scenario", "strategies"): STRATEGIES,
    ("NewStrategy", "strategy"): STRATEGIES,
    ("Strategy", "name"): STRATEGIES,
    ("LiveScenario", "ways"): tuple(WAYS),
    ("LiveScenario", "baseline"): tuple(WAYS),
    ("WayChoice", "way"): tuple(WAYS),
}
"""The names that a text may be, by definition and field."""
TABLE: Final = "| field | type | default | meaning |\n|---|---|---|---|"
HEAD: Final = """# Fields of a scenario

Every field of the scenarios of [`kbe-nat lab`](research.md). `tools/lab_schema.py` writes this
page, and [lab-scenario.schema.json](lab-scenario.schema.json) for editors, which `kbe-nat lab
schema` prints.

Times are seconds of the clock that is driven by hand, sizes are bytes, rates are connections or
packets a second. A field is named by its path, in errors and in `sweep`: names with dots between
them, and behind a list a position from 0 in brackets, such as `services[0].backends[0].count`."""
