"""The kernel's own translation: a table per family with a few rules, and maps that grow.

New connections to frontends go to a queue; the verdict on their first packet is a mark that names
the backend, and the kernel translates them and their later packets, which meet one rule of ours.
What nobody has decided about is served by the standby.

`nft` makes a table once, asleep. What it cannot write, and what changes, goes to the kernel by
netlink: nft looks at every element of every table before it lists one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from kbe_nat._native import NftTables
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules.backend_ids import Address
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.frontends import FrontendKey
from kbe_nat.rules.nat_table import (
    FAMILIES,
    PROTOCOLS,
    Elements,
    Translation,
    TranslationTable,
    numbered,
    records,
    served,
    sets,
)
from kbe_nat.rules.rule import TAG, Marks
from kbe_nat.rules.standby import Standby, StandbyChange

_Table: TypeAlias = tuple[int, str]
"""The kernel's number of a family, and a name."""
_Records: TypeAlias = tuple[_Table, str, int, int, bytes]
"""A table, a set's name, lengths of keys and values, and elements."""
PREFIX: Final = f"{TAG}-translation-"
"""Every table of ours here begins so; there are two for a moment while one takes the other's place.
"""
PROBE_PREFIX: Final = f"{TAG}-probe-"
FINGERPRINTS: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class TranslationChange:
    """What is to be different, for one family."""

    family: Family
    added: Mapping[Address, int] = field(default_factory=dict)
    """Backends that come, with their numbers."""
    removed: Mapping[Address, int] = field(default_factory=dict)
    """Backends that go."""
    standby: Standby | None = None
    """None: as it was."""
    standby_change: StandbyChange | None = None
    """What is different in it, where that is known."""
    addresses: frozenset[str] | None = None
    """None: as they were."""


class Translations:
    """The tables in the kernel. All methods raise `RulesError`."""

    def __init__(
        self, runner: Runner, tables: NftTables, marks: Marks, queues: tuple[int, int] = (0, 0)
    ) -> None:
        """`runner` runs nft in the network namespace of `tables`; `queues` are the first and the
        last number.
        """
        self._runner = runner
        self._tables = tables
        self._marks = marks
        self._queues = queues
        self._table = TranslationTable(marks, queues)
        self._installed: dict[Family, _Installed] = {}
        """By family."""
        self._generation: int | None = None
        """Of the kernel's tables when ours were last as they should be; None: that is to be looked
        at.
        """

    @property
    def shapes(self) -> dict[Family, object]:
        """What is installed by family, as of `Translation.shape`."""
        return {number: own.shape for number, own in self._installed.items()}

    def install(self, wanted: Iterable[Translation]) -> None:
        """Make these our tables, in place of any that an earlier run has left, from one packet to
        the next.
        """
        own = list(wanted)
        earlier = set(self._present())
        awake = {name for _, name, is_dormant in earlier if not is_dormant}
        name = next(f"{PREFIX}{n}" for n in range(len(awake) + 1) if f"{PREFIX}{n}" not in awake)
        # Left by a run that ended before they woke up.
        asleep = [(number, table) for number, table, is_dormant in earlier if is_dormant]
        self._tables.commit(deleted=[(PROTOCOLS[number], table) for number, table in asleep])
        for one in own:
            self._runner.run(("nft", "-f", "-"), _text(self._table.lines(one, name, asleep=True)))
        contents = {one.family: sets(one) for one in own}
        self._commit_rules(
            [(PROTOCOLS[one.family], name) for one in own],
            added=[
                ((PROTOCOLS[number], name), *records(number, set_name, elements, self._marks))
                for number, some in contents.items()
                for set_name, elements in some.items()
                if elements
            ],
            deleted=[
                (PROTOCOLS[number], table)
                for number, table, is_dormant in earlier
                if not is_dormant
            ],
            activated=[(PROTOCOLS[one.family], name) for one in own],
        )
        # The kernel has it; whatever else has changed meanwhile is seen at the next look.
        self._generation = None
        self._installed = {
            one.family: _Installed(
                name,
                one.shape,
                one.standby,
                one.addresses,
                {
                    set_name: self._fingerprint(one.family, set_name, elements)
                    for set_name, elements in contents[one.family].items()
                },
                self._learned(one, name),
            )
            for one in own
        }

    def update(self, changes: Iterable[TranslationChange]) -> None:
        """Change elements, all in one transaction. Cost: linear in these, and in the frontends that
        a new standby has.
        """
        removed: list[_Records] = []
        added: list[_Records] = []
        contents: dict[Family, dict[str, int]] = {}
        own = list(changes)
        for change in own:
            installed = self._installed[change.family]
            table = (PROTOCOLS[change.family], installed.name)
            contents[change.family] = dict(installed.contents)
            for set_name, gone, new in _differences(change, installed):
                for elements, into, sign in ((gone, removed, -1), (new, added, 1)):
                    if elements:
                        into.append(
                            (table, *records(change.family, set_name, elements, self._marks))
                        )
                        contents[change.family][set_name] += sign * NftTables.fingerprint_of(
                            *into[-1][2:]
                        )
        if removed or added:
            with self._one_transaction():
                self._tables.commit(removed=removed, added=added)
        for change in own:
            installed = self._installed[change.family]
            installed.contents = contents[change.family]
            if change.standby is not None:
                installed.standby = change.standby
            if change.addresses is not None:
                installed.addresses = change.addresses

    def missing(self) -> tuple[str, ...]:
        """What of the tables is not in the kernel as it should be. Costs nothing unless somebody
        has changed a table since it was looked at last.
        """
        if not self._installed:
            return ()
        generation = self._tables.generation()
        if generation == self._generation:
            return ()
        gone = [
            f"{FAMILIES[number]} {own.name}: {what}"
            for number, own in self._installed.items()
            for what in self._missing(PROTOCOLS[number], own)
        ]
        self._generation = None if gone else generation
        return tuple(gone)

    def probe(self) -> None:
        """Raises `RulesError` when this kernel cannot do what the tables need. Leaves nothing, even
        of one that was killed.
        """
        # Another one that looks at this moment may be first.
        with suppress(RulesError):
            if forsaken := self._forsaken():
                self._tables.commit(deleted=forsaken)
        name = f"{PROBE_PREFIX}{os.getpid()}"
        self._runner.run(
            ("nft", "-f", "-"),
            _text(self._table.lines(Translation(Family.IPV4), name, asleep=True)),
        )
        table = (PROTOCOLS[Family.IPV4], name)
        try:
            self._commit_rules([table])
        finally:
            self._tables.commit(deleted=[table])

    def remove(self) -> None:
        """Take the tables away, if there are any."""
        self._installed = {}
        present = [
            (PROTOCOLS[number], name) for number, name, _ in self._present()
        ] + self._forsaken()
        if present:
            self._tables.commit(deleted=present)

    def is_present(self) -> bool:
        """Whether there is a table of ours, whoever has made it."""
        return bool(self._present())

    def render(self, wanted: Iterable[Translation]) -> str:
        """What would be put into the kernel where there is nothing of ours."""
        head = "# nft -f -, and by netlink the rules in the chains queued, queued-strictly and translated"
        return _text(
            [head, *(line for one in wanted for line in self._table.lines(one, f"{PREFIX}0"))]
        )

    def _learned(self, own: Translation, name: str) -> dict[str, int]:
        """What the kernel says of each chain. For a shape that was installed before it is what it
        said then: what others change between writing and reading must not count as ours.
        """
        before = self._installed.get(own.family)
        if before is not None and before.shape == own.shape:
            return before.rules
        return self._tables.rules(PROTOCOLS[own.family], name)

    def _commit_rules(
        self,
        tables: list[_Table],
        added: Sequence[_Records] = (),
        deleted: Sequence[_Table] = (),
        activated: Sequence[_Table] = (),
    ) -> None:
        """A transaction that also gives these tables the rules which nft cannot write."""
        first, last = self._queues
        marks = self._marks
        kept = (marks.flow | marks.backend) ^ 0xFFFFFFFF
        translating = [(own, "translated", marks.backend, kept, "backends") for own in tables]
        for is_native in (True, False):
            queueing = [
                (own, chain, first, last - first + 1, chain == "queued", is_native)
                for own in tables
                for chain in ("queued", "queued-strictly")
            ]
            try:
                self._tables.commit(
                    queueing=queueing,
                    translating=translating,
                    added=added,
                    deleted=deleted,
                    activated=activated,
                )
            except RulesError:
                # Many kernels have only one of the two ways to queue.
                if not is_native:
                    raise
            else:
                return

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        """The block's only one. If it was the kernel's only one too, our tables are still as they
        should be.
        """
        before = self._tables.generation()
        yield
        is_alone = before == self._generation and self._tables.generation() == before + 1
        self._generation = before + 1 if is_alone else None

    def _present(self) -> list[tuple[Family, str, bool]]:
        """Family and name of every table of ours, and whether it sleeps."""
        return [
            (number, name, is_dormant)
            for number, protocol in PROTOCOLS.items()
            for name, is_dormant in self._tables.names(protocol)
            if name.startswith(PREFIX)
        ]

    def _forsaken(self) -> list[_Table]:
        """Tables of probes whose processes are no more."""
        protocol = PROTOCOLS[Family.IPV4]
        names = [name for name, _ in self._tables.names(protocol) if name.startswith(PROBE_PREFIX)]
        return [
            (protocol, name) for name in names if not _is_running(name.removeprefix(PROBE_PREFIX))
        ]

    def _missing(self, protocol: int, own: "_Installed") -> Iterator[str]:
        if (own.name, False) not in self._tables.names(protocol):
            yield "the table"
            return
        rules = self._tables.rules(protocol, own.name)
        for name in sorted(own.rules.keys() | rules.keys()):
            if rules.get(name) != own.rules.get(name):
                yield f"chain {name}"
        for name, sum_of in own.contents.items():
            if self._tables.fingerprint(protocol, own.name, name) != sum_of % FINGERPRINTS:
                yield f"elements of {name}"

    def _fingerprint(self, family: Family, name: str, elements: Elements) -> int:
        return NftTables.fingerprint_of(*records(family, name, elements, self._marks)[1:])


@dataclass(slots=True)
class _Installed:
    """A table in the kernel."""

    name: str
    shape: object
    standby: Standby
    addresses: frozenset[str]
    contents: dict[str, int]
    """By map or set, the sum over what it is to hold, as of `NftTables.fingerprint`."""
    rules: dict[str, int]
    """What the kernel says of each chain."""


def _is_running(process: str) -> bool:
    return process.isdecimal() and Path(f"/proc/{process}").exists()


def _differences(
    change: TranslationChange, before: _Installed
) -> Iterator[tuple[str, Elements, Elements]]:
    """By map or set, the elements that go and those that come."""
    yield "backends", numbered(change.removed), numbered(change.added)
    if change.standby is not None and change.standby is not before.standby:
        frontends: Iterable[FrontendKey] = {
            *change.standby.frontend_keys,
            *before.standby.frontend_keys,
        }
        if change.standby_change is not None and change.standby_change.before is before.standby:
            frontends = change.standby_change.frontends
        old, new = (served(own, frontends) for own in (before.standby, change.standby))
        for name in old:
            yield name, _beyond(old[name], new[name]), _beyond(new[name], old[name])
    if change.addresses is not None and change.addresses is not before.addresses:
        gone, come = before.addresses - change.addresses, change.addresses - before.addresses
        yield "addresses", dict.fromkeys(gone), dict.fromkeys(come)


def _beyond(one: Elements, other: Elements) -> Elements:
    return {key: value for key, value in one.items() if key not in other or other[key] != value}


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
