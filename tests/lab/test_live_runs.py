"""Live scenarios, their cells, folders, medians and reports, on ways without packets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from harness.live import FakeNetwork, FakeTraffic, FakeWay, live_scenario
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.kubeproxy.dump import Form, dump, plan_for
from kbe_nat.lab.live import execution
from kbe_nat.lab.live.cells import live_cells
from kbe_nat.lab.live.medians import difference, noise_of
from kbe_nat.lab.live.objects import objects
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.ways import WAYS
from kbe_nat.lab.result import differences
from kbe_nat.policy.options import Options


def live(**changes: Any) -> LiveScenario:
    value = lab.scenario_of(live_scenario(**changes))
    assert isinstance(value, LiveScenario)
    return value


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FakeWay]]:
    """Two ways, the second twice as fast, instead of those that are known."""
    fakes = {"slow": FakeWay("slow", 1000), "fast": FakeWay("fast", 2000)}
    known = dict(WAYS)
    WAYS.clear()
    WAYS.update(cast(Any, fakes))
    monkeypatch.setattr(execution, "Network", lambda: FakeNetwork(FakeTraffic(1)))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    yield fakes
    WAYS.clear()
    WAYS.update(known)


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"ways": []}, "ways", "length >= 1"),
        ({"ways": ["a", {"way": "a"}]}, "ways[1]", "a is there twice"),
        ({"ways": [{"way": "a", "services": [1, 1]}]}, "ways[0].services[1]", "1 is there twice"),
        ({"measures": [{"measure": "speed"}]}, "measures[0].measure", "'speed' is none of "),
        ({"measures": [{"measure": "bulk"}] * 2}, "measures[1].measure", "is there twice"),
        (
            {"measures": [{"measure": "throughput", "loss": [1.5]}]},
            "measures[0].loss[0]",
            "< 1.0",
        ),
        ({"services": [0]}, "services[0]", ">= 1"),
        ({"services": [30_001]}, "services[0]", "<= 30000"),
        ({"families": ["ipv5"]}, "families[0]", "'ipv5' is none of ipv4, ipv6"),
        ({"baseline": "other"}, "baseline", "'other' is none of "),
        ({"duration": 3}, "", "'duration' is none of its fields: name, "),
        ({"mode": "alive"}, "mode", "'alive' is none of offline, live"),
        ({"mode": ["live"]}, "mode", "is none of offline, live"),
        ({"rounds": 0}, "rounds", ">= 1"),
    ],
)
def test_wrong_scenarios_are_refused(changes: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(lab.ScenarioError) as error:
        lab.scenario_of(live_scenario(**changes))
    assert error.value.path == path
    assert message in error.value.reason


def test_rounds_hold_every_way_and_the_baseline_twice() -> None:
    scenario = live(rounds=6, services=[1, 100], families=["ipv4", "ipv6"])
    grid = list(live_cells(scenario, frozenset(("slow", "fast"))))
    assert len(grid) == 6 * (1 + 2 * 2 * 3)
    assert len({(cell.key, cell.repeat) for cell in grid}) == len(grid)
    orders = set()
    for turn in range(6):
        cells = [cell for cell in grid if cell.round == turn]
        assert cells[0].way == "idle"
        assert sum(cell.way == "slow" and cell.run == 1 for cell in cells) == 4
        orders.add(tuple((cell.way, cell.services, cell.family, cell.run) for cell in cells))
    assert len(orders) == 6, "an order for each round"
    again = list(live_cells(scenario, frozenset(("slow", "fast"))))
    assert [cell.key for cell in again] == [cell.key for cell in grid]


def test_a_run_with_its_medians(ways: dict[str, FakeWay], tmp_path: Path) -> None:
    result = lab.run(live_scenario(rounds=3), tmp_path / "run")
    assert len(result.manifest.cells) == 3 * 4
    assert ways["slow"].runs == 6 and ways["fast"].runs == 3
    assert len(list(result.rows("connections"))) == 9
    rows = {(row["way"], row["quantity"]): row for row in result.rows("medians")}
    slow, fast = rows["slow", "rate"], rows["fast", "rate"]
    assert (slow["median"], slow["low"], slow["high"], slow["rounds"]) == (1000, 1000, 1000, 3)
    assert slow["ratio"] is None and slow["difference"] is None
    assert (fast["median"], fast["ratio"]) == (2000, 2.0)
    assert fast["unit"] == "connections/s"
    # The machine under the test may be so busy that twice as fast is noise.
    assert fast["difference"] == ("more" if fast["noise"] < 1 else "none")
    assert rows["fast", "p50_us"]["difference"] == "none"
    with (result.folder.path / "dictionary.csv").open() as lines:
        dictionary = [line.split(",")[:2] for line in lines]
    for name in ("medians", "control", "connections", "missing"):
        header = result.folder.table(name).read_text().splitlines()[0].split(",")
        assert header == [column for table, column in dictionary if table == name]


def test_a_finished_cell_is_never_measured_twice(
    ways: dict[str, FakeWay], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.run(live_scenario(), tmp_path / "run", watch=interrupted)
    runs = ways["slow"].runs + ways["fast"].runs
    with pytest.raises(lab.LabError, match="was interrupted"):
        lab.report([lab.Result(tmp_path / "run")])
    result = lab.run(live_scenario(), tmp_path / "run")
    assert ways["slow"].runs + ways["fast"].runs == 6
    assert runs < 6
    assert len(list(result.rows("connections"))) == 6
    ways["fast"].reason = "is gone"
    with pytest.raises(lab.LabError, match="ways that were skipped: none; now: fast"):
        lab.run(live_scenario(), tmp_path / "run")


def test_numbers_of_services_that_a_way_is_not_asked_for_are_told(
    ways: dict[str, FakeWay], tmp_path: Path
) -> None:
    few = [{"way": "slow", "services": [1]}, "fast"]
    result = lab.run(live_scenario(rounds=1, ways=few, services=[1, 100]), tmp_path / "run")
    [row] = [row for row in result.rows("missing") if row["way"] == "slow"]
    assert (row["services"], row["round"], row["measure"]) == (100, None, None)
    assert "other numbers of Services" in row["reason"]


def test_what_is_missing_is_told(ways: dict[str, FakeWay], tmp_path: Path) -> None:
    ways["fast"].reason = "haproxy is not installed: apt install haproxy"
    result = lab.run(live_scenario(rounds=1), tmp_path / "run")
    skipped = {"way": "fast", "reason": "haproxy is not installed: apt install haproxy"}
    assert result.manifest.skipped == [skipped]
    assert next(result.rows("missing"))["reason"] == skipped["reason"]
    pages = {page.title: page for page in lab.report([result])}
    assert pages["Missing"].rows == [["fast", "", "", "", skipped["reason"]]]
    ways["slow"].reason = "it broke"
    with pytest.raises(lab.LabError, match="this machine can run none of the ways: it broke"):
        lab.run(live_scenario())
    with pytest.raises(lab.ScenarioError, match=r"ways\[0\]: 'warp' is none of slow, fast"):
        lab.run(live_scenario(ways=["warp"]))


def test_a_way_that_fails_is_a_result(ways: dict[str, FakeWay]) -> None:
    ways["fast"].failure = "nft: out of memory"
    measures = [{"measure": "connections"}, {"measure": "bulk", "megabytes": 2000}]
    result = lab.run(live_scenario(rounds=1, measures=measures, families=["ipv4", "ipv6"]))
    reasons = {
        (row["way"], row["family"], row["measure"]): row["reason"] for row in result.rows("missing")
    }
    assert reasons == {
        ("fast", "ipv4", None): "nft: out of memory",
        ("fast", "ipv6", None): "fast carries no ipv6",
        ("slow", "ipv6", None): "slow carries no ipv6",
        ("slow", "ipv4", "bulk"): "the connection was cut off",
    }
    ways["fast"].failure = None
    ways["fast"].protocols = frozenset(("tcp",))
    result = lab.run(live_scenario(rounds=1, measures=[{"measure": "latency"}]))
    assert [row["reason"] for row in result.rows("missing")] == ["fast carries no UDP"]


def test_settings_of_one_way(ways: dict[str, FakeWay]) -> None:
    fast = {"way": "fast", "services": [5], "measures": [{"measure": "bulk", "megabytes": 7}]}
    result = lab.run(live_scenario(ways=["slow", fast], rounds=1))
    assert [row["bytes"] for row in result.rows("bulk")] == [7 << 20]
    assert {row["way"] for row in result.rows("connections")} == {"slow"}
    assert {row["services"] for row in result.rows("bulk")} == {5}


def test_the_measured_service_is_in_the_middle_of_kube_proxys_list() -> None:
    """A chain that is walked rule by rule is walked to its middle, as for a Service by chance."""
    snapshot = objects(101, endpoints=1)
    text = dump(plan_for(snapshot, Options(), Form.IPTABLES_SAVE), snapshot, Form.IPTABLES_SAVE)
    rules = [line for line in text.splitlines() if line.startswith("-A KUBE-SERVICES -d")]
    places = [place for place, rule in enumerate(rules) if "default/measured" in rule]
    assert places == [50, 51, 52, 53] and len(rules) == 104


def test_differences_within_the_noise_are_none() -> None:
    assert noise_of({0: 100.0, 1: 100.0}, {0: 104.0, 1: 90.0}, idle=0.01) == pytest.approx(1 / 9)
    assert noise_of({0: 100.0}, {0: 101.0}, idle=0.05) == 0.05, "the idle control is worse"
    assert noise_of({0: 100.0}, {}, idle=0.05) is None
    assert difference(1.2, 1.1, 1.3, 0.1, 5) == "more"
    assert difference(0.8, 0.7, 0.9, 0.1, 5) == "less"
    assert difference(1.2, 1.1, 1.3, 0.25, 5) == "none", "one way differs as much from itself"
    assert difference(1.2, 0.9, 1.3, 0.1, 5) == "none", "the interval holds 1"
    assert difference(1.2, 1.2, 1.2, 0.1, 1) is None, "one round says nothing"
    assert difference(1.2, 1.1, 1.3, None, 5) is None


def test_reproduce_compares_medians_by_their_intervals(
    ways: dict[str, FakeWay],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # On a busy machine the idle control may find more noise than the ways differ by.
    quiet = {"control": [(20, 1.0, 0.01, 0.01, 0.0, 0.0)]}
    monkeypatch.setattr(execution, "control", lambda _: quiet)
    first = lab.run(live_scenario(rounds=3), tmp_path / "first")
    assert not [line for line in differences(first, first) if line.startswith("medians")]
    ways["fast"].traffic.capacity = 50_000
    second = lab.reproduce(tmp_path / "first", tmp_path / "second")
    lines = [line for line in differences(first, second) if line.startswith("medians")]
    assert lines == ["medians: connections, rate, fast, 1, ipv4: 2,000 ±0 -> 50,000 ±0"]
    assert main(["lab", "report", str(tmp_path / "first"), str(tmp_path / "second")]) == 0
    assert "Connections: rate" in capsys.readouterr().out


def test_verbs(
    ways: dict[str, FakeWay], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(live_scenario(question="Which?")))
    assert main(["lab", "validate", str(file)]) == 0
    assert main(["lab", "show", str(file), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out.split("is valid\n")[1])["endpoints"] == 1
    folder = str(tmp_path / "run")
    assert main(["lab", "run", str(file), "-d", folder, "--repeats", "3", "--seed", "4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("small: Which?\n12 cells, 3 rounds from seed 4; kbe-nat ")
    assert "Idle control" in out and "Connections: rate, 1 Service," in out
    assert main(["lab", "run", str(file), "-d", f"{folder}2", "-j", "2"]) == 2
    assert "live cells would measure each other" in capsys.readouterr().err


def test_without_root_there_is_one_sentence(
    ways: dict[str, FakeWay],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(live_scenario()))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("kbe_nat.playground.privileges.UNSHARE", ("false",))
    assert main(["lab", "run", str(file), "-d", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "root is needed" in err
    with pytest.raises(lab.LabError, match="root is needed"):
        lab.run(live_scenario())
