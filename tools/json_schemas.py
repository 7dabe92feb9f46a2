"""Write schemas/kbe-nat.v1.schema.json: the JSON schema of every document that `-o json` prints.

`--check` writes nothing, and ends with 1 if the file is not up to date.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
from written import write

from kbe_nat.cli.comparison import ComparisonRow
from kbe_nat.cli.demo import DemoRow
from kbe_nat.cli.diff import DiffRow
from kbe_nat.cli.lab import ScenarioRow
from kbe_nat.cli.output import API_VERSION
from kbe_nat.cli.shadow import DisagreementRow, ShadowRow
from kbe_nat.cli.summary import ReplayRow
from kbe_nat.cli.top import LoadRow
from kbe_nat.daemon import rows
from kbe_nat.doctor import Check
from kbe_nat.explain import VerdictRow
from kbe_nat.lab.report import Page
from kbe_nat.playground.rows import ControllerRow, EndpointsRow, PodRow, ServiceObjectRow

SCHEMA: Final = Path(__file__).parents[1] / "schemas/kbe-nat.v1.schema.json"
LISTS: Final[dict[str, type[Any]]] = {
    "Service": rows.ServiceRow,
    "ServiceDescription": rows.DescriptionRow,
    "Endpoint": rows.EndpointRow,
    "EndpointSlice": rows.SliceRow,
    "Node": rows.NodeRow,
    "Flow": rows.FlowRow,
    "Decision": rows.DecisionRow,
    "Verdict": VerdictRow,
    "Check": Check,
    "LabScenario": ScenarioRow,
    "LabPage": Page,
    "PlaygroundPod": PodRow,
    "PlaygroundService": ServiceObjectRow,
    "PlaygroundController": ControllerRow,
    "PlaygroundEndpoints": EndpointsRow,
}
"""Kinds of rows that stand in lists, and alone where they are followed."""
ALONE: Final[dict[str, type[Any]]] = {
    "Status": rows.StatusRow,
    "Stats": rows.StatsRow,
    "Rules": rows.RulesRow,
    "FlowCount": rows.FlowCountRow,
    "Drain": rows.DrainRow,
    "WatchEvent": rows.WatchEventRow,
    "Version": rows.VersionRow,
    "Event": rows.EventRow,
    "Replay": ReplayRow,
    "Diff": DiffRow,
    "Disagreement": DisagreementRow,
    "Shadow": ShadowRow,
    "Demo": DemoRow,
    "Load": LoadRow,
}
"""Kinds that are no rows of lists."""


def schema() -> dict[str, Any]:
    """The schema of any document."""
    kinds = LISTS | ALONE
    types = (*kinds.values(), ComparisonRow)
    _, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    documents = {kind: alone(kind, row) for kind, row in kinds.items()}
    documents |= {f"{kind}List": list_of(kind, row) for kind, row in LISTS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://kbe-nat.io/schemas/kbe-nat.v1.schema.json",
        "title": f"What kbe-nat prints with -o json ({API_VERSION})",
        "oneOf": list(documents.values()),
        "$defs": components,
    }


def alone(kind: str, row: type[Any]) -> dict[str, Any]:
    """A row with version and kind."""
    return {"allOf": [{"$ref": f"#/$defs/{row.__name__}"}, _head(kind)]}


def list_of(kind: str, row: type[Any]) -> dict[str, Any]:
    """A list of rows."""
    head = _head(f"{kind}List")
    head["properties"]["items"] = {
        "type": "array",
        "items": {"$ref": f"#/$defs/{row.__name__}"},
    }
    return {**head, "type": "object", "required": ["apiVersion", "kind", "items"]}


def _head(kind: str) -> dict[str, Any]:
    return {
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"const": kind}},
        "required": ["apiVersion", "kind"],
    }


if __name__ == "__main__":
    sys.exit(write(SCHEMA, json.dumps(schema(), indent=1) + "\n", __doc__))
