"""The verbs of the control socket: from a request to rows (`kbe_nat.daemon.rows`)."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from kbe_nat._native import Decision, Flow
from kbe_nat.control.controller import Controller
from kbe_nat.control.overrides import Drain
from kbe_nat.daemon.requests import end_of, parameters
from kbe_nat.daemon.row_building import (
    StatsByPort,
    decision_row,
    endpoint_rows,
    flow_row,
    node_row,
    service_fields,
    slice_row,
    stats_by_port,
    traffic_policy,
)
from kbe_nat.daemon.rows import (
    DecisionAction,
    DecisionRow,
    DescriptionRow,
    DrainRow,
    EndpointRow,
    EventRow,
    FlowRow,
    NameKind,
    NodeRow,
    QueueRow,
    RulesRow,
    ServiceRow,
    SliceRow,
    StatsRow,
    StatusRow,
    decided,
)
from kbe_nat.daemon.selection import Selection
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.drivers.native import queue_counters
from kbe_nat.errors import ControlError, NotFoundError
from kbe_nat.explain import ExplanationRow, device_of, explain_in_plan
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names, dump, form_of, plan_for
from kbe_nat.model import ServiceKey, Strategy, join_address, qualified
from kbe_nat.policy.plan import PlannedPort
from kbe_nat.policy.selector import label_map
from kbe_nat.sources.address import split_address

_T = TypeVar("_T")
Labels: TypeAlias = Mapping[ServiceKey, dict[str, str]]
"""Labels of Services."""


class Verbs:
    """One method per verb. Threads of several clients may run them at once."""

    def __init__(
        self,
        controller: Controller,
        subscribers: Subscribers,
        status: Callable[[], StatusRow],
        truncated: Callable[[], int] = int,
        hand_over: Callable[[], None] = lambda: None,
    ) -> None:
        """`truncated` counts the packets that queues delivered in part; `hand_over` lets the rules
        stay at the daemon's end.
        """
        self._controller = controller
        self._subscribers = subscribers
        self._status = status
        self._truncated = truncated
        self._hand_over = hand_over

    def __call__(self, request: dict[str, Any]) -> Iterator[Any]:
        """The results of a request. Raises `KbeNatError`."""
        verb, arguments = parameters(request)
        yield from getattr(self, verb)(**arguments)

    def status(self) -> Iterator[StatusRow]:
        """How the daemon is."""
        yield self._status()

    def services(self, **selection: Any) -> Iterator[list[ServiceRow]]:  # noqa: ANN401
        """Service ports with their counters, in pages; a selection is that of `Selection`."""
        chosen = self._select(**selection)
        stats, is_counted, labels = self._stats(), self._is_counted(), self._labels()
        yield from _pages(
            ServiceRow(**service_fields(port, stats, is_counted, labels.get(port.service_key, {})))
            for port in chosen.ports()
        )
        chosen.check()

    def endpoints(self, **selection: Any) -> Iterator[list[EndpointRow]]:  # noqa: ANN401
        """Backends of service ports, in pages; also a former one that still has flows."""
        chosen = self._select(**selection)
        stats, is_counted = self._stats(), self._is_counted()
        yield from _pages(
            row for port in chosen.ports() for row in endpoint_rows(port, stats, is_counted)
        )
        chosen.check("endpoints")

    def slices(self, **selection: Any) -> Iterator[list[SliceRow]]:  # noqa: ANN401
        """EndpointSlices in pages, by their own names or those of Services."""
        chosen = self._select(**selection)
        keys = {port.service_key for port in chosen.ports()}
        rows = [
            row
            for key, parts in self._controller.snapshot.slices.items()
            for row in (slice_row(key, part) for part in parts)
            if key in keys or chosen.is_named(f"{row.namespace}/{row.name}")
        ]
        yield from _pages(rows)
        chosen.check("endpointslices", (f"{row.namespace}/{row.name}" for row in rows))

    def nodes(self, names: Sequence[str] = ()) -> Iterator[list[NodeRow]]:
        """Nodes of the cluster, in pages."""
        nodes = self._controller.snapshot.nodes
        yield from _pages(node_row(nodes[name]) for name in names or nodes if name in nodes)
        if missing := [name for name in names if name not in nodes]:
            raise NotFoundError("nodes", *missing)

    def names(self, kind: NameKind) -> Iterator[list[str]]:
        """The names that there are of a kind, in pages, for a shell that completes them."""
        ports = self._controller.plan.ports
        match kind:
            case NameKind.SERVICES:
                names = {f"{port.namespace}/{port.service}" for port in ports}
            case NameKind.PORTS:
                names = {port.name for port in ports}
            case NameKind.BACKENDS:
                names = {
                    str(backend)
                    for port in ports
                    for backend in (*port.cluster_backends, *port.local_backends)
                }
            case NameKind.NODES:
                names = set(self._controller.snapshot.nodes)
            case NameKind.NAMESPACES:
                names = {port.namespace for port in ports}
        yield from _pages(sorted(names))

    def describe(self, **selection: Any) -> Iterator[list[DescriptionRow]]:  # noqa: ANN401
        """Everything about service ports, in pages."""
        chosen = self._select(**selection)
        stats, is_counted, labels = self._stats(), self._is_counted(), self._labels()
        yield from _pages(
            DescriptionRow(
                **service_fields(port, stats, is_counted, labels.get(port.service_key, {})),
                internal_traffic_policy=traffic_policy(port.is_internal_local),
                external_traffic_policy=traffic_policy(port.is_external_local),
                source_ranges=list(port.source_ranges),
                endpoints=list(endpoint_rows(port, stats, is_counted)),
            )
            for port in chosen.ports()
        )
        chosen.check()

    def flows(
        self,
        limit: int | None = None,
        names: Sequence[str] = (),
        namespace: str | None = None,
        selector: str | None = None,
        **filters: Any,  # noqa: ANN401
    ) -> Iterator[list[FlowRow]]:
        """Connections that match, in pages; filters as of `Engine.flows`."""
        selection = self._select(names, namespace, selector)
        self._controller.datapath.refresh()
        look = partial(self._controller.engine.flows, limit=limit, **filters)
        if not selection:
            # Page by page, as they are sent: the kernel is asked about each flow.
            for page in _pages(look()):
                yield self._flow_rows(page)
            return
        flows = list(
            islice((flow for name in selection.port_names() for flow in look(service=name)), limit)
        )
        for page in _pages(flows):
            yield self._flow_rows(page)
        # Behind the last one that was wanted there may be more.
        if len(flows) != limit:
            selection.check(others=_names(flow.service for flow in flows))

    def delete(self, flows: Sequence[tuple[str, str, str]]) -> Iterator[int]:
        """End these connections, each by protocol, client and frontend, as rows have them. Yields
        how many of them were alive.
        """
        ends = [(protocol, end_of(source), end_of(place)) for protocol, source, place in flows]
        yield self._controller.engine.end_flows(ends)

    def flush(self) -> Iterator[int]:
        """End all connections. Yields their number."""
        yield self._controller.engine.delete_flows()

    def events(self, **selection: Any) -> Iterator[EventRow]:  # noqa: ANN401
        """The events of connections, from now on; an empty row now and then, so that the thread
        notices when its client is gone.
        """
        chosen = self._select(**selection)
        chosen.check()
        with self._subscribers.subscribe() as subscription:
            while True:
                batch = subscription.take(HEARTBEAT)
                if chosen:
                    names = set(chosen.port_names())
                    batch = [each for each in batch if each[1].service in names]
                if not batch:
                    yield EventRow()
                over = [flow for kind, flow in batch if kind == ENDED]
                alive = [flow for kind, flow in batch if kind != ENDED]
                ended_rows = iter(self._flow_rows(over, ended=True))
                rows = iter(self._flow_rows(alive, is_event=True))
                for kind, _ in batch:
                    yield EventRow(kind, next(ended_rows if kind == ENDED else rows))

    def decisions(
        self,
        client: str | None = None,
        verdict: DecisionAction | None = None,
        seconds: float | None = None,
        limit: int | None = None,
        is_followed: bool = False,
        **selection: Any,  # noqa: ANN401
    ) -> Iterator[list[DecisionRow]]:
        """The newest decisions about first packets that match, in pages, oldest first. When they
        are followed, new ones come as they are made, and an empty page now and then.
        """
        engine = self._controller.engine
        action = decided(verdict)
        chosen = self._select(**selection)

        def look(**bounds: Any) -> list[Decision]:  # noqa: ANN401
            if not chosen:
                return engine.decisions(client=client, verdict=action, **bounds)
            decisions = [
                decision
                for name in chosen.service_names()
                for decision in engine.decisions(
                    service=name, client=client, verdict=action, **bounds
                )
            ]
            decisions.sort(key=lambda decision: decision.sequence)
            newest = bounds.get("limit")
            return decisions if newest is None else decisions[len(decisions) - newest :]

        since = None if seconds is None else max(0, time.monotonic_ns() - int(seconds * 1e9))
        # Ahead of the list, so that what is decided meanwhile is in the list or comes behind it.
        after = max((newest.sequence for newest in engine.decisions(limit=1)), default=0)
        decisions = look(since=since, limit=limit)
        yield from _pages(map(decision_row, decisions))
        chosen.check(others=_names(decision.service or "" for decision in decisions))
        while True:
            if not is_followed:
                return
            after = max((after, *(decision.sequence for decision in decisions)))
            time.sleep(FOLLOW_SECONDS)
            decisions = look(after=after)
            yield from _pages(map(decision_row, decisions))

    def rules(self) -> Iterator[RulesRow]:
        """The rules in force, as they were given to the kernel."""
        yield RulesRow(self._controller.render())

    def dump(self, form: str | None, names: str, family: str | None = None) -> Iterator[str]:
        """The rules that kube-proxy would have written for what is served; without a form, as in
        its mode.
        """
        controller = self._controller
        options = controller.plan.options
        chosen = Form(form) if form else form_of(options.mode)
        families = None if family is None else FamilyName(family)
        plan = plan_for(controller.snapshot, options, chosen)
        yield dump(plan, controller.snapshot, chosen, Names(names), families)

    def stats(self) -> Iterator[StatsRow]:
        """All counters."""
        stats = self._controller.engine.stats()
        yield StatsRow(
            actions=dict(stats.actions),
            causes=dict(stats.causes),
            entries=stats.flows,
            assured=stats.assured,
            affinities=stats.affinities,
            expired=stats.expired,
            evicted=stats.evicted,
            truncated=self._truncated(),
            leased_ports=stats.leased_ports,
            most_leased_ports=stats.most_leased_ports,
            leasable_ports=stats.leasable_ports,
            kernel=self._controller.counters(),
            uncached_devices=self._controller.datapath.uncached_devices(),
            queues=[
                QueueRow(
                    number=queue.number,
                    waiting=queue.waiting,
                    packets=queue.packets,
                    queue_dropped=queue.queue_dropped,
                    socket_dropped=queue.socket_dropped,
                )
                for queue in queue_counters().values()
                if queue.number != QUEUE
            ],
        )

    def explain(self, packet: str, device: str = "") -> Iterator[ExplanationRow]:
        """The explanation of a packet in hexadecimal that comes in by a device of this name."""
        try:
            content = bytes.fromhex(packet)
        except ValueError:
            raise ControlError("the packet is not hexadecimal") from None
        yield explain_live(self._controller, content, device)

    def strategy(self, service: str, strategy: str | None) -> Iterator[int]:
        """Choose backends in another way; None: as before. Yields the number of ports."""
        if strategy is not None and strategy not in list(Strategy):
            raise ControlError(f"{strategy!r} is no strategy; there are {', '.join(Strategy)}")
        wanted = None if strategy is None else Strategy(strategy)
        yield self._controller.set_strategy(qualified(service), wanted)

    def drain(
        self, backends: Sequence[str], seconds: float | None = None, is_followed: bool = True
    ) -> Iterator[list[DrainRow]]:
        """Give backends, or all those of Services, no new flows, and count the flows that remain
        until there are none: a row for each name, again and again.
        """
        named = {name: self._backends(name) for name in backends}
        if missing := [name for name, meant in named.items() if not self._ports_of(meant)]:
            raise NotFoundError("backends", *missing)
        before = {name: all(map(self._is_drained, meant)) for name, meant in named.items()}
        for each in dict.fromkeys(chain.from_iterable(named.values())):
            self._controller.drain(each, seconds)
        started = time.monotonic()
        while True:
            rows = [
                self._drain_row(name, meant, before[name], time.monotonic() - started)
                for name, meant in named.items()
            ]
            yield rows
            if not is_followed or not any(row.remaining for row in rows):
                return
            time.sleep(1)

    def undrain(self, backends: Sequence[str]) -> Iterator[list[DrainRow]]:
        """Give them new flows again. One that was not drained stays as it is."""
        named = {name: self._backends(name) for name in backends}
        ended = {
            name: sum(map(self._controller.undrain, meant)) > 0 for name, meant in named.items()
        }
        yield [self._drain_row(name, meant, ended[name]) for name, meant in named.items()]

    def _drain_row(
        self, name: str, backends: Sequence[str], was_drained: bool, seconds: float = 0.0
    ) -> DrainRow:
        return DrainRow(
            backend=name,
            ports=len(self._ports_of(backends)),
            remaining=sum(map(self._controller.remaining, backends)),
            seconds=round(seconds, 3),
            unserved=self._controller.unserved(backends),
            was_drained=was_drained,
        )

    def _ports_of(self, backends: Iterable[str]) -> list[PlannedPort]:
        """The service ports in which one of these backends stands. Cost: a look at all backends."""
        drains = [Drain(backend) for backend in backends]
        ports = self._controller.plan.ports
        return [port for port in ports if any(drain.stands_in(port) for drain in drains)]

    def _is_drained(self, backend: str) -> bool:
        """Whether it is drained by itself, or its whole address is."""
        return not {backend, Drain(backend).address}.isdisjoint(self._controller.drains)

    def _backends(self, name: str) -> list[str]:
        """The backend of this address, with or without its port, or those of the Service of this
        name. Raises `NotFoundError`.
        """
        if _is_address(name):
            return [_canonical(name)]
        selection = self._select([name])
        selection.check()
        backends = {
            str(backend)
            for port in selection.ports()
            for backend in (*port.cluster_backends, *port.local_backends)
        }
        if not backends:
            raise NotFoundError("backends", qualified(name))
        return sorted(backends)

    def handover(self) -> Iterator[None]:
        """Leave the rules at the end, for the next daemon."""
        self._hand_over()
        yield None

    def _flow_rows(
        self, flows: Sequence[Flow], *, ended: bool = False, is_event: bool = False
    ) -> list[FlowRow]:
        entries = self._controller.datapath.entries(flows, ended=ended)
        is_counted = self._is_counted()
        return [
            flow_row(flow, entry, is_counted=is_counted, is_event=is_event)
            for flow, entry in zip(flows, entries, strict=True)
        ]

    def _select(
        self,
        names: Sequence[str] = (),
        namespace: str | None = None,
        selector: str | None = None,
    ) -> Selection:
        return Selection(self._controller, names, namespace, selector)

    def _labels(self) -> Labels:
        """The labels of every Service that has any."""
        return {
            service.key: label_map(service.labels)
            for service in self._controller.snapshot.services
            if service.labels
        }

    def _is_counted(self) -> bool:
        """Whether packets and bytes of connections are counted."""
        return self._controller.datapath.counts_bytes()

    def _stats(self) -> StatsByPort:
        self._controller.datapath.refresh()
        return stats_by_port(self._controller.engine.stats().services)


def explain_live(controller: Controller, packet: bytes, device: str = "") -> ExplanationRow:
    """The explanation of a packet that comes in by a device of this name: see `device_of`."""
    interface = device_of(packet, controller.plan, device)
    explanation = controller.engine.explain(
        packet, time.monotonic_ns(), interface=interface, incomplete_checksum=True
    )
    datapath = controller.datapath
    row = explain_in_plan(
        explanation,
        packet,
        controller.snapshot,
        controller.plan,
        [datapath.kind],
        is_chosen_by_kernel=datapath.is_chosen_by_kernel(packet),
    )
    notes = datapath.flow_notes(packet)
    return msgspec.structs.replace(row, steps=[*row.steps, *notes]) if notes else row


def _is_address(name: str) -> bool:
    """Whether a backend is meant, and no Service: their names begin with letters."""
    try:
        split_address(name)
    except ValueError:
        return name[:1].isdigit() or name.startswith("[")
    return True


def _canonical(name: str) -> str:
    """An address, with or without a port, as those of backends are written."""
    try:
        address, port = split_address(name)
    except ValueError:
        return name
    return address if port is None else join_address(address, port)


def _names(ports: Iterable[str]) -> set[str]:
    """The names that mean service ports of these names."""
    return {name for port in ports for name in (port, port.partition(":")[0])}


def _pages(rows: Iterable[_T]) -> Iterator[list[_T]]:
    """The rows in pages, the first of which may be empty. No more than a page is in memory."""
    remaining = iter(rows)
    yield list(islice(remaining, PAGE))
    while page := list(islice(remaining, PAGE)):
        yield page


PAGE: Final = 1000
"""Rows."""
FOLLOW_SECONDS: Final = 0.2
"""Between two looks for new decisions."""
ENDED: Final = "DESTROY"
"""The event of a connection that is over."""
HEARTBEAT: Final = 1.0
"""Seconds between signs of life when nothing happens."""
