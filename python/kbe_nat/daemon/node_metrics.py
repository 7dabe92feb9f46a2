"""/metrics: one look at each part of the daemon, as text for Prometheus.

The engine is asked once, for all of its counters. Small families go through `prometheus_client`;
traffic, which may have a hundred thousand lines, through `kbe_nat.metrics.traffic`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from kbe_nat import __version__
from kbe_nat._native import Loop, Stats
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.rows import StatusRow, WatchRow
from kbe_nat.daemon.settings import MetricsBackends
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.datapath.cached import CACHE
from kbe_nat.drivers.native import queue_counters
from kbe_nat.drivers.thread import LoopThread
from kbe_nat.family import Family
from kbe_nat.metrics import catalog
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.metrics.sync import FAMILIES, FAMILY_NAMES, SyncMetrics
from kbe_nat.metrics.traffic import traffic_lines
from kbe_nat.metrics.values import (
    Histogram,
    LabelValues,
    Sample,
    Values,
    histogram_samples,
    samples_of,
)
from kbe_nat.policy.plan import Plan
from kbe_nat.server.health_page import HEALTHZ, LIVEZ, HealthPages
from kbe_nat.sources.watch_state import WatchPhase


@dataclass(frozen=True, slots=True)
class Observed:
    """The parts of a daemon that metrics look at; they are read by any thread."""

    controller: Controller
    reconciler: Reconciler
    liveness: Liveness
    health: HealthPages
    sync: SyncMetrics
    requests: RestMetrics
    status: Callable[[], StatusRow]
    loops: Sequence[LoopThread]
    truncated: Callable[[], int]
    """Packets that queues delivered in part."""
    max_flows: int
    """Of each family."""


class NodeMetrics:
    """The text, made anew for each scrape."""

    def __init__(self, observed: Observed, backends: Callable[[], MetricsBackends]) -> None:
        """`backends` says for what traffic is shown, at each scrape."""
        self._observed = observed
        self._backends = backends
        self._process = ProcessCollector(registry=None)

    def exposition(self) -> tuple[str, bytes]:
        """Media type and text. Cost: linear in the service ports, and where backends are shown in
        these.
        """
        stats = self._observed.controller.engine.stats()
        families = [
            *map(_family_of, self._observed.sync.values()),
            *map(_family_of, self._observed.requests.values()),
            *self._process.collect(),
            *self._daemon_families(),
            *self._packet_families(stats),
        ]
        head = generate_latest(_Families(families))
        lines: Iterator[str] = iter(())
        backends = self._backends()
        if backends is not MetricsBackends.OFF:
            lines = traffic_lines(
                stats.services,
                is_counted=self._observed.controller.datapath.counts_bytes(),
                has_backends=backends is MetricsBackends.BACKEND,
            )
        return CONTENT_TYPE_PLAIN_0_0_4, head + "".join(lines).encode()

    def _daemon_families(self) -> Iterator[Metric]:
        """The daemon, and how its objects are served."""
        observed = self._observed
        status, report, reconciler = (
            observed.status(),
            observed.liveness.report(),
            observed.reconciler,
        )
        plan = observed.controller.plan
        answers = observed.health.answers.copy()
        for metric, path in ((catalog.HEALTHZ_ANSWERS, HEALTHZ), (catalog.LIVEZ_ANSWERS, LIVEZ)):
            yield _family(
                metric,
                {(str(code),): count for (place, code), count in answers.items() if place == path},
            )
        yield _family(catalog.NO_LOCAL_ENDPOINTS, _without_local_endpoints(plan))
        yield _family(catalog.BUILD, {(__version__, status.datapath, status.driver): 1})
        yield _family(catalog.HEALTHY, {(): report.is_healthy})
        yield _family(catalog.ELIGIBLE, {(): reconciler.own_node.is_eligible})
        yield _family(catalog.RULES_CURRENT, {(): status.rules_up_to_date})
        yield _family(catalog.GENERATION, {(): status.generation})
        yield _family(catalog.OBJECTS_AGE, {(): max(0.0, time.time() - report.updated / 1e9)})
        yield _family(catalog.OBJECT_ERRORS, {(): len(status.refused)})
        yield _family(catalog.LOST_FRONTENDS, {(): len(plan.losses)})
        ports = dict.fromkeys(Family, 0)
        endpoints = dict.fromkeys(Family, 0)
        for port in plan.ports:
            ports[port.family] += 1
            endpoints[port.family] += len(port.cluster_backends)
        for metric, counts in ((catalog.SERVICE_PORTS, ports), (catalog.ENDPOINTS, endpoints)):
            yield _family(
                metric, {(FAMILY_NAMES[family],): count for family, count in counts.items()}
            )
        yield _family(catalog.DRAINS, {(): len(status.drains)})
        yield from _watch_families(status.watches)

    def _packet_families(self, stats: Stats) -> Iterator[Metric]:
        """Packets by their fate, and the tables and queues on their way."""
        observed = self._observed
        yield _family(catalog.PACKETS, {(name,): count for name, count in stats.actions.items()})
        yield _family(catalog.CAUSES, {(name,): count for name, count in stats.causes.items()})
        for metric, value in (
            (catalog.FLOWS, stats.flows),
            (catalog.FLOWS_ASSURED, stats.assured),
            (catalog.FLOWS_LIMIT, observed.max_flows * len(Family)),
            (catalog.FLOWS_EXPIRED, stats.expired),
            (catalog.FLOWS_EVICTED, stats.evicted),
            (catalog.AFFINITIES, stats.affinities),
            (catalog.FRAGMENTS, stats.held_fragments),
            (catalog.PORT_LEASES, stats.leased_ports),
            (catalog.PORT_LEASES_MOST, stats.most_leased_ports),
            (catalog.PORT_LEASES_LIMIT, stats.leasable_ports),
            (catalog.QUEUE_TRUNCATED, observed.truncated()),
        ):
            yield _family(metric, {(): value})
        yield from self._queue_families()
        yield from _loop_families([thread.loop for thread in observed.loops])
        counters = observed.controller.counters()
        yield _family(catalog.BACKENDS_WAITING, {(): counters.pop("backends-waiting", 0)})
        if (dropped := counters.pop("invalid-dropped", None)) is not None:
            yield _family(catalog.INVALID_DROPPED, {(): dropped})
        cache = {
            name.removeprefix(CACHE): counters.pop(name)
            for name in list(counters)
            if name.startswith(CACHE)
        }
        yield _family(catalog.DATAPATH_EVENTS, {(name,): count for name, count in counters.items()})
        if cache:
            yield _family(catalog.CACHE_FLOWS, {(): cache.pop("flows")})
            yield _family(catalog.CACHE_DEVICES, {(): cache.pop("devices")})
            yield _family(catalog.CACHE_EVENTS, {(name,): count for name, count in cache.items()})

    def _queue_families(self) -> Iterator[Metric]:
        queues = [queue for queue in queue_counters().values() if queue.number != QUEUE]
        yield _family(catalog.QUEUE_WAITING, {(str(each.number),): each.waiting for each in queues})
        yield _family(catalog.QUEUE_PACKETS, {(str(each.number),): each.packets for each in queues})
        drops: dict[LabelValues, float] = {}
        for queue in queues:
            drops[str(queue.number), "queue-full"] = queue.queue_dropped
            drops[str(queue.number), "socket-full"] = queue.socket_dropped
        yield _family(catalog.QUEUE_DROPS, drops)


def _loop_families(loops: Sequence[Loop]) -> Iterator[Metric]:
    """The packet loops, by their numbers."""
    yield _with_samples(
        catalog.LOOP_BATCHES,
        (
            sample
            for index, loop in enumerate(loops)
            for sample in histogram_samples(
                catalog.LOOP_BATCHES, (str(index),), loop.batch_sizes, loop.packets
            )
        ),
    )
    yield _family(
        catalog.LOOP_PANICS, {(str(index),): loop.panics for index, loop in enumerate(loops)}
    )


def _watch_families(watches: Sequence[WatchRow]) -> Iterator[Metric]:
    """How far the watches of the API server are."""
    now = time.time()
    yield _family(
        catalog.WATCH_STATE,
        {
            (each.resource, str(phase)): each.phase == phase
            for each in watches
            for phase in WatchPhase
        },
    )
    stale: dict[LabelValues, float] = {
        (each.resource,): 0.0 if each.phase == WatchPhase.IN_STEP else max(0.0, now - each.since)
        for each in watches
    }
    yield _family(catalog.WATCH_STALE, stale)
    for metric, field in (
        (catalog.WATCH_OBJECTS, "objects"),
        (catalog.WATCH_LISTS, "lists"),
        (catalog.WATCH_EVENTS, "events"),
        (catalog.WATCH_FAILURES, "failures"),
        (catalog.WATCH_WITHHELD, "withheld"),
    ):
        yield _family(metric, {(each.resource,): getattr(each, field) for each in watches})


class _Families(CollectorRegistry):
    """Families that were collected already, in the form that the encoder takes."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._collected = families

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        return iter(self._collected)


def _family(metric: catalog.Metric, values: Mapping[LabelValues, float]) -> Metric:
    """A family of the catalog with these values."""
    return _with_samples(metric, samples_of(metric, values))


def _family_of(values: Values | Histogram) -> Metric:
    return _with_samples(values.metric, values.samples())


def _with_samples(metric: catalog.Metric, samples: Iterable[Sample]) -> Metric:
    # The encoder puts the ending of counters back.
    is_counter = metric.kind == "counter"
    name = metric.name.removesuffix("_total") if is_counter else metric.name
    family = Metric(name, metric.meaning, metric.kind)
    for text, labels, value in samples:
        family.add_sample(text, labels, value)
    return family


def _without_local_endpoints(plan: Plan) -> Mapping[LabelValues, float]:
    counts: dict[LabelValues, float] = {
        (family, policy): 0 for family in FAMILIES for policy in ("internal", "external")
    }
    for port in plan.ports:
        if port.cluster_backends and not port.local_backends:
            family = FAMILY_NAMES[port.family]
            counts[family, "internal"] += port.is_internal_local
            counts[family, "external"] += port.is_external_local
    return counts
