"""Answers at healthCheckNodePorts, over real sockets on loopback."""

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from kbe_nat.kubeproxy.health import HealthServers
from kbe_nat.policy import HealthCheck, Plan


def free_port(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family) as own:
        own.bind((address, 0))
        port: int = own.getsockname()[1]
        return port


@pytest.fixture
def servers() -> Iterator[HealthServers]:
    made = HealthServers()
    yield made
    made.close()


def plan_of(address: str, *checks: HealthCheck) -> Plan:
    return Plan((), (), (address,), (), every_address=(), health=checks)


def ask(address: str, port: int, path: str = "/") -> tuple[int, dict[str, str], object]:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), json.loads(answer.read())


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)
def test_it_answers_as_kube_proxy(servers: HealthServers, family: socket.AddressFamily, address: str) -> None:
    port = free_port(family, address)
    servers.follow(plan_of(address, HealthCheck("shop", "web", port, 2)))
    status, headers, body = ask(address, port, "/whatever")
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert body == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    servers.follow(plan_of(address, HealthCheck("shop", "web", port, 0)))
    assert ask(address, port)[0] == 503
    servers.follow(plan_of(address))
    with pytest.raises(ConnectionRefusedError):
        ask(address, port)


def test_a_port_that_is_taken_is_tried_again(
    servers: HealthServers, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of("127.0.0.1", HealthCheck("shop", "web", port := free_port(socket.AF_INET, "127.0.0.1"), 1))
    with socket.create_server(("127.0.0.1", port)):
        servers.follow(plan)
        servers.follow(plan)
    assert caplog.text.count(f"health check of shop/web: 127.0.0.1:{port}: Address already in use") == 1
    servers.follow(plan)
    assert ask("127.0.0.1", port)[0] == 200
