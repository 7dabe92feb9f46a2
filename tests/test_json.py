"""What `-o json` prints: the fields that scripts know, in their order, and the page about them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from harness.captures import pcap
from harness.full_engine import controller_with, verbs_of
from harness.json_page import mismatches
from harness.verbs import SEED, START, VIP, WEIGHTED, handshake
from kbe_nat import Backend, Frontend, ServicePort
from kbe_nat.__main__ import main
from kbe_nat.cli import app
from kbe_nat.daemon.control_socket import ControlServer
from kbe_nat.model import end_parts
from kbe_nat.packets import opening

ROOT = Path(__file__).parent.parent
COUNTERS = "active flows packets bytes connect"
PORT = "service namespace name port_name"
SERVICE = (
    f"{PORT} type cluster_ip labels protocol family frontends strategy backends draining"
    f" affinity_seconds {COUNTERS} refused"
)
POLICIES = "internal_traffic_policy external_traffic_policy source_ranges endpoints"
FLOW = (
    f"{PORT} protocol state timeout age source destination reply_source reply_destination assured"
    " replied masquerade packets bytes kernel"
)


SCHEMA = json.loads((ROOT / "schemas/kbe-nat.v1.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
HEAD = ("apiVersion", "kind")


def content(document: dict[str, Any]) -> Any:
    """The rows of a list, or the fields of what is none."""
    fields = {name: value for name, value in document.items() if name not in HEAD}
    return fields.get("items", fields)


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    with ControlServer(tmp_path / "control.sock", verbs_of(controller_with(3))):
        yield tmp_path / "control.sock"


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("get services", SERVICE),
        ("get endpoints", f"{PORT} backend weight state active over inactive {COUNTERS[7:]}"),
        ("describe service default/web", f"{SERVICE} {POLICIES}"),
        ("get flows", FLOW),
        ("conntrack -L", FLOW),
        (
            "get stats",
            "actions causes entries assured affinities expired evicted truncated leased_ports"
            " most_leased_ports leasable_ports kernel uncached_devices queues",
        ),
        (
            "get status",
            "datapath datapath_reason driver queues rules seed pid version seconds generation"
            " service_ports refused rules_up_to_date drains loops files watches",
        ),
        (
            "explain --live --from 10.0.0.1 --to 172.30.228.255:80 --proto udp",
            f"{PORT} verdict destinations backend masquerade refused "
            "excluded chains kernel reasons",
        ),
    ],
)
def test_fields_of_json(
    socket: Path, verb: str, fields: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), "--socket", str(socket), "-o", "json"]) == 0
    result: Any = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(result)
    row = result["items"][0] if "items" in result else result
    assert " ".join(name for name in row if name not in HEAD) == fields


LIVE = {
    "get services": "array of [ServiceRow](#servicerow)",
    "get endpoints": "array of [EndpointRow](#endpointrow)",
    "describe service default/web": "[DescriptionRow](#descriptionrow)",
    "describe service": "array of [DescriptionRow](#descriptionrow)",
    "get svc web": "[ServiceRow](#servicerow)",
    "get flows": "array of [FlowRow](#flowrow)",
    "get stats": "[StatsRow](#statsrow)",
    "get status": "[StatusRow](#statusrow)",
    "get endpointslices": "array of [SliceRow](#slicerow)",
    "get nodes": "array of [NodeRow](#noderow)",
    "decisions": "array of [DecisionRow](#decisionrow)",
    "conntrack -L": "array of [FlowRow](#flowrow)",
    "conntrack -D -p udp": "array of [FlowRow](#flowrow)",
    "conntrack -C": "[FlowCountRow](#flowcountrow)",
    "conntrack -F": "[FlowCountRow](#flowcountrow)",
    "conntrack -S": "[StatsRow](#statsrow)",
    "get rules": "[RulesRow](#rulesrow)",
    "drain 10.0.0.1 --no-wait": "[DrainRow](#drainrow)",
    "drain svc/web --no-wait": "[DrainRow](#drainrow)",
    "top --iterations 1 -d 0.1": "[LoadRow](#loadrow)",
    "version": "[VersionRow](#versionrow)",
    "explain --live --from 10.0.0.1 --to 172.30.228.255:80": "[VerdictRow](#verdictrow)",
}
OFFLINE = {
    f"explain -f {SEED} --from 10.0.0.1 --to {VIP}:80": "[VerdictRow](#verdictrow)",
    f"replay -f {SEED} CAPTURE": "[ReplayRow](#replayrow)",
    # Of this seed the two clusters choose differently.
    f"replay -f {SEED} CAPTURE --compare {WEIGHTED} --seed 1": "[ReplayRow](#replayrow)",
    f"diff -f {SEED} RULES": "[DiffRow](#diffrow)",
    "doctor": "array of [Check](#check)",
}


ELSEWHERE = {
    "demo": "tests/netns/test_demo.py",
    "shadow": "tests/netns/test_shadow.py",
    "playground get": "tests/netns/test_playground.py",
    "lab list": "tests/lab/test_lab_verbs.py",
    "lab merge": "tests/lab/test_lab_verbs.py",
    "lab report": "tests/lab/test_lab_verbs.py",
    "lab run": "tests/lab/test_lab_verbs.py",
    "lab show": "tests/lab/test_lab_verbs.py",
}
"""Verbs whose JSON other tests look at: they need root, or have schemas of their own."""


def parts_of(node: Any) -> Iterator[dict[str, Any]]:
    """All objects of a schema."""
    if isinstance(node, dict):
        yield node
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts_of(each)


def test_an_end_is_one_text_in_every_row() -> None:
    for part in parts_of(SCHEMA):
        kinds = [each.get("type") for each in part.get("prefixItems", ())]
        assert kinds != ["string", "integer"], part


def test_every_row_about_a_service_port_begins_with_the_same_fields() -> None:
    rows = {name: [*each.get("properties", ())] for name, each in SCHEMA["$defs"].items()}
    about = {name: fields for name, fields in rows.items() if "service" in fields}
    # A slice is one of a Service, and has a name of its own.
    del about["SliceRow"]
    assert {name: " ".join(fields[:4]) for name, fields in about.items()} == dict.fromkeys(
        about, PORT
    )
    assert {"DecisionRow", "FlowRow", "DisagreementRow", "VerdictRow"} <= {*about}


def test_ends_of_ipv6_stand_in_brackets() -> None:
    controller = controller_with(0)
    controller.engine.replace_services(
        [
            ServicePort(
                "default/web",
                [Frontend("fd00::1", 80)],
                [Backend("fd00:1::3", 8080)],
                protocol="udp",
            )
        ]
    )
    controller.engine.process(opening("udp", ("fd00:2::9", 4000), ("fd00::1", 80)), 0)
    [[flow]] = verbs_of(controller).flows()
    assert (flow.source, flow.destination) == ("[fd00:2::9]:4000", "[fd00::1]:80")
    assert (flow.reply_source, end_parts(flow.reply_source)) == (
        "[fd00:1::3]:8080",
        ("fd00:1::3", 8080),
    )


def verbs_with_output(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every verb that has -o, by its words."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs_with_output(command, (*path, name))
        elif any("-o" in each.opts for each in command.params):
            yield " ".join((*path, name))


def test_no_verb_escapes() -> None:
    """A verb that learns -o needs a row above, whose document the schema and the page describe."""
    asked = [*LIVE, *OFFLINE, *ELSEWHERE]
    verbs = set(verbs_with_output(app))
    assert {
        verb for verb in verbs if not any(f"{each} ".startswith(f"{verb} ") for each in asked)
    } == set()
    assert ELSEWHERE.keys() <= verbs


def test_every_verb_with_json_has_yaml_too() -> None:
    for name in verbs_with_output(app):
        command: Any = app
        for word in name.split():
            command = command.commands[word]
        [flag] = [each for each in command.params if "-o" in each.opts]
        assert ("json" in flag.help, "yaml" in flag.help) == (True, True), name


@pytest.mark.parametrize("verb", LIVE)
def test_yaml_is_the_same_document(
    socket: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), "--socket", str(socket), "-o", "yaml"]) == 0
    # One document also where several could follow.
    result = yaml.safe_load(capsys.readouterr().out)
    VALIDATOR.validate(result)
    assert list(mismatches(content(result), LIVE[verb])) == []


def test_names_need_no_splitting(socket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all three lists by the same fields."""
    rows = {}
    for kind in ("services", "endpoints", "flows"):
        assert main(["get", kind, "--socket", str(socket), "-o", "json"]) == 0
        rows[kind] = json.loads(capsys.readouterr().out)["items"][0]
        names = [rows[kind][name] for name in PORT.split()]
        assert names == ["default/web", "default", "web", ""]
    assert (rows["services"]["type"], rows["services"]["cluster_ip"]) == ("ClusterIP", VIP)


@pytest.mark.parametrize("verb", LIVE)
def test_a_daemon_s_answers_are_as_the_page_says(
    socket: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*verb.split(), "--socket", str(socket), "-o", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(result)
    assert list(mismatches(content(result), LIVE[verb])) == []


@pytest.mark.parametrize("verb", OFFLINE)
def test_answers_without_a_daemon_are_as_the_page_says(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture, rules = tmp_path / "in.pcap", tmp_path / "rules"
    frames = [*handshake(1), *handshake(2, 81)]
    capture.write_bytes(pcap([(START, frame) for frame in frames], 1))
    main(["dump", "-f", SEED, "--format", "iptables-save"])
    rules.write_text(capsys.readouterr().out.replace("--mode random ", "", 1))
    paths = {"CAPTURE": str(capture), "RULES": str(rules)}
    assert main([*(paths.get(word, word) for word in verb.split()), "-o", "json"]) in (0, 1)
    result = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(result)
    assert list(mismatches(content(result), OFFLINE[verb])) == []
    if verb.startswith("diff"):
        assert result["differences"]
    if "--compare" in verb:
        assert result["comparison"]["differences"]


@pytest.mark.parametrize(
    "change",
    [
        {"apiVersion": "kbe-nat.io/v2"},
        {"kind": "ServicesList"},
        {"items": [{"name": "a"}]},
        {"items": {}},
    ],
)
def test_the_schema_notices_other_documents(
    socket: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["get", "svc", "--socket", str(socket), "-o", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    VALIDATOR.validate(document)
    assert not VALIDATOR.is_valid(document | change)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("1", "number"),
        (True, "number"),
        (None, "string or number"),
        ([1], "[number, number]"),
        ({"a": {"b": "1"}}, "object of objects of numbers"),
        ([{"kind": "node-port"}], "array of [FrontendRow](#frontendrow)"),
        ({"address": None, "kind": "node-port", "port": 1}, "[FrontendRow](#frontendrow)"),
        ({"kind": 1, "address": None, "port": 1}, "[FrontendRow](#frontendrow)"),
    ],
)
def test_a_mismatch_with_the_page_is_noticed(value: Any, kind: str) -> None:
    assert list(mismatches(value, kind))


@pytest.mark.parametrize("tool", ["json_page", "json_schemas"])
def test_the_page_and_the_schema_are_up_to_date(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / f"tools/{tool}.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
