"""kubectl's JSONPath."""

from typing import Any

import pytest

from kbe_nat.cli.jsonpath import Template, parse_path

DOCUMENT: Any = {
    "kind": "List",
    "items": [
        {
            "name": "a",
            "n": 1,
            "on": True,
            "at": {"address": "10.0.0.1", "port": 80},
            "labels": {"kbe-nat.io/weight": "3", "app": "web"},
        },
        {"name": "b", "n": 5, "at": {"address": "10.0.0.2", "port": 81}, "x/y": None},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        ("{.items[*].name}", "a b"),
        ("{.items[0].at}", '{"address": "10.0.0.1", "port": 80}'),
        ("{.items[-1].n}", "5"),
        ("{.items[0].on} {.items[1]['x/y']}", "true null"),
        ("{.items[0:1].name}", "a"),
        ("{.items[1:].name}", "b"),
        ("{..port}", "80 81"),
        ("{.items[?(@.n>2)].name}", "b"),
        ("{.items[?(@.name=='a')].n}", "1"),
        ('{.items[?(@.at.address!="10.0.0.1")].name}', "b"),
        ("{.items[?(@.on)].name}", "a"),
        ("{.items[?(@.name>2)].name}", ""),
        ("{.none.deeper}", ""),
        ("{.items[0].labels['kbe-nat.io/weight']}", "3"),
        (r"{.items[0].labels['kbe-nat\.io/weight']}", "3"),
        (r"{.items[0].labels.kbe-nat\.io/weight}", "3"),
        ('{.items[0].labels["app"]}', "web"),
        ("{.items[0]['labels.app']}", "web"),
        ("{.items[*]['name', 'n']}", "a b 1 5"),
        ("{.items[0,1].name}", "a b"),
        ("{.items[::2].name}", "a"),
        ("{.items[0:0]}", ""),
        ("{.items[:2].name}", "a b"),
        ("{.items[?(@.labels['kbe-nat.io/weight']==\"3\")].name}", "a"),
        ("{range .items[*]}{.name}={.n}{'\\n'}{end}!", "a=1\nb=5\n!"),
        ("{range .items[*]}{$.kind}{'\\t'}{end}", "List\tList\t"),
        ("{$.kind}{'{}'}", "List{}"),
        ("no action", "no action"),
    ],
)
def test_a_template_picks_values(template: str, text: str) -> None:
    assert Template(template).render(DOCUMENT) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{.items[2].name}", "array index out of bounds: index 2, length 2"),
        ("{.items[-3]}", "array index out of bounds: index -3, length 2"),
        ("{.items[0:3]}", "array index out of bounds: index 2, length 2"),
        ("{.items[2:]}", "array index out of bounds: index 2, length 2"),
        ("{range .items[0,4]}{.name}{end}", "array index out of bounds: index 4, length 2"),
    ],
)
def test_an_index_past_the_end_is_an_error_as_in_kubectl(template: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Template(template).render(DOCUMENT)


@pytest.mark.parametrize(
    "template",
    [
        "{.items.length()}",
        "{.items[(@.length-1)]}",
        "{.items[?(@.a=~/x/)]}",
        "{.a[::-1]}",
        "{.items[?(@.n>1 && @.n<9)]}",
        "{if .a}{end}",
        "{.a",
        "{end}",
        "{range .a}",
        "{.items[}",
        "{a}",
        "{'x}",
        "{.a[?(@.b==c)]}",
        "{.a[x]}",
    ],
)
def test_what_is_no_template(template: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Template(template)


@pytest.mark.parametrize("path", ["name", ".name", "{.name}", "{.items}", "$.name", "['name']"])
def test_a_field_to_sort_by(path: str) -> None:
    assert parse_path(path).values({"name": "a", "items": "a"}) == ["a"]
