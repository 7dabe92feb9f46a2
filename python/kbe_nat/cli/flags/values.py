"""Types of parameters as click reads them; errors speak of numbers and words, not of types."""

import re
import types
from enum import Enum
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin

import click

from kbe_nat.kubeproxy.duration import SECOND, nanoseconds
from kbe_nat.spelling import none_of


class Number(click.ParamType[Any]):
    """A whole number, or one with a fraction, within bounds."""

    def __init__(self, kind: type, low: float | None, high: float | None) -> None:
        self.name = "number"
        self._kind = kind
        self._low = low
        self._high = high

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401
        """See click. Calls `fail` for a text that is no number, or is out of bounds."""
        try:
            number = self._kind(value)
        except ValueError:
            noun = "a whole number" if self._kind is int else "a number"
            self.fail(f"{value!r} is not {noun}", param, ctx)
        if self._low is not None and number < self._low:
            self.fail(f"{number} is less than {_digits(self._low)}", param, ctx)
        # A NaN is neither less nor more.
        if number != number or (self._high is not None and number > self._high):
            limit = "a number can be" if self._high is None else _digits(self._high)
            self.fail(f"{number} is more than {limit}", param, ctx)
        return number


class Seconds(click.ParamType[float]):
    """A duration, in seconds."""

    name = "duration"

    def __init__(self, low: float | None) -> None:
        self._low = low

    def convert(self, value: Any, param: Any, ctx: Any) -> float:  # noqa: ANN401
        """See click. Calls `fail` for a text that is no duration, or is too short."""
        if isinstance(value, int | float):
            return value
        try:
            seconds = parse_duration(value) / SECOND
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._low is not None and seconds < self._low:
            self.fail(f"{value} is less than {self._low:g}s", param, ctx)
        return seconds


def parse_duration(text: str) -> int:
    """The nanoseconds of a duration as Go writes it, or of a plain number of seconds. Raises
    ValueError.
    """
    return nanoseconds(f"{text}s" if _NUMBER.fullmatch(text) else text)


def _digits(limit: float) -> str:
    """All of a whole number's: a float has 53 bits of them."""
    return str(int(limit)) if limit == int(limit) else f"{limit:g}"


class File(click.ParamType[Path]):
    """The path of a file or folder, which the verb opens: its error says more than a check here."""

    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:  # noqa: ANN401
        """See click."""
        return Path(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[Any]:  # noqa: ANN401
        """The shell completes names of files itself."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Word(click.Choice[str]):
    """One of the words of an enumeration, which it becomes."""

    def __init__(self, kind: type[Enum]) -> None:
        super().__init__([str(each.value) for each in kind])
        self._kind = kind

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401
        """See click."""
        return self._kind(super().convert(str(value), param, ctx))

    def get_invalid_choice_message(self, value: Any, ctx: Any) -> str:  # noqa: ANN401
        """See click."""
        return none_of(value, self.choices)


def without_none(kind: Any) -> Any:  # noqa: ANN401
    """A type, where it is one or None."""
    if get_origin(kind) in (Union, types.UnionType):
        rest = [each for each in get_args(kind) if each is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def value_type(
    kind: Any,  # noqa: ANN401
    low: float | None = None,
    high: float | None = None,
) -> click.ParamType[Any]:
    """The type that reads a value of this type."""
    if kind in (int, float):
        return Number(kind, low, high)
    if kind is Path:
        return File()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Word(kind)
    assert kind is str, f"no flag has a value of type {kind}"
    return click.STRING


_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", re.ASCII)
