"""Arguments of the lab's Python API, checked where they come in: errors name argument, value and
range.
"""

from operator import index
from typing import SupportsIndex

from kbe_nat.errors import ArgumentError


def whole(name: str, value: SupportsIndex, least: int, most: int | None = None) -> int:
    """A whole number in a range, as an int. Raises `ArgumentError`, and TypeError for another
    type, as the native classes do.
    """
    limits = f"from {least} to {most}" if most is not None else f"of {least} or more"
    words = f"{name} is a whole number {limits}, not {value!r}"
    # A bool is an int to Python, and a mistake here.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(words)
    number = index(value)
    if number < least or (most is not None and number > most):
        raise ArgumentError(words)
    return number
