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
    """What the measures say, in a sentence or two; `caption` adds what is drawn."""
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
    is_share: bool = False
    """What cannot be added up: too many panels are one, with the median over them and the least and
    greatest.
    """
    is_median: bool = False
    """Medians over rounds are drawn, with their bootstrap interval."""
    panels: int = 4
    """How many there are at most; more are put together into one, or those behind are left out."""


def _medians(
    table: str, title: str, caption: str, quantity: str = "", name: str | None = None
) -> Plot:
    """The quantities of a live measure, or one of them."""
    return Plot(
        name or table,
        title,
        "medians",
        "dots",
        ("median",),
        caption,
        panel=("quantity", "unit", "case"),
        where={"table": (table,)} | ({"quantity": (quantity,)} if quantity else {}),
        interval=("low", "high"),
        panels=12,
    )


def _latency(quantile: str, words: str) -> Plot:
    return _medians(
        "latency",
        f"Latency: {words}",
        "Of the round trips of one flow, and of first packets, beside a load.",
        f"{quantile}_us",
        f"latency-{quantile}",
    )


PLOTS: Final = (
    Plot(
        "shares",
        "Share of connections that each backend got",
        "backends",
        "shares",
        ("connections_share",),
        "A share apart from the fair one is a strategy's only if repeats agree about it.",
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
        is_share=True,
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
        "Indices of each second, and what was lost in it.",
        x="time",
        panel=("service", "memory"),
    ),
    Plot(
        "occupancy",
        "Flows in the tables of all nodes",
        "tables",
        "times",
        ("flows",),
        "Flows in TIME_WAIT count.",
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
        "Repeats differ by their traffic, and by the machine's noise.",
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
    Plot(
        "ports",
        "Source ports in use at their peak, in one pool",
        "ports",
        "bars",
        ("pool_peak",),
        "A pool is one address towards one backend, or towards all where mappings do not depend on "
        "the backend.",
        reference="pool_size",
        reference_name="ports of a pool",
    ),
    Plot(
        "port-collisions",
        "Source ports: first choices that were taken, and first packets without a port",
        "ports",
        "bars",
        ("collisions", "exhausted"),
        "A collision costs a further look; a packet for which no port was left is refused.",
    ),
    Plot(
        "port-guesses",
        "Source ports: how far they can be predicted",
        "ports",
        "dots",
        ("next_guessed", "next_guessed_towards", "difference_bits"),
        "Flows with the port behind the last one's, of all and of those to one backend; the "
        "entropy of steps between ports: 0 bits tell the next one's part of the range, 8 nothing.",
    ),
    Plot(
        "port-log",
        "Lines of a log that finds the client behind a port",
        "ports",
        "bars",
        ("log_lines",),
        "One when a mapping or a block begins, and one when it ends.",
    ),
    _medians(
        "throughput",
        "Throughput by the loss that is tolerated",
        "More is better. Where the sender was the limit (throughput.csv), a way may carry more.",
    ),
    _medians(
        "cpu",
        "Processor time of a packet, live",
        "Less is better of net, more of core kpps, which ways with queues alone have.",
    ),
    _medians(
        "connections",
        "Short connections, one after the other",
        "The rate of one client, and quantiles of its connect times.",
    ),
    _medians(
        "establishment",
        "New flows a second, each of them answered",
        "More is better.",
    ),
    _medians(
        "capacity",
        "Connections alive at once",
        "As many as were asked for, where opened says so; how fast they were opened and closed.",
    ),
    _latency("p50", "median"),
    _latency("p90", "90th percentile"),
    _latency("p99", "99th percentile"),
    _latency("p999", "99.9th percentile"),
    Plot(
        "latency-load",
        "Latency against load",
        "latency",
        "curves",
        ("p50_us", "p99_us", "p999_us"),
        "Medians over rounds of each round's quantiles.",
        x="load",
        panel=("kind",),
        is_median=True,
    ),
    _medians("bulk", "One TCP connection in bulk", "More is better."),
    _medians(
        "programming",
        "From objects to the first answer",
        "Time from parsed objects, and the memory of the way's programs meanwhile.",
    ),
    _medians(
        "changes",
        "From an endpoint's change to its first connection",
        "What watching an API server adds is not in it.",
    ),
)
