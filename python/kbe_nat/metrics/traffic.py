"""The traffic of service ports and backends as text for Prometheus.

There may be a hundred thousand lines, of which a general encoder would make half a second's work.
So the lines are joined here: labels are written once for each service port, and a family is one
pass over them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

from kbe_nat._native import BackendStats, ConnectTimes, ServiceStats
from kbe_nat.metrics import catalog
from kbe_nat.metrics.catalog import Metric
from kbe_nat.metrics.values import bound_text
from kbe_nat.model import join_address

Counted: TypeAlias = ServiceStats | BackendStats
Row: TypeAlias = tuple[str, tuple[int, int], tuple[int, int], tuple[int, int]]
"""Labels, flows now and so far, packets and bytes, each in to backends and out from them."""


def traffic_lines(
    services: Sequence[ServiceStats], *, is_counted: bool, has_backends: bool
) -> Iterator[str]:
    """The lines of all families, each with its newline. `is_counted` says whether packets and bytes
    are. Cost: linear in the service ports, and with `has_backends` in their backends.
    """
    labels = [service_labels(service) for service in services]
    rows = [_row(text, service) for text, service in zip(labels, services, strict=True)]
    yield from _families(
        rows,
        (catalog.SERVICE_ACTIVE, catalog.SERVICE_FLOWS),
        (catalog.SERVICE_PACKETS, catalog.SERVICE_BYTES),
        is_counted=is_counted,
    )
    yield from _head(catalog.SERVICE_CONNECTS)
    for text, service in zip(labels, services, strict=True):
        if connects := service.connects:
            yield _histogram(text, connects)
    yield from _head(catalog.SERVICE_REFUSED)
    name = catalog.SERVICE_REFUSED.name
    for text, service in zip(labels, services, strict=True):
        for cause, count in service.refused.items():
            yield f'{name}{{{text},cause="{cause}"}} {count}\n'
    if has_backends:
        backends = [
            (f'{text},backend="{join_address(backend.address, backend.port)}"', backend)
            for text, service in zip(labels, services, strict=True)
            for backend in _by_address(service)
        ]
        yield from _families(
            [_row(*each) for each in backends],
            (catalog.BACKEND_ACTIVE, catalog.BACKEND_FLOWS),
            (catalog.BACKEND_PACKETS, catalog.BACKEND_BYTES),
            is_counted=is_counted,
        )
        yield from _head(catalog.BACKEND_CONNECTS)
        for text, backend in backends:
            if connects := backend.connects:
                yield _sum_and_count(catalog.BACKEND_CONNECTS.name, text, connects)


def service_labels(service: ServiceStats) -> str:
    """The labels of a service port, without braces."""
    namespace, _, name = service.name.partition("/")
    name, _, port = name.partition(":")
    return (
        f'namespace="{escape(namespace)}",service="{escape(name)}",port="{escape(port)}",'
        f'ip_family="IPv{service.family}"'
    )


def escape(text: str) -> str:
    """The value of a label as the text format has it."""
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text


def _by_address(service: ServiceStats) -> Iterable[BackendStats]:
    """Its backends. Of one that came back while its former flows went on there are two; the one
    that serves counts, since a series may stand only once.
    """
    backends: dict[tuple[str, int], BackendStats] = {}
    for backend in service.backends:
        backends.setdefault((backend.address, backend.port), backend)
    return backends.values()


def _row(labels: str, stats: Counted) -> Row:
    return labels, (stats.active, stats.flows), stats.packets, stats.bytes


def _families(
    rows: list[Row],
    flows: tuple[Metric, Metric],
    traffic: tuple[Metric, Metric],
    *,
    is_counted: bool,
) -> Iterator[str]:
    for index, metric in enumerate(flows):
        yield from _head(metric)
        name = metric.name
        yield "".join([f"{name}{{{row[0]}}} {row[1][index]}\n" for row in rows])
    for metric, column in zip(traffic, (2, 3), strict=True) if is_counted else ():
        yield from _head(metric)
        write = _pair_writer(metric.name)
        yield "".join([write(row[0], row[column]) for row in rows])  # type: ignore[arg-type]


def _pair_writer(name: str) -> Callable[[str, tuple[int, int]], str]:
    def write(labels: str, pair: tuple[int, int]) -> str:
        inward, outward = pair
        return (
            f'{name}{{{labels},direction="in"}} {inward}\n'
            f'{name}{{{labels},direction="out"}} {outward}\n'
        )

    return write


def _histogram(labels: str, connects: ConnectTimes) -> str:
    buckets = BUCKETS % tuple(accumulate(connects.counts))
    # Behind the numbers, since labels may have any sign.
    return buckets.replace(LABELS, labels) + _sum_and_count(
        catalog.SERVICE_CONNECTS.name, labels, connects
    )


def _sum_and_count(name: str, labels: str, connects: ConnectTimes) -> str:
    seconds, count = connects.seconds, connects.count
    return f"{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {count}\n"


def _head(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.meaning}\n# TYPE {metric.name} {metric.kind}\n"


LABELS: Final = "\0"
BUCKETS: Final = "".join(
    f'{catalog.SERVICE_CONNECTS.name}_bucket{{{LABELS},le="{bound}"}} %d\n'
    for bound in (*map(bound_text, catalog.SERVICE_CONNECTS.buckets), "+Inf")
)
"""The lines of one histogram, with places for the labels and the numbers."""
