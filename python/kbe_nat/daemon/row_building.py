"""Rows of the daemon's answers (`kbe_nat.daemon.rows`), of flows, decisions, plans and counters."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from kbe_nat._native import (
    BackendStats,
    ConnectTimes,
    ConntrackEntry,
    Decision,
    Flow,
    ServiceStats,
)
from kbe_nat.daemon.rows import (
    ConnectRow,
    DecisionAction,
    DecisionRow,
    EndpointRow,
    EntryRow,
    FlowRow,
    FrontendRow,
    NodeRow,
    Pair,
    SliceRow,
)
from kbe_nat.model import EndpointSlice, Node, ServiceKey, join_address
from kbe_nat.policy.plan import CLUSTER_IP, LOAD_BALANCER, NODE_PORT, Frontend, PlannedPort
from kbe_nat.port_rows import optional_port_fields, port_fields

StatsByPort: TypeAlias = dict[tuple[str, int], ServiceStats]
"""The counters of service ports, by name and family."""


def stats_by_port(services: Iterable[ServiceStats]) -> StatsByPort:
    """The counters of these service ports."""
    return {(service.name, service.family): service for service in services}


def flow_row(
    flow: Flow,
    entry: ConntrackEntry | None = None,
    *,
    is_counted: bool = True,
    is_event: bool = False,
) -> FlowRow:
    """A flow as a row. What the kernel's entry says goes ahead of the engine's: it is newer, and
    the kernel chooses the port of a masqueraded flow. With `is_event` the flow is shown as it was
    when something happened to it, and of the entry, which is that of now, counts what stays.
    """
    newest: Flow | ConntrackEntry = flow if is_event or entry is None else entry
    timeout = flow.timeout
    if isinstance(newest, ConntrackEntry) and newest.timeout is not None:
        timeout = newest.timeout
    return FlowRow(
        **port_fields(flow.service),
        protocol=flow.protocol,
        state=newest.state or flow.state,
        timeout=round(timeout),
        age=round(flow.age),
        source=join_address(*flow.source),
        destination=join_address(*flow.destination),
        reply_source=join_address(*flow.reply_source),
        reply_destination=join_address(*(entry or flow).reply_destination),
        assured=newest.assured,
        replied=newest.replied,
        masquerade=flow.masquerade,
        packets=flow.packets if is_counted else None,
        bytes=flow.bytes if is_counted else None,
        kernel=EntryRow(entry.id, entry.mark, entry.uses) if entry else None,
    )


def decision_row(decision: Decision) -> DecisionRow:
    """A decision as a row, with its time by the wall clock of now."""
    ago = time.monotonic_ns() - decision.time
    return DecisionRow(
        **optional_port_fields(decision.service),
        sequence=decision.sequence,
        time=time.time() - ago / 1e9,
        protocol=decision.protocol,
        client=join_address(*decision.client),
        frontend=join_address(*decision.frontend),
        backend=join_address(*decision.backend) if decision.backend else None,
        verdict=DecisionAction(decision.action),
        cause=decision.cause,
        choice=decision.choice,
        generation=decision.generation,
        endpoint_count=decision.endpoint_count,
        endpoints=decision.endpoints(ENDPOINTS),
    )


def service_fields(
    port: PlannedPort, stats: StatsByPort, is_counted: bool, labels: dict[str, str]
) -> dict[str, Any]:
    """The fields of a `ServiceRow`."""
    counters = stats.get((port.name, int(port.family)))
    return {
        **port_fields(port.name),
        "type": service_type(port),
        "cluster_ip": next(
            (each.address for each in port.frontends if each.kind == CLUSTER_IP), None
        ),
        "labels": labels,
        "protocol": port.protocol,
        "family": port.family,
        "frontends": [
            FrontendRow(each.kind, each.address or None, each.port) for each in port.frontends
        ],
        "strategy": str(port.strategy),
        "backends": len(port.cluster_backends),
        "draining": sum(not each.weight for each in port.cluster_backends),
        "affinity_seconds": port.affinity_seconds,
        "refused": dict(counters.refused) if counters else {},
        **_counters(counters, is_counted),
    }


def endpoint_rows(port: PlannedPort, stats: StatsByPort, is_counted: bool) -> Iterator[EndpointRow]:
    """Every backend of a service port; also a former one that still has flows."""
    service = stats.get((port.name, int(port.family)))
    counters = (
        {join_address(backend.address, backend.port): backend for backend in service.backends}
        if service
        else {}
    )
    weights = {
        str(backend): backend.weight for backend in (*port.local_backends, *port.cluster_backends)
    }
    fields = port_fields(port.name)
    lingering = [
        name for name, each in counters.items() if each.is_gone and (each.active or each.over)
    ]
    for name in sorted({*weights, *lingering}):
        state = "gone" if name not in weights else "" if weights[name] else "draining"
        counted = counters.get(name)
        yield EndpointRow(
            **fields,
            backend=name,
            weight=weights.get(name, 0),
            state=state,
            over=counted.over if counted else 0,
            inactive=counted.inactive if counted else 0,
            **_counters(counted, is_counted),
        )


def service_type(port: PlannedPort) -> str:
    """The type that a Service with these frontends has."""
    kinds = {frontend.kind for frontend in port.frontends}
    if LOAD_BALANCER in kinds:
        return "LoadBalancer"
    return "NodePort" if NODE_PORT in kinds else "ClusterIP"


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


def slice_row(key: ServiceKey, part: EndpointSlice) -> SliceRow:
    """An EndpointSlice of a Service."""
    return SliceRow(
        namespace=key[0],
        name=part.name,
        service="/".join(key),
        family=part.family,
        ports=[f"{port.port}/{port.protocol}" for port in part.ports],
        endpoints=[endpoint.address for endpoint in part.endpoints],
        ready=sum(endpoint.is_ready for endpoint in part.endpoints),
    )


def node_row(node: Node) -> NodeRow:
    """A Node."""
    return NodeRow(
        name=node.name,
        addresses=list(node.addresses),
        zone=node.zone or None,
        pod_ranges=list(node.pod_ranges),
        is_eligible=node.is_eligible,
    )


def traffic_policy(is_local: bool) -> str:
    """The value of a traffic policy's field."""
    return "Local" if is_local else "Cluster"


def frontend_text(frontend: Frontend) -> str:
    """Kind and place of a frontend."""
    address, port = frontend.address, frontend.port
    return f"{frontend.kind} {join_address(address, port) if address else f'*:{port}'}"


ENDPOINTS: Final = 64
"""In the row of a decision."""
