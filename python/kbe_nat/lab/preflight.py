"""What is looked at before a scenario runs: scenarios as callers give them, and all that a run
would refuse after its start.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from kbe_nat.errors import ArgumentError, ScenarioError
from kbe_nat.lab.cells import cells
from kbe_nat.lab.classes import Classes, find_classes, module_path
from kbe_nat.lab.doubts import doubts
from kbe_nat.lab.live.execution import check_ways
from kbe_nat.lab.live.scenario import LiveScenario
from kbe_nat.lab.reading import AnyScenario, read_scenario, scenario_of, with_fields
from kbe_nat.lab.scenario import Scenario
from kbe_nat.sources.manifests.files import label


class LabWarning(UserWarning):
    """A scenario says something that has no effect."""


class Origin(NamedTuple):
    """A scenario, and where it comes from."""

    scenario: AnyScenario
    folder: Path
    """Where paths of traces and modules begin."""
    name: str
    """As messages call it: its file, or its own name."""


Source: TypeAlias = AnyScenario | Mapping[str, Any] | str | Path | Origin
"""A scenario as a value, as a mapping as YAML has it, as a file, or by its name in the gallery; or
what was made of one of these: a pipe can be read once.
"""


def origin_of(source: Source) -> Origin:
    """Raises `ScenarioError`, `FileError` for a file that cannot be read, and `ArgumentError`."""
    if isinstance(source, Origin):
        return source
    if isinstance(source, Scenario | LiveScenario):
        # Python's values are not checked when they are made.
        value = with_fields(source)
        return Origin(value, Path(), value.name)
    if isinstance(source, Mapping):
        value = scenario_of(dict(source))
        return Origin(value, Path(), value.name)
    if not isinstance(source, str | Path):
        kinds = "a Scenario, a mapping, a file or a name of the gallery"
        raise ArgumentError(f"scenario: {kinds} is expected, not {type(source).__name__}")
    value, folder = read_scenario(source)
    return Origin(value, folder, label(str(source)))


@contextmanager
def named_errors(origin: Origin) -> Iterator[None]:
    """Lets errors name the scenario's file, where they know its name alone."""
    try:
        yield
    except ScenarioError as error:
        if error.origin != origin.scenario.name:
            raise
        raise ScenarioError(origin.name, *error.args[1:]) from error.__cause__


def validate(scenario: Source, *, classes: Classes | None = None) -> list[str]:
    """Check all that `run` would refuse: fields, traces, strategies in Python, of which it imports
    the modules, and ways. Returns what has no effect, a line each with the field's path. Raises as
    `run` does. Cost: that of reading the traces, and of a description of each cell of one repeat.
    """
    origin = origin_of(scenario)
    value, folder, _ = origin
    with named_errors(origin):
        if isinstance(value, LiveScenario):
            check_ways(value)
            return []
        with module_path((folder,)):
            work = tuple(cells(msgspec.structs.replace(value, repeats=1), folder))
            find_classes(work, classes or {})
    # Points of a sweep have doubts of their own, and most of them in common.
    points = {tuple(cell.sweep.items()): cell.scenario for cell in work}
    lines = (line for point in points.values() for line in doubts(point, folder))
    return list(dict.fromkeys(lines))


def warn_of_doubts(origin: Origin, stacklevel: int) -> None:
    """A `LabWarning` for each line of `doubts`."""
    if isinstance(origin.scenario, Scenario):
        for line in doubts(origin.scenario, origin.folder):
            warnings.warn(f"{origin.name}: {line}", LabWarning, stacklevel=stacklevel + 1)
