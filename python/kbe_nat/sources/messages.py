"""Errors and notes about objects and origins, in the order in which these stand."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from kbe_nat.errors import ObjectError
from kbe_nat.sources.objects import ObjectKey, Origin, Place

Subject: TypeAlias = ObjectKey | Origin
Errors: TypeAlias = Sequence[tuple[Place, ObjectError]]
Lines: TypeAlias = Sequence[tuple[Place, str]]


class Messages:
    """The messages that hold now. Cost of a list that has changed: linear in all messages of it."""

    def __init__(self) -> None:
        self._errors: dict[Subject, Errors] = {}
        self._lines: dict[Subject, Lines] = {}
        self._sorted_errors: tuple[ObjectError, ...] | None = ()
        """None: to be sorted anew."""
        self._sorted_lines: tuple[str, ...] | None = ()

    def set(self, subject: Subject, errors: Errors = (), notes: Lines = ()) -> None:
        """All that is to be said about an object or an origin."""
        if list(self._errors.get(subject, ())) != list(errors):
            self._sorted_errors = None
            self._errors[subject] = errors
        if list(self._lines.get(subject, ())) != list(notes):
            self._sorted_lines = None
            self._lines[subject] = notes
        if not errors:
            self._errors.pop(subject, None)
        if not notes:
            self._lines.pop(subject, None)

    @property
    def errors(self) -> tuple[ObjectError, ...]:
        """All errors, the same tuple as long as none changes."""
        if self._sorted_errors is None:
            entries = [entry for errors in self._errors.values() for entry in errors]
            entries.sort(key=lambda entry: (entry[0], str(entry[1])))
            self._sorted_errors = tuple(error for _, error in entries)
        return self._sorted_errors

    def refusals(self) -> Counter[Origin]:
        """How many errors the objects of each origin have. Cost: linear in all errors."""
        return Counter(place.origin for errors in self._errors.values() for place, _ in errors)

    @property
    def notes(self) -> tuple[str, ...]:
        """All notes, the same tuple as long as none changes."""
        if self._sorted_lines is None:
            entries = [
                (place, subject, number, line)
                for subject, lines in self._lines.items()
                for number, (place, line) in enumerate(lines)
            ]
            self._sorted_lines = tuple(line for *_, line in sorted(entries))
        return self._sorted_lines
