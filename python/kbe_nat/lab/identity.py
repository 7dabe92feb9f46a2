"""Which scenario a run is of: its canonical form, the hash of that, and what was changed since.

A manifest holds the canonical form and its hash. The hash is that of the values as they stand
there, with the defaults of the version that wrote them, so that another version can check it. Two
runs are of one scenario if this version reads the same from both.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.scenario import Scenario


def canonical(scenario: Scenario | LiveScenario) -> dict[str, Any]:
    """The scenario's values with all defaults, each written in one way: read back as from a file, a
    whole number in a field of numbers is one of these.
    """
    values = msgspec.convert(msgspec.to_builtins(scenario), type(scenario))
    return msgspec.json.decode(msgspec.json.encode(values), type=dict[str, Any])


def values_hash(values: Mapping[str, Any]) -> str:
    """Equal for equal values, whatever the scenario is called and whatever it asks."""
    anonymous = dict(values) | {"name": "x", "question": "", "expect": ""}
    return hashlib.sha256(msgspec.json.encode(anonymous, order="sorted")).hexdigest()[:16]


def scenario_hash(scenario: Scenario | LiveScenario) -> str:
    """The hash of its canonical form."""
    return values_hash(canonical(scenario))


def alteration(values: Mapping[str, Any], seed: int, cells: Sequence[Mapping[str, Any]]) -> str:
    """The first thing that the cells of a run contradict in the values of its scenario, which were
    changed after it.
    """
    if values.get("seed") != seed:
        return f"seed is {values.get('seed')}, and the run has {seed}"
    for field, column in COUNTED:
        count = 1 + max((cell[column] for cell in cells if column in cell), default=-1)
        if count and field in values and values[field] != count:
            return f"{field} is {values[field]}, and the run has {count}"
    for field, column, tag in LISTED:
        names = sorted({str(cell[column]).partition("(")[0] for cell in cells if column in cell})
        entries = values.get(field)
        if not names or not isinstance(entries, list):
            continue
        listed = sorted({each[tag] if isinstance(each, dict) else str(each) for each in entries})
        if listed != names and field not in (each["field"] for each in values.get("sweep", ())):
            return f"{field}: {', '.join(listed)}, and the run has {', '.join(names)}"
    return "the axes of its cells are those of the run: something within them differs"


def changes(before: object, after: object, path: str = "") -> Iterator[str]:
    """The fields in which two scenarios' values differ, with both values. What a scenario is called
    and what it asks makes no other run.
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in {**before, **after}:
            if path or name not in WORDS:
                place = f"{path}.{name}" if path else str(name)
                yield from changes(before.get(name), after.get(name), place)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from changes(old, new, f"{path}[{number}]")
    elif before != after:
        old, new = (shorten(msgspec.json.encode(each).decode(), 80) for each in (before, after))
        yield f"{path} was {old} and is {new}"


def shorten(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


WORDS: Final = frozenset(("name", "question", "expect"))
"""Fields that do not enter the hash."""
COUNTED: Final = (("repeats", "repeat"), ("rounds", "round"))
"""Fields that say how many there are, with the column of cells that counts from 0."""
LISTED: Final = (("strategies", "strategy", "name"), ("memory", "memory", ""))
"""Fields that are an axis of cells, with their column, and the name within an entry."""
