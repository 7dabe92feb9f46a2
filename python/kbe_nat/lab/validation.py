"""Contradictions between the fields of a scenario, with the path of the field at fault."""

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from kbe_nat._native import TIMEOUTS
from kbe_nat.lab.scenario import (
    YEAR,
    Closed,
    Distribution,
    NewStrategy,
    NodeLoss,
    Samples,
    Scenario,
    SourceNat,
    SourceNatChoice,
    Strategy,
    StrategyChoice,
    Traffic,
    Uniform,
)
from kbe_nat.model import Strategy as EngineStrategy
from kbe_nat.spelling import none_of

LAB_STRATEGIES: Final = ("modulo", "jump", "anchor", "lcd")
"""Strategies that only the lab has."""
STRATEGIES: Final = (*map(str, EngineStrategy), *LAB_STRATEGIES, "python")
"""All that a scenario may name."""
MAPPINGS: Final = frozenset(
    ("mh", "rendezvous", "sh", "modulo", "ring", "jump", "anchor", "python")
)
"""Strategies whose choices may follow from the flow alone."""
PARAMETERS: Final[Mapping[str, str]] = {
    "table_size": "mh",
    "virtual_nodes": "ring bounded",
    "epsilon": "bounded",
    "draws": "lcd",
    "buckets": "anchor",
    "decay": "peak-ewma",
    "class_name": "python",
}
"""The strategies that each parameter is for."""


def violations(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Path and reason of each contradiction."""
    return chain(
        _services(scenario),
        _strategies(scenario),
        _traffic(scenario),
        _source_nat(scenario),
        _timeline(scenario),
        _settings(scenario),
    )


def choice(value: StrategyChoice) -> Strategy:
    """A strategy that may be told by its name alone."""
    return Strategy(value) if isinstance(value, str) else value


def source_nat_choice(value: SourceNatChoice) -> SourceNat | None:
    """A way of giving source ports that may be told by its name alone; None for "none"."""
    if isinstance(value, SourceNat):
        return value
    return None if value == "none" else SourceNat(value)


def _services(scenario: Scenario) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for place, service in enumerate(scenario.services):
        path = f"services[{place}]"
        if service.name in seen:
            yield f"{path}.name", f"another Service is named {service.name}"
        seen.add(service.name)
        if not any(backends.weight and backends.count for backends in service.backends):
            yield f"{path}.backends", "no backend has weight"
        if service.count * sum(backends.count for backends in service.backends) > MAX_BACKENDS:
            yield f"{path}.count", f"more than {MAX_BACKENDS:,} backends"


def _strategies(scenario: Scenario) -> Iterator[tuple[str, str]]:
    labels: set[str] = set()
    for place, value in enumerate(scenario.strategies):
        path, strategy = f"strategies[{place}]", choice(value)
        yield from strategy_violations(path, strategy)
        if strategy.label in labels:
            yield path, f"{strategy.label} is there twice"
        labels.add(strategy.label)
        needs_mapping = [memory for memory in scenario.memory if memory != "conntrack"]
        if needs_mapping and strategy.name not in MAPPINGS:
            yield (
                "memory",
                f"{needs_mapping[0]} needs a strategy that goes by the flow alone; "
                f"{path} is {strategy.name}",
            )


def strategy_violations(path: str, strategy: Strategy) -> Iterator[tuple[str, str]]:
    """Path and reason of each parameter that cannot be, and of a name that there is not."""
    if strategy.name not in STRATEGIES:
        yield f"{path}.name", none_of(strategy.name, STRATEGIES)
        return
    for field, owners in PARAMETERS.items():
        if getattr(strategy, field) is not None and strategy.name not in owners.split():
            name = "class" if field == "class_name" else field
            yield f"{path}.{name}", f"{strategy.name} has no such parameter"
    if strategy.name == "python" and strategy.class_name is None:
        yield f"{path}.class", "is missing"
    if strategy.table_size is not None and not _is_prime(strategy.table_size):
        yield f"{path}.table_size", f"{strategy.table_size} is not prime"


def _traffic(scenario: Scenario) -> Iterator[tuple[str, str]]:
    services = [service.name for service in scenario.services]
    protocols: dict[str, str] = {}
    for place, traffic in enumerate(scenario.traffic):
        path = f"traffic[{place}]"
        if traffic.service not in services:
            yield f"{path}.service", none_of(traffic.service, services)
        protocol = PROTOCOLS[traffic.kind]
        if protocols.setdefault(traffic.service, protocol) != protocol:
            both = " and ".join(sorted((protocol.upper(), protocols[traffic.service].upper())))
            yield f"{path}.kind", f"{traffic.service} has {both} traffic: make it two Services"
        if traffic.kind == "syn-flood" and isinstance(traffic.arrivals, Closed):
            yield f"{path}.arrivals", "a flood waits for nobody: no closed loop"
        stop = scenario.duration if traffic.stop is None else traffic.stop
        if stop > scenario.duration:
            yield f"{path}.stop", "behind the end of the scenario"
        if stop <= traffic.start:
            end = "the end of the scenario" if traffic.stop is None else "stop"
            yield f"{path}.start", f"{traffic.start:g} is not before {end}, {stop:g}"
        yield from _distributions(path, traffic)


def _source_nat(scenario: Scenario) -> Iterator[tuple[str, str]]:
    labels: set[str] = set()
    for place, value in enumerate(scenario.source_nat):
        path, way = f"source_nat[{place}]", source_nat_choice(value)
        label = way.label if way else "none"
        if label in labels:
            yield path, f"{label} is there twice"
        labels.add(label)
        if way is None:
            continue
        low, high = way.ports
        if low > high:
            yield f"{path}.ports", f"{low} is above {high}"
        elif way.block_size is not None and way.block_size > high - low + 1:
            yield f"{path}.block_size", f"the range has {high - low + 1:,} ports"
        if way.block_size is not None and way.allocation not in ("blocks", "deterministic"):
            yield f"{path}.block_size", f"{way.allocation} has no such parameter"
        if way.blocks_per_client is not None and way.allocation != "blocks":
            yield f"{path}.blocks_per_client", f"{way.allocation} has no such parameter"
    for memory in scenario.memory:
        if labels - {"none"} and memory != "conntrack":
            yield "memory", f"{memory} cannot translate sources back: source_nat needs conntrack"


def _distributions(path: str, traffic: Traffic) -> Iterator[tuple[str, str]]:
    rows: list[tuple[str, Distribution]] = [("size", traffic.size), ("lifetime", traffic.lifetime)]
    if isinstance(traffic.arrivals, Closed):
        rows.append(("arrivals.think", traffic.arrivals.think))
    for field, distribution in rows:
        match distribution:
            case Uniform(low=low, high=high) if low > high:
                yield f"{path}.{field}.low", "above high"
            case Samples(file=file, values=values) if bool(file) == bool(values):
                yield f"{path}.{field}", "either a file or values"
            case Samples(file=file, column="") if file:
                yield f"{path}.{field}.column", "is missing"


def _timeline(scenario: Scenario) -> Iterator[tuple[str, str]]:
    services = [service.name for service in scenario.services]
    for place, event in enumerate(scenario.timeline):
        path = f"timeline[{place}]"
        if event.at > scenario.duration:
            yield f"{path}.at", "behind the end of the scenario"
        if isinstance(event, NodeLoss):
            if event.node >= scenario.nodes.count:
                yield f"{path}.node", f"the nodes are 0 to {scenario.nodes.count - 1}"
            continue
        if event.service not in services:
            yield f"{path}.service", none_of(event.service, services)
            continue
        if isinstance(event, NewStrategy):
            strategy = choice(event.strategy)
            yield from strategy_violations(f"{path}.strategy", strategy)
            if strategy.name == "python":
                yield f"{path}.strategy", "one in Python is a strategy of all cells, and no event's"
            if set(scenario.memory) != {"conntrack"} and strategy.name not in MAPPINGS:
                yield f"{path}.strategy", "without conntrack it must go by the flow alone"


def _settings(scenario: Scenario) -> Iterator[tuple[str, str]]:
    for field in ("memory", "outputs"):
        values = getattr(scenario, field)
        if len(set(values)) < len(values):
            yield field, "one of them is there twice"
    for name, seconds in scenario.timeouts.items():
        if name not in TIMEOUTS:
            yield f"timeouts.{name}", none_of(name, TIMEOUTS)
        elif not 0 <= seconds <= YEAR:
            yield f"timeouts.{name}", f"{seconds:g} is not from 0 to {YEAR:,} s"
    for place, sweep in enumerate(scenario.sweep):
        path = f"sweep[{place}]"
        if not SWEEP_PATH.fullmatch(sweep.field):
            yield f"{path}.field", f"{sweep.field!r} is no path of a field"
        elif sweep.field.partition("[")[0] in FIXED:
            yield f"{path}.field", f"{sweep.field} cannot be varied"
        elif any(sweep.field == other.field for other in scenario.sweep[:place]):
            yield f"{path}.field", f"{sweep.field} is there twice"
        if len(set(sweep.values)) < len(sweep.values):
            yield f"{path}.values", "a value is there twice"


def _is_prime(number: int) -> bool:
    if number < 4:
        return number > 1
    return number % 2 == 1 and all(number % n for n in range(3, int(number**0.5) + 1, 2))


PROTOCOLS: Final[Mapping[str, str]] = {
    "tcp": "tcp",
    "syn-flood": "tcp",
    "sctp": "sctp",
    "udp": "udp",
    "udp-one-way": "udp",
}
"""Of the kinds of traffic."""
MAX_BACKENDS: Final = 1 << 20
FIXED: Final = frozenset(("name", "question", "expect", "seed", "repeats", "sweep", "outputs"))
"""Fields that are the same in all cells, or name them."""
SWEEP_PATH: Final = re.compile(r"[a-z_]+(\[\d+\])*(\.[a-z_]+(\[\d+\])*)*")
