"""Source ports in the lab: known answers of each way, by hand and within stated bounds."""

import math
import statistics
from typing import Any

import pytest

from harness.scenarios import scenario, service, traffic
from kbe_nat import lab

PORTS = [40_000, 40_999]
HELD = {"udp": 1000}
"""Every flow keeps its port until the end."""


def run(flows: int, *ways: Any, clients: int = 10_000, backends: int = 1, repeats: int = 1) -> Any:
    """So many datagrams, each of a flow of its own that keeps its port until the end."""
    arrivals = {"kind": "paced", "rate": flows / 10}
    datagrams = traffic(
        kind="udp", arrivals=arrivals, clients={"count": clients}, lifetime=0, requests=1
    )
    values = scenario(
        services=[service(backends)],
        traffic=[datagrams],
        timeouts=HELD,
        source_nat=list(ways),
        repeats=repeats,
    )
    return lab.run(values)


def ports(result: Any) -> dict[str, dict[str, Any]]:
    return {row["source_nat"].partition("(")[0]: row for row in result.rows("ports")}


def outcome(result: Any) -> dict[str, tuple[int, int]]:
    """Served and refused connections."""
    return {row["source_nat"]: (row["served"], row["refused"]) for row in result.rows("outcomes")}


def test_random_ports_collide_by_the_birthday_paradox() -> None:
    """Flow i of n finds its first draw taken with probability i / m: n(n - 1) / 2m in the mean."""
    flows, repeats, size = 300, 20, 1000
    result = run(flows, {"allocation": "random", "ports": PORTS}, repeats=repeats)
    collisions = sum(row["collisions"] for row in result.rows("ports"))
    chances = [flow / size for flow in range(flows)] * repeats
    mean, deviation = sum(chances), math.sqrt(sum(p * (1 - p) for p in chances))
    assert mean / repeats == pytest.approx(flows * (flows - 1) / 2 / size)
    assert abs(collisions - mean) < 4 * deviation


def test_an_observer_guesses_ports_in_turn_and_no_others() -> None:
    ways = [{"allocation": name, "ports": PORTS} for name in ("sequential", "hashed", "random")]
    rows = ports(run(900, *ways))
    # With one backend the offset of a hash is one number, and RFC 6056's counter shows.
    for name in ("sequential", "hashed"):
        assert (rows[name]["next_guessed"], rows[name]["difference_bits"]) == (1, 0)
    # A guess is right by chance once in 1,000: more than 8 of 899 once in a million runs.
    assert rows["random"]["next_guessed"] <= 8 / 899
    assert rows["random"]["difference_bits"] > 7.5

    rows = ports(run(900, *ways, backends=8))
    assert (rows["sequential"]["next_guessed"], rows["hashed"]["next_guessed"]) == (1, 0)
    # In turn, so the differences of the eight offsets come round.
    assert rows["hashed"]["difference_bits"] == pytest.approx(3, abs=0.01)


def test_a_port_that_may_not_be_leased_is_a_choice_that_fails() -> None:
    """Clients send from ports above 1,023, and one address has those below alone: each flow looks
    at its own port first, and at those that are taken behind a random place. The last one of all
    ports finds them all taken but one: half of the range in the mean, and the client's own.
    """
    rows = list(run(1023, {"allocation": "preserve", "ports": [1, 1023]}, repeats=8).rows("ports"))
    for row in rows:
        assert (row["allocations"], row["collisions"], row["exhausted"]) == (1023, 1023, 0)
    # By Knuth's analysis of linear probing, sqrt(pi n / 8) looks in the mean to fill a table of n.
    probes = [row["probes"] - 1 for row in rows]
    assert statistics.fmean(probes) == pytest.approx((math.pi * 1023 / 8) ** 0.5, rel=0.2)
    assert len(set(probes)) == 8, "each seed draws other ports"


@pytest.mark.parametrize(("mapping", "remotes"), [("endpoint-independent", 1), ("", 4)])
def test_mappings_run_out_at_the_ports_or_at_ports_times_remotes(
    mapping: str, remotes: int
) -> None:
    way = {"allocation": "random", "ports": [40_000, 40_099]} | (
        {"mapping": mapping} if mapping else {}
    )
    result = run(1000, way, backends=4)
    [(served, refused)] = outcome(result).values()
    assert (served, refused) == (100 * remotes, 1000 - 100 * remotes)
    [row] = ports(result).values()
    assert (row["allocations"], row["exhausted"], row["ports_peak"]) == (served, refused, served)
    assert (row["pool_peak"], row["pool_size"]) == (100, 100)


def test_blocks_run_out_at_the_range_over_their_size() -> None:
    """With a block each and fewer flows than ports in it, every client that came first is served
    whole, and no other is served at all.
    """
    result = run(
        2000,
        {"allocation": "blocks", "block_size": 50, "blocks_per_client": 1, "ports": PORTS},
        {"allocation": "deterministic", "block_size": 50, "ports": PORTS},
        clients=40,
    )
    rows = ports(result)
    for row in rows.values():
        assert row["allocations"] + row["exhausted"] == 2000
        assert row["allocations"] <= 1000, "20 blocks of 50"
        assert row["allocations"] > 900, "40 clients have 50 flows each, more or less"
    assert (rows["blocks"]["log_lines"], rows["blocks"]["log_bytes"]) == (20, 3000)
    assert (rows["deterministic"]["log_lines"], rows["deterministic"]["log_bytes"]) == (0, 0)


def test_a_line_is_logged_for_each_mapping_and_for_its_end() -> None:
    datagrams = traffic(kind="udp", lifetime=0, requests=1)
    [row] = lab.run(
        scenario(traffic=[datagrams], timeouts={"udp": 0.5}, source_nat=["random"])
    ).rows("ports")
    assert row["allocations"] == 100
    assert 180 <= row["log_lines"] <= 200, "flows of the last half second have not ended"


@pytest.mark.parametrize("kind", ["tcp", "udp", "udp-one-way"])
@pytest.mark.parametrize("mapping", ["endpoint-dependent", "endpoint-independent"])
def test_masqueraded_connections_are_served_as_others_are(kind: str, mapping: str) -> None:
    names = ("preserve", "random", "sequential", "hashed", "blocks", "deterministic")
    ways = ["none", *({"allocation": name, "mapping": mapping} for name in names)]
    values = scenario(
        traffic=[traffic(kind=kind, requests=3)],
        nodes={"count": 2},
        timeline=[{"event": "failure", "service": "web", "backends": [0], "at": 5}],
        source_nat=ways,
    )
    result = lab.run(values)
    rows = list(result.rows("outcomes"))
    assert len(rows) == 7
    same = ("offered", "served", "refused", "lost", "moved")
    assert len({tuple(row[name] for name in same) for row in rows}) == 1
    assert len(list(result.rows("ports"))) == 6, "clients that keep their address have no row"


def test_runs_without_source_nat_have_no_column_and_no_table_of_it() -> None:
    result = lab.run(scenario())
    assert "ports" not in result.tables
    assert all("source_nat" not in row for row in result.rows("outcomes"))
