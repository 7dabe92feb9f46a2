"""Objects that are read straight from JSON text are those that plain values give."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_objects_fuzz import SERVICE, SLICE, mutated

from kbe_nat.errors import FileError
from kbe_nat.sources.decoding import decode
from kbe_nat.sources.json_objects import Items, json_objects
from kbe_nat.sources.manifests.documents import parse_documents
from kbe_nat.sources.objects import ParsedObject
from kbe_nat.sources.snapshot import convert_early

ORIGIN = "a.json, document 1"


def by_values(text: str) -> Items | None:
    """The items as plain values give them; None where the text is refused or has no objects."""
    try:
        documents = parse_documents(text.encode(), "a.json")
    except FileError:
        return None
    if len(documents) != 1:
        return None
    items = decode(documents[0], ORIGIN)
    return [convert_early(item) if isinstance(item, ParsedObject) else item for item in items]


def comparable(items: Items) -> list[Any]:
    """Errors compare by identity."""
    return [str(item) if isinstance(item, Exception) else item for item in items]


@given(st.lists(mutated(), max_size=4), st.sampled_from(("List", "ServiceList", "Service", "Pod")))
def test_either_way_gives_the_same_objects_errors_and_notes(items: list[Any], kind: str) -> None:
    for document in ({"apiVersion": "v1", "kind": kind, "items": items}, *items):
        text = json.dumps(document)
        straight = json_objects(text.encode(), ORIGIN)
        if straight is not None:
            values = by_values(text)
            assert values is not None
            assert comparable(straight) == comparable(values)


@pytest.mark.parametrize(
    "item",
    [
        '{"metadata": {"name": "web", "namespace": null}, "kind": "Service", "apiVersion": "v1"}',
        '{"metadata": {"name": 5, "name": "web"}, "kind": "Service", "apiVersion": "v1"}',
        '{"metadata": {"name": "web"}, "spec": 1, "kind": "Service", "apiVersion": "v1"}',
        '{"metadata": {"name": "web"}, "kind": "", "apiVersion": "v1"}',
        '{"metadata": {"name": "web"}, "kind": "Service", "apiVersion": ""}',
        '{"metadata": {"name": "web"}, "kind": "Service", "apiVersion": "v1", "big": 1e30}',
        '{"metadata": {"name": "web"}, "kind": "Service"}',
        '{"metadata": {"name": "web"}, "kind": "ConfigMap", "apiVersion": "v1"}',
        '{"metadata": {"name": "web"}, "kind": "List", "apiVersion": "v1"}',
        '{"metadata": {"name": "web"}, "kind": "ServiceList", "apiVersion": "v1"}',
        "5",
        "null",
        "{}",
    ],
)
@pytest.mark.parametrize("kind", ["List", "ServiceList"])
def test_an_unusual_item_costs_itself_alone(item: str, kind: str) -> None:
    good = json.dumps(SERVICE), json.dumps(SLICE)
    text = f'{{"apiVersion": "v1", "kind": "{kind}", "items": [{good[0]}, {item}, {good[1]}]}}'
    straight, values = json_objects(text.encode(), ORIGIN), by_values(text)
    assert straight is not None and values is not None
    assert comparable(straight) == comparable(values)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "{}",
        '{"kind": "List"}',
        '{"kind": "Status", "apiVersion": "v1", "status": "Failure"}',
        '{"kind": "ConfigMap", "apiVersion": "v1"}',
        '{"kind": "List", "apiVersion": "v1", "items": null}',
        '{"kind": "List", "apiVersion": "v1", "items": {}}',
        '{"kind": "List", "apiVersion": "v1", "items": [{]}',
        '{"kind": "List", "apiVersion": "v1"}{"kind": "List", "apiVersion": "v1"}',
        '{"kind": "List", "apiVersion": "v1"}\n---\n',
        '{"kind": "List", "apiVersion": "v1"} # YAML',
        '{"kind": "List", "apiVersion": "v1", "items": [{"a": NaN}]}',
        '{"kind": "List", "apiVersion": "v1", "items": [{"a": "\\ud800"}]}',
        '{"kind": "List", "apiVersion": "v1", "items": [' + "[" * 100_000,
        "kind: List",
    ],
)
def test_any_other_text_is_left_to_its_plain_values(text: str) -> None:
    assert json_objects(text.encode(), ORIGIN) is None
