"""Which runs can be compared, and which of their tables.

Runs of one scenario can. Tables of processor time say something about a machine and a version: they
are compared where both are the same. A live run has no others.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from kbe_nat.errors import ArgumentError, LabError
from kbe_nat.lab.identity import canonical, scenario_hash
from kbe_nat.lab.result import INTERRUPTED, PART, Result


def check_comparable(results: Sequence[Result]) -> None:
    """Raises `LabError`, which names the fact that differs, and `ArgumentError` for what is no list
    of results.
    """
    if isinstance(results, str) or not isinstance(results, Sequence):
        kind = type(results).__name__
        raise ArgumentError(f"results: a list of Result is expected, not {kind}")
    if not results:
        raise ArgumentError("results: one at least is expected")
    for result in results:
        if not isinstance(result, Result):
            kind = type(result).__name__
            raise ArgumentError(f"results: a list of Result is expected, with no {kind} in it")
    # Repeats that count twice would halve the intervals.
    paths = [result.folder.path.resolve() for result in results]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise LabError(f"{results[place].folder.path}: the run is given twice")
    for result in results:
        if result.manifest.shard is not None:
            raise LabError(f"{result.folder.path}: {PART.format(result.manifest.shard)}")
        if not result.tables:
            raise LabError(f"{result.folder.path}: {INTERRUPTED}")
    first, *others = results
    for other in others:
        refusal = f"{other.folder.path} cannot be compared with {first.folder.path}"
        # As this version reads them: another one may have had other defaults.
        if scenario_hash(other.scenario) != scenario_hash(first.scenario):
            raise LabError(f"{refusal}: {_scenario_difference(first, other)}")
    if set(first.tables) <= first.catalogue.timed and (reason := machine_difference(results)):
        raise LabError(f"runs cannot be compared: {reason}")


def machine_difference(results: Sequence[Result]) -> str:
    """The first fact for which tables of processor time cannot be compared; empty without one."""
    first, *others = results
    for other in others:
        for name, words in FACTS.items():
            here, there = first.manifest.machine.get(name), other.manifest.machine.get(name)
            if here != there:
                place, value, opposite = _narrowed(words, here, there)
                return (
                    f"{place} is {value} in {first.folder.path} "
                    f"and {opposite} in {other.folder.path}"
                )
    return ""


def comparable_tables(results: Sequence[Result]) -> frozenset[str]:
    """Names of the tables of these runs that can be compared."""
    names = frozenset(results[0].tables).intersection(*(result.tables for result in results))
    return names - results[0].catalogue.timed if machine_difference(results) else names


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What a reader of a report on these runs should know of them first, a sentence each."""
    if words := omission(results):
        yield words
    places = {str(result.folder.path): result.manifest.machine for result in results}
    revisions = {place: _revision(machine) for place, machine in places.items()}
    if len(set(revisions.values())) > 1:
        listing = "; ".join(f"{place}: {revision}" for place, revision in revisions.items())
        yield (
            f"The runs are of different revisions of kbe-nat, which may be why they differ: "
            f"{listing}."
        )
    here = version("kbe-nat")
    for place, machine in places.items():
        if machine["kbe_nat"] != here:
            yield (
                f"{place} was run by kbe-nat {machine['kbe_nat']}, and is read by {here}, whose "
                "defaults may differ."
            )


def _revision(machine: Mapping[str, Any]) -> str:
    """The revision that was measured: that of the native module, and the checkout's beside it."""
    checkout, native = (machine.get(name) for name in ("git", "git_native"))
    if checkout == native or native is None:
        return str(checkout or f"release {machine['kbe_nat']}")
    return f"{checkout or 'no checkout'}, its native module {native}"


def omission(results: Sequence[Result]) -> str:
    """What is not compared, with its reason; empty when everything is."""
    reason = machine_difference(results)
    if not reason:
        return ""
    timed = [name for name in results[0].tables if name in results[0].catalogue.timed]
    return f"Processor time ({', '.join(timed)}) is not compared: {reason}."


def _scenario_difference(first: Result, other: Result) -> str:
    here, there = canonical(first.scenario), canonical(other.scenario)
    # Names and questions do not make a scenario another one.
    names = [name for name in {**here, **there} if name not in ("name", "question", "expect")]
    different = next((name for name in names if here.get(name) != there.get(name)), None)
    if different is None:
        return "the scenarios differ"
    place, value, opposite = _narrowed(different, here.get(different), there.get(different))
    return f"the scenarios differ: {place} is {opposite}, and was {value}; {_remedy(place)}"


def _remedy(place: str) -> str:
    """How both values come beside each other, with intervals."""
    if place in ("seed", "repeats", "rounds"):
        return "seeds are repeats: run one scenario with more of them"
    return "a sweep of the field, or a list where it is one, has both in one run"


def _narrowed(place: str, here: object, there: object) -> tuple[str, object, object]:
    """The first place within values at which they differ."""
    if isinstance(here, dict) and isinstance(there, dict):
        for name in {**here, **there}:
            if here.get(name) != there.get(name):
                return _narrowed(f"{place}.{name}", here.get(name), there.get(name))
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, (left_value, right_value) in enumerate(zip(here, there, strict=True)):
            if left_value != right_value:
                return _narrowed(f"{place}[{number}]", left_value, right_value)
    return place, here, there


FACTS: Final = {
    "kbe_nat": "kbe-nat",
    "architecture": "the architecture",
    "cpu": "the processor",
    "cpus": "the number of processors",
    "kernel": "the kernel",
    "mitigations": "mitigations",
}
"""Facts of a manifest that times depend on, in words."""
