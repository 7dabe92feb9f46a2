"""What a newcomer meets first: commands given again, mistakes by the dozen, the example."""

from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import scenario, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main

ROOT = Path(__file__).parents[2]
MINE = ROOT / "examples" / "lab" / "mine.yaml"
MISTAKES = """\
name: bad
duration: 10
color: red
services: [{name: web, backends: [{count: 1, wieght: 2}]}]
traffic: [{service: wbe, arrivals: {kind: poison, rate: 1}}]
strategies: [maglev, {name: mh, tabel: 3}]
memory: [conntrak]
timeouts: {tcp: 3}
timeline:
  - {event: fail, at: 5, service: web, backends: [0]}
  - {event: scale, at: 5, service: wbe, backends: 3}
"""


def test_a_scenario_with_many_mistakes_names_them_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(MISTAKES)
    assert main(["lab", "validate", str(path), "two-endpoints"]) == 2
    out, err = capsys.readouterr()
    assert out == "two-endpoints: two-endpoints is valid\n"
    events = "scale, weight, drain, failure, rolling-update, flapping, strategy, node-loss"
    expected = (
        "'color' is none of its fields: name, duration, ",
        "services[0].backends[0]: 'wieght' is none of its fields: count, weight, ",
        "traffic[0].arrivals.kind: 'poison' is none of poisson, paced, bursty, closed, trace",
        "strategies[1]: 'tabel' is none of its fields: name, table_size, ",
        "memory[0]: 'conntrak' is none of conntrack, none, jet",
        f"timeline[0].event: 'fail' is none of {events}",
        "strategies[0].name: 'maglev' is none of random, ",
        "traffic[0].service: 'wbe' is none of web",
        "timeline[1].service: 'wbe' is none of web",
        "timeouts.tcp: 'tcp' is none of tcp_syn_sent, ",
    )
    lines = err.splitlines()
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith(f"kbe-nat: {path}: {words}")
    # A run says the same in its one line.
    assert main(["lab", "run", str(path), "-d", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert all(words in line for words in expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": {"cuont": 2}, "timeline": [{"event": "node-loss", "at": 1, "node": 1}]},
        {"duration": "x", "traffic": [traffic(start=20)]},
        {"strategies": ["mh", {"name": "mh", "tabel": 1}, "ring", {"name": "mh", "tabel": 1}]},
        {"memory": ["non"], "strategies": ["rr", "lc"]},
        {"traffic": [traffic(knid="udp"), traffic(kind="udp")]},
        {"services": 3, "traffic": [traffic()]},
        {"services": [{"name": 7, "backends": [{}]}]},
        {"sweep": [{"field": "duration", "valeus": [1]}]},
    ],
)
def test_a_mistake_brings_no_contradiction_that_is_none(changes: dict[str, Any]) -> None:
    """What stands in the place of a wrong field contradicts nothing."""
    with pytest.raises(lab.ScenarioError) as error:
        lab.scenario_of(scenario(**changes))
    assert all(
        "fields: " in reason or "expected" in reason or "missing" in reason or "conntrack" in reason
        for _, reason in error.value.mistakes
    )


def test_a_scenario_with_mistakes_without_end_names_twenty() -> None:
    with pytest.raises(lab.ScenarioError, match="and 80 more mistakes") as error:
        lab.scenario_of(scenario(strategies=[f"x{number}" for number in range(100)]))
    assert len(error.value.mistakes) == 21


def test_a_scenario_that_there_is_not_is_told_before_a_missing_flag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["lab", "run", "Node-lose"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("kbe-nat: Node-lose: is no file, and no scenario of the gallery: aff")
    assert "; did you mean node-loss" in err
    assert main(["lab", "run", "nothing.yaml"]) == 2
    assert capsys.readouterr().err == "kbe-nat: nothing.yaml: No such file or directory\n"
    assert main(["lab", "run", "scale-out"]) == 2
    assert "--directory " in capsys.readouterr().err


def test_the_gallery_wins_over_a_directory_and_a_finished_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["lab", "run", "two-endpoints", "-d", "two-endpoints", "--repeats", "1"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "finished" not in err
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == out
    assert "kbe-nat: two-endpoints: this run was finished before; this is its report\n" in again.err
    next((tmp_path / "two-endpoints" / "cells").glob("*.json")).unlink()
    assert main(command) == 0
    assert "cells were finished before; the run goes on\n" in capsys.readouterr().err
    assert main(["lab", "validate", "two-endpoints"]) == 0
    assert capsys.readouterr().out == "two-endpoints: two-endpoints is valid\n"
    assert main(["lab", "show", "two-endpoints"]) == 0
    # A file of its name is what is meant.
    (tmp_path / "even").write_text(MINE.read_text())
    assert lab.read_scenario("even")[0].name == "mine"


def test_the_example_asks_of_a_failure_and_answers(tmp_path: Path) -> None:
    """One of four backends is away for four of twenty seconds. `lc` counts what died with it."""
    result = lab.run(MINE, tmp_path / "mine")
    events = {row["event"] for row in result.rows("events")}
    assert {"web[3] fails", "web[3] is found dead", "web[3] returns"} <= events
    title = "Balance: difference from random, in pairs"
    (page,) = [page for page in lab.report([result]) if page.title == title]
    unevenness = {
        row[0]: row[page.columns.index("max over mean")]
        for row in page.rows
        if row[3:5] == ["connections", "run"]
    }
    assert unevenness["rr"].startswith("-") and unevenness["lc"].startswith("+")
    (page,) = [page for page in lab.report([result]) if page.title.startswith("Shares of")]
    shares, fair = (
        {row[0]: float(row[column].split()[0]) for row in page.rows if row[1] == "3"}
        for column in (2, 3)
    )
    assert abs(shares["rr"] - fair["rr"]) < 0.001
    assert shares["lc"] < 0.7 * fair["lc"]
