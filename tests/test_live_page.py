"""The live page without a browser: its head, its streams, and who is answered."""

import base64
import hashlib
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from harness.full_engine import STATUS, controller_with, datagram
from harness.waiting import eventually
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.live.page import LivePage
from kbe_nat.server import streams
from kbe_nat.server.pages import PagesThread
from kbe_nat.server.site import Site

Message = dict[str, Any]


class Served:
    """A live page of a controller, at a port of loopback."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.page = page = LivePage(controller, lambda: STATUS)
        self._thread = PagesThread(
            Site(
                pages={},
                documents={"/": page.document},
                forms={"/explain": page.explain},
                feeds={"/live": page.stream},
                names=lambda: frozenset({"node-7"}),
            )
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self._server = self._thread.listen(listener)
        self.port = listener.getsockname()[1]

    def close(self) -> None:
        self._thread.close()

    def stop(self) -> None:
        """Answer at its port no more."""
        self._thread.stop(self._server)

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=fields)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content


class Stream:
    """A client that reads the stream, for as long as the block runs."""

    def __init__(self, served: Served, query: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        self._connection.request("GET", f"/live?{query}")
        self.answer = self._connection.getresponse()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *raised: object) -> None:
        self.answer.close()
        self._connection.close()

    def message(self) -> Message:
        while not (line := self.answer.readline()).startswith(b"data: "):
            assert line, "the stream has ended"
        message: Message = json.loads(line[len(b"data: ") :])
        return message


@pytest.fixture
def served() -> Iterator[Served]:
    page = Served(controller_with(3))
    yield page
    page.close()


def test_the_document_runs_nothing_but_its_own_script(served: Served) -> None:
    status, headers, content = served.ask("/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    for part in ("default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    text = content.decode()
    for tag in ("script", "style"):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"""(src|href)=["'](?!#|data:)|url\(|@import""", text), "nothing external"
    assert not re.search(r"""\s(style|on\w+)=["']|innerHTML|outerHTML|eval\(""", text)


def test_only_pages_of_ours_are_answered(served: Served) -> None:
    own = f"127.0.0.1:{served.port}"
    for host in (own, "localhost:1", "[::1]:10249", "10.0.2.15", "node-7:10249", "NODE-7."):
        assert served.ask("/", Host=host)[0] == 200, host
    for host in ("evil.example:10249", "127.0.0.1.evil.example", "", "[::1", "node-7.evil.example"):
        for path in ("/", "/explain?from=10.0.0.1&to=10.0.0.2:1", "/live"):
            assert served.ask(path, Host=host)[0] == 421, (host, path)
    question = "/explain?from=10.0.0.1&to=10.0.0.2:1"
    assert served.ask(question, Origin=f"http://{own}")[0] == 200
    assert served.ask(question, Sec_Fetch_Site="same-origin")[0] == 200
    for path in (question, "/live", "/"):
        assert served.ask(path, Origin="http://evil.example")[0] == 403
        assert served.ask(path, Origin="null")[0] == 403
        assert served.ask(path, Sec_Fetch_Site="cross-site")[0] == 403
        assert served.ask(path, Sec_Fetch_Site="same-site")[0] == 403
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert served.ask("/", **link, Sec_Fetch_Dest="document")[0] == 200
    assert served.ask("/", **link, Sec_Fetch_Dest="iframe")[0] == 403
    assert served.ask("/live", **link, Sec_Fetch_Dest="document")[0] == 403


def test_it_only_reads(served: Served) -> None:
    for path in ("/", "/live", "/explain"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert served.ask(path, method)[0] == 405
    assert served.ask("/", "HEAD")[::2] == (200, b"")
    assert served.ask("/live", "HEAD")[0] == 405


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("order=color", "order"),
        ("verdict=maybe", "verdict"),
        ("other=1", "other"),
        (f"search={'x' * 301}", "search"),
        (f"search={'x' * 20_000}", ""),
    ],
)
def test_a_wrong_view_is_refused_with_its_field(served: Served, query: str, reason: str) -> None:
    status, _, content = served.ask(f"/live?{query}")
    assert status == 400
    assert reason in content.decode()
    assert content.count(b"\n") == 1
    with Stream(served) as stream:
        assert stream.answer.status == 200, "and takes no place"


def test_a_stream_tells_all_and_then_what_has_changed(served: Served) -> None:
    with Stream(served) as stream:
        assert stream.answer.headers["Content-Type"].startswith("text/event-stream")
        first = stream.message()
        assert {"node", "rates", "totals", "order", "ports", "drains", "causes"} <= set(first)
        assert first["totals"] == [1, 1]
        assert [port["key"] for port in first["ports"]] == first["order"]
        eventually(lambda: set(stream.message()) == {"time"})
        controller = served.controller
        controller.engine.process(bytearray(datagram(7)), time.monotonic_ns())
        message = stream.message()
        while not message.get("ports"):
            message = stream.message()
        (port,) = message["ports"]
        assert port["active"] == 4
        assert port["flows"] > 0


def test_half_an_address_is_no_error(served: Served) -> None:
    with Stream(served, "client=10.1.") as stream:
        message = stream.message()
        assert "10.1." in message["problem"] and not message.get("decisions")
    with Stream(served, "client=10.1.0.1") as stream:
        assert len(stream.message()["decisions"]) == 3


def test_a_stream_ends_with_its_address(served: Served) -> None:
    with Stream(served) as stream:
        assert stream.message()["order"]
        served.stop()
        with pytest.raises((AssertionError, OSError)):
            while stream.message():
                pass


def test_without_a_page_nothing_is_remembered(served: Served) -> None:
    with Stream(served) as first, Stream(served, "search=web") as second:
        assert first.message()["rates"] and second.message()["rates"]
        assert served.page.traffic.services
    eventually(lambda: not served.page.traffic.services)
    assert not served.page.traffic.counts


def test_places_are_bounded_and_come_back(served: Served) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(Stream(served)) for _ in range(streams.PLACES_OF_CLIENT)]
        assert all(stream.message()["order"] for stream in opened)
        refused = stack.enter_context(Stream(served)).answer
        assert refused.status == 503 and refused.headers["Retry-After"]
        assert served.ask("/")[0] == 200
    eventually(lambda: _has_place(served))


def _has_place(served: Served) -> bool:
    with Stream(served) as stream:
        return stream.answer.status == 200


def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SECONDS", 0.3)
    monkeypatch.setattr(streams, "PERIOD", 0.0)
    feed = Flood()
    thread = PagesThread(Site(pages={}, feeds={"/flood": lambda query: feed}))
    listener = socket.create_server(("127.0.0.1", 0))
    thread.listen(listener)
    try:
        with socket.create_connection(listener.getsockname(), timeout=30) as slow:
            slow.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            eventually(lambda: feed.is_closed)
            assert feed.messages < 30, "as much as buffers hold"
    finally:
        thread.close()


class Flood:
    """A feed of a megabyte in each message."""

    def __init__(self) -> None:
        self.messages = 0
        self.is_closed = False

    def message(self) -> bytes:
        self.messages += 1
        return b"x" * 1_000_000

    def close(self) -> None:
        self.is_closed = True


def test_a_connection_is_explained_and_nothing_changes(served: Served) -> None:
    controller = served.controller
    port = controller.plan.ports[0]
    frontend = port.frontends[0]
    query = f"from=10.9.9.9&to={frontend.address}:{frontend.port}&proto={port.protocol}"
    before = controller.engine.stats()
    status, headers, content = served.ask(f"/explain?{query}")
    assert status == 200 and headers["Content-Type"] == "application/json"
    answer = json.loads(content)
    assert port.name in answer["sentence"]
    assert answer["verdict"]["service"] == port.name
    after = controller.engine.stats()
    assert (before.flows, dict(before.actions)) == (after.flows, dict(after.actions))
    for wrong in (
        "",
        "from=10.9.9.9",
        "from=10.9.9.9&to=10.0.0.1",
        "from=x&to=10.0.0.1:1",
        "from=10.9.9.9&to=10.0.0.1:99999",
        "from=10.9.9.9&to=[fd00::1]:1",
        "from=10.9.9.9&to=10.0.0.1:1&proto=icmp",
        f"from={'1' * 61}&to=10.0.0.1:1",
        "from=10.9.9.9%25eth0&to=10.0.0.1:1",
        "from=<b>&to=10.0.0.1:1",
    ):
        status, headers, content = served.ask(f"/explain?{wrong}")
        assert status == 400, wrong
        assert headers["Content-Type"].startswith("text/plain")
        assert content.count(b"\n") == 1
