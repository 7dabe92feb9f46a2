"""/healthz and /livez against kube-proxy's recorded answers, and when which state holds."""

import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import kbe_nat
from harness.waiting import eventually
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.node_server import NodeServer
from kbe_nat.daemon.own_node import OwnNode
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.settings import ServerSettings
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.errors import SettingError
from kbe_nat.kubeproxy.bind_address import NOWHERE, parse_bind_address
from kbe_nat.kubeproxy.config import Configuration, ModeConfig
from kbe_nat.kubeproxy.settings import NodeSettings
from kbe_nat.model import Node, Snapshot
from kbe_nat.policy.options import Mode, Options
from kbe_nat.rules.memory import Memory
from kbe_nat.server import slots
from kbe_nat.server.answer import TEXT_HEADERS
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.server.health_page import HealthPages, HealthReport, timestamp
from kbe_nat.server.on_demand import ThreadOnDemand
from kbe_nat.server.pages import PagesThread
from kbe_nat.server.site import Site
from kbe_nat.sources.source import SourceUpdate
from kbe_nat.sources.watch_state import WatchState

RECORDINGS = Path(__file__).parent / "cluster/recordings/kube-proxy"
Recorded = dict[str, Any]


def recorded_answers(value: Any) -> Iterator[Recorded]:
    """Every answer of kube-proxy's health port in a recording."""
    if isinstance(value, dict):
        if ":10256/" in value.get("request", "") and value.get("body", "").startswith("{"):
            yield value
        for inner in value.values():
            yield from recorded_answers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from recorded_answers(inner)


ANSWERS = [
    pytest.param(answer, id=f"{path.stem}-{number}")
    for path in sorted(RECORDINGS.glob("*.json"))
    for number, answer in enumerate(recorded_answers(json.loads(path.read_text())))
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_each_recorded_answer_is_ours_in_that_state(answer: Recorded) -> None:
    body = json.loads(answer["body"])
    now = 1_700_000_000_123_456_700
    updated = now - 90_000_000_000
    pages = HealthPages(
        lambda: HealthReport(body["healthy"], updated, now),
        lambda: body.get("nodeEligible", True),
    )
    path = answer["request"].split(":10256")[1]
    status, headers, content = pages.respond(path)
    ours = json.loads(content)
    assert status == answer["status"]
    for name, value in headers.items():
        assert answer.get("headers", headers)[name] == value, "as far as headers were recorded"
    assert b" " not in content
    assert list(ours) == list(body)
    assert list(ours["status"]) == list(body["status"])
    for field in ("healthy", "nodeEligible"):
        assert ours.get(field) == body.get(field)
    for family in ("IPv4", "IPv6"):
        assert list(ours["status"][family]) == list(body["status"][family])
        # kube-proxy's families may be stale one at a time; ours come into force in one step.
        assert ours["status"][family]["healthy"] == body["healthy"]
        assert ours["status"][family]["lastUpdated"] == timestamp(updated)
    times = [datetime.fromisoformat(body[field]) for field in ("lastUpdated", "currentTime")]
    is_now = abs((times[1] - times[0]).total_seconds()) < 0.01
    if is_now == (status == 200):
        assert (ours["lastUpdated"] == ours["currentTime"]) == is_now
    else:
        # A node that had waited for its Node was updated just then.
        assert is_now and body["nodeEligible"] is False
    assert pages.answers == {(path, status): 1}


def test_recordings_have_every_state() -> None:
    states = {
        (answer["request"].split("/")[-1], answer["status"], json.loads(answer["body"])["healthy"])
        for case in ANSWERS
        for answer in case.values
        if isinstance(answer, dict)
    }
    assert states >= {
        ("healthz", 200, True),
        ("healthz", 503, True),
        ("healthz", 503, False),
        ("livez", 200, True),
        ("livez", 503, False),
    }


def test_times_are_written_as_go_does() -> None:
    assert timestamp(1_795_856_777_761_795_227) == "2026-11-28T09:06:17.761795227Z"
    assert timestamp(1_795_856_777_500_000_000) == "2026-11-28T09:06:17.5Z"
    assert timestamp(1_795_856_777_000_000_000) == "2026-11-28T09:06:17Z"


def new_controller() -> Controller:
    datapath = EveryPacket(Diversion((100, 100)), Memory())
    return Controller(kbe_nat.Engine(seed=1), datapath, lambda snapshot: Options())


class Silent:
    """A source that has not heard from its peer yet."""

    update: SourceUpdate | None = None

    def read(self) -> SourceUpdate | None:
        update, self.update = self.update, None
        return update

    def wait(self, seconds: float) -> bool:
        return False

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def files(self) -> tuple[()]:
        return ()

    def watches(self) -> tuple[WatchState, ...]:
        return ()

    def close(self) -> None:
        pass


def test_a_daemon_without_objects_is_healthy_for_twice_the_sync_period(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    source = Silent()
    reconciler = Reconciler(source, new_controller(), HealthCheckPorts())
    liveness = Liveness(lambda: reconciler.is_behind, lambda: reconciler.synced, lambda: 20.0)
    started = reconciler.synced

    def is_healthy_after(seconds: float) -> bool:
        nonlocal now
        for _ in range(int(seconds)):
            now += 1
            reconciler.follow()
            liveness.observe()
        return liveness.report().is_healthy

    reconciler.read_first()
    assert is_healthy_after(20)
    assert not is_healthy_after(2)
    assert liveness.report().updated == started
    source.update = SourceUpdate(Snapshot(1))
    assert is_healthy_after(1)
    assert liveness.report().updated > started
    assert is_healthy_after(1000), "nothing waits"


@pytest.mark.parametrize(
    ("mode", "period", "seconds"),
    [
        (None, None, 60.0),
        (Mode.IPTABLES, "5s", 10.0),
        (Mode.IPTABLES, "0s", 60.0),
        (Mode.NFTABLES, "1m30s", 180.0),
    ],
)
def test_the_sync_period_is_that_of_the_mode(
    mode: Mode | None, period: str | None, seconds: float
) -> None:
    config, other = ModeConfig(sync_period=period), ModeConfig(sync_period="1s")
    file = (
        Configuration(iptables=other, nftables=config)
        if mode is Mode.NFTABLES
        else Configuration(iptables=config, nftables=other)
    )
    assert NodeSettings(mode=mode).stale_seconds(file) == seconds


def test_a_node_is_eligible_by_its_object() -> None:
    here, tainted = {"n": Node("n")}, {"n": Node("n", is_eligible=False)}
    node = OwnNode()
    node.update("", {})
    assert node.is_eligible, "files need not hold a Node"
    node.update("n", here)
    assert node.is_eligible
    node.update("n", tainted)
    assert not node.is_eligible
    node.update("n", here)
    assert node.is_eligible
    node.update("", {})
    assert not node.is_eligible, "it was deleted"
    node.update("", {"other": Node("other")})
    assert not node.is_eligible, "it is missing among others"
    asked = OwnNode(is_expected=True)
    assert asked.is_eligible, "no objects have come yet"
    asked.update("", {})
    assert not asked.is_eligible, "the API server does not have it"
    asked = OwnNode(is_expected=True)
    asked.update("n", here)
    assert asked.is_eligible
    asked.update("", {})
    assert not asked.is_eligible


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:10256", ("0.0.0.0", 10256)),
        ("10.0.0.1", ("10.0.0.1", 7)),
        ("[::]:1", ("::", 1)),
        ("::1", ("::1", 7)),
        ("", NOWHERE),
        ("0.0.0.0:0", NOWHERE),
    ],
)
def test_addresses_are_read_as_kube_proxy_does(text: str, address: tuple[str, int]) -> None:
    assert parse_bind_address(text, 7) == address


@pytest.mark.parametrize("text", ["here:80", ":80", "1.2.3.4:", "1.2.3.4:65536", "::1:x", "[::1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no IP address with a port"):
        parse_bind_address(text, 10256)


def test_flags_go_before_the_file_and_the_file_before_defaults() -> None:
    file = Configuration(
        healthz_bind_address="10.0.0.1:1",
        metrics_bind_address="10.0.0.1",
        bind_address_hard_fail=True,
    )
    assert ServerSettings().health_address(Configuration()) == ("0.0.0.0", 10256)
    assert ServerSettings().metrics_address(Configuration()) == ("127.0.0.1", 10249)
    six = Configuration(bind_address="::")
    assert ServerSettings().health_address(six) == ("::", 10256)
    assert ServerSettings().metrics_address(six) == ("::1", 10249)
    assert ServerSettings().health_address(file) == ("10.0.0.1", 1)
    assert ServerSettings().metrics_address(file) == ("10.0.0.1", 10249)
    flags = ServerSettings(health=NOWHERE, metrics=("::1", 5), is_failure_hard=False)
    assert flags.health_address(file) is None
    assert flags.metrics_address(file) == ("::1", 5)
    assert ServerSettings().fails_hard(file) and not flags.fails_hard(file)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def server_at(
    health: tuple[str, int] | None, metrics: tuple[str, int] | None = None, *, hard: bool = False
) -> NodeServer:
    pages = HealthPages(lambda: HealthReport(True, 0, time.time_ns()), lambda: True)
    return NodeServer(
        (health, metrics),
        pages,
        lambda: Site({"/healthz": lambda: (200, TEXT_HEADERS, b"ok")}),
        ThreadOnDemand(),
        fails_hard=hard,
    )


def get(host: str, port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_wildcard_answers_in_both_families(wildcard: str) -> None:
    port = free_port()
    server = server_at((wildcard, port))
    server.start_health()
    try:
        for host in ("127.0.0.1", "::1"):
            assert get(host, port, "/healthz?verbose")[0] == 200
            assert get(host, port, "/livez")[0] == 200
            assert get(host, port, "/")[::2] == (404, b"404 page not found\n")
            status, headers, content = get(host, port, "/healthz", "HEAD")
            assert (status, content) == (200, b"") and int(headers["Content-Length"]) > 200
            for path in (f"http://{host}/livez", "HTTP://a/livez?b=c#d", "/live%7A", "/livez#a"):
                assert get(host, port, path)[0] == 200, path
            for path in ("/livez/", "/a/../livez", "http://livez", "/%", "/livez%00", "/livez%3F"):
                assert get(host, port, path)[::2] == (404, b"404 page not found\n"), path
            assert get(host, port, "/healthz", "POST")[0] == 200
    finally:
        server.close()


def test_a_port_that_is_taken_is_said_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    health, metrics = free_port(), free_port()
    server = server_at(("127.0.0.1", health), ("127.0.0.1", metrics))
    try:
        with (
            socket.create_server(("127.0.0.1", health)),
            socket.create_server(("127.0.0.1", metrics)),
        ):
            server.start_health()
            server.start_pages()
            server.retry()
        for purpose, port in (("health", health), ("metrics", metrics)):
            text = f"{purpose} at 127.0.0.1:{port}: Address already in use; it is tried again"
            assert caplog.text.count(text) == 1
        server.retry()
        assert get("127.0.0.1", health, "/healthz")[0] == 200
        assert get("127.0.0.1", metrics, "/healthz")[0] == 200
        assert caplog.text.count("answered now") == 2
    finally:
        server.close()


@pytest.mark.parametrize("taken", ["healthz", "metrics"])
def test_a_port_that_is_taken_is_an_error_where_that_is_hard(taken: str) -> None:
    ports = {"healthz": free_port(), "metrics": free_port()}
    server = server_at(("127.0.0.1", ports["healthz"]), ("127.0.0.1", ports["metrics"]), hard=True)
    try:
        with (
            socket.create_server(("127.0.0.1", ports[taken])),
            pytest.raises(SettingError, match=f"{taken}-bind-address.*Address already in use"),
        ):
            server.start_health()
    finally:
        server.close()


def test_nothing_listens_where_it_is_switched_off() -> None:
    server = server_at(None)
    server.start_health()
    server.start_pages()
    server.retry()
    server.close()


@pytest.fixture
def pages() -> Iterator[int]:
    """The port of a thread with pages, one of which fails."""

    def fail() -> Any:
        raise RuntimeError("no")

    thread = PagesThread(Site({"/text": lambda: (200, TEXT_HEADERS, b"text"), "/fail": fail}))
    listener = socket.create_server(("127.0.0.1", 0))
    thread.listen(listener)
    yield listener.getsockname()[1]
    thread.close()


def test_pages_answer_by_path(pages: int, caplog: pytest.LogCaptureFixture) -> None:
    status, headers, content = get("127.0.0.1", pages, "/text?a=b")
    assert (status, content) == (200, b"text")
    assert headers.items() >= TEXT_HEADERS.items()
    assert "Server" not in headers
    assert get("127.0.0.1", pages, "/text", "HEAD")[::2] == (200, b"")
    assert get("127.0.0.1", pages, "/text/")[::2] == (404, b"404 page not found\n")
    assert get("127.0.0.1", pages, "/text", "POST")[0] == 405
    status, _, content = get("127.0.0.1", pages, "/fail")
    assert status == 500 and b"no" not in content.split()[0]
    assert "/fail: RuntimeError('no')" in caplog.text


def test_f127_clients_without_http_get_an_error_and_no_log(
    pages: int, caplog: pytest.LogCaptureFixture
) -> None:
    for text in (
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x00\xff\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", pages), timeout=30) as connection:
            connection.sendall(text)
            answer = b""
            while content := connection.recv(1 << 16):
                answer += content
            assert b" 400 " in answer.splitlines()[0]
            assert b"aiohttp" not in answer
    assert not caplog.text
    assert get("127.0.0.1", pages, "/text")[0] == 200


def test_f127_idle_connections_leave_room_for_others(
    pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = [
        socket.create_connection(("127.0.0.1", pages), timeout=30)
        for _ in range(slots.MAX_CONNECTIONS + 20)
    ]
    assert get("127.0.0.1", pages, "/text")[0] == 200

    def dropped() -> int:
        count = 0
        for connection in idle:
            connection.setblocking(False)
            try:
                count += connection.recv(1) == b""
            except BlockingIOError:
                continue
            except OSError:
                count += 1
        return count

    eventually(lambda: dropped() >= 20)
    for connection in idle:
        connection.close()


def test_f127_an_idle_client_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbe_nat.server.pages.SECONDS", 0.3)
    thread = PagesThread(Site({}))
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread.listen(listener)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
            pytest.raises(ConnectionResetError),
        ):
            connection.recv(1)
    finally:
        thread.close()


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "without memory to begin"])
def test_f128_pages_whose_thread_does_not_begin_are_an_error(
    monkeypatch: pytest.MonkeyPatch, is_refused: bool
) -> None:
    """A thread that finds no memory to begin with ends before its first step, and tells nobody."""

    def start(*arguments: object) -> None:
        if is_refused:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr("kbe_nat.server.loop_thread.start_new_thread", start)
    monkeypatch.setattr("kbe_nat.server.loop_thread.PATIENCE", 0.1)
    with pytest.raises(RuntimeError, match=r"can't start|does not begin"):
        PagesThread(Site({}))
