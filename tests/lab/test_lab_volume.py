"""Scenarios that ask for too much are refused before they run, with the field and the number."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import scenario, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.errors import ScenarioError
from kbe_nat.lab.preflight import origin_of
from kbe_nat.lab.scenario import Scenario
from kbe_nat.lab.volume import alive_at_once, connections, packets_of

TOO_MUCH: list[tuple[list[dict[str, Any]], str]] = [
    (
        [traffic(arrivals={"kind": "poisson", "rate": 1e12})],
        "traffic[0].arrivals.rate: 10,000,000,000,000 connections of 8 packets each in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [traffic(), traffic(arrivals={"kind": "paced", "rate": 2e8}, stop=7)],
        "traffic[1].arrivals.rate: 1,400,000,000 connections of 8 packets each in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [
            traffic(
                arrivals={"kind": "bursty", "rate": 1e10, "seconds_on": 1, "seconds_off": 3},
                kind="udp",
            )
        ],
        "traffic[0].arrivals.rate: 25,000,000,000 connections of 2 packets each in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [traffic(requests=1_000_000, arrivals={"kind": "poisson", "rate": 1e4})],
        "traffic[0].requests: 100,000 connections of 2,000,006 packets each in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [traffic(kind="syn-flood", arrivals={"kind": "poisson", "rate": 2e9})],
        "traffic[0].arrivals.rate: 20,000,000,000 packets in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [
            traffic(
                arrivals={"kind": "closed", "think": 0},
                clients={"count": 16_000_000},
                lifetime=0,
            )
        ],
        "traffic[0].arrivals: 160,000,000,000 connections of 8 packets each in a cell; "
        "10,000,000,000 packets at most",
    ),
    (
        [traffic(arrivals={"kind": "poisson", "rate": 1e8}, lifetime=1000)],
        "traffic[0].arrivals.rate: 1,000,000,000 connections alive at once in a cell; "
        "100,000,000 at most",
    ),
    (
        [traffic(arrivals={"kind": "poisson", "rate": 8e7}, lifetime=0.1)] * 2,
        "traffic: 12,800,000,000 packets in a cell; 10,000,000,000 at most",
    ),
]


@pytest.mark.parametrize(("streams", "message"), TOO_MUCH, ids=[row[1][:70] for row in TOO_MUCH])
def test_too_much_is_refused_with_its_field_and_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], streams: list[Any], message: str
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(scenario(traffic=streams)))
    assert main(["lab", "validate", str(file)]) == 2
    assert capsys.readouterr().err == f"kbe-nat: {file}: {message}\n"
    with pytest.raises(ScenarioError) as error:
        lab.run(str(file))
    assert str(error.value) == f"{file}: {message}"


def test_a_value_of_a_sweep_is_refused_too() -> None:
    sweep = [{"field": "traffic[0].arrivals.rate", "values": [10, 1e11]}]
    with pytest.raises(ScenarioError, match=r"traffic\[0\].arrivals.rate: 1,000,000,000,000 conn"):
        lab.validate(scenario(sweep=sweep))


@pytest.mark.parametrize(
    "changes",
    [
        {"arrivals": {"kind": "poisson", "rate": 300}},
        {"arrivals": {"kind": "bursty", "rate": 900, "seconds_on": 0.1, "seconds_off": 0.3}},
        {"arrivals": {"kind": "closed", "think": {"kind": "uniform", "low": 0, "high": 0.1}}},
        {"kind": "udp", "lifetime": {"kind": "pareto", "shape": 3, "minimum": 0.5}, "requests": 3},
        {"kind": "sctp", "start": 2, "stop": 22},
    ],
    ids=str,
)
def test_what_is_foretold_is_what_comes(changes: dict[str, Any]) -> None:
    """Within a tenth, over thirty seconds: connections, packets, and those alive."""
    stream = {"lifetime": 0.3, "clients": {"count": 30}} | changes
    values = scenario(traffic=[traffic(**stream)], duration=30, strategies=["random"])
    parsed = origin_of(values).scenario
    assert isinstance(parsed, Scenario)
    [told] = parsed.traffic
    result = lab.run(values)
    [outcome] = result.rows("outcomes")
    assert outcome["offered"] == pytest.approx(connections(told, 30), rel=0.1)
    [totals] = result.rows("totals")
    packets = totals["packets"]
    assert packets == pytest.approx(outcome["offered"] * packets_of(told), rel=0.1)
    load = sum(row["load"] for row in result.rows("backends"))
    # Of a closed loop it is a bound: clients think too.
    expected = alive_at_once(told, 30)
    assert load <= expected * 1.1
    if changes.get("arrivals", {}).get("kind") != "closed":
        assert load == pytest.approx(expected, rel=0.1)
