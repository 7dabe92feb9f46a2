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
        "A TCP connection is a SYN, its answer, an ACK, requests with answers, and a close; an "
        "association of SCTP is opened by four packets, and closed by three; UDP is requests with "
        "answers, or datagrams alone, and keeps its socket for its lifetime; a flood is SYNs of "
        "sources that do not exist. Source ports are of 1024 to 65535: each client begins at a "
        "random one and goes up by one (Linux draws them of 32768 to 60999). Packets have headers "
        "and no payload: bytes are booked beside. The next packet of a connection depends on the "
        "fate of the last one.",
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
        "run, which depend on each other. One repeat has no interval; ±0 says that all repeats "
        "gave the same. An interval ends where its measure does (no share is above 1): then both "
        "its ends are written, `0.98 (0.93 to 1)`, and it holds the mean as often as the whole "
        'one. The tables "difference '
        "from\" compare each strategy with the scenario's first one in pairs of repeats; a "
        "difference whose interval contains 0 is called none: none was shown, which is no proof "
        "that the two are equal.",
    ),
    Passage(
        ("live",),
        "Network",
        "A client, a node and two pods are network namespaces on one machine, joined by veth "
        "pairs; every cell has new ones. Client and servers are threads in Rust inside them, "
        "without an interpreter in a packet's way. A way serves the same objects on the node by "
        "its own means. Ways that the machine cannot run are skipped, and the reason is in "
        "`missing` and in the manifest; so is every measure that failed.",
    ),
    Passage(
        ("live",),
        "Rounds",
        "Each way is measured once in each round, in an order that is drawn from the seed, so "
        "that a slow minute hits all. Medians over rounds count, with 95 % intervals by the "
        "bootstrap with a seeded generator. With few rounds such an interval goes from the least "
        "to the largest: of 5 rounds it holds the median in 94 % of cases, of 3 in 75 %. One round "
        "has no interval; ±0 says that all rounds gave the same.",
    ),
    Passage(
        ("live",),
        "Noise",
        "Ways are compared with the baseline by ratios in the same round. The baseline runs twice "
        "in each round: what it differs from itself by at most is noise. So is the spread of the "
        "idle control, a fixed piece of work that begins each round: by its processor time for "
        "measures of processor time, by the clock for others. The larger counts. A difference is "
        "none unless its interval excludes 1 and it is larger than the noise.",
    ),
    Passage(
        ("live",),
        "Searches",
        "Rates without loss are searched for as RFC 2544 asks, but no trial is believed for good: "
        "the search keeps a probability for each rate, does each trial where it knows least, and "
        "lets the answer be wrong in a tenth of cases. It ends when the middle 95 % are as narrow "
        "as `precision`, or with the last trial, and says so (`settled`). It begins at the "
        "sender's own highest rate; where that passes twice, `limit` is sender.",
    ),
    Passage(
        ("live",),
        "Loss",
        "A trial sends, and waits until the queue is empty and no more comes. It fails too when "
        "that takes longer than a tenth of its length (or 20 ms): a queue that holds a whole trial "
        "carries no such rate. What was sent and "
        "not received is lost; what the way's queue dropped is told beside. The receiver has a "
        "socket with a large buffer, which can lose too: on a busy machine zero loss is a measure "
        "of the machine.",
    ),
)
MEASURES: Final = (
    Measure(
        ("balance", "seconds"),
        "`max_over_mean`, `cv`, `jain`",
        "of the ratios between what backends got as members and their fair shares of it. A backend "
        "is a member while it is listed and not drained. Shares follow weights for connections and "
        "bytes, capacities for load, and hold for the time of its membership",
        "that a backend was overloaded: look at `load` against its capacity; nor what lingers on "
        "backends that are no members: look at `_lingering`",
    ),
    Measure(
        ("balance",),
        "`window` run, second",
        "over the whole run, or the mean of all seconds, each over those that were members in it",
        "seconds with few connections are uneven by chance: compare strategies, not rates",
    ),
    Measure(
        ("backends",),
        "`connections_share`, `_fair`",
        "of all connections of the Service, those of this backend; and those that it should have "
        "had by its weight while it was a member",
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
        "share of fixed flows whose choice the event changed; the least with which the new weights "
        "can be met, in expectation. Of mappings only. 65,536 flows of each Service are asked "
        "about, and four million of all where more than 64 Services change: by chance a sample "
        "moves a little less than the least",
        "with conntrack these flows do not move: they would without",
    ),
    Measure(
        ("backends", "seconds"),
        "`load`",
        "connections alive, in the mean over the second or the run: an integral, no sample",
        "flows in the node's table: those in TIME_WAIT are over",
    ),
    Measure(
        ("backends",),
        "`connections`, `bytes`, `load`, `_lingering`, `_fair`",
        "all that a backend got, for as long as it got any, so that backends add up to seconds; "
        "what of this it got while it was no member, as conntrack lets connections stay and "
        "affinity clients; and its fair share of what members got, which adds up to all that does "
        "not linger",
        "that what lingers is unfair: nobody chose it then",
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
        "`flows_peak`, `memory_bytes`, `balancer_bytes`",
        "most flows, and bytes of tables, at the end of a second or at an event. Flows in "
        "TIME_WAIT count; to `lc`, `wlc`, `p2c` and `lcd` each is 1/256 of a connection, as in "
        "IPVS, and nothing to `bounded` and `peak-ewma`. With conntrack "
        "bytes are measured: records that ever held a flow (112 bytes; 176 of IPv6) and the index, "
        "which is whole for `max_flows` from the first flow on. With jet they are computed: the "
        "buckets of the smallest hash map with room for all entries, which does not depend on "
        "where hashes fall. Balancers are beside these: the tables of all Services' strategies on "
        "one node, with jet those of the horizon too, most at an event; none of a class in Python",
        "the resident memory of a process, or what is reserved for flows that never came",
    ),
    Measure(
        ("costs",),
        "`packet_ns`, `first_packet_ns`",
        "processor time of the thread in the engine, by groups of at least 16 packets",
        "the cost of a packet on a node, which the kernel and the queue add to",
    ),
    Measure(
        ("ports",),
        "`collisions`, `probes`",
        "flows whose first choice of a source port was not free, which of `preserve` is the "
        "client's own, or not in `ports`; ports looked at for each flow, the one that it got "
        "included, and each that a search passes over. The client's own counts where it may not be "
        "leased too, so that `probes` can be one more than `pool_size`",
        "packets lost, nor time: a collision costs a further look, and a bitmap passes over 64 "
        "ports at once",
    ),
    Measure(
        ("ports",),
        "`exhausted`",
        "first packets for which no port was left, those of floods too",
        "connections: `refused` counts these",
    ),
    Measure(
        ("ports",),
        "`pool_peak` of `pool_size`",
        "most ports leased at the end of a second or at an event, of one address towards one "
        "backend; towards all where mappings do not depend on the backend",
    ),
    Measure(
        ("ports",),
        "`log_lines`, `log_bytes`",
        "lines of a log that tells whose a port was (RFC 6888, REQ-12): one when a mapping or a "
        "block begins, one when it ends; 150 bytes each, as RFC 7422 reckons",
        "that kbe-nat writes such a log",
    ),
    Measure(
        ("ports",),
        "`next_guessed`, `_towards`",
        "share of flows that got the port behind that of the node's last flow, or of its last flow "
        "to the same backend",
        "what an observer on the path sees",
    ),
    Measure(
        ("ports",),
        "`difference_bits`",
        "entropy of the steps between successive ports of a node, in 256 equal parts of the range: "
        "0 tells the next port's part, 8 nothing. Fewer than some 10,000 flows lower it",
        "the strength of a generator: a predictable one may look even",
    ),
    Measure(
        ("changes",),
        "`build_ns`, `change_ns`",
        "processor time of building balancers, and of changing the tables of all nodes",
    ),
    Measure(
        ("throughput", "trials"),
        "throughput: `rate`, `rate_low`, `rate_high`",
        "the highest rate of packets of 60 bytes in one direction that loses no more than "
        "`loss_tolerated`, with the interval of the search (RFC 2544, 26.1)",
        "the rate of a network card: sender, node and pods share the processors. Where the kernel "
        "does all in the sender's time, the sender is the limit",
    ),
    Measure(
        ("cpu",),
        "`net_ns`",
        "thread time of a packet: the sender's, in which the kernel's work runs up to a queue or "
        "the receiver, less that of packets which the node drops first, and the way's own "
        "threads' less their time at rest",
        "the time a packet takes; nor the receiver's work",
    ),
    Measure(
        ("cpu",),
        "`core_kpps`",
        "packets that the way's threads carry in a second of their time, while more come than they "
        "can carry. Of queues alone",
        "a rate without loss: look at `throughput`",
    ),
    Measure(
        ("connections",),
        "connections: `rate`, `p50_us` ... `p999_us`",
        "short TCP connections one after the other from one client, and how long connect(2) takes",
        "how many at once: look at `establishment`",
    ),
    Measure(
        ("establishment",),
        "establishment: `rate`",
        "the highest rate of new UDP flows that are all answered (RFC 9693, maximum connection "
        "establishment rate), by the same search; every flow has a source port of its own",
        "TCP, whose handshake costs both ends more",
    ),
    Measure(
        ("capacity",),
        "`opened`, `open_rate`, `close_rate`",
        "TCP connections alive at once, each answered, up to `limit`; how fast they were opened, "
        "and closed by both ends in order (RFC 9693, table capacity and tear-down)",
        "how fast a table is emptied: entries stay for their timeouts",
    ),
    Measure(
        ("latency", "histograms"),
        "latency: `p50_us` ... `p999_us`",
        "round trips of one established UDP flow, and of first packets, each of a flow of its own, "
        "one after the other beside `load` packets a second",
        "the times of the load's packets",
    ),
    Measure(
        ("bulk",),
        "`gbit_s`",
        "payload of one TCP connection, counted by its receiver",
        "the rate of a wire: veth hands over segments of 64 kB",
    ),
    Measure(
        ("programming", "changes"),
        "`seconds`, `change_ms`",
        "from parsed objects to the first answer; from the change of the endpoint of one Service "
        "among all to the first connection that reaches the new endpoint",
        "what watching an API server adds",
    ),
    Measure(
        ("control",),
        "`spread`, `busy_share`, `steal_share`",
        "of the idle control: how uneven the same work was, what others took of the processors, "
        "and what the hypervisor took",
    ),
)
