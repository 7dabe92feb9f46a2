"""A watch in every state and through every fault, in driven time: no test waits for a clock."""

import asyncio
from collections.abc import Callable

import pytest

from cluster import faults
from cluster.answers import ApiServer, Fault
from cluster.api_objects import ApiObjects
from cluster.objects import endpoint_slice, service
from cluster.watch import SLICES, Watch, run
from kbe_nat.errors import ObjectError
from kbe_nat.sources.watch_state import WatchPhase


@pytest.fixture(autouse=True, params=[True, False], ids=["protobuf", "json"])
def has_protobuf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the server answers in protobuf, which is asked for first."""
    has_protobuf: bool = request.param
    monkeypatch.setattr(ApiServer, "has_protobuf", has_protobuf)
    return has_protobuf


def test_it_lists_and_follows_changes() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a", "b")
        watch.server.objects.put(service("c"))
        watch.server.objects.delete("Service", "a")
        await watch.in_step("b", "c", seconds=1)
        assert watch.server.count("services") == 1
        assert (watch.replaced, watch.state.lists, watch.state.events) == (1, 1, 2)
        phases = [state.phase for state in watch.states]
        assert phases[0] is WatchPhase.CONNECTING and WatchPhase.LISTING in phases

    run(test, "a", "b")


def test_it_asks_as_kube_proxy_does() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        [request] = watch.server.requests
        query = dict(request.query)
        assert request.path == "/api/v1/services"
        assert 300 <= int(query.pop("timeoutSeconds")) <= 600
        assert query == {
            "watch": "true",
            "fieldSelector": "spec.clusterIP!=None",
            "labelSelector": "!service.kubernetes.io/service-proxy-name",
            "allowWatchBookmarks": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
        }

    run(test, "a")


def test_an_object_that_leaves_the_selection_is_deleted() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a", "b")
        other = service("a")
        other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
        watch.server.objects.put(other)
        await watch.in_step("b", seconds=1)
        watch.server.objects.put(service("a"))
        await watch.in_step("a", "b", seconds=1)

    run(test, "a", "b")


def test_a_clean_end_goes_on_from_the_last_version() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        await asyncio.sleep(3600)
        watch.server.objects.put(service("b"))
        await watch.in_step("a", "b", seconds=1)
        assert watch.state.lists == 1
        assert 6 <= watch.server.count("services") <= 13
        assert not watch.state.failures

    run(test, "a")


@pytest.mark.parametrize("has_watch_list", [True, False], ids=["watchlist", "list"])
def test_f102_too_old_a_version_lists_anew_and_swaps_whole(has_watch_list: bool) -> None:
    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = has_watch_list
        await watch.in_step("a", "b")
        watch.connection.is_down = True
        watch.server.objects.delete("Service", "a")
        watch.server.objects.put(service("c"))
        watch.server.objects.restart()
        watch.connection.is_down = False
        await watch.in_step("b", "c")
        watch.server.faults.append(Fault(faults.expired(), verb="watch"))
        watch.server.objects.put(service("d"))
        await watch.in_step("b", "c", "d")

    run(test, "a", "b")


@pytest.mark.parametrize("has_watch_list", [True, False], ids=["watchlist", "list"])
@pytest.mark.parametrize(
    "change",
    [
        faults.status(410),
        faults.status(500),
        faults.status(503, 2),
        faults.status(429, 2),
        faults.status(504),
        faults.status(403),
        faults.status(400),
        faults.too_large(),
        faults.expired(),
        faults.body(b"<html>sorry</html>", "text/html"),
        faults.body(b"<html>sorry</html>"),
        faults.body(b'{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"9"}'),
        faults.body(b'{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}'),
        faults.body(b'{"kind":"ServiceList","apiVersion":"v1","metadata":{}}'),
        faults.body(b""),
        faults.body(b"\xff\xfe{"),
        faults.silent(),
        faults.slow(30),
        faults.cut(0),
        faults.cut(100),
        faults.cut(2500),
        faults.ended(0),
        faults.ended(100),
        faults.ended(2500),
    ],
    ids=lambda change: "",
)
def test_f103_no_answer_wipes_what_is_served(change: faults.Change, has_watch_list: bool) -> None:
    names = [f"s{number}" for number in range(30)]

    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = has_watch_list
        await watch.in_step(*names)
        watch.server.faults += [Fault(faults.expired()), Fault(change), Fault(change)]
        watch.server.objects.put(service("t"))
        watch.server.objects.delete("Service", "s0")
        loop = asyncio.get_running_loop()
        started = loop.time()
        while watch.server.faults[-1].times or watch.names != {*names[1:], "t"}:
            assert len(watch.names) >= 29
            assert loop.time() - started < 1800, watch.state
            await asyncio.sleep(0.1)
        await watch.in_step(*names[1:], "t")

    run(test, *names)


@pytest.mark.parametrize("has_watch_list", [True, False], ids=["watchlist", "list"])
def test_f103_one_empty_list_takes_nothing_away(has_watch_list: bool) -> None:
    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = has_watch_list
        await watch.in_step("a", "b")
        watch.server.faults += [Fault(faults.expired()), Fault(faults.empty_list())]
        await watch.serves_throughout("a", "b", seconds=700)
        assert not watch.server.faults[-1].times
        assert watch.state.withheld == 1

    run(test, "a", "b")


def test_f103_an_empty_list_counts_when_a_second_one_confirms_it() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a", "b")
        watch.server.faults.append(Fault(faults.expired()))
        watch.server.objects.delete("Service", "a")
        watch.server.objects.delete("Service", "b")
        watch.server.objects.restart()
        await watch.in_step()

    run(test, "a", "b")


def test_f104_events_out_of_order_twice_and_late_end_in_the_same_state() -> None:
    orders: list[Callable[[list[bytes]], list[bytes]]] = [
        lambda lines: lines[::-1],
        lambda lines: lines + lines,
        lambda lines: [line for line in lines for _ in range(3)],
        lambda lines: [lines[-1], *lines],
        lambda lines: lines[1:],
    ]
    for order in orders:

        async def test(watch: Watch, order: Callable[[list[bytes]], list[bytes]] = order) -> None:
            watch.server.faults.append(Fault(faults.shuffled(order, 4)))
            await watch.in_step("a")
            watch.server.objects.put(service("b"), service("c"))
            watch.server.objects.delete("Service", "b")
            watch.server.objects.put(service("d"))
            watch.server.objects.put(service("e"))
            names = {"a", "c", "d", "e"}
            if order is orders[-1]:
                # An event that never comes shows by nothing: DELETED of b ends it all the same.
                await watch.in_step(*names)
            else:
                await watch.in_step(*names, seconds=60)

        run(test, "a")


def test_f104_a_watch_that_is_silent_is_opened_anew() -> None:
    async def test(watch: Watch) -> None:
        watch.server.bookmark_seconds = 60
        await watch.in_step("a")
        watch.server.faults.append(Fault(faults.silent(), verb="watch"))
        await watch.until(lambda: not watch.server.faults[0].times)
        watch.server.objects.put(service("b"))
        assert 140 < await watch.in_step("a", "b") < 160

    run(test, "a")


def test_bookmarks_keep_a_quiet_watch_alive() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        await asyncio.sleep(290)
        assert watch.server.count("services") == 1
        watch.server.objects.tick()
        await asyncio.sleep(65)
        assert watch.state.version == str(watch.server.objects.version)

    run(test, "a")


def test_a_restore_to_an_earlier_state_is_followed() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        backup = watch.server.objects.backup()
        watch.server.objects.put(service("b"), service("c"))
        await watch.in_step("a", "b", "c")
        watch.server.faults.append(Fault(faults.ended(0)))
        watch.server.objects.restore(*backup)
        watch.server.objects.put(service("z"))
        # Until the watch ends nothing shows it; from then on the version is one of the future.
        assert await watch.in_step("a", "z") < 600 + 160
        assert watch.state.withheld

    run(test, "a")


def test_f100_an_hour_of_outage_leaves_everything_as_it_was() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        watch.connection.is_down = True
        await asyncio.sleep(5)
        assert watch.state.phase is WatchPhase.STALE
        assert "refused" in watch.state.reason
        await asyncio.sleep(3600)
        assert watch.names == {"a"}
        for number in range(8):
            watch.server.objects.put(service("b", port=80 + number))
            watch.server.objects.restart()
            watch.connection.is_down = False
            assert await watch.in_step("a", "b") < 3
            watch.connection.is_down = True
            await asyncio.sleep(600 + number)

    run(test, "a")


def test_a_server_that_starts_refuses_everyone_and_is_asked_again_soon() -> None:
    async def test(watch: Watch) -> None:
        watch.connection.is_down = True
        await asyncio.sleep(120)
        watch.server.forbidden = {("list", "services"), ("watch", "services")}
        watch.connection.is_down = False
        await asyncio.sleep(1.3)
        watch.server.forbidden = set()
        assert await watch.in_step("a") < 3

    run(test, "a")


def test_a_lasting_refusal_is_asked_about_twice_a_minute_at_most() -> None:
    async def test(watch: Watch) -> None:
        watch.server.forbidden = {("list", "services"), ("watch", "services")}
        await asyncio.sleep(600)
        before = watch.server.count("services", "list")
        await asyncio.sleep(3600)
        assert 120 <= watch.server.count("services", "list") - before <= 400
        assert "cannot list" in watch.state.reason

    run(test, "a")


def test_retry_after_is_honoured() -> None:
    async def test(watch: Watch) -> None:
        watch.server.faults.append(Fault(faults.status(429, 20)))
        assert 20 <= await watch.in_step("a") <= 31

    run(test, "a")


def test_a_token_that_rotates_is_read_again() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        watch.connection.next_token = "new"
        watch.server.tokens = {"new"}
        watch.server.objects.put(service("b"))
        await watch.in_step("a", "b", seconds=1)
        await asyncio.sleep(1200)
        watch.server.objects.put(service("c"))
        await watch.in_step("a", "b", "c", seconds=1)
        assert watch.state.lists == 1

    run(test, "a")


def test_pages_of_a_list_count_together() -> None:
    names = [f"s{number}" for number in range(1203)]

    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = False
        await watch.in_step(*names)
        assert watch.server.count("services", "list") == 3
        assert watch.replaced == 1

    run(test, *names)


def test_f105_one_wrong_object_leaves_the_others() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        wrong = service("w")
        wrong["spec"]["ports"] = [{"port": 65536}]
        watch.server.objects.put(wrong)
        watch.server.objects.put(service("b"))
        await watch.in_step("a", "b", "w")
        error = watch.objects["Service", "default", "w"]
        assert isinstance(error, ObjectError)
        assert str(error).startswith("API server: Service default/w: spec.ports[0].port: ")

    run(test, "a")


def test_null_and_missing_arrays_are_empty_ones() -> None:
    async def test(watch: Watch) -> None:
        forms: list[dict[str, object]] = [
            {"endpoints": None, "ports": None},
            {},
            {"ports": []},
        ]
        for number, nothing in enumerate(forms):
            value = endpoint_slice("a", [], name=f"a-{number}")
            del value["endpoints"], value["ports"]
            watch.server.objects.put({**value, **nothing})
        await watch.in_step("a-0", "a-1", "a-2")
        assert not any(isinstance(item, ObjectError) for item in watch.objects.values())

    run(test, resource=SLICES)


@pytest.mark.parametrize("has_watch_list", [True, False], ids=["watchlist", "list"])
def test_f103_one_older_list_takes_nothing_away(has_watch_list: bool) -> None:
    async def test(watch: Watch) -> None:
        watch.server.has_watch_list = has_watch_list
        await watch.in_step("a")
        older = ApiServer(ApiObjects(), has_watch_list=has_watch_list)
        older.objects.restore(*watch.server.objects.backup())
        watch.server.objects.put(service("b"), service("c"))
        await watch.in_step("a", "b", "c")
        watch.server.faults += [
            Fault(faults.expired()),
            *(Fault(faults.elsewhere(older), verb=verb) for verb in ("watch", "list")),
        ]
        await watch.serves_throughout("a", "b", "c", seconds=1300)
        assert watch.state.withheld == 1

    run(test, "a")


def test_f104_a_version_from_the_future_is_given_up() -> None:
    async def test(watch: Watch) -> None:
        await watch.in_step("a")
        backup = watch.server.objects.backup()
        watch.server.objects.put(service("b"), service("c"), service("d"))
        await watch.in_step("a", "b", "c", "d")
        watch.server.objects.restore(*backup)
        watch.server.objects.put(service("z"))
        # The watch breaks, so that no event can tell of it.
        watch.connection.is_down = True
        watch.connection.is_down = False
        assert 140 < await watch.in_step("a", "z") < 170

    run(test, "a")
