"""Load balancers ask at a Service's `healthCheckNodePort` whether this node has endpoints of it.

The answers are those of pkg/proxy/healthcheck/service_health.go: 200 when the node has endpoints
and the proxy is healthy, else 503; any path and any method will do.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.model import join_address
from kbe_nat.policy.delta import PlanDelta
from kbe_nat.policy.plan import HealthCheck, Plan
from kbe_nat.server.answer import Answer
from kbe_nat.server.on_demand import ThreadOnDemand

if TYPE_CHECKING:
    from asyncio import Server

LOG: Final = logging.getLogger("kbe_nat.daemon")
SocketAddress: TypeAlias = tuple[str, int]
"""Address and port."""


class HealthCheckPorts:
    """One socket for each port and address of the plan, in the network namespace of this process;
    one thread answers at all of them.
    """

    def __init__(
        self,
        is_healthy: Callable[[], bool] = lambda: True,
        thread: ThreadOnDemand | None = None,
        on_failure: Callable[[HealthCheck, str], None] | None = None,
    ) -> None:
        """`is_healthy` says whether the kernel has what the objects want; it is called in another
        thread. `thread` answers, which other servers may share. `on_failure` is told of a check
        that cannot be answered, and why.
        """
        self._is_healthy = is_healthy
        self._thread = thread or ThreadOnDemand()
        self._on_failure = on_failure
        self._addresses: tuple[str, ...] = ()
        """Where load balancers ask."""
        self._checks: dict[int, tuple[HealthCheck, ...]] = {}
        """Checks by port: one, if the API server has allocated the port."""
        self._servers: dict[SocketAddress, Server] = {}
        self._failures: dict[SocketAddress, str] = {}
        self._lock = threading.RLock()
        """Held while sockets change; answers read without it."""

    def apply(self, delta: PlanDelta) -> None:
        """See `PlanConsumer`: answers for the Services of this plan, and no others, on the
        addresses that serve node ports. A port that is taken is logged once; `retry` tries it
        again.
        """
        with self._lock:
            if _addresses(delta.plan) != self._addresses:
                self.rebuild(delta.plan)
                return
            for before, after in delta.health:
                if before is not None:
                    self._remove(before)
                if after is not None:
                    _add(self._checks, after)
            checks = [check for pair in delta.health for check in pair if check is not None]
            self._settle((address, check.port) for check in checks for address in self._addresses)

    def rebuild(self, plan: Plan) -> None:
        """See `PlanConsumer`, and `apply`."""
        with self._lock:
            self._addresses = _addresses(plan)
            checks: dict[int, tuple[HealthCheck, ...]] = {}
            for check in plan.health:
                _add(checks, check)
            # At once, because another thread answers meanwhile.
            self._checks = checks
            wanted = ((address, port) for port in self._checks for address in self._addresses)
            # Sockets close before others open: a wildcard address takes the port of every other.
            self._settle((*self._servers, *self._failures, *wanted))

    def retry(self) -> None:
        """Try again what could not be listened on. Cost: linear in that."""
        with self._lock:
            self._settle(self._failures)

    def _remove(self, check: HealthCheck) -> None:
        checks = tuple(other for other in self._checks[check.port] if other != check)
        if checks:
            self._checks[check.port] = checks
        else:
            del self._checks[check.port]

    def _check(self, end: SocketAddress) -> HealthCheck | None:
        """The check at an address and port: of Services with one port, the first by name."""
        address, port = end
        checks = self._checks.get(port)
        return checks[0] if checks and address in self._addresses else None

    def _settle(self, ends: Iterable[SocketAddress]) -> None:
        """Listen where a check is, and only there."""
        for end in dict.fromkeys(ends):
            check = self._check(end)
            if check is None:
                self._failures.pop(end, None)
                if end in self._servers:
                    self._stop(end)
            elif end not in self._servers:
                self._start(end, check)

    def close(self) -> None:
        """Close all sockets and connections."""
        with self._lock:
            for end in tuple(self._servers):
                self._stop(end)
            self._thread.close()

    def _start(self, end: SocketAddress, check: HealthCheck) -> None:
        reason = ""
        try:
            thread = self._thread.get()
            listener = _listener(end)
            self._servers[end] = thread.listen(listener, lambda path: self._answer(end))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error) or "it takes too long"
        except RuntimeError as error:
            # The system has no thread for it.
            reason = str(error)
        if reason and reason != self._failures.get(end):
            LOG.error("health check of %s: %s: %s", _name(check), join_address(*end), reason)
            if self._on_failure is not None:
                self._on_failure(check, f"{join_address(*end)}: {reason}")
        elif not reason and end in self._failures:
            LOG.info("health check of %s: %s is answered", _name(check), join_address(*end))
        self._failures.pop(end, None)
        if reason:
            self._failures[end] = reason

    def _stop(self, end: SocketAddress) -> None:
        self._thread.get().stop(self._servers.pop(end))

    def _answer(self, end: SocketAddress) -> Answer:
        check = self._check(end)
        if check is None:
            return 503, {}, b""
        status, body = answer(check, is_healthy=self._is_healthy())
        headers = {
            "Content-Type": "application/json",
            "X-Content-Type-Options": "nosniff",
            "X-Load-Balancing-Endpoint-Weight": str(check.local_endpoints),
        }
        return status, headers, json.dumps(body, indent="\t").encode()


def answer(check: HealthCheck, *, is_healthy: bool = True) -> tuple[int, dict[str, object]]:
    """Status and body of the answer for a Service."""
    body = {
        "service": {"namespace": check.namespace, "name": check.service},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": is_healthy,
    }
    return 200 if check.local_endpoints and is_healthy else 503, body


def _addresses(plan: Plan) -> tuple[str, ...]:
    """Where to listen: at the wildcard of a family in which every address serves node ports."""
    addresses: list[str] = []
    for family, wildcard in ((Family.IPV4, "0.0.0.0"), (Family.IPV6, "::")):
        serving = [text for text in plan.node_ports.addresses if family_of(text) == family]
        is_wildcard = family in plan.node_ports.wildcard_families
        addresses += [wildcard] if serving and is_wildcard else serving
    return tuple(addresses)


def _add(checks: dict[int, tuple[HealthCheck, ...]], check: HealthCheck) -> None:
    beside = checks.get(check.port, ())
    checks[check.port] = tuple(sorted((*beside, check), key=_name))


def _name(check: HealthCheck) -> str:
    return f"{check.namespace}/{check.service}"


def _listener(end: SocketAddress) -> socket.socket:
    """Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in end[0] else socket.AF_INET
    # The other family has a socket of its own.
    return socket.create_server(end, family=family, dualstack_ipv6=False)
