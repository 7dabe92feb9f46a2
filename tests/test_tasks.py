"""What the daemon does again and again goes on whatever it meets, and its log says what is new."""

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbe_nat.commands import GracePeriod
from kbe_nat.control.controller import Controller
from kbe_nat.daemon import proxy
from kbe_nat.daemon.checkpoints import CheckpointFile
from kbe_nat.daemon.composition import build
from kbe_nat.daemon.logs import BURST, LINES_PER_SECOND, ConditionLog, RateLimit, _Json
from kbe_nat.daemon.proxy import Proxy
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.rounds import Rounds
from kbe_nat.daemon.settings import (
    DatapathSettings,
    FileSettings,
    PeriodSettings,
    Settings,
    SourceSettings,
)
from kbe_nat.daemon.subscribers import CAPACITY, Subscribers, Subscription
from kbe_nat.daemon.tasks import Task
from kbe_nat.errors import KbeNatError, RulesError
from kbe_nat.policy.node_ports import contains
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import Planner
from kbe_nat.rules.memory import Memory
from kbe_nat.rules.rule import DatapathKind
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.sources.manifests.manifests import Manifests

SERVICE = """apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
"""


SLICE = """apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
"""


class Panic(BaseException):
    """As PyO3 raises it for a panic of the engine: no `Exception`."""


def recursion() -> None:
    recursion()


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The log's lines since it was asked last."""
    caplog.set_level(logging.INFO)

    def new() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    yield new


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (raising(RulesError("nft: no")), "nft: no"),
        (raising(ValueError("odd\n" * 1000)), "ValueError('odd"),
        (raising(MemoryError()), "MemoryError() (test_tasks.py:"),
        (raising(Panic("index out of range")), "Panic('index out of range')"),
        (
            raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE))),
            "Too many open files (test_tasks.py:",
        ),
        (recursion, "in recursion)"),
        # The standard library's line would say nothing.
        (lambda: print(contains("10.0.0.0/8", "nowhere")), "(node_ports.py:"),
    ],
)
def test_f129_what_a_task_raises_is_said_once_with_its_place(
    lines: Callable[[], list[str]], action: Callable[[], None], reason: str
) -> None:
    actions = [action]
    task = Task(1.0, lambda: actions[0](), "it does not work", "it works again")
    assert [task.run(), task.run()] == [False, False]
    [line] = lines()
    assert line.startswith("it does not work: ") and reason in line
    assert len(line) < 500
    actions[0] = raising(KeyError("another"))
    task.run()
    assert "KeyError('another')" in lines()[0], "it has changed"
    actions[0] = lambda: None
    assert task.run() and task.run()
    assert lines() == ["it works again"]
    actions[0] = action
    task.run()
    assert len(lines()) == 1, "it is new again"


def test_f129_a_defect_at_the_first_reading_is_an_error_for_people(
    served: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Planner, "update", failing)
    with pytest.raises(
        KbeNatError, match=r"the objects cannot be served: RuntimeError\('broken'\)"
    ):
        served.reconciler.read_first()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_f129_what_is_to_end_the_daemon_ends_it(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Task(1.0, raising(error), "", "").run()


def test_f129_what_has_failed_waits_before_it_is_tried_again() -> None:
    done: list[float] = []

    def action() -> None:
        done.append(now)
        if len(done) < 3:
            raise ValueError

    task = Task(0.5, action, "", "")
    for now in (0.0, 0.6, 4.9, 5.1, 5.2, 10.0, 10.2, 10.5, 10.8):
        task.run_if_due(now)
    assert done == [0.0, 5.1, 10.2, 10.8]


ERRORS: list[BaseException] = [
    RuntimeError("broken"),
    RecursionError("too deep"),
    MemoryError(),
    OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    Panic("index out of range"),
]
TARGETS: list[tuple[type, str]] = [
    (Manifests, "read"),
    (Manifests, "wait"),
    (Planner, "update"),
    (Controller, "apply"),
    (Controller, "repair"),
    (Controller, "refresh"),
    (Controller, "end_drains"),
    (CheckpointFile, "write"),
    (Subscribers, "publish"),
    (HealthCheckPorts, "retry"),
    (Reconciler, "log_news"),
    (Rounds, "_notify_watchdog"),
]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """A proxy whose tasks run every moment."""
    for name in ("POLL_SECONDS", "DELIVERY_SECONDS", "NEWS_SECONDS"):
        monkeypatch.setattr(proxy, name, 0.0)
    monkeypatch.setattr("kbe_nat.daemon.rounds.WAIT_SECONDS", 0.0)
    monkeypatch.setattr("kbe_nat.daemon.rounds.ALIVE_PARTS", 1e9)
    monkeypatch.setattr("kbe_nat.daemon.tasks.RETRY_SECONDS", 0.0)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    (tmp_path / "web.yaml").write_text(SERVICE)
    settings = Settings(
        source=SourceSettings((str(tmp_path),)),
        datapath=DatapathSettings(DatapathKind.EVERY_PACKET),
        files=FileSettings(tmp_path / "socket", tmp_path / "state"),
        periods=PeriodSettings(check=0, checkpoint=0),
    )
    return build(settings, Memory())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: ".".join((target[0].__name__, target[1]))
)
def test_f129_no_task_ends_the_loop(
    served: Proxy,
    target: tuple[type, str],
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: Callable[[], list[str]],
) -> None:
    """Every part of every task raises for a while, in the loop as it is."""
    controller = served.controller
    owner, name = target
    sound = getattr(owner, name)
    failures = 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal failures
        if failures < 20:
            failures += 1
            raise type(error)(*error.args)
        return sound(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    rounds, end = 0, time.monotonic() + 30

    def round_trip(*_: object) -> None:
        nonlocal rounds
        rounds += failures >= 20
        if rounds == 1:
            (tmp_path / "web.yaml").write_text(SERVICE.replace("80", "81"))
        is_there = [port.frontends[0].port for port in controller.plan.ports] == [81]
        is_logged = not served.reconciler._news
        served.ending.is_due = (rounds > 20 and is_there and is_logged) or time.monotonic() > end

    # Another task, whose turn comes as always.
    loop = served.rounds(Subscribers(controller.engine))
    loop.tasks.append(Task(0.0, round_trip, "the test fails", ""))
    loop.run(GracePeriod())
    assert time.monotonic() < end, "the loop lives, and serves what is new"
    said = [line for line in lines() if (repr(error) in line or "Too many open files" in line)]
    assert 1 <= len(said) == len(set(said)) <= 2, "each task that it has failed says so once"
    assert all(".py:" in line for line in said)


def test_f134_a_line_is_said_when_it_begins_to_hold(lines: Callable[[], list[str]]) -> None:
    standing = ConditionLog(logging.WARNING, "all is well")
    for held, new in (
        ([], []),
        (["a", "b", "a"], ["a", "b"]),
        (["b", "a"], []),
        (["a", "c"], ["c"]),
        (["a", "b"], ["b"]),
        ([], ["all is well"]),
        ([], []),
        (["a"], ["a"]),
    ):
        standing.update(held)
        assert lines() == new


def test_a_line_of_json_has_its_facts_as_fields(
    served: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kbe_nat")
    (tmp_path / "wrong.yaml").write_text(
        SERVICE.replace("web", "wrong").replace("port: ", "port: -")
    )
    (tmp_path / "web.yaml").write_text(SERVICE)
    served.reconciler.follow()
    served.reconciler.log_news()
    written = [json.loads(_Json().format(record)) for record in caplog.records]
    [refused] = [line for line in written if line["level"] == "error"]
    assert (refused["object"], refused["field"]) == ("Service wrong", "spec.ports[0].port")
    assert refused["origin"].endswith("wrong.yaml, document 1") and refused["reason"]
    [news] = [line for line in written if "generation" in line]
    assert news["message"].startswith(
        f"generation {news['generation']}: 1 service port with 0 endpoints"
    )
    assert (news["service_ports"], news["endpoints"]) == (1, 0)


def test_f134_notes_are_said_once_while_an_endpoint_flaps(
    served: Proxy, tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    """2,000 objects of kinds that are not read, and 200 external IPs where none may be."""
    reconciler, controller = served.reconciler, served.controller
    controller._options = lambda _: Options(external_ranges=("203.0.113.0/24",))
    others = "---\n".join(
        f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c{n}}}\n" for n in range(2000)
    )
    (tmp_path / "others.yaml").write_text(others)
    addresses = ", ".join(f"198.51.100.{n}" for n in range(200))
    (tmp_path / "web.yaml").write_text(
        SERVICE.replace("ports:", f"externalIPs: [{addresses}], ports:")
    )
    reconciler.follow()
    reconciler.log_news()
    said = lines()
    for n in (0, 999, 1999):
        [_] = [
            line
            for line in said
            if line.endswith(f"ConfigMap c{n}: objects of this kind are not read")
        ]
    assert len([line for line in said if "198.51.100.7 " in line]) == 1
    for turn in range(60):
        (tmp_path / "slice.yaml").write_text(
            SLICE if turn % 2 else SLICE.replace("10.0.0.1", "10.0.0.2")
        )
        reconciler.follow()
    reconciler.log_news()
    assert len(lines()) == 1, "the newest generation"
    # What changes in a note is new, and said alone.
    (tmp_path / "others.yaml").write_text(others.replace("{name: c7}", "{name: new}"))
    reconciler.follow()
    assert [line.partition(": ConfigMap ")[2] for line in lines()] == [
        "new: objects of this kind are not read"
    ]


def test_f134_whatever_happens_the_log_is_bounded() -> None:
    now = 0.0
    allowance = RateLimit(lambda: now)

    def passed(number: int) -> list[str]:
        records = [
            logging.LogRecord("kbe_nat", logging.INFO, "", 0, "line %d", (n,), None)
            for n in range(number)
        ]
        return [record.getMessage() for record in records if allowance.filter(record)]

    assert len(passed(3 * BURST)) == BURST
    now = 10.0
    first, *rest = passed(1000)
    assert first == f"line 0 ({2 * BURST} lines before this one were left out)"
    assert len(rest) == 10 * LINES_PER_SECOND - 1


def test_a_watcher_that_reads_nothing_costs_a_bounded_number_of_events() -> None:
    subscription = Subscription()
    event: Any = ("NEW", None)
    for _ in range(3):
        subscription.put([event] * CAPACITY)
    assert len(subscription.take(0)) == CAPACITY
    assert subscription.take(0) == []
    subscription.put([event])
    assert subscription.take(0) == [event]
