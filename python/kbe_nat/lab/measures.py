"""The method and the measures in words: of reports, and of docs/research.md.

`tools/lab_page.py` writes the page's tables and passages of these values, so that the page and the
reports say the same. Texts may have `code` in them, and nothing else.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

Mode: TypeAlias = Literal["offline", "live"]


class Passage(NamedTuple):
    """How something is done."""

    modes: tuple[Mode, ...]
    title: str
    text: str


class Measure(NamedTuple):
    """What columns mean, and what they do not mean."""

    tables: tuple[str, ...]
    """Where they stand: a report shows measures of its tables."""
    names: str
    means: str
    caveat: str = ""


METHOD: Final = (
    Passage(
        ("offline",),
        "Traffic",
        "Sources of traffic begin connections: Poisson, paced, bursty, a closed loop, or the rows "
        "of a trace or capture. Sizes and lifetimes are constant, uniform, exponential, Pareto, or "
        "drawn from a trace. Clients are drawn evenly or by Zipf.",
    ),
    Passage(
        ("offline",),
        "Connections",
        "A TCP connection is a SYN, its answer, an ACK, requests with answers, and a close; UDP is "
        "requests with answers, or datagrams alone, and keeps its socket for its lifetime; a flood "
        "is SYNs of sources that do not exist. Packets have headers and no payload: bytes are "
        "booked beside. The next packet of a connection depends on the fate of the last one.",
    ),
    Passage(
        ("offline",),
        "Batches",
        "Packets that are due within half a millisecond go through the engine together, 256 at "
        "most, as a node's queue hands them out. Several nodes stand behind routers that hash "
        "flows (ECMP); their engines have one seed.",
    ),
    Passage(
        ("offline",),
        "Backends",
        "A backend answers after its `latency`; above its `capacity` it takes longer in "
        "proportion. A dead one does not answer.",
    ),
    Passage(
        ("offline",),
        "Events",
        "After every event each established connection sends a packet at once. So the damage of "
        "an event is counted in full, and at this event.",
    ),
    Passage(
        ("offline",),
        "Seeds",
        "A cell's seed is the SHA-256 of the scenario's seed and the repeat's number. Strategies "
        "do not enter: all meet the same open-loop traffic, so that they can be compared in pairs. "
        "Each purpose (arrivals, clients, sizes, ...) has a stream of its own. Logarithms and "
        "powers are computed in software. Equal seeds give equal tables, bit for bit, on any "
        "number of processes; `lab reproduce` compares them.",
    ),
    Passage(
        ("offline",),
        "Intervals",
        "They are over repeats, by Student's t at 95 %, never over packets or connections of one "
        'run, which depend on each other. One repeat has no interval. The tables "difference '
        "from\" compare each strategy with the scenario's first one in pairs of repeats; a "
        "difference whose interval contains 0 is called none.",
    ),
)
MEASURES: Final = (
    Measure(
        ("balance", "seconds"),
        "`max_over_mean`, `cv`, `jain`",
        "of the ratios between what backends got and their fair shares while they were listed. "
        "Shares follow weights for connections and bytes, capacities for load",
        "that a backend was overloaded: look at `load` against its capacity",
    ),
    Measure(
        ("balance",),
        "`window` run, second",
        "over the whole run, or the mean of all seconds",
        "seconds with few connections are uneven by chance: compare strategies, not rates",
    ),
    Measure(
        ("backends",),
        "`connections_share`, `_fair`",
        "of all connections of the Service, those of this backend; and those that it should have "
        "had by its weight while it was listed",
        "a share apart from the fair one is no fault of a strategy while its interval contains it",
    ),
    Measure(
        ("events",),
        "`moved`, `broken`",
        "established connections whose next packet after an event came to another backend; that "
        "ended by it. A TCP connection that moves ends",
        "connections in their handshake or close are not counted",
    ),
    Measure(
        ("events",),
        "`minimum`",
        "established connections whose backend died in the event: no strategy keeps these where "
        "they are",
        "one-way flows: their senders notice nothing, and move when the death is detected",
    ),
    Measure(
        ("events",),
        "`keys_moved`, `keys_minimum`",
        "share of 65,536 fixed flows whose choice the event changed; the least with which the new "
        "weights can be met. Of mappings only",
        "with conntrack these flows do not move: they would without",
    ),
    Measure(
        ("outcomes",),
        "`served`, `refused`, `lost`",
        "every connection is one of them; those still open at the end are served",
    ),
    Measure(
        ("outcomes",),
        "`affinity_breaks`",
        "connections of a client within its affinity to another backend than its last one; "
        "`_minimum`: the last one was dead or not listed",
    ),
    Measure(
        ("totals", "tables"),
        "`flows_peak`, `memory_bytes`",
        "most flows at the end of a second or at an event; times 133.4 bytes (conntrack) or 20 "
        "(jet). Flows in TIME_WAIT count, also as load to `lc`, `wlc` and `p2c`",
        "the resident memory of a process",
    ),
    Measure(
        ("costs",),
        "`packet_ns`, `first_packet_ns`",
        "processor time of the thread in the engine, by groups of at least 16 packets",
        "the cost of a packet on a node, which the kernel and the queue add to",
    ),
    Measure(
        ("changes",),
        "`build_ns`, `change_ns`",
        "processor time of building balancers, and of changing the tables of all nodes",
    ),
)
