"""Answers to load balancers that ask at a Service's `healthCheckNodePort` whether this node has
endpoints.

As pkg/proxy/healthcheck/service_health.go: 200 when it has and the proxy is healthy, else 503; any
path and any method will do.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from kbe_nat.family import Family, family_of
from kbe_nat.kubeproxy.answering import Answer, Answering
from kbe_nat.model import join_address
from kbe_nat.policy.plan import HealthCheck, Plan

LOG: Final = logging.getLogger("kbe_nat.daemon")
Place: TypeAlias = tuple[str, int]
"""Address and port."""


class HealthServers:
    """One socket per port and address, in the network namespace of this process, while they are
    wanted; one thread answers at all of them.
    """

    def __init__(self, is_healthy: Callable[[], bool] = lambda: True) -> None:
        """`is_healthy` says whether the kernel has what the objects want; it is called in another
        thread.
        """
        self._is_healthy = is_healthy
        self._answering: Answering | None = None
        self._checks: dict[Place, HealthCheck] = {}
        self._servers: dict[Place, asyncio.Server] = {}
        self._failures: dict[Place, str] = {}

    def follow(self, plan: Plan) -> None:
        """Answer for the Services of this plan, and no others, on the addresses that serve node
        ports. What cannot be listened on is logged once; to be called now and then, which tries it
        again.
        """
        addresses = tuple(_addresses(plan))
        self._checks = {
            (address, check.port): check for check in plan.health for address in addresses
        }
        for place in self._servers.keys() - self._checks.keys():
            self._stop(place)
        self._failures = {
            place: said for place, said in self._failures.items() if place in self._checks
        }
        for place in self._checks.keys() - self._servers.keys():
            self._start(place)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._answering is not None:
            for place in tuple(self._servers):
                self._stop(place)
            self._answering.close()

    def _start(self, place: Place) -> None:
        reason = ""
        try:
            self._answering = self._answering or Answering()
            listener = _listener(place)
            self._servers[place] = self._answering.listen(listener, lambda: self._answer(place))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error) or "it takes too long"
        except RuntimeError as error:
            # There is no thread for it.
            reason = str(error)
        if reason and reason != self._failures.get(place):
            LOG.error(
                "health check of %s: %s: %s",
                _name(self._checks[place]),
                join_address(*place),
                reason,
            )
        elif not reason and place in self._failures:
            LOG.info(
                "health check of %s: %s is answered",
                _name(self._checks[place]),
                join_address(*place),
            )
        self._failures.pop(place, None)
        if reason:
            self._failures[place] = reason

    def _stop(self, place: Place) -> None:
        if self._answering is not None:
            self._answering.stop(self._servers.pop(place))

    def _answer(self, place: Place) -> Answer:
        check = self._checks.get(place)
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
    """Where to listen: everywhere in a family in which every address serves node ports."""
    for number, everywhere in ((Family.IPV4, "0.0.0.0"), (Family.IPV6, "::")):
        own = [address for address in plan.node_port_addresses if family_of(address) == number]
        if own:
            yield from [everywhere] if number in plan.every_address else own


def _name(check: HealthCheck) -> str:
    return f"{check.namespace}/{check.service}"


def _listener(place: Place) -> socket.socket:
    """Raises OSError when the place is taken."""
    number = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    # The other family has a socket of its own.
    return socket.create_server(place, family=number, dualstack_ipv6=False)
