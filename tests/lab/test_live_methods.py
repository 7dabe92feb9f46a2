"""Methods of live runs against traffic whose answers are known."""

import sys
from contextlib import nullcontext
from typing import Any, cast

import pytest

from harness.live import FakeFlows, FakeNetwork, FakeServed, FakeTraffic
from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.control import control
from kbe_nat.lab.live.methods import Bench, Rows, measure
from kbe_nat.lab.live.methods.bench import Arrival
from kbe_nat.lab.live.scenario import (
    AnyMeasure,
    Bulk,
    Capacity,
    Connects,
    Cpu,
    Establishment,
    Latency,
    Programming,
    Throughput,
)
from kbe_nat.lab.live.tables import MEASURES
from kbe_nat.lab.live.traffic import Flood
from kbe_nat.model import Snapshot


def bench(traffic: FakeTraffic, is_static: bool = False) -> Bench:
    network = cast(Any, FakeNetwork(traffic))
    return Bench(network, FakeServed(traffic), Family.IPV4, is_static, snapshot)


def snapshot(pod: int) -> Snapshot:
    return Snapshot(pod, (), {})


def named(rows: Rows, table: str) -> list[dict[str, Any]]:
    names = [column.name for column in MEASURES[table]]
    return [dict(zip(names, row, strict=True)) for row in rows[table]]


@pytest.mark.parametrize("loss", [0.0, 0.005])
def test_throughput_is_where_loss_begins(loss: float) -> None:
    """What is above 123,456 a second is lost: with half a percent tolerated, half a percent more
    passes.
    """
    what = Throughput(loss=(loss,), seconds=0.5, precision=0.01, trials=40)
    rows = measure(bench(FakeTraffic(123_456)), what)
    [row] = named(rows, "throughput")
    assert row["loss_tolerated"] == loss
    assert row["limit"] == "way" and row["settled"] == 1 and row["contradictions"] == 0
    assert row["rate"] == pytest.approx(123_456 / (1 - loss), rel=0.006)
    trials = named(rows, "trials")
    assert len(trials) == row["trials"]
    for trial in trials:
        assert trial["sent"] == trial["received"] + trial["lost"]
        assert trial["lost_in_queue"] == trial["lost"]
        assert trial["passed"] == (trial["lost"] <= loss * trial["sent"])


def test_a_queue_that_holds_a_trial_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost, but what comes above 50,000 a second comes later."""
    traffic = FakeTraffic(1e9, fastest=4e5)
    sizes: list[tuple[int, float]] = []
    flood = FakeFlows.flood

    def noted(flows: FakeFlows, *, packets: int, rate: float | None = None, **more: int) -> Flood:
        done = flood(flows, packets=packets, rate=rate, **more)
        sizes.append((packets, done.seconds))
        return done

    def settle(bench: Bench, expected: int) -> Arrival:
        packets, seconds = sizes[-1]
        return Arrival(bench.received(), max(0.0, packets / 50_000 - seconds))

    monkeypatch.setattr(FakeFlows, "flood", noted)
    monkeypatch.setattr(Bench, "settle", settle)
    what = Throughput(loss=(0.0,), seconds=1.0, precision=0.02, trials=40)
    rows = measure(bench(traffic), what)
    [row] = named(rows, "throughput")
    # A tenth of a trial is allowed.
    assert row["rate"] == pytest.approx(55_000, rel=0.015)
    assert all(trial["lost"] == 0 for trial in named(rows, "trials"))


def test_throughput_of_a_sender_that_is_too_slow() -> None:
    rows = measure(bench(FakeTraffic(2e6, fastest=3e5)), Throughput(loss=(0.0,)))
    [row] = named(rows, "throughput")
    assert (row["limit"], row["trials"]) == ("sender", 2)
    assert row["rate"] == pytest.approx(3e5, rel=0.001)


def test_establishment_needs_every_answer() -> None:
    rows = measure(bench(FakeTraffic(8000)), Establishment(precision=0.02, trials=40))
    [row] = named(rows, "establishment")
    assert row["rate"] == pytest.approx(8000, rel=0.015)
    assert all(trial["measure"] == "establishment" for trial in named(rows, "trials"))


def test_cpu_time_of_a_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake sender needs 100 ns for each packet, also for those that are dropped first; the way
    2 ms for a flood of 10,000.
    """
    traffic = FakeTraffic(1e9)
    module = sys.modules["kbe_nat.lab.live.methods.cpu"]
    monkeypatch.setattr(module, "_dropped_first", lambda node: nullcontext())
    monkeypatch.setattr(module, "_idle_share", lambda bench: 0.0)
    monkeypatch.setattr(Bench, "cpu_ns", lambda bench: traffic.floods * 2_000_000)
    here = bench(traffic)
    cast(Any, here.network).node = None
    [row] = named(measure(here, Cpu(packets=10_000, saturate=False)), "cpu")
    assert (row["sender_ns"], row["sender_bare_ns"], row["way_ns"]) == (100.0, 100.0, 200.0)
    assert row["net_ns"] == 200.0
    assert row["lost"] == 0
    assert row["core_kpps"] is None


def test_connections_capacity_and_bulk() -> None:
    here = bench(FakeTraffic(1000))
    [row] = named(measure(here, Connects(seconds=2.0)), "connections")
    assert (row["opened"], row["failed"], row["rate"]) == (2000, 1, 1000.0)
    assert (row["p50_us"], row["p999_us"], row["max_us"]) == (2.0, 9.0, 9.0)
    [row] = named(measure(here, Capacity(limit=1000)), "capacity")
    assert (row["opened"], row["failed"], row["closed"]) == (700, 1, 700)
    assert (row["open_rate"], row["close_rate"]) == (350.0, 1400.0)
    [row] = named(measure(here, Bulk(megabytes=1000)), "bulk")
    assert row["gbit_s"] == pytest.approx(1000 * 2**20 * 8 / 0.5 / 1e9)
    with pytest.raises(LabError, match="cut off"):
        measure(here, Bulk(megabytes=2000))


def test_latency_beside_loads() -> None:
    traffic = FakeTraffic(1e9)
    rows = measure(bench(traffic), Latency(loads=(0.0, 5000.0), count=100))
    assert [(row["kind"], row["load"]) for row in named(rows, "latency")] == [
        ("round-trip", 0.0),
        ("round-trip", 5000.0),
        ("first-packet", 0.0),
        ("first-packet", 5000.0),
    ]
    assert all(row["sent"] == row["answered"] + row["lost"] for row in named(rows, "latency"))
    assert [row["load_sent"] for row in named(rows, "latency")] == pytest.approx([0, 5000, 0, 5000])
    assert len(named(rows, "histograms")) == 8, "all buckets of all four"
    assert traffic.calls == ["ping"] * 3 + ["first_packets"] * 2


@pytest.mark.parametrize(
    "what",
    [Throughput(trials=1), Cpu(), Latency(kinds=("round-trip",), loads=(1000.0,)), Bulk(10)],
    ids=lambda what: type(what).__name__,
)
def test_what_is_measured_of_flows_waits_until_they_have_settled(
    monkeypatch: pytest.MonkeyPatch, what: AnyMeasure
) -> None:
    methods = sys.modules["kbe_nat.lab.live.methods.cpu"]
    monkeypatch.setattr(methods, "_dropped_first", lambda node: nullcontext())
    monkeypatch.setattr(FakeNetwork, "node", None, raising=False)
    place = bench(FakeTraffic(1e6))
    place.served.settling_seconds = 2.5
    measure(place, what)
    settled = place.network.traffic.settled  # type: ignore[attr-defined]
    # But for the packets of `Cpu` that the node drops, and the first pings of `Latency`.
    assert set(settled) - {0.0} == {2.5} and settled[-1] == 2.5


def test_programming_and_changes() -> None:
    here = bench(FakeTraffic(1))
    rows = measure(here, Programming(changes=3))
    assert named(rows, "programming") == [{"seconds": 0.25, "peak_mb": None}]
    assert [row["change_ms"] for row in named(rows, "changes")] == [1000.0] * 3
    assert cast(Any, here.network).asked == [1, 0, 1], "pods in turn"
    static = bench(FakeTraffic(1), is_static=True)
    assert measure(static, Programming(changes=3))["changes"] == []


def test_the_idle_control() -> None:
    [row] = named(control(0.05), "control")
    assert row["work_count"] >= 20 and row["work_us"] > 0 and row["spread"] >= 0
    assert row["cpu_spread"] >= 0
    assert all(row[name] is None or 0 <= row[name] <= 1 for name in ("busy_share", "steal_share"))
