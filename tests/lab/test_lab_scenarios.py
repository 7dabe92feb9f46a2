"""Scenarios: what is refused, with the field's path; what their timelines mean; the gallery."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.captures import pcap
from harness.scenarios import scenario, service, traffic
from kbe_nat import lab
from kbe_nat.errors import FileError
from kbe_nat.lab.cells import cells
from kbe_nat.lab.identity import scenario_hash
from kbe_nat.lab.reading import offline_scenario_of
from kbe_nat.lab.tables import TABLES
from kbe_nat.lab.timeline import expand
from kbe_nat.packets import opening


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"duration": 0}, "duration: expected float >= 1.0"),
        ({"durations": 1}, "'durations' is none of its fields: name, duration, "),
        ({"name": "Two Words"}, "name: is no valid name"),
        ({"services": []}, "services: expected array of length >= 1"),
        (
            {"services": [{"name": "web", "backends": [{"count": "two"}]}]},
            "services[0].backends[0].count: expected int, got str",
        ),
        ({"services": [service(2)] * 2}, "services[1].name: another Service is named web"),
        ({"services": [service(0)]}, "services[0].backends: no backend has weight"),
        (
            {"services": [service(100_000) | {"count": 100}]},
            "services[0].count: more than 1,048,576",
        ),
        ({"strategies": ["maglev"]}, "strategies[0].name: 'maglev' is none of random, "),
        ({"strategies": ["mh", "mh"]}, "strategies[1]: mh is there twice"),
        (
            {"strategies": [{"name": "mh", "table_size": 10}]},
            "strategies[0].table_size: 10 is not prime",
        ),
        (
            {"strategies": [{"name": "rr", "draws": 2}]},
            "strategies[0].draws: rr has no such parameter",
        ),
        ({"strategies": [{"name": "python"}]}, "strategies[0].class: is missing"),
        ({"source_nat": ["round"]}, "source_nat[0]: 'round' is none of preserve, "),
        ({"source_nat": ["random", "random"]}, "source_nat[1]: random is there twice"),
        (
            {"source_nat": [{"allocation": "random", "block_size": 10}]},
            "source_nat[0].block_size: random has no such parameter",
        ),
        (
            {"source_nat": [{"allocation": "deterministic", "blocks_per_client": 2}]},
            "source_nat[0].blocks_per_client: deterministic has no such parameter",
        ),
        (
            {"source_nat": [{"allocation": "blocks", "block_size": 11, "ports": [1, 10]}]},
            "source_nat[0].block_size: the range has 10 ports",
        ),
        ({"source_nat": [{"ports": [10, 1]}]}, "source_nat[0].ports: 10 is above 1"),
        (
            {"source_nat": [{"allocation": "blocks", "block_size": 0}]},
            "source_nat[0].block_size: expected int >= 1",
        ),
        (
            {"source_nat": ["random"], "strategies": ["mh"], "memory": ["none"]},
            "memory: none cannot translate sources back",
        ),
        ({"memory": ["jet"]}, "memory: jet needs a strategy that goes by the flow alone"),
        ({"traffic": [traffic(service="db")]}, "traffic[0].service: 'db' is none of web"),
        (
            {"traffic": [traffic(), traffic(kind="udp")]},
            "traffic[1].kind: web has TCP and UDP traffic",
        ),
        (
            {"traffic": [traffic(arrivals={"kind": "poison", "rate": 1})]},
            "traffic[0].arrivals.kind: 'poison' is none of poisson, ",
        ),
        (
            {"traffic": [traffic(arrivals={"kind": "poisson", "rate": -1})]},
            "traffic[0].arrivals.rate: expected float > 0.0",
        ),
        (
            {"traffic": [traffic(kind="syn-flood", arrivals={"kind": "closed", "think": 1})]},
            "traffic[0].arrivals: a flood waits for nobody",
        ),
        ({"traffic": [traffic(stop=11)]}, "traffic[0].stop: behind the end"),
        ({"traffic": [traffic(start=10)]}, "traffic[0].start: 10 is not before the end of"),
        (
            {"traffic": [traffic(start=2, stop=1)]},
            "traffic[0].start: 2 is not before stop, 1",
        ),
        (
            {"traffic": [traffic(size={"kind": "uniform", "low": 2, "high": 1})]},
            "traffic[0].size.low: above high",
        ),
        (
            {"traffic": [traffic(size={"kind": "trace"})]},
            "traffic[0].size: either a file or values",
        ),
        ({"timeouts": {"tcp": 1}}, "timeouts.tcp: 'tcp' is none of tcp_syn_sent, "),
        (
            {"timeline": [{"event": "node-loss", "at": 1, "node": 1}]},
            "timeline[0].node: the nodes are 0 to 0",
        ),
        (
            {"timeline": [{"event": "scale", "at": 1, "service": "db", "backends": 1}]},
            "timeline[0].service: 'db' is none of web",
        ),
        (
            {"timeline": [{"event": "drain", "at": 1, "service": "web", "backend": 2}]},
            "timeline[0].backend: web has had 2 backends by then, from 0",
        ),
        (
            {"timeline": [{"event": "strategy", "at": 1, "service": "web", "strategy": "x"}]},
            "timeline[0].strategy.name: 'x' is none of ",
        ),
        (
            {"sweep": [{"field": "services[0]..x", "values": [1]}]},
            "sweep[0].field: 'services[0]..x",
        ),
    ],
)
def test_a_mistake_is_told_with_its_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(lab.ScenarioError) as error:
        offline_scenario_of(scenario(**changes), "x.yaml")
    assert str(error.value).startswith(f"x.yaml: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "x.yaml, line 2, column 1: not YAML"),
        ("a: 1\n---\nb: 1\n", "x.yaml: one scenario is expected, not 2"),
        ("", "x.yaml: it is empty: one scenario is expected"),
    ],
)
def test_a_file_that_is_no_scenario(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(FileError) as error:
        lab.read_scenario(str(tmp_path / "x.yaml"))
    assert message in str(error.value)


def test_a_value_of_a_sweep_that_cannot_be() -> None:
    """Each may be by itself, and not both together."""
    sweep = [
        {"field": "services[0].count", "values": [1, 2000]},
        {"field": "services[0].backends[0].count", "values": [1, 2000]},
    ]
    value = offline_scenario_of(scenario(sweep=sweep))
    with pytest.raises(lab.ScenarioError, match=r"services\[0\]\.count: more than 1,048,576"):
        list(cells(value, Path()))


def test_the_grid_of_cells() -> None:
    value = offline_scenario_of(
        scenario(
            strategies=["mh", {"name": "ring", "virtual_nodes": 10}],
            memory=["conntrack", "jet"],
            sweep=[{"field": "services[0].backends[0].count", "values": [2, 4, 8]}],
            repeats=5,
        )
    )
    grid = list(cells(value, Path()))
    assert len(grid) == 2 * 2 * 3 * 5
    assert len({cell.key for cell in grid}) == len(grid)
    assert len({cell.seed for cell in grid}) == 5, "a seed for each repeat"
    assert {cell.strategy.label for cell in grid} == {"mh", "ring(virtual_nodes=10)"}


def test_seeds_are_hashes_that_never_change() -> None:
    value = offline_scenario_of(scenario(repeats=2, seed=7))
    assert [cell.seed for cell in cells(value, Path())] == SEEDS_OF_7


SEEDS_OF_7 = [6_322_794_449_258_995_505, 2_918_715_406_812_380_943]


def changes_of(*timeline: dict[str, Any], backends: int = 3) -> list[tuple[float, str, Any]]:
    events = [{"service": "web", **event} for event in timeline]
    value = offline_scenario_of(scenario(services=[service(backends)], timeline=events))
    return [(time, name, changes) for time, name, changes in expand(value)[2]]


def test_timelines_written_out() -> None:
    assert changes_of({"event": "scale", "at": 2, "backends": 5}) == [
        (2, "web scales to 5", [{"list": [0, 3, True]}, {"list": [0, 4, True]}])
    ]
    assert changes_of(
        {"event": "scale", "at": 4, "backends": 3}, {"event": "scale", "at": 2, "backends": 2}
    ) == [
        (2, "web scales to 2", [{"list": [0, 2, False]}]),
        (4, "web scales to 3", [{"list": [0, 2, True]}]),
    ], "in the order of time, and a former backend returns"
    assert changes_of({"event": "drain", "at": 1, "backend": 1, "removed_after": 2}) == [
        (1, "web[1] drains", [{"weight": [0, 1, 0]}]),
        (3, "web[1] is removed", [{"list": [0, 1, False]}]),
    ]
    failure = {"event": "failure", "at": 1, "backends": [0], "detected_after": 1}
    assert changes_of(failure | {"returns_after": 3}) == [
        (1, "web[0] fails", [{"alive": [0, 0, False]}]),
        (2, "web[0] is found dead", [{"list": [0, 0, False]}]),
        (4, "web[0] returns", [{"alive": [0, 0, True]}, {"list": [0, 0, True]}]),
    ]
    update = {"event": "rolling-update", "at": 1, "interval": 3, "drain": 1}
    assert changes_of(update, backends=2) == [
        (1, "web[2] replaces [0]", [{"list": [0, 2, True]}, {"weight": [0, 0, 0]}]),
        (2, "web[0] is removed", [{"list": [0, 0, False]}]),
        (4, "web[3] replaces [1]", [{"list": [0, 3, True]}, {"weight": [0, 1, 0]}]),
        (5, "web[1] is removed", [{"list": [0, 1, False]}]),
    ]
    flapping = {"event": "flapping", "at": 8, "backend": 0, "period": 2, "times": 9}
    assert [(time, name) for time, name, _ in changes_of(flapping)] == [
        (8, "web[0] leaves"),
        (9, "web[0] returns"),
        (10, "web[0] leaves"),
    ], "until the end"


def test_traces(tmp_path: Path) -> None:
    (tmp_path / "sizes.csv").write_text("bytes,life\n10,1\n30,2\n")
    (tmp_path / "trace.csv").write_text("time,client,bytes,lifetime\n1,5,700,2\n0,3,10,1\n")
    values = scenario(
        traffic=[
            traffic(
                arrivals={"kind": "trace", "file": "trace.csv"},
                size={"kind": "trace", "file": "sizes.csv", "column": "bytes"},
            )
        ]
    )
    (tmp_path / "x.yaml").write_text(json.dumps(values))
    result = lab.run(tmp_path / "x.yaml")
    outcome = next(iter(result.rows("outcomes")))
    assert (outcome["offered"], outcome["served"], outcome["open"]) == (2, 2, 0)
    assert sum(row["bytes"] for row in result.rows("backends")) == 710


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "trace.csv: No such file or directory"),
        ("time,client\n", "trace.csv: no connection"),
        ("time,client,bytes\n1,1,1\n", "line 1: the column lifetime is missing"),
        ("time,client,bytes,lifetime\n1,x,1,1\n", "line 2: time, client, bytes and lifetime"),
        ("time,client,bytes,lifetime\n1,-4,1,1\n", "a number is negative"),
    ],
)
def test_a_trace_that_cannot_be_read(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "trace.csv").write_text(text)
    values = scenario(
        traffic=[traffic(arrivals={"kind": "trace", "file": str(tmp_path / "trace.csv")})]
    )
    with pytest.raises(lab.ScenarioError, match="traffic\\[0\\].arrivals.file: .*" + message):
        lab.run(values)


def test_a_capture_is_replayed(tmp_path: Path) -> None:
    """Three clients of a capture, the first with two connections, one second apart."""
    senders = [("10.9.0.1", 1000), ("10.9.0.2", 1000), ("10.9.0.1", 1001), ("10.9.0.3", 7)]
    packets = [opening("tcp", sender, ("192.0.2.1", 80)) for sender in senders]
    (tmp_path / "x.pcap").write_bytes(
        pcap((time * 10**9, packet) for time, packet in enumerate(packets))
    )
    arrivals = {"kind": "trace", "file": str(tmp_path / "x.pcap")}
    result = lab.run(scenario(traffic=[traffic(arrivals=arrivals)]))
    assert next(iter(result.rows("outcomes")))["offered"] == 4


def test_a_capture_that_was_cut_is_told(tmp_path: Path) -> None:
    packet = opening("tcp", ("10.9.0.1", 1000), ("192.0.2.1", 80))
    file = tmp_path / "x.pcap"
    file.write_bytes(pcap([(0, packet), (1, packet)])[:-1])
    arrivals = {"kind": "trace", "file": str(file)}
    (line,) = lab.validate(scenario(traffic=[{"service": "web", "arrivals": arrivals}]))
    assert line.startswith("traffic[0].arrivals.file: it ends within packet 2")
    assert line.endswith("; what is before it counts")


def test_a_file_that_is_no_capture_is_named_once(tmp_path: Path) -> None:
    file = tmp_path / "x.pcap"
    file.write_text("time,client")
    arrivals = {"kind": "trace", "file": str(file)}
    with pytest.raises(lab.ScenarioError) as error:
        lab.validate(scenario(traffic=[{"service": "web", "arrivals": arrivals}]))
    reason = f"{file}: neither a pcap nor a pcapng file"
    assert error.value.mistakes == (("traffic[0].arrivals.file", reason),)


def test_the_gallery_is_valid_and_asks_questions() -> None:
    names = lab.gallery()
    assert len(names) >= 15
    for name in names:
        value, folder = lab.read_scenario(name)
        assert value.name == name
        assert value.question.endswith("?"), name
        assert value.expect.endswith("."), name
        if isinstance(value, lab.Scenario):
            assert next(iter(cells(value, folder))).description()


def test_every_column_is_in_the_dictionary(tmp_path: Path) -> None:
    result = lab.run(scenario(source_nat=["random"]), tmp_path)
    with (tmp_path / "dictionary.csv").open() as lines:
        words = [line.split(",")[:2] for line in lines][1:]
    for name in TABLES:
        header = result.folder.table(name).read_text().splitlines()[0].split(",")
        assert header == [column for table, column in words if table == name]
        assert all(column.meaning for column in result.catalogue.tables[name])


def test_equal_scenarios_have_one_hash() -> None:
    hashes = {
        scenario_hash(offline_scenario_of(values))
        for values in (scenario(), scenario(duration=10.0), scenario(question="Why?"))
    }
    assert len(hashes) == 1
    assert scenario_hash(offline_scenario_of(scenario(seed=9))) not in hashes
