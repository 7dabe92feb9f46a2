"""The tables of a live run.

Tables of measures have one row for each cell, or for each of a cell's trials, loads, changes and
buckets: raw samples are kept. `medians` is computed from them: one row for each quantity of a way,
with its interval, and what it is against the baseline's.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.tables import Catalogue, Column

PLACE: Final = (
    Column("way", "text", "", "the way through the node; idle: none, the control of a round"),
    Column("services", "integer", "Services", "that the node has"),
    Column("family", "text", "", "ipv4 or ipv6"),
)
CELL: Final = (
    *PLACE,
    Column("round", "integer", "", "the round, from 0"),
    Column("run", "integer", "", "0; 1: the second run of the baseline in this round"),
)


def _times(subject: str) -> tuple[Column, ...]:
    return tuple(
        Column(f"{name}_us", "number", "µs", f"{subject}: {words}")
        for name, words in (
            ("mean", "mean"),
            ("p50", "median"),
            ("p90", "90th percentile"),
            ("p99", "99th percentile"),
            ("p999", "99.9th percentile"),
            ("max", "longest"),
        )
    )


def _search(subject: str, unit: str) -> tuple[Column, ...]:
    return (
        Column("rate", "number", unit, f"{subject}: the median of what the trials leave possible"),
        Column("rate_low", "number", unit, "the 2.5th percentile of this"),
        Column("rate_high", "number", unit, "the 97.5th percentile of this"),
        Column("trials", "integer", "trials", "of the search"),
        Column(
            "contradictions", "integer", "trials", "that passed above, or failed below, the rate"
        ),
        Column("settled", "integer", "", "1: the interval is as narrow as was asked for; 0: not"),
        Column("limit", "text", "", "way; sender: it cannot send faster; floor: all trials failed"),
    )


_LOSS: Final = Column("loss_tolerated", "number", "share", "of packets that may be lost")
_KIND: Final = Column("kind", "text", "", "round-trip: of an established flow; first-packet")
_LOAD: Final = Column("load", "number", "packets/s", "that are sent beside, as was asked for")
MEASURES: Final[Mapping[str, tuple[Column, ...]]] = {
    "throughput": (_LOSS, *_search("the highest rate without more loss", "packets/s")),
    "establishment": _search("the highest rate of new flows that are all answered", "flows/s"),
    "trials": (
        Column("measure", "text", "", "throughput or establishment"),
        _LOSS,
        Column("trial", "integer", "", "its place in the search, from 0"),
        Column("wanted", "number", "1/s", "packets or flows a second that the search asked for"),
        Column("offered", "number", "1/s", "packets or flows a second that were sent"),
        Column("sent", "integer", "1", "packets or flows: the sum of received and lost"),
        Column("received", "integer", "1", "packets by the pod, or flows that were answered"),
        Column("lost", "integer", "1", "the others"),
        Column("lost_in_queue", "integer", "packets", "of these, by the way's queue"),
        Column("seconds", "number", "s", "from the first to the last that was sent"),
        Column("drain", "number", "s", "from the last that was sent to the last that came"),
        Column("passed", "integer", "", "1: no more lost than is tolerated, and drained at once"),
    ),
    "cpu": (
        Column("packets", "integer", "packets", "that were sent"),
        Column("sender_ns", "number", "ns", "processor time of the sender's thread for a packet"),
        Column("sender_bare_ns", "number", "ns", "the same, of packets that the node drops first"),
        Column("way_ns", "number", "ns", "of the way's own threads for a packet"),
        Column(
            "way_idle_share", "number", "share", "of a processor that these take without packets"
        ),
        Column("net_ns", "number", "ns", "sender_ns - sender_bare_ns + way_ns, less its idle time"),
        Column("lost", "integer", "packets", "sent and not received"),
        Column("core_kpps", "number", "kpps", "packets that a second of the way's threads carries"),
    ),
    "connections": (
        Column("opened", "integer", "connections", "opened, and closed in order"),
        Column("failed", "integer", "connections", "the others"),
        Column("rate", "number", "connections/s", "one after the other"),
        *_times("opening, connect(2)"),
    ),
    "capacity": (
        Column("limit", "integer", "connections", "that were asked for"),
        Column("opened", "integer", "connections", "alive at once, each validated"),
        Column("failed", "integer", "connections", "not opened or not validated"),
        Column("open_rate", "number", "connections/s", "at which they were opened"),
        Column("closed", "integer", "connections", "of these, closed in order"),
        Column("close_rate", "number", "connections/s", "at which they were closed"),
    ),
    "latency": (
        _KIND,
        _LOAD,
        Column("load_sent", "number", "packets/s", "that were sent beside"),
        Column("sent", "integer", "packets", "that were timed"),
        Column("answered", "integer", "packets", "of these"),
        Column("lost", "integer", "packets", "the others"),
        *_times("from the moment that it was due until its answer"),
    ),
    "histograms": (
        _KIND,
        _LOAD,
        Column("upper_us", "number", "µs", "upper bound of a bucket of times"),
        Column("count", "integer", "packets", "in this bucket"),
    ),
    "bulk": (
        Column("bytes", "integer", "bytes", "that the receiver counted"),
        Column("seconds", "number", "s", "from the first to the last"),
        Column("gbit_s", "number", "Gbit/s", "of payload"),
        Column("sender_ns", "number", "ns/kB", "processor time of the sender's threads"),
    ),
    "programming": (
        Column("seconds", "number", "s", "from the parsed objects to the first answer"),
        Column(
            "peak_mb",
            "number",
            "MB",
            "most memory of the way's programs meanwhile; empty where the lab itself takes more",
        ),
    ),
    "changes": (
        Column("change", "integer", "", "its place in the cell, from 0"),
        Column("change_ms", "number", "ms", "until a client's connection reached the new endpoint"),
    ),
    "control": (
        Column("work_count", "integer", "", "times that the same work was done on an idle machine"),
        Column("work_us", "number", "µs", "that it took: median"),
        Column(
            "spread", "number", "share", "90th percentile of these times over their median, - 1"
        ),
        Column("cpu_spread", "number", "share", "the same of the thread's processor time"),
        Column("busy_share", "number", "share", "of all processors, by others meanwhile"),
        Column("steal_share", "number", "share", "of all processors, taken by the hypervisor"),
    ),
}
"""Tables whose rows cells have."""
MISSING: Final = (
    Column("way", "text", "", "the way"),
    Column("services", "integer", "Services", "empty: all"),
    Column("family", "text", "", "empty: all"),
    Column("round", "integer", "", "empty: all"),
    Column("measure", "text", "", "empty: all"),
    Column("reason", "text", "", "why there is nothing, in a sentence"),
)
MEDIANS: Final = (
    *PLACE,
    Column("table", "text", "", "where the samples are"),
    Column("case", "text", "", "which of the table's rows: its tolerated loss, kind and load"),
    Column("quantity", "text", "", "the column"),
    Column("unit", "text", "", "of the median and its interval"),
    Column("rounds", "integer", "", "that have the quantity"),
    Column("median", "number", "", "of the rounds"),
    Column("low", "number", "", "lower end of its 95 % bootstrap interval"),
    Column("high", "number", "", "upper end of its 95 % bootstrap interval"),
    Column("ratio", "number", "ratio", "to the baseline in the same round: median of the rounds"),
    Column("ratio_low", "number", "ratio", "lower end of its 95 % bootstrap interval"),
    Column("ratio_high", "number", "ratio", "upper end of its 95 % bootstrap interval"),
    Column("noise", "number", "share", "of the machine: see docs/research.md"),
    Column("difference", "text", "", "more, less, or none: within the noise, or not certain"),
)


class Quantity(NamedTuple):
    """A column of which medians are taken."""

    table: str
    name: str
    cases: tuple[str, ...] = ()
    """Columns that tell a cell's rows in the table from each other."""
    control: Literal["spread", "cpu_spread"] | None = "spread"
    """The idle control's noise that it has; None: it is no time."""

    @property
    def column(self) -> Column:
        """Its description."""
        return next(column for column in MEASURES[self.table] if column.name == self.name)


_KINDS: Final = ("kind", "load")
QUANTITIES: Final = (
    Quantity("throughput", "rate", ("loss_tolerated",)),
    Quantity("cpu", "net_ns", control="cpu_spread"),
    Quantity("cpu", "core_kpps", control="cpu_spread"),
    Quantity("connections", "rate"),
    Quantity("connections", "p50_us"),
    Quantity("connections", "p99_us"),
    Quantity("establishment", "rate"),
    Quantity("capacity", "opened", control=None),
    Quantity("capacity", "open_rate"),
    Quantity("capacity", "close_rate"),
    *(Quantity("latency", f"{name}_us", _KINDS) for name in ("p50", "p90", "p99", "p999")),
    Quantity("bulk", "gbit_s"),
    Quantity("programming", "seconds"),
    Quantity("programming", "peak_mb", control=None),
    Quantity("changes", "change_ms"),
)


def live_catalogue(scenario: LiveScenario) -> Catalogue:
    """The tables that a run of it keeps: those of its measures."""
    measured = {
        name
        for choice in scenario.choices
        for measure in scenario.measures_of(choice.way)
        for name in TABLES_OF[type(measure).__name__]
    }
    tables = {
        name: (*CELL, *columns)
        for name, columns in MEASURES.items()
        if name in measured or name == "control"
    }
    every = {"medians": MEDIANS} | tables | {"missing": MISSING}
    return Catalogue(("way", "services", "family"), every, frozenset(every) - {"missing"})


TABLES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "Throughput": ("throughput", "trials"),
    "Cpu": ("cpu",),
    "Connects": ("connections",),
    "Establishment": ("establishment", "trials"),
    "Capacity": ("capacity",),
    "Latency": ("latency", "histograms"),
    "Bulk": ("bulk",),
    "Programming": ("programming", "changes"),
}
"""The tables that each kind of measure fills."""
