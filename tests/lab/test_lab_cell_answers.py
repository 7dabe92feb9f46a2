"""Cells whose results theory knows: load, occupancy, ports, floods, times at the edge."""

from typing import Any

import pytest

from harness.scenarios import poisson, scenario, service, traffic
from kbe_nat import lab


def outcome(result: lab.Result) -> dict[str, Any]:
    return next(iter(result.rows("outcomes")))


@pytest.mark.parametrize("kind", ["tcp", "udp", "udp-one-way"])
@pytest.mark.parametrize("requests", [1, 5])
def test_load_is_rate_times_lifetime(kind: str, requests: int) -> None:
    """Little's law, L = lambda W, whatever the distribution of lifetimes."""
    lifetime = {"kind": "exponential", "mean": 2}
    stream = poisson(300, kind=kind, lifetime=lifetime, requests=requests)
    result = lab.run(scenario(traffic=[stream], duration=40))
    loads = [row["load"] for row in result.rows("seconds")][12:]
    assert sum(loads) / len(loads) == pytest.approx(600, rel=0.06)


def test_a_closed_loop_has_the_load_of_its_clients() -> None:
    """Each of 100 clients is connected for 3 s of every 4, so 75 are at once, and 25 come a
    second: the machine repair model without any queue.
    """
    loop = traffic(
        arrivals={"kind": "closed", "think": {"kind": "exponential", "mean": 1}},
        clients={"count": 100},
        lifetime={"kind": "exponential", "mean": 3},
    )
    result = lab.run(scenario(traffic=[loop], duration=200))
    rows = list(result.rows("seconds"))[20:]
    assert sum(row["load"] for row in rows) / len(rows) == pytest.approx(75, rel=0.05)
    assert sum(row["connections"] for row in rows) / len(rows) == pytest.approx(25, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "requests", "mean"), [("tcp", 1, 7.5), ("udp", 1, 7.5), ("udp", 4, 7.5)]
)
def test_clients_in_step_have_the_load_of_their_time(kind: str, requests: int, mean: float) -> None:
    """Ten clients go in step: each second they wait for a quarter, and are connected for the rest.
    At whole seconds all are in the same moment of their lives, at which a sample has all or none.
    """
    loop = traffic(
        kind=kind,
        arrivals={"kind": "closed", "think": 0.25},
        lifetime=0.75,
        requests=requests,
    )
    backends = [{"count": 2, "latency": 0}]
    result = lab.run(
        scenario(services=[{"name": "web", "backends": backends}], traffic=[loop], duration=9.5)
    )
    loads = [row["load"] for row in result.rows("seconds")]
    assert loads[:9] == pytest.approx([mean] * 9)
    # The last second is half of one: a quarter waits, a quarter is connected.
    assert (len(loads), loads[9]) == (10, pytest.approx(5))
    by_backend = [(row["load"], row["load_fair"]) for row in result.rows("backends")]
    share = (9 * mean + 2.5) / 9.5 / 2
    assert by_backend == [pytest.approx((share, share))] * 2


def test_a_fair_share_of_load_is_that_of_the_time_in_the_list() -> None:
    """Ten clients stay connected. The second backend leaves at 2.5 s, and keeps its five: for 7.5
    of ten seconds they linger there. It is owed half of all load before, and none after; the other
    one, alone, is owed just what it has.
    """
    stream = traffic(arrivals={"kind": "paced", "rate": 10_000}, lifetime=1000, stop=0.001)
    gone = {"event": "scale", "at": 2.5, "service": "web", "backends": 1}
    result = lab.run(scenario(traffic=[stream], timeline=[gone]))
    names = ("load", "load_lingering", "load_fair")
    first, second = ([row[name] for name in names] for row in result.rows("backends"))
    assert first == pytest.approx([5, 0, 5], abs=0.01)
    assert second == pytest.approx([5, 3.75, 1.25], abs=0.01)
    load = [row for row in result.rows("balance") if row["quantity"] == "load"]
    assert [row["max_over_mean"] for row in load] == pytest.approx([1, 1], abs=0.01)


@pytest.mark.parametrize("name", ["lc", "wlc", "lcd"])
def test_least_connections_keep_loads_apart_by_few(name: str) -> None:
    """Loads stand 3 to 1 by wlc, and even by lc, though lifetimes have no bound, and though most
    flows of the table are in TIME_WAIT.
    """
    backends = [{"count": 4}] if name != "wlc" else [{"weight": 3}, {"weight": 1}]
    result = lab.run(
        scenario(
            services=[{"name": "web", "backends": backends}],
            traffic=[poisson(200, lifetime={"kind": "pareto", "shape": 1.5, "minimum": 1})],
            strategies=[name, "random"],
            duration=30,
        )
    )
    spread = {
        row["strategy"]: row["cv"]
        for row in result.rows("balance")
        if (row["quantity"], row["window"]) == ("load", "second")
    }
    assert spread[name] < spread["random"] / 3


@pytest.mark.parametrize("name", ["lc", "wlc", "p2c", "lcd", "peak-ewma"])
def test_least_connections_see_the_long_ones_of_a_closed_loop(name: str) -> None:
    """Two hundred clients hold connections for 10 ms, and now and then for a thousand times that.
    By turns the long ones pile up by chance; they are few, and the hundreds in TIME_WAIT beside
    them must not hide them.
    """
    loop = traffic(
        arrivals={"kind": "closed", "think": {"kind": "exponential", "mean": 0.2}},
        clients={"count": 200},
        lifetime={"kind": "pareto", "shape": 1.1, "minimum": 0.01},
    )
    result = lab.run(
        scenario(services=[service(8)], traffic=[loop], strategies=[name, "rr"], duration=60)
    )
    spread = {
        row["strategy"]: row["cv"]
        for row in result.rows("balance")
        if (row["quantity"], row["window"]) == ("load", "second")
    }
    assert spread[name] < spread["rr"] * 0.6


def test_a_table_is_empty_when_all_has_timed_out() -> None:
    """Connections end by 11 s; TIME_WAIT takes 120 s more. No packet comes after them."""
    result = lab.run(scenario(traffic=[traffic(lifetime=1, stop=10)], duration=140))
    flows = {row["time"]: row["flows"] for row in result.rows("tables")}
    assert (flows[10], flows[119], flows[133]) == (100, 100, 0)
    assert next(iter(result.rows("totals")))["expired"] == 100


@pytest.mark.parametrize("memory", ["conntrack", "jet", "none"])
def test_no_node_is_left(memory: str) -> None:
    """The only node is away for 2 s: those of its connections that lived are lost, and 20 that
    begin meanwhile are refused.
    """
    loss = {"event": "node-loss", "at": 5.05, "node": 0, "returns_after": 2}
    result = lab.run(scenario(strategies=["mh"], memory=[memory], timeline=[loss]))
    row = outcome(result)
    assert (row["offered"], row["refused"], row["lost"]) == (100, 20, 25)


def test_jet_forgets_connections_wherever_they_went() -> None:
    """A node leaves and returns, so that routers move flows to and fro; all have ended by 8 s."""
    result = lab.run(
        scenario(
            services=[service(4)],
            traffic=[poisson(300, lifetime=2, stop=5)],
            strategies=["rendezvous"],
            memory=["jet"],
            nodes={"count": 3},
            timeline=[
                {"event": "node-loss", "at": 3, "node": 1, "returns_after": 1},
                {"event": "scale", "at": 9, "service": "web", "backends": 8},
            ],
        )
    )
    flows = {row["time"]: row["flows"] for row in result.rows("tables")}
    assert flows[3] > 100
    assert flows[8] == 0


def test_jet_forgets_a_flood() -> None:
    """Half of the flood is tracked, as one backend works and one may come; each for 2 s."""
    result = lab.run(
        scenario(
            services=[service(1)],
            traffic=[poisson(1000, kind="syn-flood", stop=8)],
            strategies=["rendezvous"],
            memory=["jet"],
            timeouts={"tcp_syn_sent": 2},
            duration=12,
            timeline=[{"event": "scale", "at": 12, "service": "web", "backends": 2}],
        )
    )
    flows = {row["time"]: row["flows"] for row in result.rows("tables")}
    assert flows[7] == pytest.approx(1000, rel=0.1)
    assert flows[11] == 0


def test_a_client_has_as_many_connections_as_ports() -> None:
    """64,512 ports from 1024 on: of 70,000 connections of one client the others are refused."""
    stream = traffic(
        arrivals={"kind": "paced", "rate": 7000}, clients={"count": 1}, lifetime=60, requests=2
    )
    row = outcome(lab.run(scenario(traffic=[stream])))
    assert (row["offered"], row["open"], row["refused"]) == (70_000, 64_512, 70_000 - 64_512)


def test_a_flood_is_admitted_or_refused_and_spreads_over_services_alike() -> None:
    """Four Services, of which each has room for the same flood; a table of 1,000 flows."""
    result = lab.run(
        scenario(
            services=[{"name": "web", "count": 4, "backends": [{"count": 1}]}],
            traffic=[poisson(1000, kind="syn-flood")],
            strategies=["rr"],
            limits={"max_flows": 1000, "max_flows_per_source": 1},
            timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 0}],
        )
    )
    totals = next(iter(result.rows("totals")))
    assert totals["flood"] == totals["flood_admitted"] + totals["flood_refused"]
    assert totals["flood"] == pytest.approx(10_000, rel=0.05)
    assert totals["flood_admitted"] == pytest.approx(5000, rel=0.05)


@pytest.mark.parametrize(
    "lifetime",
    [1e12, {"kind": "pareto", "shape": 0.01, "minimum": 1}, {"kind": "trace", "values": [1e12]}],
)
def test_a_lifetime_beyond_the_clock_never_ends(lifetime: Any) -> None:
    row = outcome(lab.run(scenario(traffic=[traffic(lifetime=lifetime, size=lifetime)])))
    assert row["served"] == row["offered"] == 100
    assert row["open"] >= 99


def test_a_run_may_end_within_a_second() -> None:
    """The last row is that of a shorter second."""
    result = lab.run(scenario(duration=1.5, traffic=[traffic(lifetime=0.1)]))
    rows = [(row["time"], row["connections"]) for row in result.rows("seconds")]
    assert rows == [(1.0, 10), (1.5, 5)]


def test_keys_that_get_a_backend_again_must_move() -> None:
    """None is left at 2 s, and five come at 4 s: in both cases every choice changes, and must."""
    events = [
        {"event": "scale", "at": at, "service": "web", "backends": count}
        for at, count in ((2, 0), (4, 5))
    ]
    result = lab.run(scenario(strategies=["mh"], timeline=events))
    rows = [(row["keys_moved"], row["keys_minimum"]) for row in result.rows("events")]
    assert rows == [(1, 1), (1, pytest.approx(1))]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", ["tcp", "sctp", "udp", "udp-one-way"])
@pytest.mark.parametrize("memory", ["conntrack", "jet", "none"])
def test_every_protocol_is_served_in_both_families(family: str, kind: str, memory: str) -> None:
    """Nothing is lost while nothing happens; when one of four backends dies, its own connections
    are, and those of no other. One-way senders do not notice.
    """
    result = lab.run(
        scenario(
            services=[service(4, family=family)],
            traffic=[poisson(100, kind=kind, lifetime=4, requests=2)],
            strategies=["rendezvous"],
            memory=[memory],
            timeline=[{"event": "failure", "at": 6, "service": "web", "backends": [1]}],
        )
    )
    seconds = list(result.rows("seconds"))
    assert sum(row["refused"] + row["lost"] for row in seconds[:5]) == 0
    assert sum(row["bytes"] for row in seconds) > 0
    event = next(iter(result.rows("events")))
    if kind == "udp-one-way":
        assert event["broken"] == 0 < event["moved"]
    elif kind == "udp":
        # The next datagram goes to a backend alive, and the conversation goes on.
        assert (event["moved"], event["broken"]) == (event["minimum"], 0)
    else:
        assert event["broken"] == event["minimum"]
    assert event["live"] / 8 < event["minimum"] < event["live"] / 2 or kind == "udp-one-way"


def test_an_association_closes_by_its_states() -> None:
    """The engine follows SCTP to its end: 10 s after SHUTDOWN COMPLETE nothing is left, while an
    association that was never closed would stay for 210 s.
    """
    stream = traffic(kind="sctp", lifetime=1, stop=10)
    result = lab.run(scenario(traffic=[stream], duration=30))
    flows = {row["time"]: row["flows"] for row in result.rows("tables")}
    assert (flows[10], flows[23]) == (100, 0)
    assert outcome(result)["served"] == 100


def test_families_take_the_memory_of_their_addresses() -> None:
    """A record has 112 bytes, and 64 more for the addresses of IPv6; the index is the same."""
    totals = [
        next(iter(lab.run(scenario(services=[service(2, family=family)])).rows("totals")))
        for family in ("ipv4", "ipv6")
    ]
    first, second = totals
    assert first["flows_peak"] == second["flows_peak"] == 100
    assert second["memory_bytes"] - first["memory_bytes"] == 100 * 64
    small = lab.run(scenario(limits={"max_flows": 150}))
    # 112 for each of 100 flows, two entries of 10.7 bytes for each of 150, and buckets behind.
    assert next(iter(small.rows("totals")))["memory_bytes"] == pytest.approx(16_400, abs=300)


def test_memory_that_is_none_takes_none() -> None:
    """Nine work and one may come: JET keeps a tenth of the connections, in buckets of a power of
    two; without memory there is nothing.
    """
    result = lab.run(
        scenario(
            services=[service(9)],
            traffic=[poisson(1000, lifetime=5)],
            strategies=["rendezvous"],
            memory=["conntrack", "jet", "none"],
            timeline=[{"event": "scale", "at": 10, "service": "web", "backends": 10}],
        )
    )
    memory = {row["memory"]: row["memory_bytes"] for row in result.rows("totals")}
    assert memory["none"] == 0 < memory["jet"] < memory["conntrack"] / 100


def test_balancers_take_the_memory_of_their_tables() -> None:
    """Maglev's two bytes a slot, in tables that grow with 21 backends: 2,039 slots, and 16,381. A
    list of 21 positions of four bytes each. JET asks those of the horizon too, at any time 21.
    """
    strategies = ["mh", {"name": "mh", "table_size": 65_537}, "modulo"]
    values = scenario(
        services=[service(20) | {"count": 3}],
        traffic=[poisson(20)],
        strategies=strategies,
        memory=["conntrack", "jet"],
        timeline=[{"event": "scale", "at": 5, "service": "web", "backends": 21}],
    )
    sizes = {
        (row["strategy"], row["memory"]): row["balancer_bytes"]
        for row in lab.run(values).rows("totals")
    }
    assert sizes == {
        ("mh", "conntrack"): 3 * 2 * 16_381,
        ("mh", "jet"): 3 * 2 * (16_381 + 16_381),
        ("mh(table_size=65537)", "conntrack"): 3 * 2 * 65_537,
        ("mh(table_size=65537)", "jet"): 3 * 2 * 2 * 65_537,
        ("modulo", "conntrack"): 3 * 4 * 21,
        ("modulo", "jet"): 3 * 4 * (21 + 21),
    }
