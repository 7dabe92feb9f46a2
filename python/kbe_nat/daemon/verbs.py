"""The verbs of the control socket: from a request to rows (`kbe_nat.daemon.rows`)."""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

from kbe_nat._native import BackendStats, ConnectTimes, Decision, Flow, ServiceStats
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.requests import parameters
from kbe_nat.daemon.rows import (
    ConnectRow,
    DecisionAction,
    DecisionRow,
    DescriptionRow,
    DrainRow,
    EndpointRow,
    EventRow,
    FlowRow,
    Pair,
    QueueRow,
    ServiceRow,
    StatsRow,
    StatusRow,
)
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.daemon.subscribers import Subscribers
from kbe_nat.drivers.native import queue_counters
from kbe_nat.errors import ControlError
from kbe_nat.explain import ExplanationRow, explain_in_plan
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names, dump, form_of, plan_for
from kbe_nat.model import Strategy, join_address
from kbe_nat.policy.plan import Frontend, PlannedPort

_T = TypeVar("_T")
StatsByPort: TypeAlias = dict[tuple[str, int], ServiceStats]
"""Counters of service ports, by name and family."""


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

    def services(self) -> Iterator[list[ServiceRow]]:
        """Every service port with its counters, in pages."""
        stats, is_counted = self._stats(), self._is_counted()
        ports = self._controller.plan.ports
        yield from _pages(ServiceRow(**_service(port, stats, is_counted)) for port in ports)

    def endpoints(self) -> Iterator[list[EndpointRow]]:
        """Every backend of every service port, in pages; also a former one that still has flows."""
        stats, is_counted = self._stats(), self._is_counted()
        ports = self._controller.plan.ports
        yield from _pages(row for port in ports for row in endpoint_rows(port, stats, is_counted))

    def describe(self, service: str) -> Iterator[list[DescriptionRow]]:
        """Everything about the ports of a service, in pages."""
        names = frozenset(self._controller.ports(service))
        stats, is_counted = self._stats(), self._is_counted()
        yield from _pages(
            DescriptionRow(
                **_service(port, stats, is_counted),
                internal_traffic_policy=traffic_policy(port.is_internal_local),
                external_traffic_policy=traffic_policy(port.is_external_local),
                source_ranges=list(port.source_ranges),
                endpoints=list(endpoint_rows(port, stats, is_counted)),
            )
            for port in self._controller.plan.ports
            if port.name in names
        )

    def flows(self, limit: int | None = None, **filters: str | None) -> Iterator[list[FlowRow]]:
        """Connections that match, in pages; filters as of `Engine.flows`."""
        self._controller.datapath.refresh()
        flows = self._controller.engine.flows(limit=limit, **filters)
        is_counted = self._is_counted()
        yield from _pages(flow_row(flow, is_counted=is_counted) for flow in flows)

    def delete(self, **filters: str | None) -> Iterator[int]:
        """End the connections that match. Yields their number."""
        yield self._controller.engine.delete_flows(**filters)

    def events(self) -> Iterator[EventRow]:
        """The events of connections, from now on; an empty row now and then, so that the thread
        notices when its client is gone.
        """
        with self._subscribers.subscribe() as subscription:
            while True:
                batch = subscription.take(HEARTBEAT)
                if not batch:
                    yield EventRow()
                for kind, flow in batch:
                    yield EventRow(kind, flow_row(flow, is_counted=self._is_counted()))

    def decisions(
        self,
        service: str | None = None,
        client: str | None = None,
        verdict: DecisionAction | None = None,
        seconds: float | None = None,
        limit: int | None = None,
        is_followed: bool = False,
    ) -> Iterator[list[DecisionRow]]:
        """The newest decisions about first packets that match, in pages, oldest first. When they
        are followed, new ones come as they are made, and an empty page now and then.
        """
        engine = self._controller.engine
        look = partial(engine.decisions, service=service, client=client, verdict=verdict)
        since = None if seconds is None else max(0, time.monotonic_ns() - int(seconds * 1e9))
        # Ahead of the list, so that what is decided meanwhile is in the list or comes behind it.
        after = max((newest.sequence for newest in engine.decisions(limit=1)), default=0)
        decisions = look(since=since, limit=limit)
        while True:
            yield from _pages(map(decision_row, decisions))
            if not is_followed:
                return
            after = max((after, *(decision.sequence for decision in decisions)))
            time.sleep(FOLLOW_SECONDS)
            decisions = look(after=after)

    def rules(self) -> Iterator[str]:
        """The rules in force, as they were given to the kernel."""
        yield self._controller.render()

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
            flows=stats.flows,
            assured=stats.assured,
            affinities=stats.affinities,
            expired=stats.expired,
            evicted=stats.evicted,
            truncated=self._truncated(),
            leased_ports=stats.leased_ports,
            most_leased_ports=stats.most_leased_ports,
            leasable_ports=stats.leasable_ports,
            kernel=self._controller.datapath.counters(),
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

    def explain(self, packet: str, interface: int = 0) -> Iterator[ExplanationRow]:
        """The explanation of a packet, which comes in hexadecimal."""
        try:
            content = bytes.fromhex(packet)
        except ValueError:
            raise ControlError("the packet is not hexadecimal") from None
        yield explain_live(self._controller, content, interface)

    def strategy(self, service: str, strategy: str) -> Iterator[int]:
        """Choose backends in another way. Yields the number of service ports."""
        if strategy not in list(Strategy):
            raise ControlError(f"{strategy!r} is no strategy; there are {', '.join(Strategy)}")
        yield self._controller.set_strategy(service, Strategy(strategy))

    def drain(
        self, backend: str, seconds: float | None = None, is_followed: bool = True
    ) -> Iterator[DrainRow]:
        """Give a backend no new flows, and count those that remain until there are none."""
        ports = self._controller.drain(backend, seconds)
        started = time.monotonic()
        while True:
            remaining = self._controller.remaining(backend)
            yield DrainRow(
                backend=backend,
                ports=ports,
                remaining=remaining,
                seconds=time.monotonic() - started,
            )
            if not remaining or not is_followed:
                return
            time.sleep(1)

    def undrain(self, backend: str) -> Iterator[None]:
        """Give it new flows again."""
        self._controller.undrain(backend)
        yield None

    def handover(self) -> Iterator[None]:
        """Leave the rules at the end, for the next daemon."""
        self._hand_over()
        yield None

    def _is_counted(self) -> bool:
        """Whether packets and bytes of connections are counted."""
        return self._controller.datapath.counts_bytes()

    def _stats(self) -> StatsByPort:
        self._controller.datapath.refresh()
        return {
            (service.name, service.family): service
            for service in self._controller.engine.stats().services
        }


def explain_live(controller: Controller, packet: bytes, interface: int) -> ExplanationRow:
    """The explanation of a packet that comes in by a device, by its number."""
    explanation = controller.engine.explain(
        packet, time.monotonic_ns(), interface=interface, incomplete_checksum=True
    )
    kinds = [controller.datapath.kind]
    return explain_in_plan(explanation, packet, controller.snapshot, controller.plan, kinds)


def flow_row(flow: Flow, *, is_counted: bool = True) -> FlowRow:
    """A flow as a row."""
    return FlowRow(
        protocol=flow.protocol,
        state=flow.state,
        timeout=round(flow.timeout),
        age=round(flow.age),
        source=flow.source,
        destination=flow.destination,
        reply_source=flow.reply_source,
        reply_destination=flow.reply_destination,
        service=flow.service,
        assured=flow.assured,
        replied=flow.replied,
        masquerade=flow.masquerade,
        packets=flow.packets if is_counted else None,
        bytes=flow.bytes if is_counted else None,
    )


def decision_row(decision: Decision) -> DecisionRow:
    """A decision as a row, with its time by the wall clock of now."""
    ago = time.monotonic_ns() - decision.time
    return DecisionRow(
        sequence=decision.sequence,
        time=time.time() - ago / 1e9,
        protocol=decision.protocol,
        client=decision.client,
        frontend=decision.frontend,
        service=decision.service,
        backend=decision.backend,
        verdict=DecisionAction(decision.action),
        cause=decision.cause,
        choice=decision.choice,
        generation=decision.generation,
        endpoint_count=decision.endpoint_count,
        endpoints=decision.endpoints(ENDPOINTS),
    )


def _pages(rows: Iterable[_T]) -> Iterator[list[_T]]:
    """The rows in pages, the first of which may be empty. No more than a page is in memory."""
    remaining = iter(rows)
    yield list(islice(remaining, PAGE))
    while page := list(islice(remaining, PAGE)):
        yield page


def _service(port: PlannedPort, stats: StatsByPort, is_counted: bool) -> dict[str, Any]:
    """The fields of a `ServiceRow`."""
    counters = stats.get((port.name, port.family))
    return {
        "name": port.name,
        "protocol": port.protocol,
        "family": port.family,
        "frontends": list(map(frontend_text, port.frontends)),
        "strategy": str(port.strategy),
        "backends": len(port.cluster_backends),
        "affinity_seconds": port.affinity_seconds,
        "refused": dict(counters.refused) if counters else {},
        **_counters(counters, is_counted),
    }


def endpoint_rows(port: PlannedPort, stats: StatsByPort, is_counted: bool) -> Iterator[EndpointRow]:
    """Every backend of a service port; also a former one that still has flows."""
    service = stats.get((port.name, port.family))
    counters = (
        {join_address(backend.address, backend.port): backend for backend in service.backends}
        if service
        else {}
    )
    weights = {
        str(backend): backend.weight for backend in (*port.local_backends, *port.cluster_backends)
    }
    lingering = [name for name, each in counters.items() if each.is_gone and each.active]
    for name in sorted({*weights, *lingering}):
        state = "gone" if name not in weights else "" if weights[name] else "draining"
        yield EndpointRow(
            service=port.name,
            backend=name,
            weight=weights.get(name, 0),
            state=state,
            **_counters(counters.get(name), is_counted),
        )


def _counters(stats: ServiceStats | BackendStats | None, is_counted: bool) -> dict[str, Any]:
    """The counters that rows of services and of endpoints have."""
    zero: Pair = (0, 0)
    return {
        "active": stats.active if stats else 0,
        "flows": stats.flows if stats else 0,
        "packets": (stats.packets if stats else zero) if is_counted else None,
        "bytes": (stats.bytes if stats else zero) if is_counted else None,
        "connect": connect_row(stats.connects) if stats and stats.connects else None,
    }


def connect_row(times: ConnectTimes) -> ConnectRow:
    """The connect times of a service port or backend."""
    p50, p99 = times.quantile(0.5) or 0.0, times.quantile(0.99) or 0.0
    return ConnectRow(count=times.count, seconds=times.seconds, p50=p50, p99=p99)


def traffic_policy(is_local: bool) -> str:
    """The value of a traffic policy's field."""
    return "Local" if is_local else "Cluster"


def frontend_text(frontend: Frontend) -> str:
    """Kind and place of a frontend."""
    address, port = frontend.address, frontend.port
    return f"{frontend.kind} {join_address(address, port) if address else f'*:{port}'}"


PAGE: Final = 1000
"""Rows."""
ENDPOINTS: Final = 64
"""In the row of a decision."""
FOLLOW_SECONDS: Final = 0.2
"""Between two looks for new decisions."""
HEARTBEAT: Final = 1.0
"""Seconds between signs of life when nothing happens."""
