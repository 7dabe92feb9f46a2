"""Events for the operators of a cluster: which are told, and what becomes of them."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import faults
from cluster.answers import ApiServer, Fault, Request
from cluster.memory import MemoryConnection, drive
from cluster.objects import endpoint_slice, service
from cluster.replay import recording
from kbe_nat.daemon.cluster_events import ClusterEvents
from kbe_nat.errors import ObjectError
from kbe_nat.metrics.rest import EventOutcome, RestMetrics
from kbe_nat.model import Service, ServicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.plan import HealthCheck
from kbe_nat.policy.planner import Planner
from kbe_nat.sources.events import MAX_RECENT, MAX_WAITING, Event, EventQueue, Recorded
from kbe_nat.sources.kubernetes.entries import list_entry
from kbe_nat.sources.kubernetes.event_posts import EventPosts, Identity, event_body
from kbe_nat.sources.kubernetes.resources import watched_resources

KEY = ("Service", "default", "a")
_, SERVICES, _ = watched_resources("node-1")


def event(number: int = 0, reason: str = "AddressClaimed") -> Event:
    return Event(("Node", "", f"s{number}"), reason, "Claim", "note")


def outcomes(metrics: RestMetrics) -> dict[str, float]:
    *_, values = metrics.values()
    return {labels["outcome"]: value for _, labels, value in values.samples()}


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> EventQueue:
    return EventQueue(clock=clock)


def taken(queue: EventQueue) -> Iterator[Event]:
    while (each := queue.take()) is not None:
        yield each.event


def test_of_an_object_and_a_reason_one_event_a_minute_is_taken(
    queue: EventQueue, clock: Clock
) -> None:
    for _ in range(3):
        queue.record(event())
        clock.now += 19
    assert list(taken(queue)) == [event()]
    assert outcomes(queue.metrics) == {"limited": 2}
    queue.record(event(reason="ObjectRefused"))
    queue.record(event(1))
    assert len(list(taken(queue))) == 2
    queue.record(event())
    clock.now += 60
    queue.record(event())
    assert list(taken(queue)) == [event()]


def test_few_events_wait_whatever_comes(queue: EventQueue, clock: Clock) -> None:
    for number in range(MAX_WAITING + 10):
        queue.record(event(number))
    assert outcomes(queue.metrics) == {"overflowed": 10}
    assert [each.regarding[2] for each in taken(queue)] == [f"s{n}" for n in range(MAX_WAITING)]


def test_the_memory_of_what_was_taken_is_bounded(queue: EventQueue, clock: Clock) -> None:
    for number in range(MAX_RECENT + 10):
        queue.record(event(number))
        assert queue.take() is None or number < MAX_RECENT
    assert outcomes(queue.metrics) == {"limited": 10}
    clock.now += 61
    queue.record(event(MAX_RECENT + 1))
    assert len(list(taken(queue))) == 1


@dataclass
class Posting:
    """A queue whose Events are posted to a server, in driven time."""

    server: ApiServer = field(default_factory=ApiServer)
    queue: EventQueue = field(init=False)
    connection: MemoryConnection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = MemoryConnection(self.server)
        self.queue = EventQueue(clock=asyncio.get_running_loop().time)

    @property
    def names(self) -> list[str]:
        return [each["regarding"]["name"] for each in self.server.events]

    @property
    def outcomes(self) -> dict[str, float]:
        return outcomes(self.queue.metrics)


def run(test: Callable[[Posting], Awaitable[None]]) -> None:
    async def beside() -> None:
        posting = Posting()
        task = asyncio.create_task(EventPosts(posting.connection, posting.queue).run())
        try:
            await asyncio.sleep(0)
            await test(posting)
            assert not task.done() or task.result()
        finally:
            task.cancel()

    drive(beside())


def test_events_are_posted_in_order_and_not_all_at_once() -> None:
    async def test(posting: Posting) -> None:
        for number in range(50):
            posting.queue.record(event(number))
        await asyncio.sleep(1)
        assert 3 <= len(posting.names) <= 10
        await asyncio.sleep(20)
        assert posting.names == [f"s{number}" for number in range(50)]
        assert len({each["metadata"]["name"] for each in posting.server.events}) == 50
        assert posting.outcomes == {"posted": 50}
        posting.queue.record(event(50))
        await asyncio.sleep(1)
        assert posting.names[-1] == "s50"

    run(test)


def test_an_event_that_the_server_refuses_is_dropped() -> None:
    async def test(posting: Posting) -> None:
        posting.queue.record(Event(("Node", "", "a"), "", "Claim"))
        posting.queue.record(event(1))
        await asyncio.sleep(2)
        assert posting.names == ["s1"]
        assert len(posting.server.requests) == 2
        assert posting.outcomes == {"refused": 1, "posted": 1}

    run(test)


def test_a_role_without_the_right_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(posting: Posting) -> None:
        posting.server.forbidden.add(("create", "events"))
        for number in range(5):
            posting.queue.record(event(number))
        await asyncio.sleep(1)
        assert len(posting.server.requests) == 1
        await asyncio.sleep(3600)
        assert len(posting.server.requests) == 5
        assert posting.outcomes == {"refused": 5}
        posting.server.forbidden.clear()
        posting.queue.record(event(9))
        await asyncio.sleep(60)
        assert posting.names == ["s9"]

    logging.getLogger("kbe_nat").propagate = True
    run(test)
    [line] = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert "the role lacks the verb create for events" in line
    assert 'cannot create resource "events"' in line


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_left_alone(code: int) -> None:
    async def test(posting: Posting) -> None:
        posting.server.faults.append(Fault(faults.status(code), "events", "create", times=1))
        for number in range(10):
            posting.queue.record(event(number))
        await asyncio.sleep(25)
        assert len(posting.server.requests) == 1
        await asyncio.sleep(60)
        assert posting.names == [f"s{number}" for number in range(1, 10)]
        assert posting.outcomes == {"refused": 1, "posted": 9}

    run(test)


def test_f100_an_hour_of_outage_costs_an_attempt_now_and_then() -> None:
    async def test(posting: Posting) -> None:
        posting.connection.is_down = True
        for number in range(36_000):
            posting.queue.record(event(number))
            await asyncio.sleep(0.1)
        assert sum(posting.outcomes.values()) >= 36_000 - MAX_WAITING
        assert posting.outcomes["failed"] <= 3600 / 30 + 1
        posting.connection.is_down = False
        await asyncio.sleep(120)
        assert len(posting.names) == MAX_WAITING

    run(test)


def test_a_server_that_does_not_answer_is_given_up() -> None:
    async def silence(answer: Any, request: Request) -> Any:
        await asyncio.sleep(3600)

    async def test(posting: Posting) -> None:
        posting.server.faults.append(Fault(silence, "events", "create"))
        posting.queue.record(event(1))
        posting.queue.record(event(2))
        await asyncio.sleep(60)
        assert posting.names == ["s2"]
        assert posting.outcomes == {"failed": 1, "posted": 1}

    run(test)


def test_credentials_are_read_again_when_they_are_not_accepted() -> None:
    async def test(posting: Posting) -> None:
        posting.server.tokens = {"new"}
        posting.connection.next_token = "new"
        posting.queue.record(event(1))
        posting.queue.record(event(2))
        await asyncio.sleep(60)
        assert posting.names == ["s2"]

    run(test)


@pytest.mark.parametrize("name", ["240-event-post", "241-event-post-bad"])
def test_the_test_server_answers_as_recorded(name: str) -> None:
    own = recording(name)

    async def answer() -> tuple[int, Mapping[str, Any]]:
        request = Request(
            own.path, {}, {"Authorization": "Bearer sound"}, "POST", own.rows[0]["body"].encode()
        )
        answer = await ApiServer().answer(request)
        assert answer.body is not None
        return answer.status, json.loads(b"".join([chunk async for chunk in answer.body]))

    status, body = drive(answer())
    assert status == own.status
    recorded = json.loads(own.body)
    for each in ("code", "reason", "message", "details", "eventTime", "regarding", "note", "type"):
        assert body.get(each) == recorded.get(each), each


def test_an_event_has_the_fields_of_the_recorded_one() -> None:
    recorded = json.loads(recording("240-event-post").rows[0]["body"])
    started = Event(("Node", "", "node-1"), "Starting", "StartKubeProxy", "started", False)
    now = 1_795_856_463_000_000_016
    body = json.loads(event_body(Recorded(started, now), "kbe-nat-node-1", Identity()))
    assert body.pop("metadata") == {"name": f"node-1.{now:x}", "namespace": "default"}
    recorded.pop("metadata")
    assert body["regarding"].pop("apiVersion") == "v1"
    assert body.pop("eventTime") == "2026-11-28T09:01:03.000000Z" == recorded.pop("eventTime")
    assert body == recorded


def test_long_texts_are_cut_to_what_the_server_takes() -> None:
    async def test(posting: Posting) -> None:
        key = ("EndpointSlice", "default", "a." * 126 + "a")
        posting.server.objects.put(endpoint_slice("a", [], name=key[2]))
        posting.queue.record(Event(key, "ObjectRefused", "Read", "ü" * 5000))
        await asyncio.sleep(1)
        [posted] = posting.server.events
        assert posted["note"] == "ü" * 512
        assert posted["regarding"]["apiVersion"] == "discovery.k8s.io/v1"

    run(test)


def plan_of(*services: Service) -> tuple[tuple[tuple[str, str], str], ...]:
    planner = Planner()
    planner.update(Snapshot(services=services), Options())
    return planner.plan.losses


def test_the_loser_of_an_address_is_told_once(queue: EventQueue, clock: Clock) -> None:
    ports = (ServicePort("", "tcp", 80),)
    a, b = (
        Service(namespace="default", name=name, cluster_ips=("172.30.0.1",), ports=ports)
        for name in "ab"
    )
    events = ClusterEvents(queue, "node-1")
    losses = plan_of(a, b)
    posted: list[Event] = []
    for _ in range(5):
        events.update((), losses, Snapshot())
        posted += taken(queue)
        clock.now += 100
    [only] = posted
    assert only.regarding == ("Service", "default", "b")
    assert only.reason == "AddressClaimed"
    assert "172.30.0.1:80" in only.note and "default/a" in only.note
    events.update((), plan_of(a), Snapshot())
    events.update((), losses, Snapshot())
    assert list(taken(queue)) == [only]


def test_a_refused_object_is_told_with_its_field(queue: EventQueue) -> None:
    bad = service("a")
    bad["spec"]["ports"][0]["port"] = "http"
    entry = list_entry(json.dumps({"apiVersion": "v1", **bad}).encode(), SERVICES)
    assert isinstance(entry.object, ObjectError)
    of_a_file = ObjectError("x.yaml, document 1", "Service default/b", "no", "spec")
    ClusterEvents(queue, "node-1").update((of_a_file, entry.object), (), Snapshot())
    [only] = taken(queue)
    assert (only.regarding, only.reason) == (KEY, "ObjectRefused")
    assert only.note.startswith("spec.ports[0].port: ")


@pytest.mark.parametrize("number", [-1, 65536, 1 << 31])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("spec.ports[0].nodePort", "nodePort"),
        ("spec.ports[0].port", "port"),
        ("spec.healthCheckNodePort", "healthCheckNodePort"),
    ],
)
def test_a_number_out_of_its_range_is_told_with_its_field(
    queue: EventQueue, path: str, field: str, number: int
) -> None:
    bad = service("a")
    place = bad["spec"]["ports"][0] if "ports" in path else bad["spec"]
    place[field] = number
    entry = list_entry(json.dumps({"apiVersion": "v1", **bad}).encode(), SERVICES)
    assert isinstance(entry.object, ObjectError)
    ClusterEvents(queue, "node-1").update((entry.object,), (), Snapshot())
    [only] = taken(queue)
    assert (only.regarding, only.reason) == (KEY, "ObjectRefused")
    assert only.note.startswith(f"{path}: ")


def test_a_kernel_that_lacks_rules_is_told_once(queue: EventQueue, clock: Clock) -> None:
    events = ClusterEvents(queue, "node-1")
    for reason in ("no number is free", "no number is free for 2", "", "no number is free"):
        events.delay_rules(reason)
        clock.now += 61
    first, second = taken(queue)
    assert first == second
    assert (first.regarding, first.reason) == (("Node", "", "node-1"), "RulesNotUpToDate")
    assert first.note == "no number is free"


def test_a_health_check_whose_port_is_taken_is_told(queue: EventQueue) -> None:
    events = ClusterEvents(queue, "node-1")
    check = HealthCheck("default", "a", 30200, 1)
    events.fail_health_check(check, "0.0.0.0:30200: Address already in use")
    events.fail_health_check(check, "[::]:30200: Address already in use")
    [only] = taken(queue)
    assert only.regarding == KEY
    assert only.reason == "FailedToStartServiceHealthcheck"
    assert "node-1" in only.note and "30200" in only.note


def test_outcomes_have_names() -> None:
    answered = {"posted", "known", "refused", "failed"}
    assert {*EventOutcome} == answered | {"limited", "overflowed", "absent", "left"}
