"""The newest objects of all sources, and the snapshot that follows from them.

Theory of operation. An *origin* (a file, a watch) says which objects it has: all at once
(`replace`, what a file or a relist says) or one by one (`put`, `refuse`, `delete`, what a watch
says). Several origins may have the same object, so the store keeps one *record* per object, by
kind, namespace and name, with a *candidate* for each origin that has it. Sources may share a store:
each writes to origins of its own, whose ranks order them. `update` says what all of them have
changed since the last call, so the reader takes the updates of each source. It works in
four steps, each only on records that changed since the last update:

1. resolve: the last sound candidate, in the order of origins, wins. Where all candidates are
   refused the winner of before stays: a slip of the pen takes nothing away.
2. complete: a `Completion` (files only) fills in what a control plane would have: cluster IPs, Pods
   of workloads, EndpointSlices of Pods. A completed object takes the winner's place.
3. convert: each object becomes its part of a snapshot (`kbe_nat.sources.snapshot`). An object that
   cannot be converted is refused, and its part of before stays.
4. collect: parts that differ go into the snapshot, and their Services into `touched`.

Invariants. The snapshot depends on the candidates alone, however they came to be, except for the
last good parts of refused objects. A part that equals the one before is the one before, by
identity. Only Nodes and ServiceCIDRs concern all Services; every other change touches the
Services that it names. The order of Services decides who has a frontend that two of them claim:
the older one (`creationTimestamp`), then the one of the earlier origin, then the one that its
origin has earlier, then the lesser key. Services without a timestamp come first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple, Protocol

from msgspec import Struct, structs

from kbe_nat.errors import KbeNatError, ObjectError
from kbe_nat.sources.messages import Messages
from kbe_nat.sources.objects import (
    ObjectKey,
    Origin,
    ParsedObject,
    Place,
    refused_key,
)
from kbe_nat.sources.parts import SnapshotParts
from kbe_nat.sources.snapshot import (
    ClusterObject,
    ConvertedSlice,
    convert_early,
    convert_node,
    convert_service,
    convert_service_ranges,
    convert_weight,
)
from kbe_nat.sources.source import SourceUpdate


class Placed(NamedTuple):
    """An object that counts."""

    place: Place
    item: ClusterObject


class Change(NamedTuple):
    """An object that is added (`before` is None), modified, or deleted (`after` is None)."""

    key: ObjectKey
    before: Placed | None
    after: Placed | None


class Completed(NamedTuple):
    """An object as its completion has it."""

    item: ParsedObject | None = None
    """It takes the place of the object; None: the object counts as it is."""
    notes: tuple[str, ...] = ()


class Completion(Protocol):
    """Fills in what objects leave out."""

    def complete(self, changes: Sequence[Change]) -> Mapping[ObjectKey, Completed]:
        """The objects whose completion may differ now. Among them may be objects that no origin
        has; an empty `Completed` takes such an object away again.
        """
        ...


class Store:
    """Objects by kind, namespace and name, from any number of origins. For use by one thread."""

    def __init__(self, completion: Completion | None = None, generation: int = 0) -> None:
        """The first update is of the `generation` after this one."""
        self._completion = completion
        self._generation = generation
        self._records: dict[ObjectKey, _Record] = {}
        self._contents: dict[Origin, dict[ObjectKey, None]] = {}
        self._unresolved: dict[ObjectKey, None] = {}
        """Records whose candidates have changed."""
        self._failures: dict[Origin, KbeNatError] = {}
        """Why origins cannot be read now."""
        self._parts = SnapshotParts()
        self._messages = Messages()

    def replace(
        self,
        origin: Origin,
        items: Iterable[ClusterObject | ObjectError | str],
        *,
        is_ordered: bool = True,
    ) -> None:
        """All that an origin has now: objects, refused objects and notes; in its order, if it has
        any. Of an object that it has twice the last one counts. Cost: linear in what it has and
        had.
        """
        candidates: dict[ObjectKey, _Candidate] = {}
        notes: list[tuple[Place, str]] = []
        for index, item in enumerate(items):
            if isinstance(item, str):
                notes.append((Place(origin, index), item))
                continue
            # What `put` changes has no position: then a list must not give any either.
            candidate = _candidate(Place(origin, index if is_ordered else 0), item)
            key = refused_key(item) if isinstance(item, ObjectError) else item.key
            # The later one counts, as it would if both had been applied in order.
            earlier = candidates.get(key)
            candidates[key] = _merge(earlier, candidate) if earlier else candidate
        # A deletion is what is missing now.
        for key in self._contents.get(origin, {}).keys() - candidates.keys():
            self._set(key, origin, None)
        for key, candidate in candidates.items():
            self._set(key, origin, candidate)
        # Notes on no object go with their origin, and leave with its next content.
        self._messages.set(origin, notes=notes)

    def put(self, origin: Origin, item: ClusterObject | ObjectError) -> None:
        """An object that is added to an origin or modified there, or one that is refused. Cost:
        linear in the object.
        """
        key = refused_key(item) if isinstance(item, ObjectError) else item.key
        self._set(key, origin, _candidate(Place(origin, 0), item))

    def delete(self, origin: Origin, key: ObjectKey) -> None:
        """An object that is deleted from an origin."""
        self._set(key, origin, None)

    def fail(self, origin: Origin, error: KbeNatError | None) -> None:
        """Why an origin cannot be read now, or None when it can. Its objects stay as they are."""
        if error is None:
            self._failures.pop(origin, None)
        else:
            self._failures[origin] = error

    def refusals(self) -> Counter[Origin]:
        """How many objects of each origin are refused now. Cost: linear in these."""
        return self._messages.refusals()

    def items(self, origin: Origin) -> dict[ObjectKey, ClusterObject]:
        """The sound objects that an origin has now. Cost: linear in these."""
        keys = self._contents.get(origin, {})
        options = ((key, self._records[key].candidates) for key in keys)
        return {
            key: option.item
            for key, candidates in options
            for option in candidates
            if option.item is not None and option.place.origin == origin
        }

    def update(self) -> SourceUpdate:
        """The state now, and what it touches since the last call. Cost: that of converting the
        objects that have changed, and a copy of the lists of references that their parts are in.
        """
        changes = [
            change
            for change in map(self._resolve, self._unresolved)
            if change.before != change.after
        ]
        stale = dict.fromkeys(change.key for change in changes)
        if self._completion is not None and changes:
            completions = self._completion.complete(changes)
            for key, completed in completions.items():
                self._records.setdefault(key, _Record()).completed = completed
            stale |= dict.fromkeys(completions)
        # Conversion comes last, because a completion may take any winner's place, and one that no
        # origin has.
        for key in stale:
            self._convert(key, self._records[key])
        for key in {**self._unresolved, **stale}:
            self._close(key, self._records[key])
        self._unresolved = {}
        self._generation += 1
        snapshot, touched = self._parts.snapshot(self._generation)
        failures = [error for _, error in sorted(self._failures.items())]
        errors = (*failures, *self._messages.errors)
        return SourceUpdate(snapshot, touched, errors, self._messages.notes)

    def _set(self, key: ObjectKey, origin: Origin, candidate: "_Candidate | None") -> None:
        """Let an origin have this candidate for an object, or none."""
        record = self._records.setdefault(key, _Record())
        before = next(
            (option for option in record.candidates if option.place.origin == origin), None
        )
        if candidate is not None and before is not None:
            candidate = _share(candidate, before)
        if candidate == before:
            return
        others = [option for option in record.candidates if option.place.origin != origin]
        keys = self._contents.setdefault(origin, {})
        if candidate is not None:
            others.append(candidate)
            keys[key] = None
        else:
            keys.pop(key, None)
            if not keys:
                del self._contents[origin]
        # Sorted here, where few stand: the winner must not depend on the order in which origins
        # spoke.
        record.candidates = tuple(sorted(others, key=lambda option: option.place))
        self._unresolved[key] = None

    def _resolve(self, key: ObjectKey) -> Change:
        """Which candidate counts now."""
        record = self._records[key]
        before = record.winner
        sound = [option for option in record.candidates if option.item is not None]
        # The first place with the last content: a later copy of a Service changes it, yet gives it
        # no older or younger claim.
        if sound and sound[-1].item is not None:
            record.winner = Placed(sound[0].place, sound[-1].item)
        elif not record.candidates:
            record.winner = None
        record.notes = _replacements(sound)
        return Change(key, before, record.winner)

    def _convert(self, key: ObjectKey, record: "_Record") -> None:
        """Bring the object's part of the snapshot up to date."""
        record.error, record.part_notes = None, ()
        item = record.completed.item or (record.winner and record.winner.item)
        if item is None:
            self._parts.remove(key)
            return
        place = record.winner.place if record.winner else UNWRITTEN
        if isinstance(item, ParsedObject):
            # Only a completion still has a slice's object; candidates were converted as they came.
            item = convert_early(item)
        if isinstance(item, ConvertedSlice):
            record.part_notes = item.notes
            self._parts.set_slice(key, item)
            return
        try:
            record.part_notes = self._take_part(key, place, item)
        except ObjectError as error:
            # The part of before stays.
            record.error = error

    def _take_part(self, key: ObjectKey, place: Place, parsed: ParsedObject) -> tuple[str, ...]:
        """Notes on the part. Raises `ObjectError`."""
        notes: tuple[str, ...] = ()
        if parsed.kind == "Service":
            service, notes = convert_service(parsed)
            created = parsed.value.metadata.created
            self._parts.set_service((created, *place, service.key), service)
        elif parsed.kind == "Node":
            node, notes = convert_node(parsed)
            self._parts.set_node(key, node)
        elif parsed.kind == "ServiceCIDR":
            self._parts.set_service_ranges(key, place, convert_service_ranges(parsed))
        elif parsed.kind == "Pod":
            weight, notes = convert_weight(parsed)
            self._parts.set_weight(key, weight)
        return notes

    def _close(self, key: ObjectKey, record: "_Record") -> None:
        """Pass on what there is to say about an object, and forget one that is no more."""
        place = record.candidates[0].place if record.candidates else UNWRITTEN
        errors = [entry for option in record.candidates for entry in option.errors]
        if record.error is not None:
            errors.append((place, record.error))
        lines = (*record.notes, *record.completed.notes, *record.part_notes)
        self._messages.set(key, errors=errors, notes=[(place, line) for line in lines])
        if not record.candidates and record.completed == Completed():
            del self._records[key]


class _Candidate(Struct, frozen=True, gc=False):
    """An object in one origin."""

    place: Place
    item: ClusterObject | None
    """None: it is refused."""
    errors: tuple[tuple[Place, ObjectError], ...] = ()
    notes: tuple[str, ...] = ()


class _Record(Struct):
    """All that is known of one object."""

    candidates: tuple[_Candidate, ...] = ()
    """By origin."""
    winner: Placed | None = None
    completed: Completed = Completed()
    error: ObjectError | None = None
    """Why the object could not be converted."""
    notes: tuple[str, ...] = ()
    part_notes: tuple[str, ...] = ()


def _candidate(place: Place, item: ClusterObject | ObjectError) -> _Candidate:
    if isinstance(item, ObjectError):
        return _Candidate(place, None, ((place, item),))
    return _Candidate(place, convert_early(item) if isinstance(item, ParsedObject) else item)


def _merge(earlier: _Candidate, later: _Candidate) -> _Candidate:
    """One candidate of two in the same origin."""
    errors, notes = earlier.errors + later.errors, earlier.notes
    if earlier.item is None:
        return structs.replace(later, errors=errors)
    if later.item is None:
        return structs.replace(earlier, errors=errors)
    return _Candidate(
        earlier.place, later.item, errors, (*notes, _replacement(earlier.item, later.item))
    )


def _share(candidate: _Candidate, before: _Candidate) -> _Candidate:
    """The candidate, with what equals a part of before as that part: later comparisons need not
    look into it, and what plans keep of it exists once.
    """
    new, old = candidate.item, before.item
    if not isinstance(new, ConvertedSlice) or not isinstance(old, ConvertedSlice):
        return candidate
    if new.part is None or old.part is None:
        return candidate
    part = old.part
    if new.part != part:
        former = {endpoint: endpoint for endpoint in part.endpoints}
        endpoints = tuple(former.get(endpoint, endpoint) for endpoint in new.part.endpoints)
        part = structs.replace(new.part, endpoints=endpoints)
    return structs.replace(candidate, item=structs.replace(new, part=part))


def _replacements(sound: Sequence[_Candidate]) -> tuple[str, ...]:
    """Notes on which candidate counts for which, within origins and among them."""
    lines = [line for option in sound for line in option.notes]
    for earlier, later in pairwise(sound):
        assert earlier.item is not None and later.item is not None
        lines.append(_replacement(earlier.item, later.item))
    return tuple(lines)


def _replacement(earlier: ClusterObject, later: ClusterObject) -> str:
    return f"{later.origin}: {later.subject}: replaces the one in {earlier.origin}"


UNWRITTEN: Final = Place(Origin(1 << 30, ""), 0)
"""Where objects stand that only a completion has: after all others."""
