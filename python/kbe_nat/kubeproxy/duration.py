"""Durations as Go writes them, such as 1m30s: 64 bits of nanoseconds."""

import re
from fractions import Fraction
from typing import Final


def duration(text: str) -> float:
    """The seconds of a duration in Go's form. Raises ValueError when the text is none."""
    return nanoseconds(text) / SECOND


def nanoseconds(text: str) -> int:
    """The nanoseconds of a duration in Go's form, cut off. Raises ValueError when it is none."""
    sign, rest = (-1 if text[:1] == "-" else 1), text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not _DURATION.fullmatch(rest):
        raise ValueError(f"{text[:40]!r} is no duration such as 30s or 1m30s")
    # Fractions, since a float loses nanoseconds of long durations.
    total = sum(int(_fraction(number) * UNITS[unit]) for number, unit in _PART.findall(rest))
    if total >= 1 << 63:
        raise ValueError(f"{text[:40]!r} is longer than {LONGEST} seconds")
    return sign * total


def go_duration(count: int) -> str:
    """So many nanoseconds, as Go writes them: 0s, 1.5ms, 1m30s, 24h0m0s."""
    sign, count = ("-" if count < 0 else ""), abs(count)
    if count == 0:
        return "0s"
    if count < SECOND:
        unit = next(unit for unit in ("ms", "µs", "ns") if count >= UNITS[unit])
        return f"{sign}{_decimal(count, UNITS[unit])}{unit}"
    minutes, rest = divmod(count, UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, SECOND)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"


def _decimal(count: int, unit: int) -> str:
    """The count in this unit, without zeros at its end."""
    whole, rest = divmod(count, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def _fraction(number: str) -> Fraction:
    """Of digits with a point anywhere."""
    whole, _, digits = number.partition(".")
    return Fraction(int(f"{whole}{digits}"), 10 ** len(digits))


SECOND: Final = 10**9
"""Nanoseconds."""
LONGEST: Final = (1 << 63) // SECOND
"""Go counts nanoseconds in 64 bits."""
UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
"""Nanoseconds of each."""
_PART: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION: Final = re.compile(f"(?:{_PART.pattern})+", re.ASCII)
