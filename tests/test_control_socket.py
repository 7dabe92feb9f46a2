"""The control socket under clients and peers that mean no good, and lists that are too long for
memory.
"""

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import to_builtins

from harness.exhaustion import no_descriptors, open_descriptors
from harness.full_engine import STATUS, controller_with, datagram, verbs_of
from harness.programs import FULL_CONTROL_SOCKET, STATUS_CLIENT
from harness.waiting import eventually
from kbe_nat import client as control_client
from kbe_nat.client import ask, ask_rows
from kbe_nat.daemon import acceptor, control_socket
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.daemon.rows import FlowRow, StatusRow
from kbe_nat.daemon.subscribers import CAPACITY, Subscription
from kbe_nat.daemon.verbs import PAGE
from kbe_nat.errors import ControlError

TESTS = Path(__file__).parent


def unasked(request: dict[str, Any]) -> Iterator[Any]:
    """Answers of a server that nobody asks."""
    raise AssertionError(request)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    with ControlServer(tmp_path / "control.sock", verbs_of(controller_with(10))):
        yield tmp_path / "control.sock"


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(30)
    return client


def answer_of(client: socket.socket) -> dict[str, Any]:
    with client.makefile() as answers:
        found: dict[str, Any] = json.loads(answers.readline())
    return found


def is_closed(client: socket.socket) -> bool:
    """Whether nothing more comes from the other end."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


def test_f127_clients_that_say_nothing_cost_no_thread_and_few_descriptors(path: Path) -> None:
    threads, descriptors = threading.active_count(), open_descriptors()
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(path)) for _ in range(500)]
        for number, client in enumerate(clients):
            if number % 3:
                # Half a request, where it has not been turned away yet.
                with suppress(BrokenPipeError):
                    client.send(b'{"verb": "sta'[: number % 12])
        for _ in range(20):
            assert list(ask(path, "status", StatusRow)) == [STATUS]
        assert threading.active_count() <= threads + 1
        # Both ends are ours: one descriptor for each client, and one for each that is still waited
        # for.
        assert open_descriptors() - descriptors <= 500 + acceptor.MAX_PENDING + 5
        assert answer_of(clients[0]) == {"error": "too many clients wait to ask"}
        assert is_closed(clients[0])
        assert "no request within 5 s" in answer_of(clients[-1])["error"]
        assert is_closed(clients[-1])
        assert list(ask(path, "status", StatusRow)) == [STATUS]


def test_f128_it_is_there_again_when_descriptors_are(path: Path) -> None:
    with connected(path) as waits, ExitStack() as stack:
        clients = iter([stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)])
        with no_descriptors() as take_all:

            def unheard() -> socket.socket | None:
                """A client that is not taken in."""
                client = next(clients)
                take_all()
                client.connect(str(path))
                client.sendall(b'{"verb": "status"}\n')
                client.settimeout(0.3)
                with suppress(TimeoutError):
                    client.recv(1)
                    return None
                return client

            client = eventually(unheard)
        assert client is not None
        client.settimeout(30)
        assert answer_of(client) == {"result": to_builtins(STATUS)}
        waits.sendall(b'{"verb": "status"}\n')
        assert answer_of(waits) == {"result": to_builtins(STATUS)}


def test_f127_a_line_without_end_is_refused(path: Path) -> None:
    with connected(path) as client:
        sent = 0
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            while sent < 100 * acceptor.MAX_REQUEST:
                sent += client.send(b"[" * 65_536)
        assert sent < 10 * acceptor.MAX_REQUEST
    assert list(ask(path, "status", StatusRow)) == [STATUS]


def test_f127_a_request_may_come_in_pieces_and_without_an_end(path: Path) -> None:
    with connected(path) as client:
        for piece in (b'{"ver', b'b": "st', b'atus"', b"}"):
            client.send(piece)
            time.sleep(0.02)
        client.shutdown(socket.SHUT_WR)
        assert answer_of(client) == {"result": to_builtins(STATUS)}


def test_f127_conversations_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that take no answer hold a place each, until their patience is over."""
    monkeypatch.setattr(control_socket, "SEND_SECONDS", 5.0)
    monkeypatch.setattr(control_socket, "MAX_CONVERSATIONS", 3)

    def answer(request: dict[str, Any]) -> Iterator[Any]:
        yield "x" * (1 if request["verb"] == "short" else 1 << 22)

    path = tmp_path / "control.sock"
    with ControlServer(path, answer), ExitStack() as stack:
        threads = threading.active_count()
        for _ in range(3):
            client = stack.enter_context(connected(path))
            client.sendall(b'{"verb": "long"}\n')
            # The answer has begun.
            assert client.recv(1)
        with pytest.raises(ControlError, match="3 requests are being answered already; try again"):
            list(ask(path, "short", str))
        assert threading.active_count() <= threads + 3

        def is_answered() -> bool:
            with suppress(ControlError):
                return list(ask(path, "short", str)) == ["x"]
            return False

        # The places become free.
        eventually(is_answered)


def test_f127_a_slow_watcher_keeps_no_more_than_a_bounded_number_of_events() -> None:
    subscription = Subscription()
    event: Any = ("NEW", None)
    for _ in range(1000):
        subscription.put([event] * 1000)
    taken = 0
    while batch := subscription.take(0):
        taken += len(batch)
    assert CAPACITY <= taken < CAPACITY + 1000
    subscription.put([event])
    assert subscription.take(0) == [event], "it goes on"


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda path: path.write_text("precious"), "it is no socket, and is left alone"),
        (Path.mkdir, "it is no socket, and is left alone"),
        (os.mkfifo, "it is no socket, and is left alone"),
        (
            lambda path: path.symlink_to(path.with_name("victim")),
            "it is no socket, and is left alone",
        ),
    ],
)
def test_f135_only_a_socket_is_taken_away(
    tmp_path: Path, plant: Callable[[Path], None], reason: str
) -> None:
    path, victim = tmp_path / "control.sock", tmp_path / "victim"
    victim.write_text("precious")
    plant(path)
    before = path.lstat()
    with pytest.raises(ControlError, match=reason), ControlServer(path, unasked):
        pass
    assert path.lstat() == before
    assert victim.read_text() == "precious"
    with pytest.raises(ControlError):
        list(ask(path, "status", StatusRow))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_f135_a_socket_of_another_user_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    os.chown(path, 1234, -1)
    with pytest.raises(ControlError, match="it belongs to user 1234"), ControlServer(path, unasked):
        pass
    assert stat.S_ISSOCK(path.lstat().st_mode)


def test_f135_what_has_taken_its_place_is_left_alone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with ControlServer(path, unasked):
        path.unlink()
        path.write_text("precious")
    assert path.read_text() == "precious"


@contextmanager
def peer(path: Path, behaves: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody who listens at a path and is no daemon."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def accept() -> None:
            try:
                while True:
                    with listener.accept()[0] as client:
                        behaves(client)
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def is_mute(client: socket.socket) -> None:
    client.recv(100)
    while client.recv(100):
        pass


def trickles(client: socket.socket) -> None:
    while True:
        client.send(b" ")
        time.sleep(0.05)


def chatters(client: socket.socket) -> None:
    client.sendall(b"SSH-2.0-OpenSSH\r\n")


def says_numbers(client: socket.socket) -> None:
    client.sendall(b"5\n")


@pytest.mark.parametrize(
    ("behaves", "reason"),
    [
        (is_mute, "somebody listens here, but has not answered for"),
        (trickles, "somebody listens here, but has not answered for"),
        (chatters, "what answers here is no kbe-nat"),
        (says_numbers, "what answers here is no kbe-nat"),
        (lambda client: None, "the daemon ended before it had answered"),
    ],
)
def test_f135_a_peer_that_is_no_daemon_hangs_nobody(
    tmp_path: Path,
    behaves: Callable[[socket.socket], None],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_late = "has not answered" in reason
    monkeypatch.setattr(control_client, "ANSWER_SECONDS", 1.0 if is_late else 30.0)
    path = tmp_path / "control.sock"
    with peer(path, behaves):
        with pytest.raises(ControlError, match=reason):
            list(ask(path, "status", StatusRow))
        started = time.monotonic()
        with (
            pytest.raises(ControlError, match="another daemon answers here"),
            ControlServer(path, unasked),
        ):
            pass
        assert time.monotonic() - started < 10
        assert stat.S_ISSOCK(path.lstat().st_mode)


def test_f135_nobody_else_can_connect_even_for_a_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with ControlServer(tmp_path / "control.sock", unasked):
            assert stat.S_IMODE((tmp_path / "control.sock").lstat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_another_user_is_not_answered() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "control.sock"
        Path(folder).chmod(0o755)
        with ControlServer(path, verbs_of(controller_with(1))):
            path.chmod(0o666)
            command = ["/usr/bin/env", "python3", "-c", STATUS_CLIENT.read_text(), str(path)]
            said = subprocess.run(
                command,
                user=65534,
                group=65534,
                extra_groups=[],
                capture_output=True,
                text=True,
                check=True,
                cwd="/",
                env={"PATH": "/usr/bin:/bin"},
            ).stdout
            assert json.loads(said) == {"error": "only root and the daemon's own user may ask"}
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert json.loads(said) == {"result": to_builtins(STATUS)}


@pytest.mark.parametrize(
    ("verb", "parameters", "message"),
    [
        ("flows", {"limit": -1}, "flows: limit: expected int >= 1, not -1"),
        ("flows", {"limit": 0}, "flows: limit: expected int >= 1, not 0"),
        ("flows", {"limit": 2**63}, "flows: limit: .*, not 9223372036854775808"),
        ("flows", {"limit": 10**400}, "flows: limit: .*, not 1000000"),
        ("flows", {"limit": 1.5}, "flows: limit: expected int .*, not 1.5"),
        ("flows", {"limit": "many"}, "flows: limit: expected int .*, not 'many'"),
        ("flows", {"limit": True}, "flows: limit: expected int .*, not True"),
        ("flows", {"names": "a"}, r"flows: names: expected array, .*, not 'a'"),
        ("flows", {"state": {"a": 1}}, "flows: state: expected str .*"),
        ("flows", {"source": "10.0.0.1\n10.0.0.2"}, r"flows: 'source': it cannot be printed"),
        (
            "flows",
            {"backend": "a" * 2000},
            "flows: backend: expected str of length <= 1000, not 'aaa",
        ),
        (
            "explain",
            {"packet": "", "device": 1},
            "explain: device: expected str, got int, not 1",
        ),
        ("explain", {"packet": 7}, "explain: packet: expected str, got int, not 7"),
        (
            "drain",
            {"backends": ["10.0.0.1"], "seconds": -1},
            "drain: seconds: expected float >= 0.0, not -1",
        ),
        (
            "drain",
            {"backends": ["10.0.0.1"], "is_followed": "no"},
            "drain: is_followed: expected bool",
        ),
        (
            "strategy",
            {"service": "\x1b[2J"},
            r"strategy: 'service': it cannot be printed: '\\x1b\[2J'",
        ),
        ("status", {"colour": "red"}, "status: .*colour"),
        ("delete", {"limit": 1}, "delete: .*limit"),
        ("dump", {"form": "pf", "names": "modern"}, "dump: form: invalid enum value 'pf'"),
        ("dump", {"form": "nft", "names": "odd"}, "dump: names: invalid enum value 'odd'"),
        ("__init__", {}, "'__init__' is no verb"),
        ("_pages", {"rows": []}, "'_pages' is no verb"),
        ("x\n\x1b", {}, r"'x\\n\\x1b' is no verb"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_with_it(
    path: Path,
    verb: str,
    parameters: dict[str, Any],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ControlError, match=f"^{message}") as caught:
        list(ask(path, verb, Any, **parameters))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    assert not [own for own in caplog.records if own.levelno >= logging.WARNING]


def test_a_defect_is_told_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: dict[str, Any]) -> Iterator[Any]:
        yield 1
        raise ZeroDivisionError

    with ControlServer(tmp_path / "control.sock", answer):
        results = ask(tmp_path / "control.sock", "status", int)
        assert next(results) == 1
        with pytest.raises(ControlError, match="the daemon failed: ZeroDivisionError"):
            next(results)
    assert "a request failed" in caplog.text


def key_of(row: FlowRow) -> str:
    return row.source


def test_f138_a_list_comes_in_pages_without_doubles(tmp_path: Path) -> None:
    controller = controller_with(10_500)
    with ControlServer(tmp_path / "control.sock", verbs_of(controller)):
        pages = list(ask(tmp_path / "control.sock", "flows", list[FlowRow]))
        assert [len(page) for page in pages] == [PAGE] * 10 + [500]
        assert len({key_of(row) for page in pages for row in page}) == 10_500
        for limit in (1, PAGE - 1, PAGE, PAGE + 1, 10**6):
            found = list(ask_rows(tmp_path / "control.sock", "flows", FlowRow, limit=limit))
            assert len(found) == min(limit, 10_500)
        assert list(ask(tmp_path / "control.sock", "flows", list[FlowRow], source="192.0.2.1")) == [
            []
        ]


def test_f138_flows_that_live_through_a_list_are_in_it_once(tmp_path: Path) -> None:
    """Others end while it is made, and new ones begin in the records that these leave."""
    controller = controller_with(0)
    engine = controller.engine
    now = time.monotonic_ns()
    for number in range(10_000):
        engine.process_batch([datagram(number), datagram(32768 + number)], now)
    with ControlServer(tmp_path / "control.sock", verbs_of(controller)):
        pages = ask(tmp_path / "control.sock", "flows", list[FlowRow])
        found = [key_of(row) for row in next(pages)]
        assert engine.delete_flows(source="10.1.0.2") == 10_000
        # A second later, so that they have certainly begun after the list has.
        new = [datagram(65536 + number) for number in range(12_000)]
        engine.process_batch(new, now + 10**9)
        found += [key_of(row) for page in pages for row in page]
        assert engine.stats().flows == 22_000
    assert len(found) == len(set(found)), "none twice"
    assert {*found} >= {f"10.1.0.1:{port}" for port in range(1024, 11_024)}, "none lost"
    assert not [end for end in found if end.startswith("10.1.0.3:")], "none that began later"


def resident(pid: int) -> tuple[int, int]:
    """MB now, and at most since the peak was forgotten."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmRSS"].split()[0]) >> 10, int(fields["VmHWM"].split()[0]) >> 10


def rows_counted(path: Path) -> int:
    """Rows of a list of all flows; to decode them would take longer than to make them."""
    with connected(path) as client:
        client.sendall(b'{"verb": "flows"}\n')
        with client.makefile("rb") as lines:
            counts = [line.count(b'"reply_source"') for line in lines]
    assert max(counts) <= PAGE
    return sum(counts)


def test_f138_four_lists_of_a_full_table_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    serving = subprocess.Popen(
        [sys.executable, FULL_CONTROL_SOCKET, path],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with serving:
        try:
            assert serving.stdout is not None
            assert serving.stdout.readline() == "ready\n"
            assert len(list(ask(path, "status", StatusRow))) == 1
            Path(f"/proc/{serving.pid}/clear_refs").write_text("5")
            before, _ = resident(serving.pid)
            counts: list[int] = []
            threads = [
                threading.Thread(target=lambda: counts.append(rows_counted(path))) for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            _, peak = resident(serving.pid)
        finally:
            serving.kill()
    assert counts == [262_144] * 4
    assert peak - before < 50, f"{before} MB before, {peak} MB at the peak"
