"""Simulations whose results are known: by hand, by laws of conservation, by their seeds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scenarios import poisson, scenario, service, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.tables import TIMED
from kbe_nat.model import Strategy

Row = dict[str, Any]


def rows(result: lab.Result, table: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in result.rows(table)]


def test_a_hundred_connections_by_hand() -> None:
    """Connection k opens at k / 10 s, in turn with backend 0 and 1. It is accepted after 1 ms, asks
    after 1.25 s, is answered after 1 ms, and closes 1.25 s later: 2.502 s after its SYN.

    At 5.05 s backend 1 dies, and leaves the list. Connections 26 to 50 are alive; of these 12 are
    of odd numbers. Later ones have backend 0.

    | second | opened   | alive, k, at its end | seconds of connections in it               |
    |--------|----------|----------------------|--------------------------------------------|
    | 1      | 0 to 9   | 0 to 9               | 1 + 0.9 + ... + 0.1 = 5.5                  |
    | 2      | 10 to 19 | 0 to 19              | 10 + 5.5                                   |
    | 3      | 20 to 29 | 5 to 29              | 0.502 + ... + 0.902 = 3.51, 15, 5.5        |
    | 5      | 40 to 49 | 25 to 49             | 10 connections a second of 2.502 s: 25.02  |
    | 6      | 50 to 59 | 35 to 59, but for the 8 odd ones until 49 | 25.02 less what 12 lost: |
    |        |          |                      | 0.152 + 0.352 + 0.552 + 0.752 and 8 * 0.95 |
    | 10     | 90 to 99 | 75 to 99             | 25.02                                      |
    """
    failure = {"event": "failure", "at": 5.05, "service": "web", "backends": [1]}
    result = lab.run(scenario(timeline=[failure]))
    seconds = rows(result, "seconds", "time", "connections", "load", "lost")
    assert [seconds[place] for place in (0, 1, 2, 4, 5, 9)] == [
        (1, 10, pytest.approx(5.5), 0),
        (2, 10, pytest.approx(15.5), 0),
        (3, 10, pytest.approx(24.01), 0),
        (5, 10, pytest.approx(25.02), 0),
        (6, 10, pytest.approx(25.02 - 9.408), 12),
        (10, 10, pytest.approx(25.02), 0),
    ]
    names = ("event", "live", "moved", "broken", "minimum")
    assert rows(result, "events", *names) == [("web[1] fails", 25, 0, 12, 12)]
    assert rows(result, "backends", "backend", "connections", "connections_share") == [
        (0, 75, 0.75),
        (1, 25, 0.25),
    ]
    # Each was owed a half of the 51 connections before, and backend 0 all 49 after.
    assert rows(result, "backends", "connections_fair") == [(74.5,), (25.5,)]
    outcome = next(iter(result.rows("outcomes")))
    assert outcome["offered"] == 100
    assert outcome["served"] == 88
    assert (outcome["open"], outcome["refused"], outcome["lost"]) == (25, 0, 12)


def test_balance_of_three_and_one_by_hand() -> None:
    """Weights 3 and 1 by rr, which knows none: each gets 50, and should have 75 and 25."""
    backends = [{"weight": 3}, {"weight": 1}]
    result = lab.run(scenario(services=[{"name": "web", "backends": backends}]))
    balance = next(iter(result.rows("balance")))
    # Ratios 2/3 and 2: the mean is 4/3, the deviation 2/3.
    assert balance["max_over_mean"] == pytest.approx(1.5)
    assert balance["cv"] == pytest.approx(0.5)
    assert balance["jain"] == pytest.approx((8 / 3) ** 2 / (2 * (4 / 9 + 4)))


STRATEGIES = (*Strategy, "modulo", "jump", "anchor", "lcd")


@st.composite
def scenarios(draw: st.DrawFn) -> dict[str, Any]:
    """Any mixture of traffic, and events in any order."""
    protocol = draw(st.sampled_from([["tcp"], ["tcp", "syn-flood"], ["udp", "udp-one-way"]]))
    rate = draw(st.floats(1, 400))
    arrivals = st.sampled_from(
        [
            {"kind": "poisson", "rate": rate},
            {"kind": "paced", "rate": rate},
            {"kind": "bursty", "rate": rate, "seconds_on": 0.5, "seconds_off": 0.5},
        ]
    )
    streams = [
        traffic(
            kind=kind,
            arrivals=draw(arrivals),
            clients={"count": draw(st.integers(1, 50)), "zipf": draw(st.sampled_from([0, 1.1]))},
            lifetime={"kind": "exponential", "mean": draw(st.floats(0.01, 5))},
            requests=draw(st.integers(1, 4)),
        )
        for kind in protocol
    ]
    if protocol == ["tcp"] and draw(st.booleans()):
        streams[0]["arrivals"] = {"kind": "closed", "think": 0.05}
    times = st.floats(0, 6)
    kinds: list[Row] = [
        {"event": "failure", "backends": [0], "detected_after": 1, "returns_after": 2},
        {"event": "failure", "backends": [0, 1, 2]},
        {"event": "scale", "backends": 6},
        {"event": "scale", "backends": 0},
        {"event": "drain", "backend": 1, "removed_after": 1},
        {"event": "rolling-update", "interval": 0.4, "drain": 0.3},
        {"event": "flapping", "backend": 2, "period": 0.5, "times": 3},
        {"event": "strategy", "strategy": "mh"},
        {"event": "node-loss", "node": 1, "returns_after": 1},
    ]
    events = st.sampled_from(kinds)
    timeline: list[Row] = [
        {**event, "at": draw(times)} for event in draw(st.lists(events, max_size=4))
    ]
    for event in timeline:
        if event["event"] != "node-loss":
            event["service"] = "web"
    memory = draw(st.sampled_from(["conntrack", "jet", "none"]))
    names = STRATEGIES if memory == "conntrack" else ["mh", "ring", "anchor", "sh"]
    return scenario(
        duration=draw(st.sampled_from([6, 6.25])),
        services=[service(3, affinity=draw(st.sampled_from([None, 5])))],
        traffic=streams,
        strategies=[draw(st.sampled_from(names))],
        memory=[memory],
        timeline=timeline,
        nodes={"count": 3, "ecmp": draw(st.sampled_from(["modulo", "resilient"]))},
        limits={"max_flows": draw(st.sampled_from([50, 100_000]))},
        seed=draw(st.integers(0, 1 << 62)),
    )


def assert_backends_add_up_to_seconds(
    backends: list[Row], seconds: list[Row], duration: float
) -> None:
    """All that backends got came in some second, whether they were listed then or not; and fair
    shares are dealt out of all that does not linger.
    """
    starts = [0.0, *(row["time"] for row in seconds)]
    lengths = [row["time"] - start for row, start in zip(seconds, starts, strict=False)]
    assert sum(lengths) == pytest.approx(duration)
    of_seconds = {
        "connections": sum(row["connections"] for row in seconds),
        "bytes": sum(row["bytes"] for row in seconds),
        "load": sum(row["load"] * length for row, length in zip(seconds, lengths, strict=True))
        / duration,
    }
    for quantity, total in of_seconds.items():
        got, lingering, fair = (
            sum(row[f"{quantity}{suffix}"] for row in backends)
            for suffix in ("", "_lingering", "_fair")
        )
        assert got == pytest.approx(total, rel=1e-9), quantity
        assert fair == pytest.approx(got - lingering, rel=1e-9, abs=1e-9), quantity
        assert all(0 <= row[f"{quantity}_lingering"] <= row[quantity] for row in backends)


@settings(max_examples=40, deadline=None)
@given(scenarios())
def test_connections_in_are_served_refused_or_lost(values: dict[str, Any]) -> None:
    result = lab.run(values)
    outcome = next(iter(result.rows("outcomes")))
    assert outcome["offered"] == outcome["served"] + outcome["refused"] + outcome["lost"]
    assert outcome["open"] <= outcome["served"]
    seconds = list(result.rows("seconds"))
    backends = list(result.rows("backends"))
    # Every connection that was not refused is booked with one backend, and in one second.
    admitted = outcome["offered"] - outcome["refused"]
    at_the_end = admitted - sum(row["connections"] for row in backends)
    assert 0 <= at_the_end <= outcome["open"]
    assert_backends_add_up_to_seconds(backends, seconds, values["duration"])
    assert sum(row["refused"] for row in seconds) == outcome["refused"]
    assert sum(row["lost"] for row in seconds) == outcome["lost"]
    for row in result.rows("events"):
        assert row["minimum"] <= row["broken"] + row["moved"]
        assert row["broken"] <= row["live"]
        assert row["moved"] <= row["live"]
    totals = next(iter(result.rows("totals")))
    assert totals["flood_admitted"] <= totals["flood"]


def test_equal_seeds_give_equal_results_on_any_number_of_processes(tmp_path: Path) -> None:
    values = scenario(
        services=[service(10)],
        traffic=[poisson(300)],
        strategies=["random", "mh", "p2c"],
        memory=["conntrack"],
        timeline=[{"event": "scale", "at": 4, "service": "web", "backends": 7}],
        repeats=2,
    )
    first = lab.run(values, tmp_path / "one")
    second = lab.run(values, tmp_path / "two", jobs=2)
    tables = [name for name in first.tables if name not in TIMED]
    assert len(tables) == 7
    for table in tables:
        assert first.folder.table(table).read_bytes() == second.folder.table(table).read_bytes()
    third = lab.run(values, tmp_path / "three", seed=2)
    lines = lab.differences(first, second)
    assert lines == []
    with pytest.raises(lab.LabError, match="different scenarios"):
        lab.differences(first, third)


def test_all_strategies_meet_the_same_traffic(tmp_path: Path) -> None:
    result = lab.run(scenario(traffic=[poisson(100)], strategies=["rr", "random", "mh"], repeats=3))
    offered = rows(result, "outcomes", "repeat", "offered")
    assert offered[:3] == offered[3:6] == offered[6:]
    assert len({count for _, count in offered}) == 3, "repeats differ"


class Interruption(Exception):
    pass


def test_an_interrupted_run_is_taken_up_and_no_cell_is_measured_twice(tmp_path: Path) -> None:
    values = scenario(traffic=[poisson(200)], strategies=["rr", "mh"], repeats=2)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise Interruption

    folder = tmp_path / "run"
    with pytest.raises(Interruption):
        lab.run(values, folder, watch=interrupt)
    finished = {path: path.stat().st_mtime_ns for path in (folder / "cells").glob("*.json")}
    assert len(finished) == 2
    assert not (folder / "balance.csv").exists()
    with pytest.raises(lab.LabError, match="the run was interrupted"):
        lab.report([lab.Result(folder)])
    # What an interrupted cell has left is no result.
    (folder / "cells" / "0000000000000000-0-seconds.part").write_text("1,2")
    result = lab.run(values, folder)
    assert len(list((folder / "cells").glob("*.json"))) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    whole = lab.run(values, tmp_path / "whole")
    assert lab.differences(result, whole) == []


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    lab.run(scenario(), tmp_path / "run")
    with pytest.raises(lab.LabError) as error:
        lab.run(scenario(strategies=["rr", "lc"], name="other"), tmp_path / "run", seed=5)
    assert str(error.value) == (
        f'{tmp_path / "run"}: holds another run: strategies was ["rr"] and is ["rr","lc"]; '
        "seed was 1 and is 5; run into another folder (-d), or remove this one"
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear")
    with pytest.raises(lab.LabError, match="not empty, and holds no run"):
        lab.run(scenario(), tmp_path / "other")


PEAK = """
import json, sys
from kbe_nat import lab
lab.run(json.loads(sys.argv[1]), sys.argv[2])
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def test_memory_does_not_grow_with_the_length_of_the_run(tmp_path: Path) -> None:
    """A process that runs a cell ten times as long as another needs no more memory."""
    peaks = []
    for duration in (20, 200):
        values = scenario(
            duration=duration,
            traffic=[poisson(500, lifetime=0.1)],
            timeouts={"tcp_time_wait": 1},
            strategies=["mh"],
            # Parquet is written at the end, by a library of others.
            outputs=["seconds"],
        )
        command = [sys.executable, "-c", PEAK, json.dumps(values), str(tmp_path / str(duration))]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True).stdout))
    assert peaks[1] < peaks[0] + 4000, "kilobytes"


def test_reproduction_tells_what_differs(tmp_path: Path) -> None:
    first = lab.run(scenario(traffic=[poisson(50)]), tmp_path / "run")
    second = lab.reproduce(tmp_path / "run", tmp_path / "again")
    assert lab.differences(first, second) == []
    table = first.folder.table("outcomes")
    table.write_text(table.read_text().replace(",0,0,0,0,0\n", ",0,7,0,0,0\n"))
    assert lab.differences(first, second) == ["outcomes: line 2: lost 7 -> 0"]
    table.write_text(table.read_text().replace(",7,", ",seven,"))
    with pytest.raises(lab.LabError, match=r"outcomes\.csv: line 2 is damaged"):
        list(first.rows("outcomes"))


def test_reproduction_tells_that_a_trace_has_changed(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("time,client,bytes,lifetime\n0,1,100,1\n")
    arrivals = {"kind": "trace", "file": str(trace)}
    first = lab.run(scenario(traffic=[{"service": "web", "arrivals": arrivals}]), tmp_path / "run")
    trace.write_text("time,client,bytes,lifetime\n0,1,100,1\n1,1,100,1\n")
    lines = lab.differences(first, lab.reproduce(tmp_path / "run", tmp_path / "again"))
    words = "the files of traces, or what this revision does in a cell, have changed"
    assert lines[0] == f"manifest: {words} since the first run"
    assert any(line.startswith("outcomes: line 2: offered 1 -> 2") for line in lines)


def test_what_was_interrupted_is_not_reproduced(tmp_path: Path) -> None:
    """Without a table nothing would be compared, and all be equal."""
    first = lab.run(scenario(), tmp_path / "run")
    for table in first.tables:
        first.folder.table(table).unlink()
    with pytest.raises(lab.LabError, match="run: the run was interrupted: run it into this folder"):
        lab.reproduce(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_table_that_is_missing_does_not_pass_for_equal(tmp_path: Path) -> None:
    first = lab.run(scenario(), tmp_path / "run")
    second = lab.reproduce(tmp_path / "run", tmp_path / "again")
    first.folder.table("balance").unlink()
    with pytest.raises(lab.LabError, match="run: the run has no table balance"):
        lab.differences(first, second)
    with pytest.raises(lab.LabError, match="run: the run has no table balance: run it once more"):
        lab.reproduce(tmp_path / "run", tmp_path / "third")
    assert not (tmp_path / "third").exists()
    assert lab.differences(lab.run(scenario(), tmp_path / "run"), second) == []


def test_a_run_is_not_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lab.run(scenario(), "run")
    Path("link").symlink_to("run")
    for target in ("run", "link", str(tmp_path / "run")):
        assert main(["lab", "reproduce", "run", "-d", target]) == 2
        line = f"kbe-nat: {target}: it is the run itself: name another folder for the results\n"
        assert capsys.readouterr().err == line
    assert main(["lab", "reproduce", "run", "-d", "again"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["lab", "reproduce", "run", "-d", "again"]) == 0
    line = "kbe-nat: again: this run was finished before; it is compared as it is\n"
    assert capsys.readouterr().err == line


class Last:
    """Always the last backend: what a strategy in Python is at least."""

    def __init__(self, backends: list[Any], seed: int) -> None:
        self.count = len(backends)

    def pick(self, hash: int, loads: list[int]) -> int | None:
        return self.count - 1 if self.count else None


class Idlest(Last):
    """By loads, which it is told."""

    def pick(self, hash: int, loads: list[int]) -> int | None:
        return min(range(self.count), key=lambda place: loads[place]) if self.count else None


class Wrong(Last):
    def pick(self, hash: int, loads: list[int]) -> int | None:
        return self.count


class Negative(Last):
    def pick(self, hash: int, loads: list[int]) -> int | None:
        return -1


class Huge(Last):
    def pick(self, hash: int, loads: list[int]) -> int | None:
        return 1 << 70


class Words(Last):
    def pick(self, hash: int, loads: list[int]) -> Any:
        return "first"


class Failing(Last):
    def pick(self, hash: int, loads: list[int]) -> int | None:
        raise ZeroDivisionError("by design")


class Leaving(Last):
    def pick(self, hash: int, loads: list[int]) -> int | None:
        sys.exit("enough")


def python_scenario(name: str, **changes: Any) -> dict[str, Any]:
    strategy = {"name": "python", "class": name}
    return scenario(services=[service(4)], strategies=[strategy], **changes)


def test_strategies_in_python_take_part() -> None:
    classes = {"last": Last, "idlest": Idlest}
    result = lab.run(python_scenario("last"), classes=classes)
    assert rows(result, "backends", "connections") == [(0,), (0,), (0,), (100,)]
    assert rows(result, "outcomes", "strategy") == [("python(class=last)",)]
    result = lab.run(python_scenario("idlest"), classes=classes)
    # Loads are of connections alive, 25 at once: the first of equals gets the odd one.
    assert rows(result, "backends", "connections") == [pytest.approx((25,), abs=2)] * 4


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Wrong, r"small: python\(class=x\): pick returns None or a position from 0 to 3, not 4"),
        (Negative, r"small: python\(class=x\): pick returns .* 0 to 3, not -1"),
        (Huge, r"small: python\(class=x\): pick returns .* 0 to 3, not 1180591620717411303424"),
        (Words, r"small: python\(class=x\): pick returns .* 0 to 3, not 'first'"),
        (Failing, r"small: python\(class=x\): ZeroDivisionError: by design"),
        (Leaving, r"small: python\(class=x\): SystemExit: enough"),
    ],
)
def test_a_strategy_in_python_that_fails(strategy: type[Last], message: str) -> None:
    with pytest.raises(lab.LabError, match=message):
        lab.run(python_scenario("x"), classes={"x": strategy})


def test_a_strategy_in_python_that_is_not_there() -> None:
    message = r"strategies\[0\].class: nowhere:Class: No module named 'nowhere'; it was searched"
    with pytest.raises(lab.ScenarioError, match=message):
        lab.run(python_scenario("nowhere:Class"))


def test_jet_tracks_the_share_that_arrivals_could_move_and_loses_nothing() -> None:
    """Nine work and one may come: a tenth is tracked. When it comes, no connection moves with
    JET, and a tenth without memory.
    """
    result = lab.run(
        scenario(
            services=[service(9)],
            traffic=[poisson(2000, lifetime=4)],
            strategies=["anchor", "ring", "rendezvous"],
            memory=["none", "jet"],
            timeline=[{"event": "scale", "at": 8, "service": "web", "backends": 10}],
        )
    )
    flows = {
        row["strategy"]: row["flows"]
        for row in result.rows("tables")
        if (row["memory"], row["time"]) == ("jet", 7)
    }
    loads = {row["strategy"]: row["load"] for row in result.rows("seconds") if row["time"] == 7}
    assert flows["anchor"] / loads["anchor"] == pytest.approx(0.1, rel=0.05)
    assert flows["rendezvous"] / loads["rendezvous"] == pytest.approx(0.1, rel=0.05)
    assert flows["ring"] / loads["ring"] == pytest.approx(0.1, rel=0.3)
    for row in result.rows("events"):
        expected = 0 if row["memory"] == "jet" else 0.1 * row["live"]
        assert row["moved"] == pytest.approx(expected, rel=0.3), row
        assert row["broken"] == row["moved"]


@pytest.mark.parametrize(("ecmp", "share"), [("modulo", 3 / 4), ("resilient", 1 / 4)])
def test_node_loss_behind_routers(ecmp: str, share: float) -> None:
    """Nodes with mh agree, so that a flow that comes to another node keeps its backend; with random
    it does by chance alone. Of four nodes one leaves: with hashing modulo all but a quarter of the
    flows come to another node.
    """
    result = lab.run(
        scenario(
            services=[service(10)],
            traffic=[poisson(500, lifetime=5)],
            strategies=["mh", "random"],
            timeline=[{"event": "node-loss", "at": 8, "node": 2}],
            nodes={"count": 4, "ecmp": ecmp},
        )
    )
    moved = {row["strategy"]: row["moved"] / row["live"] for row in result.rows("events")}
    assert moved["mh"] == 0
    # One of ten meets its backend by chance.
    assert moved["random"] == pytest.approx(share * 0.9, rel=0.1)


def test_affinity_breaks_where_the_backend_is_gone_alone() -> None:
    result = lab.run(
        scenario(
            services=[service(5, affinity=100)],
            traffic=[poisson(200, clients={"count": 50}, lifetime=0.1)],
            strategies=["random", "rr"],
            timeline=[{"event": "failure", "at": 5, "service": "web", "backends": [2]}],
        )
    )
    for row in result.rows("outcomes"):
        assert row["affinity_breaks"] == row["affinity_breaks_minimum"]
        assert 2 <= row["affinity_breaks"] <= 25
    result = lab.run(scenario(strategies=["rr"], traffic=[traffic(clients={"count": 1})]))
    assert rows(result, "outcomes", "affinity_breaks") == [(0,)], "nobody is owed anything"


def test_a_flood_evicts_unanswered_flows_and_not_established_ones() -> None:
    flood = poisson(5000, kind="syn-flood", start=2)
    result = lab.run(
        scenario(
            traffic=[poisson(100, lifetime=20), flood],
            limits={"max_flows": 2000},
            strategies=["random"],
        )
    )
    outcome, totals = next(iter(result.rows("outcomes"))), next(iter(result.rows("totals")))
    assert totals["flood"] == pytest.approx(40_000, rel=0.03)
    assert totals["evicted"] > 30_000
    assert totals["flows_peak"] <= 2000
    # A handshake takes a millisecond, in which the flood brings five SYNs: none is evicted.
    assert outcome["lost"] == 0


def test_capacity_slows_a_backend_down_and_peak_ewma_notices() -> None:
    """Two fast backends and one that is slow: peak-ewma gives it less than the others."""
    backends: list[Row] = [{"count": 2}, {"count": 1, "latency": 0.05}]
    result = lab.run(
        scenario(
            services=[{"name": "web", "backends": backends}],
            traffic=[poisson(200, lifetime=0.2)],
            strategies=["peak-ewma", "random"],
        )
    )
    shares = {
        row["strategy"]: row["connections_share"]
        for row in result.rows("backends")
        if row["backend"] == 2
    }
    assert shares["random"] == pytest.approx(1 / 3, rel=0.1)
    assert shares["peak-ewma"] < 0.2


def test_a_closed_loop_that_is_refused_goes_on() -> None:
    """No backend is left, and clients do not think: they try again every millisecond."""
    nothing = {"event": "scale", "at": 1, "service": "web", "backends": 0}
    loop = traffic(arrivals={"kind": "closed", "think": 0}, clients={"count": 3}, lifetime=0.1)
    result = lab.run(scenario(duration=2, traffic=[loop], timeline=[nothing]))
    refused = next(iter(result.rows("outcomes")))["refused"]
    assert refused == pytest.approx(3 * 1000, rel=0.15)


def test_one_way_datagrams_move_when_a_failure_is_detected() -> None:
    """Their senders do not notice that a backend died: the flows go on, and bytes are missing."""
    failure = {"event": "failure", "at": 5, "service": "web", "backends": [0], "detected_after": 2}
    result = lab.run(
        scenario(
            services=[service(4)],
            traffic=[poisson(100, kind="udp-one-way", lifetime=20, requests=200, stop=4)],
            strategies=["random"],
            timeline=[failure],
        )
    )
    died, detected = list(result.rows("events"))
    assert (died["moved"], died["broken"], died["minimum"]) == (0, 0, 0)
    assert detected["moved"] == pytest.approx(detected["live"] / 4, rel=0.4)
    assert detected["broken"] == 0
    seconds = [row["bytes"] for row in result.rows("seconds")]
    assert seconds[5] == pytest.approx(seconds[4] * 3 / 4, rel=0.2)
    assert next(iter(result.rows("outcomes")))["lost"] == 0


def test_a_strategy_that_is_no_mapping_moves_no_keys() -> None:
    events = [
        {"event": "scale", "at": 2, "service": "web", "backends": 3},
        {"event": "strategy", "at": 4, "service": "web", "strategy": "mh"},
        {"event": "scale", "at": 6, "service": "web", "backends": 4},
    ]
    result = lab.run(scenario(timeline=events))
    moved = [row["keys_moved"] for row in result.rows("events")]
    assert moved[:2] == [None, None]
    assert moved[2] == pytest.approx(1 / 4, rel=0.2)
