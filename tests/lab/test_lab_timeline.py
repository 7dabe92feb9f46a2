"""Timelines whose events overlap: each step meets the list as earlier steps left it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scenarios import scenario, service
from kbe_nat.lab.reading import offline_scenario_of
from kbe_nat.lab.timeline import Moment, expand

COUNT = 10
"""Backends at the start."""


def moments_of(*timeline: dict[str, Any]) -> list[Moment]:
    events = [{"service": "web", **event} for event in timeline]
    values = scenario(services=[service(COUNT)], timeline=events, duration=1000)
    return expand(offline_scenario_of(values))[2]


class Replay:
    """What the simulation makes of the changes."""

    def __init__(self) -> None:
        self.listed = set(range(COUNT))
        self.weights: dict[int, int] = {}
        self.dead: set[int] = set()
        self.replaced: set[int] = set()

    def apply(self, moment: Moment) -> None:
        _, name, changes = moment
        for change in changes:
            match change:
                case {"list": [0, backend, is_listed]}:
                    assert (backend in self.listed) != is_listed, "each change changes the list"
                    self.listed ^= {backend}
                    if is_listed:
                        assert backend not in self.dead, f"{name} lists a dead backend"
                        self.replaced.discard(backend)
                case {"weight": [0, backend, weight]}:
                    self.weights[backend] = weight
                case {"alive": [0, backend, is_alive]}:
                    (self.dead.discard if is_alive else self.dead.add)(backend)
        if match := re.fullmatch(r"web\[\d+\] replaces \[(\d+)\]", name):
            self.replaced.add(int(match[1]))

    @property
    def counted(self) -> int:
        return len(self.listed - self.replaced)


def after(*timeline: dict[str, Any]) -> Replay:
    replay = Replay()
    for moment in moments_of(*timeline):
        replay.apply(moment)
    return replay


def scale(at: float, backends: int) -> dict[str, Any]:
    return {"event": "scale", "at": at, "backends": backends}


FAILURE = {"event": "failure", "at": 40, "backends": [0]}
DRAIN = {"event": "drain", "at": 40, "backend": 0}
UPDATE = {"event": "rolling-update", "at": 1, "interval": 10}


@pytest.mark.parametrize(
    ("timeline", "listed"),
    [
        # At 50 four of ten are replaced; the last of the list, which are the new ones, leave.
        ((UPDATE, scale(50, 4)), {15, 16, 17, 18}),
        ((FAILURE | {"detected_after": 20}, scale(50, 4)), {1, 2, 3}),
        ((FAILURE | {"detected_after": 20}, scale(50, 4), scale(70, 10)), set(range(1, 11))),
        ((DRAIN | {"removed_after": 20}, scale(50, 4)), {1, 2, 3}),
        ((FAILURE | {"backends": [9], "returns_after": 40}, scale(50, 4)), {0, 1, 2, 3}),
        ((FAILURE | {"returns_after": 40}, scale(50, 9)), set(range(1, 10))),
        ((FAILURE, scale(50, 10)), set(range(1, 11))),
        ((FAILURE | {"detected_after": 30, "returns_after": 20},), set(range(10))),
        ((DRAIN | {"removed_after": 20}, scale(70, 10)), set(range(10))),
        # 0 is drained and removed while the update goes on, which has replaced it by then.
        ((UPDATE | {"at": 45}, DRAIN | {"removed_after": 20}), set(range(10, 20))),
        ((UPDATE | {"at": 45}, DRAIN), set(range(10, 20))),
        # 9 is away at the begin of the update, and would return after it.
        (
            (UPDATE | {"at": 45}, FAILURE | {"backends": [9], "returns_after": 300}),
            set(range(10, 20)),
        ),
    ],
)
def test_overlapping_events(timeline: tuple[dict[str, Any], ...], listed: set[int]) -> None:
    for order in (timeline, timeline[::-1]):
        replay = after(*order)
        assert replay.listed == listed
        assert not replay.listed & replay.dead
        assert all(replay.weights.get(backend, 1) for backend in replay.listed)


def test_a_former_backend_returns_with_the_weight_that_it_had() -> None:
    weight = {"event": "weight", "at": 30, "backend": 0, "weight": 7}
    replay = after(weight, DRAIN | {"removed_after": 20}, scale(70, 10))
    assert (replay.listed, replay.weights) == (set(range(10)), {0: 7})


def events() -> Iterator[st.SearchStrategy[dict[str, Any]]]:
    times, places = st.integers(0, 100).map(float), st.integers(0, COUNT - 1)
    spans = st.integers(0, 60).map(float)
    some = st.integers(1, 60).map(float)

    def event(name: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
        return st.fixed_dictionaries({"event": st.just(name), "at": times, **fields})

    yield event("scale", backends=st.integers(0, 15))
    yield event("drain", backend=places, removed_after=st.none() | spans)
    yield event(
        "failure",
        backends=st.lists(places, min_size=1, max_size=3),
        detected_after=spans,
        returns_after=st.none() | some,
    )
    yield event("rolling-update", interval=some, drain=spans)
    yield event("flapping", backend=places, period=some, times=st.integers(1, 4))


@given(st.lists(st.one_of(*events()), min_size=1, max_size=6))
def test_any_overlapping_events_keep_the_list_sound(timeline: list[dict[str, Any]]) -> None:
    replay, moments = Replay(), moments_of(*timeline)
    assert [moment[0] for moment in moments] == sorted(moment[0] for moment in moments)
    failures = [event for event in timeline if event["event"] == "failure"]
    for place, moment in enumerate(moments):
        time, name, _ = moment
        count, before = replay.counted, set(replay.listed)
        was_replaced = set(replay.replaced)
        replay.apply(moment)
        if match := re.fullmatch(r"web scales to (\d+)", name):
            assert replay.counted == int(match[1])
            entered = replay.listed - before
            assert all(replay.weights.get(backend, 1) for backend in entered)
        elif match := re.fullmatch(r"web\[(\d+)\] replaces \[(\d+)\]", name):
            # One for one, unless what is replaced is away at the moment.
            assert replay.counted == count + (int(match[2]) not in before)
        elif (match := re.fullmatch(r"web\[(\d+)\] is removed", name)) and (
            int(match[1]) in was_replaced
        ):
            assert replay.counted == count
        following = moments[place + 1][0] if place + 1 < len(moments) else time + 1
        if following == time:
            continue
        for failure in failures:
            found = failure["at"] + failure["detected_after"]
            back = failure["returns_after"]
            if found <= time and (back is None or time < failure["at"] + back):
                assert not replay.listed & set(failure["backends"]), "found dead, and listed"
                assert set(failure["backends"]) <= replay.dead
