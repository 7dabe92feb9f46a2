"""`lab validate` refuses all that a run would refuse, with the file and the field's path, and tells
what has no effect.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from harness.scenarios import scenario, service, traffic
from kbe_nat import lab
from kbe_nat.__main__ import main
from kbe_nat.lab.reading import GALLERY

MODULE = """
class Good:
    consistent = True

    def __init__(self, backends, seed):
        pass

    def pick(self, hash, loads):
        return 0

class Free(Good):
    consistent = False

class NoPick:
    def __init__(self, backends, seed):
        pass

class NoSeed:
    def __init__(self, backends):
        pass

    def pick(self, hash, loads):
        return 0

class NoLoads(Good):
    def pick(self, hash):
        return 0

function = len
"""


def python(name: str) -> dict[str, Any]:
    return {"name": "python", "class": name}


def mh(size: int) -> dict[str, Any]:
    return {"name": "mh", "table_size": size}


def event(kind: str, at: float, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "at": at, "service": "web", **fields}


HEAVY = [{"count": 40, "weight": 65_535}, {"count": 1, "weight": 65_534}]
ROWS: list[tuple[dict[str, Any], str]] = [
    (
        {"strategies": ["rr", python("nope:Nope")]},
        "strategies[1].class: nope:Nope: No module named 'nope'; it was searched for in ",
    ),
    (
        {"strategies": [python("refusals_module:Nope")]},
        "strategies[0].class: refusals_module:Nope: module 'refusals_module' has no attribute",
    ),
    (
        {"strategies": [python("refusals_module:NoPick")]},
        "strategies[0].class: refusals_module:NoPick: has no method pick",
    ),
    (
        {"strategies": [python("refusals_module:NoSeed")]},
        "strategies[0].class: refusals_module:NoSeed: cannot be made of (backends, seed): ",
    ),
    (
        {"strategies": [python("refusals_module:NoLoads")]},
        "strategies[0].class: refusals_module:NoLoads: pick cannot be called with (hash, loads): ",
    ),
    (
        {"strategies": [python("refusals_module:function")]},
        "strategies[0].class: refusals_module:function: is no class, but builtin_function",
    ),
    (
        {"strategies": [python("broken_module:Any")]},
        "strategies[0].class: broken_module:Any: division by zero",
    ),
    (
        {"strategies": [python("leaving_module:Any")]},
        "strategies[0].class: leaving_module:Any: a script, and no module",
    ),
    (
        {"strategies": [python("Nope")]},
        "strategies[0].class: Nope: the caller gave no class of this name",
    ),
    (
        {"strategies": [python("refusals_module:Free")], "memory": ["none"]},
        "strategies[0].class: refusals_module:Free: with memory none a class must say consistent",
    ),
    (
        {"timeline": [event("strategy", 1, strategy=python("refusals_module:Good"))]},
        "timeline[0].strategy: one in Python is a strategy of all cells, and no event's",
    ),
    (
        {"strategies": [{"name": "anchor", "buckets": 1}]},
        "strategies[0].buckets: web has 2 units of weight at 0 s, and anchor 1 buckets",
    ),
    (
        {"strategies": ["anchor"], "services": [service(5000)]},
        "strategies[0].buckets: web has 5,000 units of weight at 0 s, and anchor 4,096 buckets",
    ),
    (
        {
            "strategies": ["rr", {"name": "anchor", "buckets": 4}],
            "timeline": [event("scale", 2, backends=4), event("scale", 3, backends=5)],
        },
        "strategies[1].buckets: web has 5 units of weight at 3 s, and anchor 4 buckets",
    ),
    (
        {
            "strategies": [{"name": "anchor", "buckets": 2}],
            "timeline": [event("weight", 4, backend=1, weight=3)],
        },
        "strategies[0].buckets: web has 4 units of weight at 4 s, and anchor 2 buckets",
    ),
    (
        {
            "strategies": [{"name": "anchor", "buckets": 2}],
            "timeline": [event("rolling-update", 4, interval=1, drain=1)],
            "memory": ["jet"],
        },
        "strategies[0].buckets: web has 4 units of weight at 0 s, and anchor 2 buckets",
    ),
    (
        {
            "timeline": [
                event("strategy", 2, strategy="mh"),
                event("strategy", 1, strategy={"name": "anchor", "buckets": 1}),
            ]
        },
        "timeline[1].strategy.buckets: web has 2 units of weight at 1 s, and anchor 1 buckets",
    ),
    (
        {"strategies": ["jump"], "services": [{"name": "web", "backends": HEAVY}]},
        "strategies[0]: web has 2,686,934 units of weight at 0 s, and jump 1,048,576 at most",
    ),
    ({"strategies": [mh(10)]}, "strategies[0].table_size: 10 is not prime"),
    ({"strategies": [mh(4_194_319)]}, "strategies[0].table_size: expected int <= 4194301"),
    (
        {"strategies": [mh(3)], "services": [service(4)]},
        "strategies[0].table_size: web has 4 backends with weight at 0 s, and mh 3 slots",
    ),
    (
        {"strategies": [mh(3)], "timeline": [event("scale", 2.5, backends=4)]},
        "strategies[0].table_size: web has 4 backends with weight at 2.5 s, and mh 3 slots",
    ),
    ({"strategies": [{"name": "ring", "virtual_nodes": 0}]}, "strategies[0].virtual_nodes: "),
    ({"strategies": [{"name": "bounded", "epsilon": 0}]}, "strategies[0].epsilon: "),
    ({"strategies": [{"name": "peak-ewma", "decay": 0}]}, "strategies[0].decay: "),
    ({"strategies": [{"name": "lcd", "draws": 0}]}, "strategies[0].draws: "),
    (
        {"services": [service(60_000) | {"name": f"s{n}", "count": 9} for n in range(2)]}
        | {"traffic": [traffic(service="s0")]},
        "services: 1,080,000 backends over the timeline, but 1,048,576 at most",
    ),
    (
        {
            "services": [service(1) | {"count": 100}],
            "timeline": [event("scale", 1, backends=100_000)],
        },
        "services: 10,000,000 backends over the timeline, but 1,048,576 at most",
    ),
    (
        {"sweep": [{"field": "strategies[0].table_size", "values": [3]}], "strategies": ["mh"]},
        "sweep[0].field: strategies[0].table_size: mh stands there by its name alone: write it as "
        "{name: mh}",
    ),
    (
        {
            "sweep": [{"field": "strategies[0].buckets", "values": [9, 1]}],
            "strategies": [{"name": "anchor"}],
        },
        "sweep[0]: strategies[0].buckets: web has 2 units of weight at 0 s, and anchor 1 buckets",
    ),
    ({"timeouts": {"udp": 40_000_000}}, "timeouts.udp: 4e+07 is not from 0 to 31,536,000 s"),
    ({"outputs": ["seconds", "seconds"]}, "outputs: one of them is there twice"),
    (
        {"traffic": [traffic(arrivals={"kind": "trace", "file": "none.csv"})]},
        "traffic[0].arrivals.file: none.csv: No such file or directory",
    ),
    (
        {"traffic": [traffic(arrivals={"kind": "trace", "file": "bytes.csv"})]},
        "traffic[0].arrivals.file: bytes.csv: it is not UTF-8",
    ),
    (
        {"traffic": [traffic(size={"kind": "trace", "file": "bytes.csv", "column": "x"})]},
        "traffic[0].size: bytes.csv: it is not UTF-8",
    ),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "refusals_module.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "leaving_module.py").write_text("raise SystemExit('a script, and no module')\n")
    (tmp_path / "bytes.csv").write_bytes(b"time,client,bytes,lifetime\n0,0,1,\xff\n")
    return tmp_path


@pytest.mark.parametrize(("changes", "message"), ROWS, ids=[row[1][:60] for row in ROWS])
def test_validate_and_run_refuse_with_file_and_field(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    file = folder / "x.yaml"
    file.write_text(json.dumps(scenario(**changes)))
    assert main(["lab", "validate", str(file)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"kbe-nat: {file}: {message}")
    assert main(["lab", "run", str(file), "-d", str(folder / "run")]) == 2
    assert capsys.readouterr().err == err
    assert not list((folder / "run").glob("cells/*"))
    with pytest.raises((lab.ScenarioError, lab.LabError)):
        lab.validate(file)


def test_a_live_scenario_with_an_unknown_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"name": "x", "mode": "live", "ways": ["warp"], "measures": [{"measure": "bulk"}]}
    (tmp_path / "x.yaml").write_text(json.dumps(values))
    assert main(["lab", "validate", str(tmp_path / "x.yaml")]) == 2
    assert "x.yaml: ways[0]: 'warp' is none of forward, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"strategies": [{"name": "anchor", "buckets": 2}]},
        {"strategies": [mh(2)]},
        {
            "strategies": [{"name": "anchor", "buckets": 2}],
            "timeline": [event("rolling-update", 4, interval=1)],
        },
        {
            "strategies": [{"name": "anchor", "buckets": 2}],
            "services": [{"name": "web", "backends": [{"count": 2, "weight": 60_000}]}],
        },
        {
            "strategies": ["jump"],
            "services": [{"name": "web", "backends": [{"count": 16, "weight": 65_535}]}],
            "timeline": [event("flapping", 1, backend=2, period=1, times=3)],
        },
        {"strategies": [python("refusals_module:Good")], "memory": ["conntrack", "none"]},
    ],
    ids=str,
)
def test_what_just_fits_is_run(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "x.yaml"
    file.write_text(json.dumps(scenario(**changes)))
    assert lab.validate(file) == []
    lab.run(file)


DOUBTS: list[tuple[dict[str, Any], str]] = [
    (
        {
            "traffic": [
                {"service": "web", "arrivals": {"kind": "trace", "file": "t.csv"}, "start": 1}
            ]
        },
        "traffic[0].arrivals: 2 of 3 connections of the trace would begin after 10 s, and are left "
        "out",
    ),
    (
        {"source_nat": [{"allocation": "deterministic", "block_size": 100, "ports": [1, 500]}]},
        "source_nat[0]: 10 clients, and blocks of ports for 5: 5 clients never get a port",
    ),
    (
        {"source_nat": ["none", {"allocation": "blocks", "block_size": 100, "ports": [1, 500]}]},
        "source_nat[1]: 10 clients, and blocks of ports for 5: while so many have one, no other "
        "client gets a port",
    ),
    (
        {"timeline": [event("drain", 6, backend=0, removed_after=5)]},
        "timeline[0]: its last change is due at 11 s, and the scenario ends at 10 s",
    ),
    (
        {"timeline": [event("flapping", 5, backend=0, period=2, times=4)]},
        "timeline[0]: its last change is due at 12 s, and the scenario ends at 10 s",
    ),
]


@pytest.mark.parametrize(("changes", "line"), DOUBTS, ids=[row[1][:60] for row in DOUBTS])
def test_what_has_no_effect_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str
) -> None:
    (tmp_path / "t.csv").write_text("time,client,bytes,lifetime\n0,0,1,1\n9,1,1,1\n12,2,1,1\n")
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(scenario(**changes)))
    assert main(["lab", "validate", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: small is valid\n"
    assert err == f"kbe-nat: {file}: {line}\n"
    assert lab.validate(file) == [line]
    with pytest.warns(lab.LabWarning) as warned:
        lab.run(file, tmp_path / "run")
    assert [str(each.message) for each in warned] == [f"{file}: {line}"]
    assert warned[0].filename == __file__


def test_the_command_tells_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, line = DOUBTS[1]
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps(scenario(**changes)))
    assert main(["lab", "run", str(file), "-d", str(tmp_path / "run")]) == 0
    assert f"kbe-nat: {file}: {line}\n" in capsys.readouterr().err


def test_a_trace_has_clients_sizes_and_lifetimes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,client,bytes,lifetime\n0,0,1,1\n")
    arrivals = {"kind": "trace", "file": str(tmp_path / "t.csv")}
    values = scenario(traffic=[traffic(arrivals=arrivals, size=3)])
    assert lab.validate(values) == [
        f"traffic[0].{field}: has no effect: the trace has its own"
        for field in ("clients", "size", "lifetime")
    ]


INTENDED = {
    "source-port-blocks": [
        "source_nat[2]: 200 clients, and blocks of ports for 50: while so many have one, no other "
        "client gets a port"
    ]
}
"""What a scenario of the gallery asks about."""


@pytest.mark.parametrize("name", sorted(path.stem for path in GALLERY.glob("*.yaml")))
def test_the_gallery_is_beyond_doubt(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lab.validate(name) == INTENDED.get(name, [])
