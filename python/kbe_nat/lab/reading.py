"""Scenarios from files, from the gallery, and from values.

A mistake is the file, the path of the field, and the reason. All that can be found are told at
once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from kbe_nat.errors import FileError, ScenarioError
from kbe_nat.lab.fit import misfits
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.live.scenario import violations as live_violations
from kbe_nat.lab.mistakes import Mistake, mistakes, without
from kbe_nat.lab.scenario import Scenario
from kbe_nat.lab.validation import violations
from kbe_nat.lab.volume import excesses
from kbe_nat.sources.manifests.documents import (
    TOO_DEEP,
    check_text,
    parse_documents,
)
from kbe_nat.sources.manifests.files import content, is_stream, label
from kbe_nat.spelling import hint, none_of

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
    at: of a pipe the working directory. Raises `ScenarioError`, and `FileError` for a file that
    cannot be read.
    """
    path = scenario_file(name)
    origin = path.name if path.parent == GALLERY else label(str(name))
    return scenario_of(_document(path), origin), Path() if is_stream(str(path)) else path.parent


def scenario_file(name: str | Path) -> Path:
    """The file that is meant by this name. A directory is no scenario: the gallery's scenario of
    its name is meant. Raises `ScenarioError` where there is none.
    """
    path, name = Path(name), str(name)
    if is_stream(name):
        return path
    entry = GALLERY / f"{name}.yaml"
    is_word = "/" not in name and not path.suffix
    if is_word and entry.exists() and (path.is_dir() or not path.exists()):
        return entry
    if is_word and not path.exists():
        names = gallery()
        listed = ", ".join(names)
        reason = f"is no file, and no scenario of the gallery: {listed}{hint(name, names)}"
        raise ScenarioError(name, "", reason)
    return path


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
        raise ScenarioError(origin, "mode", none_of(mode, (OFFLINE, LIVE)))
    return _convert(document, LiveScenario, origin)


def offline_scenario_of(document: object, origin: str = "scenario") -> Scenario:
    """The same, of simulations alone."""
    return _convert(document, Scenario, origin)


def _convert(document: object, kind: type[Kind], origin: str) -> Kind:
    try:
        scenario = msgspec.convert(document, kind)
    except msgspec.ValidationError:
        errors = list(mistakes(document, kind))
        if kind is Scenario and isinstance(document, Mapping):
            errors += _contradictions(document, errors)
        raise _error(origin, errors) from None
    except RecursionError:
        raise ScenarioError(origin, "", TOO_DEEP) from None
    check(scenario, origin)
    return scenario


def _contradictions(document: Mapping[str, Any], errors: Sequence[Mistake]) -> list[Mistake]:
    """Of the fields that are not wrong in themselves."""
    try:
        fields = Scenario.__struct_fields__
        return list(violations(msgspec.convert(without(document, errors, fields), Scenario)))
    except msgspec.ValidationError:
        # Names of Services are among what is wrong.
        return []


def _error(origin: str, errors: Sequence[Mistake]) -> ScenarioError:
    (path, reason), *others = errors
    if len(errors) > MOST:
        others[MOST - 1 :] = [("", f"and {len(errors) - MOST} more mistakes")]
    return ScenarioError(origin, path, reason, *others)


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
    """Raises `ScenarioError` with all contradictions that can be found."""
    if isinstance(scenario, LiveScenario):
        errors = list(live_violations(scenario))
    else:
        # What follows needs names that there are.
        errors = list(violations(scenario)) or [
            *_misfits(scenario),
            *excesses(scenario),
            *_sweep_mistakes(scenario, origin),
        ]
    if errors:
        raise _error(origin, errors)


def _misfits(scenario: Scenario) -> list[Mistake]:
    """The first one of each field: the others are later moments of the same."""
    try:
        first: dict[str, str] = {}
        for path, reason in misfits(scenario):
            first.setdefault(path, reason)
        return list(first.items())
    except ScenarioError as error:
        return list(error.mistakes)


def _sweep_mistakes(scenario: Scenario, origin: str) -> Iterator[Mistake]:
    """Of each value alone; `kbe_nat.lab.cells` checks them together. What the scenario says at the
    field is right, so a mistake stands where the sweep is; all values may have it in common.
    """
    if not scenario.sweep:
        return
    document = msgspec.to_builtins(msgspec.structs.replace(scenario, sweep=()))
    for place, sweep in enumerate(scenario.sweep):
        where = f"sweep[{place}].field"
        reasons: dict[Mistake, None] = {}
        for value in sweep.values:
            try:
                offline_scenario_of(with_value(document, sweep.field, value, origin, where), origin)
            except ScenarioError as error:
                reasons.update(dict.fromkeys(error.mistakes))
        for path, reason in reasons:
            yield (path, reason) if path == where else (f"sweep[{place}]", f"{path}: {reason}")


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
    if not values:
        raise FileError(f"{path}: it is empty: one scenario is expected")
    if len(values) > 1:
        raise FileError(f"{path}: one scenario is expected, not {len(values)}")
    return values[0]


STEP: Final = re.compile(r"([a-z_]+)|\[(\d+)\]")
MOST: Final = 20
"""Mistakes that are told; of more, how many."""
