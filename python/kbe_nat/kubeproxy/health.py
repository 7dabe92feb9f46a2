"""Answers to load balancers that ask at a Service's `healthCheckNodePort` whether this node has endpoints.

As pkg/proxy/healthcheck/service_health.go: 200 when it has, else 503; any path will do.
"""

import json
import logging
import socket
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final

from kbe_nat.model import IPV4, IPV6, family, join_address
from kbe_nat.policy import HealthCheck, Plan

LOG: Final = logging.getLogger("kbe_nat.daemon")


class HealthServers:
    """One server per port and address, in the network namespace of this process, while they are wanted."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, int], _Server] = {}
        self._failed: set[tuple[str, int]] = set()

    def follow(self, plan: Plan) -> None:
        """Answer for the Services of this plan, and no others, on the addresses that serve node ports. One that
        cannot be listened on is logged once, and tried again with the next plan.
        """
        checks = {check.port: check for check in plan.health}
        wanted = {(address, port): check for port, check in checks.items() for address in _addresses(plan)}
        for key in self._servers.keys() - wanted.keys():
            self._servers.pop(key).end()
        for key, check in wanted.items():
            if key in self._servers:
                self._servers[key].check = check
                continue
            try:
                self._servers[key] = _Server(key, check)
                self._failed.discard(key)
            except OSError as error:
                if key not in self._failed:
                    LOG.error("health check of %s: %s: %s", _name(check), join_address(*key), error.strerror)
                self._failed.add(key)

    def close(self) -> None:
        """Answer nobody any more."""
        for server in self._servers.values():
            server.end()
        self._servers.clear()


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
    for number, everywhere in ((IPV4, "0.0.0.0"), (IPV6, "::")):
        own = [address for address in plan.node_port_addresses if family(address) == number]
        if own:
            yield from [everywhere] if number in plan.every_address else own


def _name(check: HealthCheck) -> str:
    return f"{check.namespace}/{check.service}"


class _Server:
    def __init__(self, place: tuple[str, int], check: HealthCheck) -> None:
        """Raises OSError when the place is taken."""
        self.check = check
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                status, body = answer(outer.check)
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header("X-Load-Balancing-Endpoint-Weight", str(outer.check.local_endpoints))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                LOG.debug("health check: %s", format % arguments)

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
            daemon_threads = True

            def server_bind(self) -> None:
                if self.address_family == socket.AF_INET6:
                    # The other family has a server of its own.
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # HTTPServer's own way would ask the resolver for this host's name.
                TCPServer.server_bind(self)

        self._server = Server(place, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="health check", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
