"""What the daemon says when it is asked: rows of plain values, whose tables `kbe_nat.cli` draws."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeAlias

from kbe_nat._native import Explanation, Flow, ServiceStats
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.requests import parameters
from kbe_nat.daemon.singleton import QUEUE
from kbe_nat.daemon.subscribers import Watchers
from kbe_nat.drivers.native import queue_counters
from kbe_nat.errors import ControlError
from kbe_nat.family import Family
from kbe_nat.kubeproxy.chains import chains
from kbe_nat.kubeproxy.dump import FamilyName, Form, Names, dump, form_of, plan_for
from kbe_nat.model import Snapshot, Strategy, join_address
from kbe_nat.policy.endpoints import exclusions
from kbe_nat.policy.plan import CLUSTER_IP, Plan, PlannedPort
from kbe_nat.rules.rule import DatapathKind

Row = dict[str, Any]
Counted: TypeAlias = dict[tuple[str, int], ServiceStats]
"""What service ports carry, by name and family."""


class Answers:
    """The verbs of the control socket, one method each."""

    def __init__(
        self,
        controller: Controller,
        watchers: Watchers,
        status: Callable[[], Row],
        truncated: Callable[[], int] = int,
    ) -> None:
        """`truncated` counts the packets that came to queues in part."""
        self._truncated = truncated
        self._controller = controller
        self._watchers = watchers
        self._status = status

    def __call__(self, request: Row) -> Iterator[Any]:
        """The results of a request. Raises `KbeNatError`."""
        verb, given = parameters(request)
        yield from getattr(self, verb)(**given)

    def status(self) -> Iterator[Row]:
        """How the daemon is."""
        yield self._status()

    def services(self) -> Iterator[list[Row]]:
        """Every service port with what it carries, in pages."""
        counted = self._counted()
        yield from self._pages(_service(port, counted) for port in self._controller.plan.ports)

    def endpoints(self) -> Iterator[list[Row]]:
        """Every backend of every service port, also those that are gone but have flows, in pages."""
        counted = self._counted()
        ports = self._controller.plan.ports
        yield from self._pages(row for port in ports for row in _endpoints(port, counted))

    def describe(self, service: str) -> Iterator[list[Row]]:
        """All that is known of the ports of a service, in pages."""
        names = frozenset(self._controller.ports(service))
        counted = self._counted()
        yield from self._pages(
            _service(port, counted)
            | {
                "internal_traffic_policy": "Local" if port.is_internal_local else "Cluster",
                "external_traffic_policy": "Local" if port.is_external_local else "Cluster",
                "source_ranges": list(port.source_ranges),
                "endpoints": self._counted_by_the_kernel(list(_endpoints(port, counted))),
            }
            for port in self._controller.plan.ports
            if port.name in names
        )

    def flows(self, limit: int | None = None, **filters: str | None) -> Iterator[list[Row]]:
        """Connections that match, in pages; filters as of `Engine.flows`."""
        self._controller.datapath.refresh()
        flows = self._controller.engine.flows(limit=limit, **filters)
        yield from self._pages(map(flow_row, flows))

    def delete(self, **filters: str | None) -> Iterator[int]:
        """End the connections that match, and say how many."""
        yield self._controller.engine.delete_flows(**filters)

    def events(self) -> Iterator[Row]:
        """What happens to connections, from now on; an empty row now and then, so that a reader who
        is gone is noticed.
        """
        with self._watchers.watching() as inbox:
            while True:
                batch = inbox.take(HEARTBEAT)
                if not batch:
                    yield {}
                for kind, flow in batch:
                    [row] = self._counted_by_the_kernel([flow_row(flow)])
                    yield {"event": kind, "flow": row}

    def rules(self) -> Iterator[str]:
        """The rules in force, as they were given to the kernel."""
        yield self._controller.render()

    def dump(self, form: str | None, names: str, family: str | None = None) -> Iterator[str]:
        """The rules that kube-proxy would have written for what is served; without a form, as in
        its mode.
        """
        controller = self._controller
        options = controller.plan.options
        own = Form(form) if form else form_of(options.mode)
        wanted = None if family is None else FamilyName(family)
        made = plan_for(controller.snapshot, options, own)
        yield dump(made, controller.snapshot, own, Names(names), wanted)

    def stats(self) -> Iterator[Row]:
        """All counters."""
        stats = self._controller.engine.stats()
        yield {
            "actions": dict(stats.actions),
            "causes": dict(stats.causes),
            "flows": stats.flows,
            "assured": stats.assured,
            "affinities": stats.affinities,
            "expired": stats.expired,
            "evicted": stats.evicted,
            "truncated": self._truncated(),
            "kernel": self._controller.datapath.counters(),
            "queues": [
                {
                    "number": own.number,
                    "waiting": own.waiting,
                    "packets": own.packets,
                    "queue_dropped": own.queue_dropped,
                    "socket_dropped": own.socket_dropped,
                }
                for own in queue_counters().values()
                if own.number != QUEUE
            ],
        }

    def explain(self, packet: str, interface: int = 0) -> Iterator[Row]:
        """What would become of a packet, given in hexadecimal, and why."""
        try:
            content = bytes.fromhex(packet)
        except ValueError:
            raise ControlError("the packet is not hexadecimal") from None
        found = self._controller.engine.explain(
            content, time.monotonic_ns(), interface=interface, incomplete_checksum=True
        )
        plan, number = (
            self._controller.plan,
            Family.IPV6 if content[:1] and content[0] >> 4 == 6 else Family.IPV4,
        )
        port = next(
            (own for own in plan.ports if (own.name, own.family) == (found.service, number)), None
        )
        row = explanation_row(found) | context(self._controller.snapshot, plan, port, found)
        yield row | {"kernel": consequences(row, [self._controller.datapath.way])}

    def strategy(self, service: str, strategy: str) -> Iterator[int]:
        """Choose backends in another way."""
        if strategy not in list(Strategy):
            raise ControlError(f"{strategy!r} is no strategy; there are {', '.join(Strategy)}")
        yield self._controller.set_strategy(service, Strategy(strategy))

    def drain(
        self, backend: str, seconds: float | None = None, is_followed: bool = True
    ) -> Iterator[Row]:
        """Give a backend no new flows, and count those that are left until there are none."""
        ports = self._controller.drain(backend, seconds)
        started = time.monotonic()
        while True:
            left = self._controller.remaining(backend)
            yield {
                "backend": backend,
                "ports": ports,
                "left": left,
                "seconds": time.monotonic() - started,
            }
            if not left or not is_followed:
                return
            time.sleep(1)

    def undrain(self, backend: str) -> Iterator[None]:
        """Give it new flows again."""
        self._controller.undrain(backend)
        yield None

    def _pages(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """The rows in pages, the first of which may be empty. No more than a page is in memory."""
        remaining = iter(rows)
        yield self._counted_by_the_kernel(list(islice(remaining, PAGE)))
        while page := list(islice(remaining, PAGE)):
            yield self._counted_by_the_kernel(page)

    def _counted_by_the_kernel(self, rows: list[Row]) -> list[Row]:
        """The rows, without packets and bytes where nobody counts them."""
        if not self._controller.datapath.counts_bytes():
            for row in rows:
                row["packets"] = row["bytes"] = None
        return rows

    def _counted(self) -> Counted:
        self._controller.datapath.refresh()
        return {
            (service.name, service.family): service
            for service in self._controller.engine.stats().services
        }


def _service(port: PlannedPort, counted: Counted) -> Row:
    own = counted.get((port.name, port.family))
    return {
        "name": port.name,
        "protocol": port.protocol,
        "family": port.family,
        "frontends": [_frontend(kind.kind, kind.address, kind.port) for kind in port.frontends],
        "strategy": str(port.strategy),
        "backends": len(port.cluster_backends),
        "affinity_seconds": port.affinity_seconds,
        "active": own.active if own else 0,
        "flows": own.flows if own else 0,
        "packets": list(own.packets) if own else [0, 0],
        "bytes": list(own.bytes) if own else [0, 0],
        "refused": dict(own.refused) if own else {},
    }


def _endpoints(port: PlannedPort, counted: Counted) -> Iterator[Row]:
    service = counted.get((port.name, port.family))
    backends = (
        {join_address(own.address, own.port): own for own in service.backends} if service else {}
    )
    weights = {str(own): own.weight for own in (*port.local_backends, *port.cluster_backends)}
    gone = [target for target, own in backends.items() if own.is_gone and own.active]
    for target in sorted({*weights, *gone}):
        own = backends.get(target)
        yield {
            "service": port.name,
            "backend": target,
            "weight": weights.get(target, 0),
            "state": "gone" if target not in weights else "" if weights[target] else "draining",
            "active": own.active if own else 0,
            "flows": own.flows if own else 0,
            "packets": list(own.packets) if own else [0, 0],
            "bytes": list(own.bytes) if own else [0, 0],
        }


def explanation_row(explanation: Explanation) -> Row:
    """Why a packet gets its verdict, as plain values."""
    return {
        "action": explanation.action,
        "cause": explanation.cause,
        "service": explanation.service,
        "frontend": explanation.frontend,
        "scope": explanation.scope,
        "backend": explanation.backend,
        "candidates": explanation.candidates,
        "refused": [list(own) for own in explanation.refused],
        "masquerade": explanation.masquerade,
        "masqueraded": explanation.masqueraded,
        "steps": [list(step) for step in explanation.steps],
    }


def context(
    snapshot: Snapshot, plan: Plan, port: PlannedPort | None, explanation: Explanation
) -> Row:
    """What policy adds to the engine's reasons: endpoints of the service port that may not serve,
    and kube-proxy's chains.
    """
    if port is None or explanation.frontend is None:
        return {"excluded": [], "chains": []}
    scope, mode = explanation.scope, plan.options.mode
    # What is refused was looked for where its policy said.
    is_internal = explanation.frontend == CLUSTER_IP
    policy_is_local = port.is_internal_local if is_internal else port.is_external_local
    is_local = policy_is_local if scope is None else scope == "local"
    excluded = exclusions(snapshot, port, plan.options, is_local=is_local)
    return {
        "excluded": [list(pair) for pair in sorted(excluded.items())],
        "chains": chains(port, explanation.frontend, scope, explanation.backend, mode),
    }


def flow_row(flow: Flow) -> Row:
    """A flow as plain values."""
    return {
        "protocol": flow.protocol,
        "state": flow.state,
        "timeout": round(flow.timeout),
        "age": round(flow.age),
        "source": list(flow.source),
        "destination": list(flow.destination),
        "reply_source": list(flow.reply_source),
        "reply_destination": list(flow.reply_destination),
        "service": flow.service,
        "assured": flow.assured,
        "replied": flow.replied,
        "masquerade": flow.masquerade,
        "packets": list(flow.packets),
        "bytes": list(flow.bytes),
    }


def consequences(explanation: Row, ways: Iterable[DatapathKind] = DatapathKind) -> dict[str, str]:
    """What the kernel does with the verdict of an explanation, by datapath."""
    action = explanation["action"]
    masquerade = (
        "; the source is masqueraded, by another bit of the mark"
        if explanation["masquerade"]
        else ""
    )
    return {
        str(way): (KERNEL.get((action, way)) or KERNEL_EITHER[action]) + masquerade for way in ways
    }


def _frontend(kind: str, address: str, port: int) -> str:
    return f"{kind} {join_address(address, port) if address else f'*:{port}'}"


KERNEL: Final = {
    (
        "translate",
        DatapathKind.EVERY_PACKET,
    ): "it gets this packet back with new addresses, and every later one likewise",
    (
        "translate",
        DatapathKind.FIRST_PACKET,
    ): "it translates the connection by the backend's number in the packet's mark, "
    "and carries all later packets by itself",
    (
        "accept",
        DatapathKind.FIRST_PACKET,
    ): "it lets the packet go on as it is, and does not choose by itself",
}
KERNEL_EITHER: Final = {
    "accept": "it lets the packet go on as it is",
    "reject": "a rule answers for it, by the packet's mark: ICMP port unreachable, or a RST if so asked",
    "drop": "it forgets the packet",
    "hold": "it keeps the packet until the verdict on its first fragment",
}
PAGE: Final = 1000
"""Rows."""
HEARTBEAT: Final = 1.0
"""Seconds between signs of life when nothing happens."""
