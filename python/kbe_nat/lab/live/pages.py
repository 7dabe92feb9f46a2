"""Reports on live runs, as titles, columns and rows of text."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from kbe_nat.lab.statistics import figure, interval_words


class LivePage(NamedTuple):
    """A table for people."""

    title: str
    columns: list[str]
    numbers: int
    """How many columns at the end hold numbers."""
    rows: list[list[str]]


def live_pages(
    medians: Sequence[dict[str, Any]],
    control: Sequence[dict[str, Any]],
    missing: Sequence[dict[str, Any]],
) -> Iterator[LivePage]:
    """A page for each quantity, from the rows of these tables; then the idle controls, and what is
    missing.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in medians:
        groups.setdefault((row["table"], row["quantity"]), []).append(row)
    for (table, quantity), rows in groups.items():
        constant = [name for name in PLACE if len({row[name] for row in rows}) == 1]
        said = [_place(name, rows[0][name]) for name in constant if rows[0][name] not in (None, "")]
        title = ", ".join((f"{table.capitalize()}: {quantity.replace('_', ' ')}", *said))
        if unit := rows[0]["unit"]:
            title += f" ({unit})"
        columns = [name for name in PLACE if name not in constant]
        yield LivePage(
            title,
            ["way", *columns, *NUMBERS],
            len(NUMBERS),
            [_line(row, columns) for row in rows],
        )
    if control:
        yield LivePage(
            "Idle control",
            ["round", "work, µs", "spread", "of CPU time", "busy", "steal"],
            5,
            [
                [str(row["round"]), figure(row["work_us"]), *map(_percent, map(row.get, SHARES))]
                for row in control
            ],
        )
    if missing:
        yield LivePage(
            "Missing",
            ["way", "services", "family", "measure", "reason"],
            0,
            [list(row) for row in sorted({_missing(row) for row in missing})],
        )


def _line(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    return [
        row["way"],
        *(str(row[name] or "-") for name in columns),
        _spread(row, "median", "low", "high"),
        _spread(row, "ratio", "ratio_low", "ratio_high"),
        _percent(row["noise"]),
        row["difference"] or "-",
    ]


def _spread(row: dict[str, Any], middle: str, low: str, high: str) -> str:
    """A median with its interval, which one round does not have."""
    if row[middle] is None:
        return "-"
    if row["rounds"] < 2:
        return figure(row[middle])
    return interval_words(row[middle], row[low], row[high])


def _missing(row: dict[str, Any]) -> tuple[str, ...]:
    """Equal for what is missing in every round."""
    return tuple("" if row[name] is None else str(row[name]) for name in MISSING)


def _place(name: str, value: object) -> str:
    if name == "services":
        return "1 Service" if value == 1 else f"{value:,} Services"
    return str(value)


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return f"{share * 100:.1f} %" if share < 1 else f"{share * 100:,.0f} %"


PLACE: Final = ("services", "family", "case")
NUMBERS: Final = ("median", "to the baseline", "noise", "difference")
SHARES: Final = ("spread", "cpu_spread", "busy_share", "steal_share")
MISSING: Final = ("way", "services", "family", "measure", "reason")
