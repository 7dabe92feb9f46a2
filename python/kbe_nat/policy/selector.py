"""Label selectors, as `kubectl get -l` takes them: requirements with commas between, all of which
must hold. A label that an object lacks is unequal to every value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one label must be."""

    key: str
    values: frozenset[str] | None
    """None: any value."""
    is_negated: bool = False
    """The label is absent, or has none of the values."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets it."""
        value = labels.get(self.key)
        is_met = value is not None and (self.values is None or value in self.values)
        return is_met != self.is_negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements; without any it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether all requirements hold for an object with these labels."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def label_map(labels: Iterable[str]) -> dict[str, str]:
    """Labels that are written as key=value."""
    return dict(label.partition("=")[::2] for label in labels)


def parse_selector(text: str) -> Selector:
    """The selector of a text. Raises ValueError."""
    return Selector(tuple(map(_requirement, _parts(text))))


def _parts(text: str) -> Iterator[str]:
    """The text between commas that stand in no brackets."""
    for part in _COMMA.split(text):
        if part.strip():
            yield part.strip()


def _requirement(text: str) -> Requirement:
    if match := _SET.fullmatch(text):
        key, operator, words = match.groups()
        values = frozenset(word.strip() for word in words.split(","))
        is_negated = operator == "notin"
    elif match := _EQUAL.fullmatch(text):
        key, operator, value = match.groups()
        values, is_negated = frozenset((value,)), operator == "!="
    elif match := _PRESENT.fullmatch(text):
        return Requirement(match[2], None, bool(match[1]))
    else:
        raise ValueError(
            f"{text!r} is no requirement of labels, such as app=web, app!=web, app in (web, api),"
            " app or !app"
        )
    for value in values:
        if not _VALUE.fullmatch(value):
            raise ValueError(f"{value!r} is no value of a label")
    return Requirement(key, values, is_negated)


_COMMA: Final = re.compile(r",(?![^(]*\))")
_KEY: Final = r"((?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)"
_SET: Final = re.compile(rf"{_KEY}\s+(in|notin)\s*\((.*)\)", re.ASCII)
_EQUAL: Final = re.compile(rf"{_KEY}\s*(==?|!=)\s*([^=!\s]*)", re.ASCII)
_PRESENT: Final = re.compile(rf"(!?)\s*{_KEY}", re.ASCII)
_VALUE: Final = re.compile(r"|[A-Za-z0-9]|[A-Za-z0-9][\w.-]{0,61}[A-Za-z0-9]", re.ASCII)
