"""What a role lacks, and what answers may cost: watches that are not allowed, lists without end,
answers that stop, mistakes of our own. In driven time.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cluster import faults
from cluster.answers import Answer, Fault, Request
from cluster.objects import service
from cluster.watch import NODES, Watch, run
from kbe_nat.sources.kubernetes import reflector
from kbe_nat.sources.kubernetes.reflector import Reflector
from kbe_nat.sources.watch_state import WatchPhase, WatchState


def test_a_role_that_may_list_and_not_watch_apply_events_by_lists() -> None:
    async def test(watch: Watch) -> None:
        watch.server.forbidden = {("watch", "services")}
        await watch.until(lambda: watch.names == {"a"})
        for number in range(20):
            watch.server.objects.put(service(f"b{number}"))
            names = {"a", *(f"b{each}" for each in range(number + 1))}
            await watch.until(lambda: watch.names == names, seconds=60)  # noqa: B023
        watch.server.objects.delete("Service", "a")
        await watch.until(lambda: "a" not in watch.names, seconds=60)
        # It is not in step between two lists, and says why, once.
        assert watch.state.phase is WatchPhase.STALE
        assert "cannot watch" in watch.state.reason
        before = len(watch.server.requests)
        await asyncio.sleep(3600)
        assert {each.phase for each in watch.states[-99:]} == {WatchPhase.STALE}
        lists = len(watch.server.requests) - before
        # Per round a watch, a WatchList and a LIST; a round takes half a minute at most.
        assert 3600 / 30 * 3 <= lists <= 3600 / 10 * 3
        watch.server.forbidden = set()
        await watch.until(lambda: watch.state.phase is WatchPhase.IN_STEP, seconds=60)
        watch.server.objects.put(service("c"))
        await watch.until(lambda: "c" in watch.names, seconds=1)

    run(test, "a")


@pytest.mark.parametrize(
    "fault",
    [faults.status(410), faults.expired(), faults.too_large()],
    ids=["410", "ERROR 410", "504"],
)
def test_f102_a_version_that_is_too_old_wakes_the_other_watches(fault: faults.Change) -> None:
    """All of them list in one turn: with a moment for each, all nodes would list for longer."""

    async def test(watch: Watch) -> None:
        states: list[WatchState] = []
        other = Reflector(NODES, watch.cluster, watch.inbox, states.append, clock=lambda: 0.0)
        task = asyncio.create_task(other.run())
        await watch.until(lambda: watch.state.lists and states[-1].lists)
        # So the pauses while connections are refused are up to 30 s long.
        watch.cluster.nodes = 100_000
        watch.connection.is_down = True
        await asyncio.sleep(60)
        watch.server.faults += [Fault(fault, resource) for resource in ("services", "nodes")]
        before = len(watch.server.requests)
        watch.connection.is_down = False
        await watch.until(lambda: len(watch.server.requests) > before)
        assert await watch.until(lambda: len(watch.server.requests) > before + 1) < 0.2
        # Then both list, in one turn.
        await watch.until(lambda: len(watch.server.requests) > before + 2, seconds=31)
        assert await watch.until(lambda: len(watch.server.requests) > before + 3) < 0.2
        task.cancel()

    run(test, "a")


def continued(token: dict[str, object], version: int, *names: str) -> faults.Change:
    """A page of a list whose next page has this token."""

    async def change(answer: Answer, request: Request) -> Answer:
        text = base64.b64encode(json.dumps(token).encode()).decode().rstrip("=")
        document = {
            "kind": "ServiceList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(version), "continue": text},
            "items": [service(name) for name in names],
        }
        return Answer(body=faults.one(json.dumps(document).encode()))

    return change


def test_f103_pages_of_different_moments_are_no_list() -> None:
    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = False
        await watch.in_step("a")
        token: dict[str, object] = {"v": "meta.k8s.io/v1", "rv": 1 << 30, "start": 0}
        watch.server.faults += [
            Fault(faults.expired(), verb="watch"),
            Fault(continued(token, 7, "x"), verb="list"),
        ]
        await watch.until(lambda: watch.state.withheld)
        assert "pages of one list have versions 7 and 1073741824" in watch.state.reason
        assert watch.names == {"a"}
        await watch.in_step("a")

    run(test, "a")


def test_f103_pages_without_end_are_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MAX_LIST", 20 << 14)

    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = False
        watch.server.faults.append(
            Fault(continued({"rv": 7, "start": 0}, 7), verb="list", times=1000)
        )
        await watch.until(lambda: watch.state.withheld)
        assert "a list has more than" in watch.state.reason
        assert watch.server.count("services", "list") == 21
        assert not watch.names

    run(test, "a")


def test_f103_a_list_that_is_too_large_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "MAX_LIST", 4_000)

    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = False
        watch.server.objects.put(*(service(f"s{number}") for number in range(100)))
        await watch.until(lambda: watch.state.withheld)
        assert "a list has more than" in watch.state.reason
        assert not watch.names

    run(test, "a")


def dripping(text: bytes, seconds: float) -> faults.Change:
    """After what the server says, this text now and then, for ever."""

    async def change(answer: Answer, request: Request) -> Answer:
        async def body() -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(seconds)
                yield text

        return replace(answer, body=body())

    return change


def test_f104_empty_lines_keep_no_watch_alive(has_protobuf: bool) -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        # In protobuf a frame begins that does not end.
        drip = b"\0" if has_protobuf else b"\n"
        watch.server.faults.append(Fault(raw(dripping(drip, 60), has_protobuf), verb="watch"))
        await watch.until(lambda: not watch.server.faults[0].times)
        watch.server.objects.put(service("b"))
        assert 140 < await watch.in_step("a", "b") < 160

    run(test, "a")


def raw(change: faults.Change, is_protobuf: bool) -> faults.Change:
    """The answer as it is: it is not encoded anew."""

    async def named(answer: Answer, request: Request) -> Answer:
        kind = "application/vnd.kubernetes.protobuf" if is_protobuf else "application/json"
        answer = await change(answer, request)
        # The test server encodes what it takes for JSON.
        return replace(answer, headers={"Content-Type": f"{kind};stream=watch"})

    return named


def test_f104_a_list_that_stops_is_asked_for_again() -> None:
    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = False
        watch.server.faults += [Fault(faults.slow(1e6), verb="list")]
        assert 80 < await watch.in_step("a") < 130
        assert any("does not answer" in state.reason for state in watch.states)

    run(test, "a")


def test_a_mistake_of_ours_ends_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        real, broken = Reflector._apply_event, [True]

        def follow(self: Reflector, event: object) -> None:
            if broken.pop() if broken else False:
                raise ZeroDivisionError("one\nline")
            real(self, event)  # type: ignore[arg-type]

        monkeypatch.setattr(Reflector, "_apply_event", follow)
        watch.server.objects.put(service("b"))
        await watch.in_step("a", "b")
        [words] = {state.reason for state in watch.states if state.reason}
        assert words.startswith("a mistake of kbe-nat: ZeroDivisionError: one line (")

    run(test, "a")


@pytest.fixture(autouse=True, params=[True, False], ids=["protobuf", "json"])
def has_protobuf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server answers in protobuf, which is asked for first."""
    has_protobuf: bool = request.param
    monkeypatch.setattr("cluster.answers.ApiServer.has_protobuf", has_protobuf)
    return has_protobuf
