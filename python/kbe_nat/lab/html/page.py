"""What stands on the page: values for the template, of runs and their manifests."""

import base64
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from kbe_nat.lab.comparability import notes
from kbe_nat.lab.html.svg import inline
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.measures import MEASURES, METHOD
from kbe_nat.lab.plots import events_of
from kbe_nat.lab.plots.captions import caption
from kbe_nat.lab.plots.figures import Picture
from kbe_nat.lab.plots.series import Drawing
from kbe_nat.lab.report import Page, report, spread_words, summary
from kbe_nat.lab.result import Result
from kbe_nat.lab.statistics import figure
from kbe_nat.lab.tables import Column


class Head(NamedTuple):
    """A column of a table."""

    name: str
    unit: str
    meaning: str
    is_number: bool


class Field(NamedTuple):
    """A cell of a table."""

    text: str
    order: float | None
    """By which it is sorted; None for what has no number."""
    is_number: bool


class Fact(NamedTuple):
    """A fact of manifests, with a text for each run."""

    name: str
    values: list[str]
    differs: bool


def page(results: Sequence[Result], drawn: Iterable[tuple[Drawing, Picture]], place: Path) -> str:
    """The document; `place` is the folder where it will lie, from which its links go."""
    first = results[0]
    scenario = first.scenario
    is_live = isinstance(scenario, LiveScenario)
    pages = report(results)
    style, script = (_part(name) for name in ("page.css", "page.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"code": _code, "foldable": _foldable}
    values: dict[str, Any] = {
        "policy": POLICY.format(script=_digest(script), style=_digest(style)),
        "style": Markup(style),
        "script": Markup(script),
        "version": version("kbe-nat"),
        "title": scenario.name,
        "kind": f"kbe-nat lab: {'comparison of runs' if len(results) > 1 else 'report of a run'}",
        "question": scenario.question,
        "expect": scenario.expect,
        "summary": summary(first),
        "spread": spread_words(first),
        "notes": [*notes(results), *_skipped(results)],
        "pictures": [
            {
                "name": each.plot.name,
                "title": each.plot.title,
                "caption": caption(each, has_events=len(events_of(first)) > 0),
                "svg": Markup(inline(image.svg, each.plot.name, each.plot.title)),
            }
            for each, image in drawn
        ],
        "pages": [_table(each, first) for each in pages],
        "omissions": _omissions(first, pages),
        "method": [each for each in METHOD if ("live" if is_live else "offline") in each.modes],
        "measures": [each for each in MEASURES if set(each.tables) & set(first.tables)],
        "runs": [
            {"name": str(result.folder.path), "files": _files(result, place)} for result in results
        ],
        "facts": list(_facts(results)),
        "scenario": yaml.safe_dump(
            first.manifest.scenario, sort_keys=False, allow_unicode=True, width=90
        ),
    }
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(values)


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _code(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _foldable(text: str) -> Markup:
    """Parameters of a strategy, which have no spaces, may be folded behind each."""
    return Markup("<wbr>").join(PARAMETERS.findall(text))


def _table(each: Page, result: Result) -> dict[str, Any]:
    columns = {
        column.name.replace("_", " "): column
        for column in result.catalogue.tables.get(each.table, ())
    }
    texts = len(each.columns) - each.numbers
    heads = [
        _head(name, columns.get(name), place >= texts) for place, name in enumerate(each.columns)
    ]
    rows = [
        [Field(text, _order(text), place >= texts) for place, text in enumerate(row)]
        for row in each.rows
    ]
    return {"title": each.title, "columns": heads, "rows": rows}


def _head(name: str, column: Column | None, is_number: bool) -> Head:
    if column is None:
        return Head(name, "", "", is_number)
    # A unit that the name ends with is said.
    unit = "" if column.unit.lower() in name.lower().split() else column.unit
    return Head(name, unit, column.meaning, is_number)


def _order(text: str) -> float | None:
    if text == "none":
        return 0.0
    number = NUMBER.match(text)
    return float(number[0].replace(",", "")) if number else None


def _skipped(results: Sequence[Result]) -> Iterator[str]:
    """Ways that a machine could not run."""
    for result in results:
        for row in result.manifest.skipped:
            yield f"{row['way']} was skipped: {row['reason']}"


def _omissions(result: Result, pages: Sequence[Page]) -> list[str]:
    """Tables of a run that no table of the page is made of."""
    listed = {each.table for each in pages}
    if "" in listed:
        # Pages of live runs are made of several.
        return []
    counts = {each: sum(1 for _ in result.folder.rows(each)) for each in result.tables}
    return [
        f"{each} ({count:,} rows)" for each, count in counts.items() if count and each not in listed
    ]


def _files(result: Result, place: Path) -> list[dict[str, str]]:
    folder = result.folder.path
    names = ["manifest.json", "dictionary.csv"]
    names += [f"{table}.{kind}" for table in result.tables for kind in ("csv", "parquet")]
    names += sorted(f"plots/{path.name}" for path in (folder / "plots").glob("*.*"))
    way = Path(os.path.relpath(folder.resolve(), place.resolve()))
    return [
        {"name": name, "address": quote(str(way / name))}
        for name in names
        if (folder / name).exists()
    ]


def _facts(results: Sequence[Result]) -> Iterator[Fact]:
    manifests = [result.manifest for result in results]
    rows: dict[str, list[Any]] = {
        "begun": [each.started for each in manifests],
        "seed": [each.seed for each in manifests],
        "cells": [len(each.cells) for each in manifests],
        "scenario's hash": [each.scenario_hash for each in manifests],
    }
    machines = [each.machine for each in manifests]
    for name in {name: None for machine in machines for name in machine}:
        rows[FACTS.get(name, name.replace("_", " "))] = [each.get(name) for each in machines]
    for name, values in rows.items():
        texts = [_fact_text(value) for value in values]
        is_expected = name in ("begun", "command")
        yield Fact(name, texts, len(set(texts)) > 1 and not is_expected)


def _fact_text(value: object) -> str:
    if value is None:
        return "not known"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_fact_text(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


POLICY: Final = (
    "default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
NUMBER: Final = re.compile(r"[+-]?(\d[\d,]*(\.\d+)?|\.\d+)(e[+-]?\d+)?(?=$|[ %])")
PARAMETERS: Final = re.compile(r"[^,(]*[,(]+|[^,(]+")
FACTS: Final = {"kbe_nat": "kbe-nat", "git": "revision", "cpu": "processor", "cpus": "processors"}
