"""The tables of `make bench-engine`, in Markdown for benches/RESULTS.md."""

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from benches.harness.report import machine, table

Row = dict[str, Any]
UPDATE_FIELDS: Final = (
    "change_ns",
    "change_p99_ns",
    "exchange_ns",
    "exchange_p99_ns",
    "rebuild_ns",
)


@dataclass(slots=True)
class Measures:
    """The results; empty lists have no table."""

    packets: list[Row] = field(default_factory=list)
    """As in engine.json."""
    strategies: list[Row] = field(default_factory=list)
    """New flows by strategy, in a table of `flows` flows."""
    firsts: list[list[Row]] = field(default_factory=list)
    """By run and number of service ports."""
    updates: list[list[Row]] = field(default_factory=list)
    """By run and number of service ports."""
    python: list[Row] = field(default_factory=list)
    """Of pytest-benchmark."""
    parts: list[tuple[str, str]] = field(default_factory=list)
    """Name and median, of criterion."""


def page(measures: Measures) -> str:
    """All tables."""
    tables = [
        _packets(measures.packets),
        _new_flows(measures.packets),
        _strategies(measures.strategies) if measures.strategies else "",
        _firsts(measures.firsts) if measures.firsts else "",
        _updates(measures.updates) if measures.updates else "",
        _python(measures.python) if measures.python else "",
        table(("part (criterion)", "median"), measures.parts) if measures.parts else "",
    ]
    return f"{machine()} Nanoseconds; medians.\n\n" + "\n".join(filter(None, tables))


NOTE: Final = (
    "\nThe ratio is the median of the rounds' own ratios, with their 10th and 90th percentile."
    " Callgrind counts the instructions. TCP is a pure acknowledgement of an established"
    " connection: C rewrites it without states and windows, which we keep. An empty cell was not"
    " measured: reference.py has UDP in IPv4 alone here, and instructions are counted up to"
    " 1,000,000 flows.\n"
)


def _packets(rows: list[Row]) -> str:
    columns = (
        "protocol",
        "family",
        "flows",
        "mode",
        "ns per packet",
        "C",
        "ratio",
        "instructions",
        "C",
        "reference.py",
        "bytes per flow",
    )
    lines = [
        (
            *_shape(row),
            _text(row["ns"]),
            _text(row["c_ns"]),
            ratio(row),
            _text(row["instructions"]),
            _text(row["c_instructions"]),
            _text(row["reference_ns"]),
            _text(row["bytes_per_flow"]),
        )
        for row in rows
    ]
    return table(columns, lines) + NOTE


def _new_flows(rows: list[Row]) -> str:
    columns = (
        "protocol",
        "family",
        "flows",
        "mode",
        "new flow",
        "C, two inserts",
        "instructions",
        "C, two inserts",
    )
    fields = ("new_ns", "c_new_ns", "new_instructions", "c_new_instructions")
    return table(columns, [(*_shape(row), *(_text(row[name]) for name in fields)) for row in rows])


def _strategies(rows: list[Row]) -> str:
    columns = (
        f"new flow among {rows[0]['flows']:,}",
        "ns",
        "instructions",
        "masqueraded, ns",
        "masqueraded, instructions",
    )
    plain = [row for row in rows if not row["is_masqueraded"]]
    masqueraded = {row["strategy"]: row for row in rows if row["is_masqueraded"]}
    lines = [
        (
            row["strategy"],
            *(
                _text(each[name])
                for each in (row, masqueraded[row["strategy"]])
                for name in ("new_ns", "new_instructions")
            ),
        )
        for row in plain
    ]
    return table(columns, lines)


def _firsts(runs: list[list[Row]]) -> str:
    fewest = statistics.median(run[0]["p99_ns"] for run in runs)
    lines = []
    for place, first in enumerate(runs[0]):
        p50, p99 = (_median(runs, place, name) for name in ("p50_ns", "p99_ns"))
        cells = (f"{p50:,.0f} ns", f"{p99:,.0f} ns", f"{p99 / fewest:.2f}")
        lines.append((f"{first['services']:,}", *cells))
    columns = ("service ports", "first packet p50", "p99", "p99 to that of the fewest")
    return table(columns, lines)


def _updates(runs: list[list[Row]]) -> str:
    columns = (
        "service ports",
        "one changed",
        "p99",
        "packets wait",
        "p99",
        "whole table, one changed",
    )
    lines = [
        (
            f"{first['services']:,}",
            *(seconds(_median(runs, place, name) * 1e-9) for name in UPDATE_FIELDS),
        )
        for place, first in enumerate(runs[0])
    ]
    return table(columns, lines)


def _python(benchmarks: list[Row]) -> str:
    lines = []
    for bench in benchmarks:
        median = bench["stats"]["median"]
        packets = bench["extra_info"].get("packets")
        each = "-" if packets is None else f"{median * 1e9 / packets:,.1f} ns"
        lines.append((bench["name"].removeprefix("test_"), seconds(median), each))
    return table(("from Python", "median", "per packet"), lines)


def ratio(row: Row) -> str:
    """Ours to C's, with the rounds' spread."""
    if row["ratio"] is None:
        return ""
    return f"{row['ratio']:.2f} ({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})"


def _shape(row: Row) -> tuple[str, ...]:
    return row["protocol"], row["family"], f"{row['flows']:,}", row["mode"]


def _median(runs: list[list[Row]], place: int, name: str) -> float:
    return float(statistics.median(run[place][name] for run in runs))


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}".rstrip("0").rstrip(".")


def seconds(value: float) -> str:
    """A time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value * 1e9:,.1f} ns"
