"""Answers at healthCheckNodePorts, over real sockets on loopback."""

import http.client
import json
import logging
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.exhaustion import no_descriptors, open_descriptors
from harness.waiting import eventually
from kbe_nat.daemon.liveness import BEHIND_SECONDS, Liveness
from kbe_nat.policy.node_ports import NodePorts
from kbe_nat.policy.plan import HealthCheck, Plan
from kbe_nat.server import http as server
from kbe_nat.server import slots
from kbe_nat.server.health_check_ports import HealthCheckPorts


def free_port(family: socket.AddressFamily, address: str) -> int:
    with socket.socket(family) as own:
        own.bind((address, 0))
        port: int = own.getsockname()[1]
        return port


@pytest.fixture
def servers() -> Iterator[HealthCheckPorts]:
    made = HealthCheckPorts()
    yield made
    made.close()


def plan_of(address: str, *checks: HealthCheck) -> Plan:
    return Plan(node_ports=NodePorts((address,), wildcard_families=()), health=checks)


def ask(address: str, port: int, path: str = "/") -> tuple[int, dict[str, str], object]:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), json.loads(answer.read())


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")],
    ids=["ipv4", "ipv6"],
)
def test_it_answers_as_kube_proxy(
    servers: HealthCheckPorts, family: socket.AddressFamily, address: str
) -> None:
    port = free_port(family, address)
    servers.rebuild(plan_of(address, HealthCheck("shop", "web", port, 2)))
    status, headers, body = ask(address, port, "/whatever")
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert body == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    servers.rebuild(plan_of(address, HealthCheck("shop", "web", port, 0)))
    assert ask(address, port)[0] == 503
    servers.rebuild(plan_of(address))
    with pytest.raises(ConnectionRefusedError):
        ask(address, port)


def test_a_port_that_is_taken_is_tried_again(
    servers: HealthCheckPorts, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(
        "127.0.0.1", HealthCheck("shop", "web", port := free_port(socket.AF_INET, "127.0.0.1"), 1)
    )
    with socket.create_server(("127.0.0.1", port)):
        servers.rebuild(plan)
        servers.retry()
    assert (
        caplog.text.count(f"health check of shop/web: 127.0.0.1:{port}: Address already in use")
        == 1
    )
    servers.retry()
    assert ask("127.0.0.1", port)[0] == 200


def test_a_port_that_is_taken_is_said_once_to_operators() -> None:
    check = HealthCheck("shop", "web", port := free_port(socket.AF_INET, "127.0.0.1"), 1)
    failures: list[tuple[HealthCheck, str]] = []
    servers = HealthCheckPorts(on_failure=lambda *failure: failures.append(failure))
    try:
        with socket.create_server(("127.0.0.1", port)):
            servers.rebuild(plan_of("127.0.0.1", check))
            servers.retry()
    finally:
        servers.close()
    assert failures == [(check, f"127.0.0.1:{port}: Address already in use")]


WEB = """{
\t"service": {
\t\t"namespace": "shop",
\t\t"name": "web"
\t},
\t"localEndpoints": 1,
\t"serviceProxyHealthy": true
}"""


@pytest.fixture
def port(servers: HealthCheckPorts) -> int:
    number = free_port(socket.AF_INET, "127.0.0.1")
    servers.rebuild(plan_of("127.0.0.1", HealthCheck("shop", "web", number, 1)))
    return number


def said(port: int, request: bytes, *, is_half_closed: bool = False) -> bytes:
    """The whole answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        if is_half_closed:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while content := connection.recv(1 << 16):
            answer += content
        return answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET / HTTP/1.0\n\n",
        b"POST /x HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\nhello",
        b"OPTIONS * HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
)
def test_the_whole_answer_is_kube_proxys(port: int, request_: bytes) -> None:
    head, _, body = said(port, request_).decode().partition("\r\n\r\n")
    status, *headers = head.split("\r\n")
    assert status == "HTTP/1.1 200 OK"
    assert {line.partition(": ")[0] for line in headers} == {
        "Date",
        "Content-Type",
        "X-Content-Type-Options",
        "X-Load-Balancing-Endpoint-Weight",
        "Content-Length",
        "Connection",
    }, "nothing of ours, such as the version of Python"
    assert "X-Load-Balancing-Endpoint-Weight: 1" in headers
    assert body == WEB
    assert said(port, request_, is_half_closed=True).decode().endswith(WEB)


def test_a_question_for_headers_is_answered_without_a_body(port: int) -> None:
    answer = said(port, b"HEAD / HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(WEB) in answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 900 + b"\r\n", b"431"),
        (b"G" * 100_000, b"431"),
        (b"nonsense nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/1.x\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\xff\x00\r\n\r\n", b"400"),
    ],
)
def test_f127_what_is_no_request_is_refused(port: int, request_: bytes, status: bytes) -> None:
    answer = said(port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status + b" ")
    assert b"Content-Type: text/plain; charset=utf-8" in head
    assert body.startswith(status + b" ") and body.count(b"\n") == 1
    assert b"Python" not in answer
    assert said(port, b"GET / HTTP/1.0\r\n\r\n").endswith(WEB.encode())


def test_f127_requests_in_a_row_get_one_answer(port: int) -> None:
    answer = said(port, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * 3)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 1
    assert b"Connection: close" in answer and answer.endswith(WEB.encode())


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("greeting", [b"", b"GET / HTTP/1.1\r\nX: "], ids=["idle", "slow"])
def test_f127_connections_that_say_nothing_do_not_pile_up(port: int, greeting: bytes) -> None:
    """Somebody opens many more than there are slots for, and another one is answered meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    before, workers = open_descriptors(), threads()
    idle: list[socket.socket] = []
    try:
        for number in range(3 * slots.MAX_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            connection.sendall(greeting)
            idle.append(connection)
            if number % slots.MAX_CONNECTIONS == 0:
                # From another client.
                asking = http.client.HTTPConnection(
                    "127.0.0.1", port, timeout=30, source_address=("127.0.0.2", 0)
                )
                asking.request("GET", "/")
                assert asking.getresponse().status == 200
                asking.close()
        ours = open_descriptors() - before - len(idle)
        # Besides those that it is about to accept and to close.
        assert ours <= slots.MAX_CONNECTIONS + 8 * server.AT_ONCE
        assert threads() <= workers
        assert said(port, b"GET / HTTP/1.0\r\n\r\n").endswith(WEB.encode()), (
            "from one that has many"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for connection in idle:
            connection.close()


def test_f127_whoever_is_slow_has_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS", 3.0)
    before = open_descriptors()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as idle,
        socket.create_connection(("127.0.0.1", port), timeout=30) as slow,
        socket.create_connection(("127.0.0.1", port), timeout=30) as deaf,
    ):
        deaf.sendall(b"GET / HTTP/1.1\r\n\r\n")
        ended = 0
        for connection in (idle, slow):
            while True:
                try:
                    slow.send(b"a")
                    if select.select([connection], [], [], 0.05)[0] and not connection.recv(100):
                        break
                except OSError:
                    break
            ended += 1
        assert ended == 2
        # It has its answer in the kernel, and may read it or not.
        eventually(lambda: open_descriptors() == before + 3)


def test_f127_endless_input_after_a_request_is_not_read_for_ever(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(100_000):
                connection.sendall(b"a" * 65_536)


def test_f128_without_descriptors_checks_wait_and_are_answered_again(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asking = [socket.socket() for _ in range(3)]
    with no_descriptors() as take_all:
        for own in asking:
            own.settimeout(30)
            own.connect(("127.0.0.1", port))
            own.sendall(b"GET / HTTP/1.0\r\n\r\n")

        def is_said() -> bool:
            take_all()
            return "Too many open files" in caplog.text

        eventually(is_said)
        # It is tried again each second, and not said again.
        time.sleep(2.5)
        assert caplog.text.count("Too many open files") == 1
    for own in asking:
        assert own.recv(100).startswith(b"HTTP/1.1 200 OK")
        own.close()


def test_f128_what_cannot_be_listened_on_is_said_once_and_tried_again(
    servers: HealthCheckPorts, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    plan = plan_of(
        "127.0.0.1", HealthCheck("shop", "web", number := free_port(socket.AF_INET, "127.0.0.1"), 1)
    )

    def refused(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("kbe_nat.server.loop_thread.start_new_thread", refused)
        servers.rebuild(plan)
        servers.retry()
    assert caplog.text.count("can't start new thread") == 1
    servers.retry()
    assert ask("127.0.0.1", number)[0] == 200
    assert "is answered" in caplog.text


def test_it_is_unhealthy_when_the_kernel_lacks_what_the_objects_want(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As kube-proxy: when a change waits for longer than twice its sync period; and when a thread
    hangs.
    """
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    is_behind = False
    liveness = Liveness(lambda: is_behind)

    def healthy_after(seconds: float) -> bool:
        nonlocal now
        now += seconds
        liveness.observe()
        return liveness.is_healthy()

    assert healthy_after(0) and healthy_after(1000), "idle is healthy"
    is_behind = True
    assert healthy_after(1) and healthy_after(58)
    assert not healthy_after(2.5)
    is_behind = False
    assert healthy_after(0)
    now += BEHIND_SECONDS
    assert not liveness.is_healthy(), "nobody has looked for so long: the control loop hangs"
    assert healthy_after(0)

    class Hung:
        def is_turning(self, seconds: float) -> bool:
            return False

    liveness.threads = [Hung()]  # type: ignore[list-item]
    assert not healthy_after(0)
