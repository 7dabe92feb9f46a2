"""Scenarios and traces that are refused in one line, whatever is in their files."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.captures import pcap
from harness.scenarios import scenario, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.errors import FileError
from kbe_nat.packets import opening

TEXT = """\
name: small
duration: 3
services: [{name: web, backends: [{count: 2}]}]
traffic: [{service: web, arrivals: {kind: paced, rate: 10}}]
strategies: [rr]
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("duration: 3", "duration: 3\nduration: 4", "duration"),
        ("count: 2", "count: true", "services[0].backends[0].count: expected int, got bool"),
        ("count: 2", "count: 1" + "0" * 30, "services[0].backends[0].count: expected int"),
        ("count: 2", "weight: -1", "services[0].backends[0].weight: expected int >= 0"),
        ("rate: 10", "rate: .nan", "line 4, column 56: not YAML: .nan is no number"),
        ("rate: 10", "rate: .inf", "line 4, column 56: not YAML: .inf is no number"),
        ("name: web", 'name: "web\\n"', "services[0].name: is no valid name"),
        ("name: small", "name: !!python/name:os.system", "line 1, column 7: not YAML: the tag"),
        ("[rr]", "[" * 100_000, "nested too deeply"),
        ("duration: 3", "duration:\t3\n\tx: 1", "line 3, column 1: not YAML"),
    ],
)
def test_a_text_that_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: str, after: str, message: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT.replace(before, after))
    assert main(["lab", "validate", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"kbe-nat: {path}") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, "3", None, True, [3]])
def test_a_duration_that_is_none(value: Any) -> None:
    with pytest.raises(lab.ScenarioError, match=r"^scenario: duration: "):
        lab.run(scenario(duration=value))


def test_a_value_that_contains_itself() -> None:
    values = scenario()
    values["services"] = [values]
    with pytest.raises(lab.ScenarioError):
        lab.run(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep": [{"field": "seed", "values": [1, 2]}]}, "sweep[0].field: seed cannot be varied"),
        (
            {"sweep": [{"field": "duration", "values": [10, 10.0]}]},
            "sweep[0].values: a value is there twice",
        ),
        (
            {"sweep": [{"field": "duration", "values": [n]} for n in (1, 2)]},
            "sweep[1].field: duration is there twice",
        ),
        (
            {"sweep": [{"field": "services[0].backends[0].count", "values": [1, -1]}]},
            "services[0].backends[0].count: expected int >= 0",
        ),
        (
            {"sweep": [{"field": "services[4].count", "values": [1]}]},
            "sweep[0].field: services[4].count: there is no [4], but 1",
        ),
        ({"memory": ["jet", "jet"], "strategies": ["mh"]}, "memory: one of them is there twice"),
        (
            {"timeline": [{"event": "failure", "at": 1, "service": "web", "backends": []}]},
            "timeline[0].backends: expected array of length >= 1",
        ),
    ],
)
def test_what_would_make_no_grid_is_told_before_it_runs(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(lab.ScenarioError) as error:
        lab.scenario_of(scenario(**changes), "x.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("field", "values", "reason"),
    [
        ("services[0].backends[0].cuont", [1, 2], "services[0].backends[0]: 'cuont' is none of"),
        ("services[0].backends[0].count", [-1, 2], "services[0].backends[0].count: expected int"),
    ],
)
def test_a_mistake_of_a_sweep_is_told_once_and_where_it_is(
    field: str, values: list[int], reason: str
) -> None:
    with pytest.raises(lab.ScenarioError) as error:
        lab.scenario_of(scenario(sweep=[{"field": field, "values": values}]))
    ((path, words),) = error.value.mistakes
    assert path == "sweep[0]" and words.startswith(reason)


def trace(file: str) -> dict[str, Any]:
    return scenario(traffic=[traffic(arrivals={"kind": "trace", "file": file})])


@pytest.mark.parametrize("suffix", [".csv", ".pcap"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_a_trace_that_is_no_file(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(lab.ScenarioError, match=r"traffic\[0\].arrivals.file: .*no regular file"):
        lab.run(trace(str(path)))


def test_validate_reads_traces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text(json.dumps(trace("nothing.csv")))
    assert main(["lab", "validate", str(tmp_path / "x.yaml")]) == 2
    reason = "traffic[0].arrivals.file: nothing.csv: No such file or directory"
    assert capsys.readouterr().err == f"kbe-nat: {tmp_path / 'x.yaml'}: {reason}\n"


@pytest.mark.parametrize("word", ["nan", "inf", "", "1e999", "0x1"])
def test_a_trace_with_what_is_no_number(tmp_path: Path, word: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"time,client,bytes,lifetime\n0,0,1,{word}\n")
    with pytest.raises(lab.ScenarioError, match="line 2: time, client, bytes and lifetime"):
        lab.run(trace(str(path)))
    samples = {"kind": "trace", "file": str(path), "column": "lifetime"}
    with pytest.raises(lab.ScenarioError, match=r"traffic\[0\].size: .*column lifetime holds"):
        lab.run(scenario(traffic=[traffic(size=samples)]))


def test_a_trace_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for count in (1, 3):
        path.write_text("\ufefftime,client,bytes,lifetime\n" + "0,0,1,1\n" * count)
        result = lab.run(trace(str(path)))
        assert next(iter(result.rows("outcomes")))["offered"] == count


def test_a_capture_is_replayed_in_the_order_of_time_without_what_has_no_ports(
    tmp_path: Path,
) -> None:
    first, second = (opening("tcp", (f"10.9.0.{n}", 1000), ("192.0.2.1", 80)) for n in (1, 2))
    # An echo request, and a later fragment of TCP.
    echo = first[:9] + b"\x01" + first[10:]
    fragment = first[:6] + b"\x00\x10" + first[8:]
    packets = [(5 * 10**9, first), (3 * 10**9, second), (4 * 10**9, echo), (10**9, fragment)]
    (tmp_path / "x.pcap").write_bytes(pcap(packets))
    result = lab.run(trace(str(tmp_path / "x.pcap")))
    assert next(iter(result.rows("outcomes")))["offered"] == 2


@pytest.mark.parametrize("text", [b"", b"\x00" * 100, pcap([])[:20], pcap([])])
def test_a_capture_of_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.pcap").write_bytes(text)
    with pytest.raises(lab.ScenarioError, match=r"traffic\[0\].arrivals.file: "):
        lab.run(trace(str(tmp_path / "x.pcap")))


@pytest.mark.parametrize("kind", ["fifo", "directory", "nothing"])
def test_a_scenario_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(FileError, match=r"x\.yaml: "):
        lab.read_scenario(str(path))


def test_json_with_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(scenario())
    (tmp_path / "x.json").write_text(text[:-1] + ', "name": "other"}')
    with pytest.raises(FileError, match="name"):
        lab.read_scenario(str(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({1: 2}, "scenario: one of its names is no text: expected str"),
        ({None: 1}, "scenario: one of its names is no text: expected str"),
        (
            scenario(services=[{1: 2}]),
            "scenario: services[0]: one of its names is no text: expected str",
        ),
        (
            scenario(timeouts={1: 2}),
            "scenario: timeouts: one of its names is no text: expected str, got int",
        ),
        (scenario(services={1: 2}), "scenario: services: expected array, got object"),
        (scenario(duration=1j), "scenario: duration: expected float, got complex"),
        (scenario(name=b"x"), "scenario: name: expected str, got bytes"),
    ],
)
def test_values_of_python_that_yaml_has_not(values: Any, message: str) -> None:
    for function in (lab.run, lab.validate):
        with pytest.raises(lab.ScenarioError) as error:
            function(values)
        assert str(error.value) == message


def test_results_go_into_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT)
    assert main(["lab", "run", str(path), "-d", str(path)]) == 2
    said = f"kbe-nat: {path}: it is no folder: name another for the results\n"
    assert capsys.readouterr().err == said
