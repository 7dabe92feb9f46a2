"""Arguments of the lab's Python API, checked where they come in: errors name argument, value and
range.
"""

from operator import index
from typing import SupportsIndex

from kbe_nat.errors import ArgumentError


def whole(name: str, value: SupportsIndex, least: int, most: int | None = None) -> int:
    """A whole number in a range, as an int. Raises `ArgumentError`."""
    limits = f"from {least:,} to {most:,}" if most is not None else f"of {least:,} or more"
    try:
        number = index(value)
    except TypeError:
        number = None
    # A bool is an int to Python, and a mistake here.
    if number is None or isinstance(value, bool):
        raise ArgumentError(f"{name}: {value!r} is no whole number {limits}")
    if number < least or (most is not None and number > most):
        raise ArgumentError(f"{name}: {number} is not {limits}")
    return number
