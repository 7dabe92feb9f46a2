"""Servers over HTTP whose address changes while they answer."""

import http.client
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from kbe_nat.daemon.node_server import NodeServer
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.plan import HealthCheck, Plan
from kbe_nat.server.answer import TEXT_HEADERS
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.server.health_page import HealthPages, HealthReport
from kbe_nat.server.on_demand import ThreadOnDemand
from kbe_nat.server.site import Site

HERE = "127.0.0.1"


def free_port() -> int:
    with socket.create_server((HERE, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def status(host: str, port: int) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    finally:
        connection.close()


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=30).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture
def server(ports: tuple[int, int]) -> Iterator[NodeServer]:
    """Answers for health at the first port, and with pages at the second."""
    pages = HealthPages(lambda: HealthReport(True, 0, time.time_ns()), lambda: True)
    server = NodeServer(
        ((HERE, ports[0]), (HERE, ports[1])),
        pages,
        lambda: Site({"/healthz": lambda: (200, TEXT_HEADERS, b"ok")}),
        ThreadOnDemand(),
        fails_hard=False,
    )
    server.start_health()
    server.start_pages()
    yield server
    server.close()


def test_both_move_and_leave_their_ports(server: NodeServer, ports: tuple[int, int]) -> None:
    others = free_port(), free_port()
    server.move((HERE, others[0]), (HERE, others[1]))
    assert [status(HERE, port) for port in others] == [200, 200]
    assert not any(listens(HERE, port) for port in ports)
    server.move((HERE, ports[0]), None)
    assert status(HERE, ports[0]) == 200
    assert not any(listens(HERE, port) for port in (*others, ports[1]))
    server.move(None, (HERE, ports[1]))
    assert status(HERE, ports[1]) == 200
    assert not listens(HERE, ports[0])


def test_the_old_address_answers_while_the_new_one_is_taken(
    server: NodeServer, ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("kbe_nat").propagate = True
    caplog.set_level(logging.INFO)
    others = free_port(), free_port()
    with socket.create_server((HERE, others[0])), socket.create_server((HERE, others[1])):
        server.move((HERE, others[0]), (HERE, others[1]))
        server.retry()
        assert [status(HERE, port) for port in ports] == [200, 200]
    for purpose, old, new in zip(("health", "metrics"), ports, others, strict=True):
        text = (
            f"{purpose} at {HERE}:{new}: Address already in use; it is tried again,"
            f" {HERE}:{old} meanwhile"
        )
        assert caplog.text.count(text) == 1
    server.retry()
    assert [status(HERE, port) for port in others] == [200, 200]
    assert not any(listens(HERE, port) for port in ports)
    assert caplog.text.count("answered now") == 2


def test_an_address_that_the_host_has_not_changes_nothing(
    server: NodeServer, ports: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("kbe_nat").propagate = True
    server.move(("192.0.2.1", 9), ("192.0.2.1", 10))
    assert [status(HERE, port) for port in ports] == [200, 200]
    assert caplog.text.count("Cannot assign requested address") == 2
    server.move((HERE, ports[0]), (HERE, ports[1]))
    server.retry()
    assert [status(HERE, port) for port in ports] == [200, 200]


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_no_question_is_lost_where_the_addresses_overlap(
    server: NodeServer, ports: tuple[int, int], wildcard: str
) -> None:
    failures, ended = [], threading.Event()

    def ask(port: int) -> None:
        while not ended.is_set():
            # A reset of what has waited in a queue that closes is no answer either.
            try:
                failures.extend([port] * (status(HERE, port) != 200))
            except (ConnectionRefusedError, TimeoutError):
                failures.append(port)
            except OSError:
                continue

    askers = [threading.Thread(target=ask, args=(port,)) for port in ports]
    for each in askers:
        each.start()
    try:
        for _ in range(20):
            server.move((wildcard, ports[0]), (wildcard, ports[1]))
            assert [status("::1", port) for port in ports] == [200, 200]
            server.move((HERE, ports[0]), (HERE, ports[1]))
            assert not any(listens("::1", port) for port in ports)
    finally:
        ended.set()
        for each in askers:
            each.join()
    assert failures == []


def test_a_connection_that_has_begun_is_answered_after_the_move(
    server: NodeServer, ports: tuple[int, int]
) -> None:
    with (
        socket.create_connection((HERE, ports[0]), timeout=30) as health,
        socket.create_connection((HERE, ports[1]), timeout=30) as pages,
    ):
        for connection in (health, pages):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        # The connections are accepted: each server answers a later one.
        assert [status(HERE, port) for port in ports] == [200, 200]
        server.move((HERE, free_port()), (HERE, free_port()))
        for connection in (health, pages):
            connection.sendall(b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_health_check_at_our_own_port_is_said_and_answered_once_we_have_left(
    server: NodeServer, ports: tuple[int, int]
) -> None:
    failures: list[str] = []
    checks = HealthCheckPorts(on_failure=lambda check, reason: failures.append(reason))
    nodes = NodePorts(addresses=(HERE,), wildcard_families=())
    check = HealthCheck("default", "web", ports[0], 0)
    try:
        checks.rebuild(Plan(node_ports=nodes, health=(check,)))
        checks.retry()
        assert failures == [f"{HERE}:{ports[0]}: Address already in use"]
        assert status(HERE, ports[0]) == 200, "the node's health goes on"
        server.move((HERE, free_port()), (HERE, ports[1]))
        checks.retry()
        assert status(HERE, ports[0]) == 503, "the Service has no endpoint here"
        # What we give up for another address is not ours any more.
        server.move((HERE, ports[0]), (HERE, ports[1]))
        assert status(HERE, ports[0]) == 503
    finally:
        checks.close()
    server.retry()
    assert status(HERE, ports[0]) == 200
