"""Scenarios from files, from the gallery, and from values.

A mistake is one line: the file, the path of the field, and the reason.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from kbe_nat.errors import FileError, ScenarioError
from kbe_nat.lab.fit import misfits
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.scenario import violations as live_violations
from kbe_nat.lab.scenario import Scenario
from kbe_nat.lab.validation import violations
from kbe_nat.lab.volume import excesses
from kbe_nat.sources.manifests.documents import (
    TOO_DEEP,
    check_text,
    parse_documents,
    reason_and_path,
)
from kbe_nat.sources.manifests.files import content, label

OFFLINE: Final = "offline"
LIVE: Final = "live"
KIND: Final = "LabScenario"
"""Of a scenario as a document of JSON."""
HEAD: Final = frozenset(("apiVersion", "kind"))
"""Fields of such a document that are none of the scenario."""
GALLERY: Final = Path(__file__).parent / "gallery"

AnyScenario: TypeAlias = Scenario | LiveScenario
Kind = TypeVar("Kind", Scenario, LiveScenario)


def read_scenario(name: str | Path) -> tuple[AnyScenario, Path]:
    """The scenario of a file, or the gallery's of this name, with the folder that paths in it begin
    at. Raises `ScenarioError`, and `FileError` for a file that cannot be read.
    """
    path, name = Path(name), str(name)
    if path.exists() or "/" in name or path.suffix:
        return scenario_of(_document(path), name), path.parent
    entry = GALLERY / f"{name}.yaml"
    if not entry.exists():
        names = ", ".join(gallery())
        raise ScenarioError(name, "", f"is no file, and no scenario of the gallery: {names}")
    return scenario_of(_document(entry), entry.name), entry.parent


def gallery() -> list[str]:
    """The names of the scenarios that ship with the lab."""
    return sorted(path.stem for path in GALLERY.glob("*.yaml"))


def scenario_of(document: object, origin: str = "scenario") -> AnyScenario:
    """A scenario from values as YAML or JSON have them, told by `mode`; also as `lab show -o json`
    prints it. Raises `ScenarioError`.
    """
    if isinstance(document, Mapping) and document.get("kind") == KIND:
        document = {name: value for name, value in document.items() if name not in HEAD}
    mode = document.get("mode", OFFLINE) if isinstance(document, Mapping) else OFFLINE
    if mode == OFFLINE:
        return offline_scenario_of(document, origin)
    if mode != LIVE:
        raise ScenarioError(origin, "mode", f"{mode!r} is none of {OFFLINE}, {LIVE}")
    return _convert(document, LiveScenario, origin)


def offline_scenario_of(document: object, origin: str = "scenario") -> Scenario:
    """The same, of simulations alone."""
    return _convert(document, Scenario, origin)


def _convert(document: object, kind: type[Kind], origin: str) -> Kind:
    try:
        scenario = msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        reason, path = reason_and_path(str(error))
        hint = QUOTES if NO_TEXT.search(reason) else ""
        raise ScenarioError(origin, path, reason + hint) from None
    except RecursionError:
        raise ScenarioError(origin, "", TOO_DEEP) from None
    check(scenario, origin)
    return scenario


def with_fields(scenario: AnyScenario, **fields: object) -> AnyScenario:
    """The scenario with other values of these fields. Raises `ScenarioError`, also for a scenario
    that was made in Python of values which are not of their types.
    """
    try:
        values = msgspec.to_builtins(scenario) | fields
    except (TypeError, ValueError, OverflowError) as error:
        raise ScenarioError("scenario", "", str(error)) from None
    name = str(values["name"])
    if isinstance(scenario, LiveScenario):
        return _convert(values, LiveScenario, name)
    return _convert(values, Scenario, name)


def check(scenario: AnyScenario, origin: str = "scenario") -> None:
    """Raises `ScenarioError` for the first contradiction."""
    if isinstance(scenario, LiveScenario):
        for path, reason in live_violations(scenario):
            raise ScenarioError(origin, path, reason)
        return
    for path, reason in violations(scenario):
        raise ScenarioError(origin, path, reason)
    try:
        for path, reason in misfits(scenario):
            raise ScenarioError(origin, path, reason)
    except ScenarioError as error:
        raise ScenarioError(origin, error.path, error.reason) from None
    for path, reason in excesses(scenario):
        raise ScenarioError(origin, path, reason)
    if scenario.sweep:
        _check_sweeps(scenario, origin)


def _check_sweeps(scenario: Scenario, origin: str) -> None:
    """Each value alone; `kbe_nat.lab.cells` checks them together."""
    document = msgspec.to_builtins(msgspec.structs.replace(scenario, sweep=()))
    for place, sweep in enumerate(scenario.sweep):
        for value in sweep.values:
            where = f"sweep[{place}].field"
            offline_scenario_of(with_value(document, sweep.field, value, origin, where), origin)


def with_value(
    document: Mapping[str, Any], path: str, value: object, origin: str, where: str
) -> dict[str, Any]:
    """A copy of a scenario's values in which the field at this path has another value. Raises
    `ScenarioError`, with the path `where` the path stands, if there is no such field.
    """
    copy: Any = msgspec.json.decode(msgspec.json.encode(document))
    steps: list[str | int] = [int(index) if index else name for name, index in STEP.findall(path)]
    here = copy
    for number, step in enumerate(steps):
        is_there = isinstance(step, int) and isinstance(here, list) and step < len(here)
        is_last = number == len(steps) - 1
        if isinstance(step, str) and isinstance(here, dict):
            # The last field may have its default, and not be written out.
            is_there = is_last or step in here
        if not is_there:
            raise ScenarioError(origin, where, f"{path}: {_absence(here, step)}")
        if is_last:
            here[step] = value
        else:
            here = here[step]
    result: dict[str, Any] = copy
    return result


def _absence(place: object, step: str | int) -> str:
    """Why a value has no such field or position."""
    if isinstance(step, int):
        return f"there is no [{step}], but {len(place)}" if isinstance(place, list) else "no list"
    if isinstance(place, str):
        return f"{place} stands there by its name alone: write it as {{name: {place}}}"
    return f"there is no {step}"


def _document(path: Path) -> object:
    text, name = content(str(path)), label(str(path))
    check_text(text, name)
    parsed = parse_documents(text, name, is_strict=True)
    values = [value for value in parsed if value is not None]
    if len(values) != 1:
        raise FileError(f"{path}: one scenario is expected, not {len(values)}")
    return values[0]


NO_TEXT: Final = re.compile(r"^expected str\b.*, got (bool|int|float|null)$")
QUOTES: Final = (
    ": put it in quotes, since YAML reads n, y, no, yes, off, on, true and false as booleans, "
    "7 and 1e3 as numbers, and ~ and null as nothing"
)
STEP: Final = re.compile(r"([a-z_]+)|\[(\d+)\]")
