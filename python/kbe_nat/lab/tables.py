"""The tables of a run: columns with types and units, which are the data dictionary too.

Tables are tidy: one row is one observation, and begins with the columns of its cell (`CELL`, and a
column for each field that a sweep varies). Tables in `TIMED` hold processor time, which no two runs
share; all others are equal for equal seeds.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from kbe_nat.lab.cells import Cell
from kbe_nat.lab.scenario import Scenario, Service
from kbe_nat.lab.statistics import Range

COUNT: Final = Range(0.0, math.inf)
SHARE: Final = Range(0.0, 1.0)


class Column(NamedTuple):
    """A column of a table."""

    name: str
    type: Literal["text", "integer", "number"]
    unit: str
    """Empty for texts and plain counts of nothing."""
    meaning: str
    range: Range = COUNT
    """What its values can be; intervals end there."""


Row: TypeAlias = tuple[str | int | float | None, ...]
"""Values by column; None where there is nothing to measure."""


class Catalogue(NamedTuple):
    """The tables of a run, whatever kind of scenario was run."""

    varied: tuple[str, ...]
    """Columns that tell the cells of one repeat or round from each other."""

    tables: Mapping[str, tuple[Column, ...]]
    """All columns of each table that is kept, those of the cell first."""
    timed: frozenset[str]
    """Tables that no two runs share."""


def _balance(prefix: str, subject: str) -> tuple[Column, ...]:
    return (
        Column(
            f"{prefix}max_over_mean",
            "number",
            "ratio",
            f"{subject}: largest over mean; 1: even",
            Range(1.0, math.inf),
        ),
        Column(f"{prefix}cv", "number", "ratio", f"{subject}: coefficient of variation; 0: even"),
        Column(f"{prefix}jain", "number", "ratio", f"{subject}: Jain's index; 1: even", SHARE),
    )


def _got(quantity: str, unit: str, meaning: str) -> tuple[Column, ...]:
    lingering = "of these, while it was drained or not listed"
    return (
        Column(quantity, "number", unit, meaning),
        Column(f"{quantity}_lingering", "number", unit, lingering),
        Column(f"{quantity}_fair", "number", unit, "its fair share of the others"),
    )


CELL: Final = (
    Column("strategy", "text", "", "the strategy with its parameters"),
    Column("memory", "text", "", "where connections are remembered: conntrack, none, jet"),
    Column("repeat", "integer", "", "which of the scenario's seeds, from 0"),
    Column("seed", "integer", "", "the seed of the cell"),
)
SOURCE_NAT: Final = Column("source_nat", "text", "", "how source ports are given; none: kept")
"""The column of a cell beside those, where the scenario has ways of source NAT."""
_SERVICE: Final = Column("service", "text", "", "the Service, or all that are alike")
_TIME: Final = Column("time", "number", "s", "seconds of the driven clock from the start")
_EVENT: Final = Column("event", "text", "", "the event in words")
TABLES: Final[Mapping[str, tuple[Column, ...]]] = {
    "balance": (
        _SERVICE,
        Column("quantity", "text", "", "connections and bytes by weight, load by capacity"),
        Column("window", "text", "", "run: over the whole run; second: mean of all seconds"),
        *_balance("", "what members got against their fair shares"),
    ),
    "outcomes": (
        _SERVICE,
        Column("offered", "integer", "connections", "begun: the sum of served, refused and lost"),
        Column("served", "integer", "connections", "not disturbed until their end or the run's"),
        Column("open", "integer", "connections", "of those served, not yet ended with the run"),
        Column("refused", "integer", "connections", "whose first packet was not sent on"),
        Column("lost", "integer", "connections", "ended by a dead backend, a move or a table"),
        Column("moved", "integer", "packets", "that came to another backend than those before"),
        Column("affinity_breaks", "integer", "connections", "not with their client's backend"),
        Column(
            "affinity_breaks_minimum",
            "integer",
            "connections",
            "of these, those whose former backend was dead or not listed",
        ),
    ),
    "events": (
        _TIME,
        _EVENT,
        Column("live", "integer", "connections", "established before the event"),
        Column("moved", "integer", "connections", "of these, sent to another backend after it"),
        Column("broken", "integer", "connections", "of these, ended by it"),
        Column(
            "minimum",
            "integer",
            "connections",
            "of these, on backends that died in it; no one-way flows",
        ),
        Column("keys_moved", "number", "share", "of all possible flows, choice changed", SHARE),
        Column(
            "keys_minimum", "number", "share", "of all possible flows, change unavoidable", SHARE
        ),
    ),
    "totals": (
        Column("packets", "integer", "packets", "that the simulation sent"),
        Column("flows_peak", "integer", "flows", "most at once in the tables of all nodes"),
        Column("memory_bytes", "integer", "bytes", "most that the tables of all nodes have used"),
        Column("balancer_bytes", "integer", "bytes", "most that one node's balancers have had"),
        Column("expired", "integer", "flows", "that have timed out"),
        Column("evicted", "integer", "flows", "that made room for others"),
        Column("flood", "integer", "packets", "of floods"),
        Column("flood_admitted", "integer", "packets", "of floods that came to a backend"),
        Column("flood_refused", "integer", "packets", "of floods that were refused"),
    ),
    "costs": (
        Column("packet_ns", "number", "ns", "processor time of a packet of a known connection"),
        Column("first_packet_ns", "number", "ns", "processor time of a connection's first packet"),
        Column("cell_ns", "number", "ns", "processor time of the whole cell, for each packet"),
    ),
    "ports": (
        Column("allocations", "integer", "flows", "that got a source port of a node"),
        Column("collisions", "integer", "flows", "of these, their first choice was not free"),
        Column("probes", "number", "ports", "looked at for each of these, in the mean"),
        Column("exhausted", "integer", "packets", "that began a flow and found no port"),
        Column("ports_peak", "integer", "ports", "most leased at once, by all nodes"),
        Column("pool_peak", "integer", "ports", "most leased at once in one pool"),
        Column("pool_size", "integer", "ports", "of a pool: towards one backend, or towards all"),
        Column("log_lines", "integer", "lines", "of a log that finds the client behind a port"),
        Column("log_bytes", "integer", "bytes", "of these, 150 each"),
        Column(
            "next_guessed", "number", "share", "of flows with the port behind the last one", SHARE
        ),
        Column(
            "next_guessed_towards", "number", "share", "the same among flows to one backend", SHARE
        ),
        Column(
            "difference_bits",
            "number",
            "bits",
            "entropy of successive ports' differences; 8: all",
            Range(0.0, 8.0),
        ),
    ),
    "changes": (
        _TIME,
        _EVENT,
        Column("services", "integer", "Services", "that were built anew"),
        Column("build_ns", "integer", "ns", "processor time of building their balancers"),
        Column("change_ns", "integer", "ns", "processor time of changing all nodes' tables"),
    ),
    "backends": (
        _SERVICE,
        Column("backend", "integer", "", "its position, from 0"),
        *_got("connections", "connections", "that it got"),
        Column("connections_share", "number", "share", "of all connections of the Service", SHARE),
        Column("connections_share_fair", "number", "share", "that would have been fair", SHARE),
        *_got("bytes", "bytes", "that it answered"),
        *_got("load", "connections", "alive, in the mean over the run"),
    ),
    "seconds": (
        _TIME,
        _SERVICE,
        Column("connections", "integer", "connections", "admitted in this second"),
        *_balance("connections_", "these by weight"),
        Column("bytes", "number", "bytes", "answered in this second"),
        *_balance("bytes_", "these by weight"),
        Column("load", "number", "connections", "alive, in the mean over it"),
        *_balance("load_", "these by capacity"),
        Column("refused", "integer", "connections", "refused in this second"),
        Column("lost", "integer", "connections", "lost in this second"),
    ),
    "tables": (
        _TIME,
        Column("flows", "integer", "flows", "in the tables of all nodes"),
        Column("expired", "integer", "flows", "timed out since the start"),
        Column("evicted", "integer", "flows", "that made room since the start"),
    ),
}
TIMED: Final = ("costs", "changes")
"""Tables that no two runs share."""
STREAMED: Final = ("seconds", "tables")
"""Tables that grow with the run, and are written while it goes on."""
OPTIONAL: Final = frozenset(("seconds", "tables", "backends", "ports"))
"""Tables that a scenario may leave out; "ports" is there with source NAT."""


def columns(table: str, scenario: Scenario) -> tuple[Column, ...]:
    """All columns of a table in a run of this scenario."""
    sweeps = (
        Column(sweep.field, _type(sweep.values), "", "the field that is varied")
        for sweep in scenario.sweep
    )
    return (*CELL, *sweeps, *(SOURCE_NAT,) * bool(scenario.source_nat), *TABLES[table])


def offline_catalogue(scenario: Scenario) -> Catalogue:
    """The tables that a simulation keeps."""
    ways = ("source_nat",) if scenario.source_nat else ()
    absent = OPTIONAL - {*scenario.outputs, *(("ports",) if ways else ())}
    names = [name for name in TABLES if name not in absent]
    varied = ("strategy", "memory", *(sweep.field for sweep in scenario.sweep), *ways)
    return Catalogue(varied, {name: columns(name, scenario) for name in names}, frozenset(TIMED))


def cell_values(cell: Cell) -> Row:
    """The columns of a cell."""
    label = cell.source_nat.label if cell.source_nat else "none"
    way = (label,) if cell.scenario.source_nat else ()
    return (
        cell.strategy.label,
        cell.memory,
        cell.repeat,
        cell.seed,
        *(cell.sweep[sweep.field] for sweep in cell.scenario.sweep),
        *way,
    )


def progress_rows(cell: Cell, progress: Mapping[str, Any], table: str) -> Iterator[Row]:
    """Rows of a table that grows with time."""
    for row in progress[table]:
        if table == "seconds":
            service = cell.scenario.services[row["service"]].name
            yield (
                row["time"],
                service,
                row["connections"],
                *_indices(row["connections_balance"]),
                row["bytes"],
                *_indices(row["bytes_balance"]),
                row["load"],
                *_indices(row["load_balance"]),
                row["refused"],
                row["lost"],
            )
        else:
            yield tuple(row[column.name] for column in TABLES[table])


def result_rows(cell: Cell, result: Mapping[str, Any], table: str) -> Iterator[Row]:
    """Rows of a table that is known at the end."""
    services = cell.scenario.services
    names = [column.name for column in TABLES[table]]
    if table == "balance":
        for row in result["services"]:
            for quantity in ("connections", "bytes", "load"):
                for window, indices in zip(("run", "second"), row[quantity], strict=True):
                    yield (services[row["service"]].name, quantity, window, *_indices(indices))
    elif table == "totals":
        yield tuple(result["totals"][name] for name in names)
    elif table == "ports":
        for row in result["ports"]:
            named = row | {"log_bytes": row["log_lines"] * BYTES_PER_LOG_LINE}
            yield tuple(named[name] for name in names)
    elif table == "costs":
        yield tuple(result["cost"][name] for name in names)
    elif table == "backends":
        yield from _backend_rows(names, result["backends"], services)
    else:
        # Rows of changes have a number of Services under this name, not a position.
        has_service = _SERVICE in TABLES[table]
        for row in result["services" if table == "outcomes" else table]:
            named = row | {"service": services[row["service"]].name} if has_service else row
            yield tuple(named[name] for name in names)


def _backend_rows(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], services: Sequence[Service]
) -> Iterator[Row]:
    totals = [0.0] * len(services)
    for row in rows:
        totals[row["service"]] += row["connections"]
    for row in rows:
        place = row["service"]
        total = totals[place]
        named = dict(row) | {
            "service": services[place].name,
            "connections_share": row["connections"] / total if total else None,
            "connections_share_fair": row["connections_fair"] / total if total else None,
        }
        yield tuple(named[name] for name in names)


def _indices(balance: Mapping[str, float] | None) -> Row:
    if balance is None:
        return (None, None, None)
    return (balance["max_over_mean"], balance["cv"], balance["jain"])


def _type(values: tuple[Any, ...]) -> Literal["text", "integer", "number"]:
    if any(isinstance(value, str) for value in values):
        return "text"
    return "integer" if all(isinstance(value, int) for value in values) else "number"


BYTES_PER_LOG_LINE: Final = 150
"""As RFC 7422 reckons."""
