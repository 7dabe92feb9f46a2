"""The plots of a run, each a line or two: a table, its measures, and how they are drawn.

A table of a run gets a plot by an entry in `PLOTS`; nothing else names it. Entries whose table is
not there, or has nothing to show, are left out.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["dots", "bars", "curves", "times", "shares"]
"""dots: a mark for each strategy; bars: the same from zero, several measures side by side; curves:
over a column of numbers; times: over time, with the events of the run; shares: of each backend.
"""


class Plot(NamedTuple):
    """A plot of a table. Rows are told apart by the columns of their cells (strategy, memory,
    fields that are swept), by `panel` and by `x`; all others are repeats, of which the mean and its
    95 % interval are drawn.
    """

    name: str
    """Of its files."""
    title: str
    table: str
    kind: Kind
    """In a run that sweeps a field of numbers, dots and bars become curves over this field."""
    y: tuple[str, ...]
    """Measured columns; each has axes of its own, but for bars that share axes."""
    caption: str
    """What to look for, in a sentence or two."""
    x: str = ""
    """The column of the horizontal axis: curves, times and shares have one."""
    panel: tuple[str, ...] = ()
    """Columns whose values have axes of their own."""
    where: Mapping[str, tuple[str, ...]] = {}
    """Rows that are drawn: values by column."""
    reference: str | float | None = None
    """What the measures are held against: a column, or a number."""
    reference_name: str = ""
    interval: tuple[str, str] | None = None
    """Columns with the ends of an interval that the table brings, in the place of repeats'."""
    is_total: bool = False
    """Rows of one repeat are added up; also where there are too many panels. Else their mean is
    taken.
    """
    is_median: bool = False
    """Medians over rounds are drawn, with their bootstrap interval."""
    panels: int = 4
    """How many there are at most; further ones are added up, or left out."""


def _medians(table: str, title: str) -> Plot:
    """The quantities of a live measure."""
    return Plot(
        table,
        title,
        "medians",
        "dots",
        ("median",),
        "Medians over rounds with 95 % bootstrap intervals.",
        panel=("quantity", "unit", "case"),
        where={"table": (table,)},
        interval=("low", "high"),
        panels=12,
    )


PLOTS: Final = (
    Plot(
        "shares",
        "Share of connections that each backend got",
        "backends",
        "shares",
        ("connections_share",),
        "An interval that contains the fair share is no sign of a strategy that is unfair.",
        x="backend",
        panel=("service",),
        reference="connections_share_fair",
        reference_name="fair share",
    ),
    Plot(
        "balance",
        "Balance: the most loaded backend against the mean",
        "balance",
        "dots",
        ("max_over_mean",),
        "Over the whole run; 1 is even.",
        panel=("service", "quantity"),
        where={"window": ("run",)},
        reference=1.0,
        reference_name="even",
    ),
    Plot(
        "variation",
        "Balance: variation between backends",
        "balance",
        "dots",
        ("cv",),
        "The coefficient of variation of what backends got, against their fair shares; 0 is even.",
        panel=("service", "quantity"),
        where={"window": ("run",)},
    ),
    Plot(
        "disruption",
        "Disruption: connections that an event moved or broke",
        "events",
        "bars",
        ("moved", "broken"),
        "No strategy stays below the minimum: connections whose backend died.",
        panel=("time", "event"),
        reference="minimum",
        reference_name="minimum",
        is_total=True,
    ),
    Plot(
        "mapping",
        "Disruption: choices that an event changed, of all possible flows",
        "events",
        "bars",
        ("keys_moved",),
        "Of mappings only. With conntrack, flows that are known do not follow their mapping.",
        panel=("time", "event"),
        reference="keys_minimum",
        reference_name="minimum",
        is_total=True,
    ),
    Plot(
        "outcomes",
        "Connections refused or lost, and breaks of affinity",
        "outcomes",
        "bars",
        ("refused", "lost", "affinity_breaks"),
        "Of all that were begun; measures that are zero throughout are left out.",
        panel=("service",),
    ),
    Plot(
        "seconds",
        "Second by second",
        "seconds",
        "times",
        ("connections_cv", "load_cv", "lost"),
        "Means over repeats. Vertical lines are the events of the timeline.",
        x="time",
        panel=("service", "memory"),
    ),
    Plot(
        "occupancy",
        "Flows in the tables of all nodes",
        "tables",
        "times",
        ("flows",),
        "Means over repeats. Flows in TIME_WAIT count.",
        x="time",
        panel=("memory",),
    ),
    Plot(
        "peak",
        "Flows in the tables at their peak",
        "totals",
        "bars",
        ("flows_peak",),
        "Flows in TIME_WAIT count. The bytes of tables are in totals.csv (memory_bytes).",
    ),
    Plot(
        "costs",
        "Processor time of a packet in the engine",
        "costs",
        "dots",
        ("first_packet_ns", "packet_ns"),
        "Faint marks are single repeats: their spread is the machine's noise.",
    ),
    Plot(
        "building",
        "Processor time of all changes of tables",
        "changes",
        "bars",
        ("build_ns", "change_ns"),
        "Added up over the run, its start included.",
        is_total=True,
    ),
    _medians("throughput", "Throughput by the loss that is tolerated"),
    _medians("cpu", "Processor time of a packet, live"),
    _medians("connections", "Short connections, one after the other"),
    _medians("establishment", "New flows a second, each of them answered"),
    _medians("capacity", "Connections alive at once"),
    _medians("latency", "Latency"),
    Plot(
        "latency-load",
        "Latency against load",
        "latency",
        "curves",
        ("p50_us", "p99_us", "p999_us"),
        "Medians over rounds of each round's quantiles, with 95 % bootstrap intervals.",
        x="load",
        panel=("kind",),
        is_median=True,
    ),
    _medians("bulk", "One TCP connection in bulk"),
    _medians("programming", "From objects to the first answer"),
    _medians("changes", "From an endpoint's change to its first connection"),
)
