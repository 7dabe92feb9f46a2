"""New EndpointSlices in a snapshot that is otherwise as it was: what changes most, and need not
cost a look at all objects.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from kbe_nat.model import EndpointSlice, ServiceKey
from kbe_nat.sources.objects import (
    ControllerObject,
    EndpointSliceObject,
    ParsedObject,
    PodObject,
    namespace,
)
from kbe_nat.sources.snapshot import SERVICE_NAME_LABEL, assemble_slice
from kbe_nat.sources.source import SourceUpdate


def can_be_amended(found: Iterable[ParsedObject]) -> bool:
    """Whether no slice of these objects counts for more than itself: none is written twice, and
    there are no Pods, whose weights slices take over.
    """
    names = set()
    count = 0
    for one in found:
        if isinstance(one.value, PodObject | ControllerObject):
            return False
        names.add(one.subject)
        count += 1
    return len(names) == count


def amend(
    before: SourceUpdate,
    changes: Iterable[tuple[Sequence[ParsedObject], Sequence[ParsedObject]]],
    generation: int,
) -> SourceUpdate | None:
    """The update with other slices: `changes` are the objects of some files as they were and as
    they are, and the objects of all files can be amended. None when more has changed than what is
    in slices. Cost: linear in these objects, and a copy of `Snapshot.slices`.
    """
    replaced: dict[ServiceKey, dict[str, EndpointSlice | None]] = {}
    gone, come = list[str](), list[str]()
    for were, are in changes:
        if list(map(_identity, were)) != list(map(_identity, are)):
            return None
        for old, new in zip(were, are, strict=True):
            if old == new:
                continue
            if not isinstance(new.value, EndpointSliceObject):
                return None
            key = (namespace(new.value), new.value.metadata.labels.get(SERVICE_NAME_LABEL, ""))
            own, about = assemble_slice(new)
            replaced.setdefault(key, {})[new.value.metadata.name] = own
            gone += assemble_slice(old)[1]
            come += about
    slices = dict(before.snapshot.slices)
    for key, parts in replaced.items():
        slices[key] = _with(slices.get(key, ()), parts)
        if not slices[key]:
            del slices[key]
    notes = before.notes
    if gone or come:
        kept = Counter(notes) - Counter(gone)
        notes = (*kept.elements(), *come)
    snapshot = structs.replace(before.snapshot, generation=generation, slices=slices)
    return SourceUpdate(snapshot, notes=notes)


def _with(
    before: Iterable[EndpointSlice], replaced: Mapping[str, EndpointSlice | None]
) -> tuple[EndpointSlice, ...]:
    """A Service's slices, some of them replaced, by name; None: left out."""
    parts = [part for part in before if part.name not in replaced]
    parts += [part for part in replaced.values() if part]
    return tuple(sorted(parts, key=lambda part: part.name))


def _identity(one: ParsedObject) -> tuple[str, str | None]:
    """What must be the same for an object to be the same one."""
    is_slice = isinstance(one.value, EndpointSliceObject)
    return one.subject, one.value.metadata.labels.get(SERVICE_NAME_LABEL) if is_slice else None
