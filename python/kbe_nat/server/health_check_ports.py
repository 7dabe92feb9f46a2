"""Load balancers ask at a Service's `healthCheckNodePort` whether this node has endpoints of it.

The answers are those of pkg/proxy/healthcheck/service_health.go: 200 when the node has endpoints
and the proxy is healthy, else 503; any path and any method will do.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.model import join_address
from kbe_nat.policy.plan import HealthCheck, Plan
from kbe_nat.server.http import Answer, HttpThread

LOG: Final = logging.getLogger("kbe_nat.daemon")
SocketAddress: TypeAlias = tuple[str, int]
"""Address and port."""


class HealthCheckPorts:
    """One socket for each port and address of the plan, in the network namespace of this process;
    one thread answers at all of them.
    """

    def __init__(self, is_healthy: Callable[[], bool] = lambda: True) -> None:
        """`is_healthy` says whether the kernel has what the objects want; it is called in another
        thread.
        """
        self._is_healthy = is_healthy
        self._thread: HttpThread | None = None
        self._checks: dict[SocketAddress, HealthCheck] = {}
        self._servers: dict[SocketAddress, asyncio.Server] = {}
        self._failures: dict[SocketAddress, str] = {}

    def follow(self, plan: Plan) -> None:
        """Answer for the Services of this plan, and no others, on the addresses that serve node
        ports. A port that is taken is logged once; each further call tries it again.
        """
        addresses = tuple(_addresses(plan))
        self._checks = {
            (address, check.port): check for check in plan.health for address in addresses
        }
        for end in self._servers.keys() - self._checks.keys():
            self._stop(end)
        self._failures = {
            end: reason for end, reason in self._failures.items() if end in self._checks
        }
        for end in self._checks.keys() - self._servers.keys():
            self._start(end)

    def close(self) -> None:
        """Close all sockets and connections."""
        if self._thread is not None:
            for end in tuple(self._servers):
                self._stop(end)
            self._thread.close()

    def _start(self, end: SocketAddress) -> None:
        reason = ""
        try:
            self._thread = self._thread or HttpThread()
            listener = _listener(end)
            self._servers[end] = self._thread.listen(listener, lambda: self._answer(end))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error) or "it takes too long"
        except RuntimeError as error:
            # The system has no thread for it.
            reason = str(error)
        if reason and reason != self._failures.get(end):
            LOG.error(
                "health check of %s: %s: %s",
                _name(self._checks[end]),
                join_address(*end),
                reason,
            )
        elif not reason and end in self._failures:
            LOG.info(
                "health check of %s: %s is answered",
                _name(self._checks[end]),
                join_address(*end),
            )
        self._failures.pop(end, None)
        if reason:
            self._failures[end] = reason

    def _stop(self, end: SocketAddress) -> None:
        if self._thread is not None:
            self._thread.stop(self._servers.pop(end))

    def _answer(self, end: SocketAddress) -> Answer:
        check = self._checks.get(end)
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


def _addresses(plan: Plan) -> Iterable[str]:
    """Where to listen: at the wildcard of a family in which every address serves node ports."""
    for family, wildcard in ((Family.IPV4, "0.0.0.0"), (Family.IPV6, "::")):
        addresses = [text for text in plan.node_port_addresses if family_of(text) == family]
        if addresses:
            yield from [wildcard] if family in plan.every_address else addresses


def _name(check: HealthCheck) -> str:
    return f"{check.namespace}/{check.service}"


def _listener(end: SocketAddress) -> socket.socket:
    """Raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in end[0] else socket.AF_INET
    # The other family has a socket of its own.
    return socket.create_server(end, family=family, dualstack_ipv6=False)
