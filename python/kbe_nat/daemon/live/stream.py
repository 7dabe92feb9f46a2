"""The stream of one page: second by second, the changes of what it shows."""

import json
import re
import time
from collections.abc import Callable, Mapping
from itertools import chain, islice
from typing import Any, Final

import msgspec

from kbe_nat import __version__
from kbe_nat.control.controller import Controller
from kbe_nat.control.overrides import Drain
from kbe_nat.daemon.live.rows import (
    BackendRow,
    DrainingRow,
    Message,
    NodeRow,
    PortDetail,
    PortRow,
)
from kbe_nat.daemon.live.selection import Selection, View
from kbe_nat.daemon.live.traffic import (
    NOTHING,
    Counts,
    Key,
    Rates,
    Traffic,
    counts_of,
    growth,
)
from kbe_nat.daemon.row_building import (
    connect_row,
    decision_row,
    endpoint_rows,
    frontend_text,
    stats_by_port,
    traffic_policy,
)
from kbe_nat.daemon.rows import DecisionRow, EndpointRow, StatusRow, decided
from kbe_nat.errors import ArgumentError
from kbe_nat.model import join_address
from kbe_nat.policy.plan import Plan, PlannedPort
from kbe_nat.sources.watch_state import WatchPhase


class PageStream:
    """A `Subscription` with the view that its page asks for."""

    def __init__(
        self,
        controller: Controller,
        status: Callable[[], StatusRow],
        traffic: Traffic,
        view: View,
        leave: Callable[["PageStream"], None],
    ) -> None:
        """`leave` is called when the page is gone."""
        self._controller = controller
        self._status = status
        self._traffic = traffic
        self._view = view
        self._leave = leave
        self._selection = Selection(view)
        self._sent: dict[str, Any] = {}
        """What the page knows, by field of the message."""
        self._rows: dict[str, PortRow] = {}
        """The rows that it shows."""
        self._open = _OpenPort(traffic)
        self._drains = _Drains(controller, traffic)
        self._decision = 0
        """The newest one that it has been told."""

    def message(self) -> bytes:
        """The changes since the last one. Cost: linear in the service ports."""
        now, plan, traffic = time.monotonic(), self._controller.plan, self._traffic
        traffic.look()
        selection = self._selection
        selection.follow(plan, now)
        keys = selection.first(traffic, now)
        rows = {_text(key): self._row(key) for key in keys}
        changed = [row for key, row in rows.items() if row != self._rows.get(key)]
        self._rows = rows
        detail = self._detail()
        decisions, problem = self._decisions()
        state: dict[str, Any] = {
            "node": self._node(plan),
            "rates": traffic.rates,
            "totals": (len(selection.ports), len(selection.matching)),
            "order": list(rows),
            "detail": detail,
            "is_absent": bool(self._view.service) and detail is None,
            "drains": self._drains.rows(plan),
            "causes": traffic.causes,
            "problem": problem,
        }
        news = {name: value for name, value in state.items() if value != self._sent.get(name)}
        self._sent = state
        message = Message(time=time.time(), ports=changed, decisions=decisions, **news)
        # Names of files may have bytes that are no UTF-8, see `encode_line`.
        return json.dumps(msgspec.to_builtins(message), separators=(",", ":")).encode()

    def close(self) -> None:
        """See `Subscription`."""
        self._leave(self)

    def _node(self, plan: Plan) -> NodeRow:
        status = self._status()
        return NodeRow(
            version=__version__,
            process=str(status.pid),
            # Its seconds are whole, so that the difference would vary.
            started=self._sent["node"].started if self._sent else time.time() - status.seconds,
            node=plan.options.node,
            datapath=status.datapath,
            driver=status.driver,
            rules=status.rules,
            is_counted=self._traffic.is_counted,
            is_serving=bool(status.loops),
            is_current=status.rules_up_to_date,
            errors=status.refused[:ERRORS],
            error_count=len(status.refused),
            watches=[
                (watch.resource, watch.phase, watch.since, watch.reason)
                for watch in status.watches
                if watch.phase != WatchPhase.IN_STEP
            ],
        )

    def _row(self, key: Key) -> PortRow:
        port, traffic = self._selection.ports[key], self._traffic
        counts = traffic.counts.get(key, NOTHING)
        rates = traffic.rates_of(key)
        return PortRow(
            key=_text(key),
            name=port.name,
            protocol=port.protocol,
            family=int(port.family),
            frontends=[frontend_text(frontend) for frontend in port.frontends[:FRONTENDS]],
            frontend_count=len(port.frontends),
            strategy=str(port.strategy),
            backends=len(port.cluster_backends),
            active=counts.active,
            refused_total=counts.refused,
            refused=rates.refused if rates else None,
            is_new=self._selection.is_new(key),
            **_traffic_rates(rates, is_counted=traffic.is_counted),
        )

    def _detail(self) -> PortDetail | None:
        name, _, family = self._view.service.rpartition(" ")
        key = (name, int(family) if family in FAMILIES else 0)
        port = self._selection.ports.get(key)
        return self._open.detail(key, port, self._row(key)) if port else None

    def _decisions(self) -> tuple[list[DecisionRow], str]:
        """The decisions since the last message, and why there are none for this view."""
        view = self._view
        try:
            decisions = self._controller.engine.decisions(
                service=view.service.rpartition(" ")[0] or None,
                client=view.client or None,
                verdict=decided(view.verdict),
                after=self._decision,
                limit=DECISIONS,
            )
        except ArgumentError as error:
            # An address that is half typed.
            return [], str(error)
        if decisions:
            self._decision = decisions[-1].sequence
        return list(map(decision_row, decisions)), ""


class _OpenPort:
    """The service port that is open, with its backends."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._moment = 0.0
        self._seconds = 0.0
        self._counts: Mapping[str, Counts] = {}
        self._before: Mapping[str, Counts] = {}

    def detail(self, key: Key, port: PlannedPort, row: PortRow) -> PortDetail:
        """All about it. Cost: linear in its backends."""
        traffic = self._traffic
        service = traffic.services.get(key)
        if traffic.moment != self._moment:
            self._seconds = traffic.moment - self._moment if self._moment else 0.0
            self._before, self._moment = self._counts, traffic.moment
            self._counts = {
                join_address(backend.address, backend.port): counts_of(backend)
                for backend in (service.backends if service else ())
            }
        stats = stats_by_port([service] if service else [])
        endpoints = sorted(
            endpoint_rows(port, stats, is_counted=traffic.is_counted),
            key=lambda endpoint: (-endpoint.active, _natural(endpoint.backend)),
        )
        return PortDetail(
            row=row,
            frontends=[frontend_text(frontend) for frontend in islice(port.frontends, BACKENDS)],
            affinity_seconds=port.affinity_seconds,
            internal_traffic_policy=traffic_policy(port.is_internal_local),
            external_traffic_policy=traffic_policy(port.is_external_local),
            source_ranges=list(port.source_ranges[:BACKENDS]),
            refused=dict(service.refused) if service else {},
            connect=connect_row(service.connects) if service and service.connects else None,
            backends=list(map(self._backend, endpoints[:BACKENDS])),
            backend_count=len(endpoints),
        )

    def _backend(self, endpoint: EndpointRow) -> BackendRow:
        name, is_counted = endpoint.backend, self._traffic.is_counted
        now = self._counts.get(name, NOTHING)
        rates = growth(self._before.get(name, NOTHING), now, self._seconds)
        return BackendRow(
            backend=name,
            weight=endpoint.weight,
            state=endpoint.state,
            active=endpoint.active,
            flows_total=endpoint.flows,
            connect=endpoint.connect,
            **_traffic_rates(rates, is_counted=is_counted),
        )


class _Drains:
    """The backends that are drained, each in which service ports."""

    def __init__(self, controller: Controller, traffic: Traffic) -> None:
        self._controller = controller
        self._traffic = traffic
        self._places: dict[str, tuple[Key, ...]] = {}
        self._basis: tuple[Plan, tuple[str, ...]] | None = None

    def rows(self, plan: Plan) -> list[DrainingRow]:
        """How far each drain is. Cost: a look at all backends for a new plan or drain; nothing
        without a drain.
        """
        names = tuple(sorted(self._controller.drains))
        if self._basis is None or self._basis[0] is not plan or self._basis[1] != names:
            self._basis = plan, names
            self._places = {name: _places(plan, Drain(name)) for name in names}
        return [
            DrainingRow(name, len(keys), self._active(Drain(name), keys))
            for name, keys in self._places.items()
        ]

    def _active(self, drain: Drain, keys: tuple[Key, ...]) -> int:
        services = filter(None, map(self._traffic.services.get, keys))
        backends = chain.from_iterable(service.backends for service in services)
        return sum(
            backend.active
            for backend in backends
            if drain.backend in (backend.address, join_address(backend.address, backend.port))
        )


def _places(plan: Plan, drain: Drain) -> tuple[Key, ...]:
    return tuple((port.name, int(port.family)) for port in plan.ports if drain.stands_in(port))


def _traffic_rates(rates: Rates | None, *, is_counted: bool) -> dict[str, float | None]:
    """The rates that rows of service ports and of backends have."""
    return {
        "flows": rates.flows if rates else None,
        "packets": rates.packets if rates and is_counted else None,
        "bytes": rates.bytes if rates and is_counted else None,
    }


def _natural(text: str) -> list[str | int]:
    """A key that sorts the numbers in texts as numbers."""
    return [int(part) if part.isdecimal() else part for part in NUMBERS.split(text)]


def _text(key: Key) -> str:
    name, family = key
    return f"{name} {family}"


NUMBERS: Final = re.compile(r"(\d+)")
FAMILIES: Final = ("4", "6")
FRONTENDS: Final = 3
"""In a row of the table."""
BACKENDS: Final = 100
"""Of the service port that is open, and so many of its frontends and source ranges."""
ERRORS: Final = 20
DECISIONS: Final = 50
"""In one message."""
