"""The published schema of scenarios: every field is described, and both ways of checking agree."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.scenarios import scenario, service, traffic
from kbe_nat import TIMEOUTS, lab
from kbe_nat.__main__ import main
from kbe_nat.field_docs import docstrings
from kbe_nat.lab.fields import page
from kbe_nat.lab.reading import GALLERY
from kbe_nat.lab.scenario import Flapping, Sweep

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = json.loads(json.dumps(lab.schema()))


def properties() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, definition in DOCUMENT["$defs"].items():
        for field, values in definition["properties"].items():
            yield f"{name}.{field}", values


def test_the_schema_and_its_page_are_published() -> None:
    published = json.loads((ROOT / "docs/lab-scenario.schema.json").read_text())
    assert published == DOCUMENT, "run tools/lab_schema.py"
    assert (ROOT / "docs/lab-scenario.md").read_text() == page(), "run tools/lab_schema.py"


def test_names_of_timeouts_are_those_that_are_taken() -> None:
    words = dict(properties())["Scenario.timeouts"]["description"].split("`")[1::2]
    *names, listing = words
    assert names and set(names) <= TIMEOUTS.keys()
    assert listing == "kbe_nat.TIMEOUTS"


def test_no_property_lacks_a_description() -> None:
    assert len(list(properties())) > 100
    for path, values in properties():
        assert len(values.get("description", "")) > 5, path
        assert "\n" not in values["description"], path
        assert values["description"].endswith("."), path
    for name, definition in DOCUMENT["$defs"].items():
        assert definition["description"].endswith("."), name
        assert "  " not in definition["description"], name


def test_ranges_and_defaults_are_in_words_too() -> None:
    for path, values in properties():
        numbers = [values, *values.get("anyOf", ())]
        if any("minimum" in part or "exclusiveMinimum" in part for part in numbers):
            assert "Range: " in values["description"], path
        if "default" in values:
            assert "Default: " in values["description"], path
    words = {path: values["description"] for path, values in properties()}
    assert words["Backends.latency"] == (
        "Seconds until it answers. Range: 0 to 1e12. Default: 0.001."
    )
    assert words["Service.affinity"].endswith("Range: 1 to 86,400. Default: null.")
    assert "Range: above 0 to 1e12." in words["Paced.rate"]
    assert "services[0].backends[0].count" in words["Sweep.field"]


def test_an_inherited_field_has_its_description() -> None:
    assert docstrings(Flapping)["at"].startswith("Seconds")
    assert docstrings(Sweep).keys() == {"field", "values"}


def test_a_number_says_its_unit() -> None:
    """Times do, whatever the field is called."""
    times = {
        "Backends.latency",
        "Drain.removed_after",
        "Failure.detected_after",
        "Failure.returns_after",
        "Flapping.period",
        "NodeLoss.returns_after",
        "RollingUpdate.drain",
        "RollingUpdate.interval",
        "Scenario.duration",
        "Scenario.timeouts",
        "Service.affinity",
        "Strategy.decay",
        "Traffic.lifetime",
        "Traffic.start",
        "Traffic.stop",
        "Closed.think",
        "Bursty.seconds_on",
        "Throughput.seconds",
        "LiveScenario.idle",
    }
    words = {path: values["description"].lower() for path, values in properties()}
    for path in times:
        assert "second" in words[path], path
    for path in (path for path in words if path.endswith(".at")):
        assert "second" in words[path], path
    for path in (path for path in words if path.endswith(".rate")):
        assert "a second" in words[path], path


@pytest.mark.parametrize("path", sorted(GALLERY.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_gallery_is_of_the_schema(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text()), DOCUMENT)


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": 0},
        {"strategies": ["best"]},
        {"strategies": [{"name": "best"}]},
        {"timeouts": {"tcp": 1}},
        {"timeouts": {"udp": 40_000_000}},
        {"services": [service(2, family="ipv5")]},
        {"services": [service(-1)]},
        {"traffic": [traffic(arrivals={"kind": "never"})]},
        {"unknown": 1},
        {"source_nat": ["some"]},
    ],
    ids=str,
)
def test_the_schema_refuses_what_we_refuse(changes: dict[str, Any]) -> None:
    values = scenario(**changes)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, DOCUMENT)
    with pytest.raises(lab.ScenarioError):
        lab.scenario_of(values)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == DOCUMENT
