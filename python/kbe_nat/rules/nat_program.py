"""The kernel's own translation: a table per family with a few rules, and maps that grow.

New connections to frontends go to a queue; the verdict on their first packet is a mark that names
the backend, and the kernel translates them and their later packets, which meet one rule of ours.
What nobody has decided about is served by the standby.

`nft` makes a table once, asleep. What it cannot write, and what changes, goes to the kernel by
netlink: nft looks at every element of every table before it lists one.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kbe_nat._native import NftRule, NftTable, NftTables, Transaction
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.rules.backend_ids import Address
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.frontends import FrontendKey
from kbe_nat.rules.nat_table import (
    FAMILIES,
    Elements,
    NatTable,
    NatTableWriter,
    encode,
    numbered,
    served,
    sets,
)
from kbe_nat.rules.rule import TAG, Marks
from kbe_nat.rules.standby import Standby, StandbyChange

PREFIX: Final = f"{TAG}-translation-"
"""Every table of ours here begins so; there are two for a moment while one takes the other's place.
"""
PROBE_PREFIX: Final = f"{TAG}-probe-"
FINGERPRINTS: Final = 1 << 64
"""Every fingerprint is less than this."""
QUEUE_CHAINS: Final = {"queue-bypass": True, "queue-no-bypass": False}
"""Chains whose packets go to the queue, and whether they go on while no process listens."""


@dataclass(frozen=True, slots=True)
class NatTableChange:
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


class NatProgram:
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
        self._table = NatTableWriter(marks, queues)
        self._installed: dict[Family, _Installed] = {}
        """By family."""
        self._generation: int | None = None
        """Of the kernel's tables when ours were last as they should be; None: that is to be looked
        at.
        """

    @property
    def shapes(self) -> dict[Family, object]:
        """What is installed by family, as of `NatTable.shape`."""
        return {number: own.shape for number, own in self._installed.items()}

    def install(self, wanted: Iterable[NatTable]) -> None:
        """Make these our tables, in place of any that an earlier run has left, from one packet to
        the next.
        """
        translations = list(wanted)
        earlier = self._present()
        awake = {table.name for _, table, is_dormant in earlier if not is_dormant}
        name = next(f"{PREFIX}{n}" for n in range(len(awake) + 1) if f"{PREFIX}{n}" not in awake)
        # A run that ended ahead of its transaction leaves tables asleep, perhaps of this name.
        self._delete(table for _, table, is_dormant in earlier if is_dormant)
        for own in translations:
            self._runner.run(("nft", "-f", "-"), _text(self._table.lines(own, name, asleep=True)))
        contents = {
            own.family: {
                set_name: encode(own.family, set_name, elements, self._marks)
                for set_name, elements in sets(own).items()
            }
            for own in translations
        }
        tables = [NftTable(own.family, name) for own in translations]

        def fill(transaction: Transaction) -> None:
            """The new tables take the place of the earlier ones, with all that they hold."""
            for table, of_family in zip(tables, contents.values(), strict=True):
                for set_name, elements in of_family.items():
                    if elements:
                        transaction.add(table, set_name, elements)
            for _, table, is_dormant in earlier:
                if not is_dormant:
                    transaction.delete_table(table)
            for table in tables:
                transaction.activate(table)

        self._commit_rules(tables, fill)
        # The kernel has it; whatever else has changed meanwhile is seen at the next look.
        self._generation = None
        self._installed = {
            own.family: _Installed(
                table,
                own.shape,
                own.standby,
                own.addresses,
                {
                    set_name: elements.fingerprint
                    for set_name, elements in contents[own.family].items()
                },
                self._learned(own, table),
            )
            for own, table in zip(translations, tables, strict=True)
        }

    def update(self, changes: Iterable[NatTableChange]) -> None:
        """Change elements, all in one transaction. Cost: linear in these, and in the frontends that
        a new standby has.
        """
        transaction = Transaction()
        contents: dict[Family, dict[str, int]] = {}
        differences = list(changes)
        for change in differences:
            installed = self._installed[change.family]
            contents[change.family] = sums = dict(installed.contents)
            for set_name, *elements in _differences(change, installed):
                removed, added = (
                    encode(change.family, set_name, some, self._marks) for some in elements
                )
                # Elements leave first: another one may come under the same key.
                if removed:
                    transaction.remove(installed.table, set_name, removed)
                if added:
                    transaction.add(installed.table, set_name, added)
                sums[set_name] += added.fingerprint - removed.fingerprint
        if transaction.steps:
            with self._one_transaction():
                self._tables.commit(transaction)
        for change in differences:
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
        missing = [
            f"{FAMILIES[family]} {installed.table.name}: {what}"
            for family, installed in self._installed.items()
            for what in self._missing(family, installed)
        ]
        self._generation = None if missing else generation
        return tuple(missing)

    def probe(self) -> None:
        """Raises `RulesError` when this kernel cannot do what the tables need. Leaves nothing, even
        of one that was killed.
        """
        # Another process that probes at this moment may delete them first.
        with suppress(RulesError):
            self._delete(self._forsaken())
        name = f"{PROBE_PREFIX}{os.getpid()}"
        self._runner.run(
            ("nft", "-f", "-"),
            _text(self._table.lines(NatTable(Family.IPV4), name, asleep=True)),
        )
        table = NftTable(Family.IPV4, name)
        try:
            self._commit_rules([table])
        finally:
            self._delete([table])

    def remove(self) -> None:
        """Take the tables away, if there are any."""
        self._installed = {}
        self._delete([*(table for _, table, _ in self._present()), *self._forsaken()])

    def is_present(self) -> bool:
        """Whether there is a table of ours, whoever has made it."""
        return bool(self._present())

    def render(self, wanted: Iterable[NatTable]) -> str:
        """What would be put into the kernel where there is nothing of ours."""
        head = (
            "# nft -f -, and by netlink the rules of queue-bypass, queue-no-bypass and dnat-by-mark"
        )
        return _text(
            [head, *(line for one in wanted for line in self._table.lines(one, f"{PREFIX}0"))]
        )

    def _learned(self, own: NatTable, table: NftTable) -> dict[str, int]:
        """What the kernel says of each chain. For a shape that was installed before it is what it
        said then: what others change between writing and reading must not count as ours.
        """
        before = self._installed.get(own.family)
        if before is not None and before.shape == own.shape:
            return before.rules
        return self._tables.rules(table)

    def _commit_rules(
        self, tables: list[NftTable], fill: Callable[[Transaction], None] = lambda _: None
    ) -> None:
        """Commit the rules of these tables which nft cannot write, and what `fill` adds to them."""
        for is_native in (True, False):
            transaction = Transaction()
            for table in tables:
                self._append_rules(transaction, table, is_native)
            fill(transaction)
            try:
                self._tables.commit(transaction)
            except RulesError:
                # Many kernels have only one of the two ways to queue.
                if not is_native:
                    raise
            else:
                return

    def _append_rules(self, transaction: Transaction, table: NftTable, is_native: bool) -> None:
        first, last = self._queues
        for chain, may_bypass in QUEUE_CHAINS.items():
            queue = NftRule.queue(first, last - first + 1, bypass=may_bypass, native=is_native)
            transaction.append(table, chain, queue)
        marks = self._marks
        keep = (marks.flow | marks.backend) ^ 0xFFFFFFFF
        transaction.append(
            table, "dnat-by-mark", NftRule.dnat_by_mark("backends", key=marks.backend, keep=keep)
        )

    def _delete(self, tables: Iterable[NftTable]) -> None:
        transaction = Transaction()
        for table in tables:
            transaction.delete_table(table)
        self._tables.commit(transaction)

    @contextmanager
    def _one_transaction(self) -> Iterator[None]:
        """The block's only one. If it was the kernel's only one too, our tables are still as they
        should be.
        """
        before = self._tables.generation()
        yield
        is_alone = before == self._generation and self._tables.generation() == before + 1
        self._generation = before + 1 if is_alone else None

    def _present(self) -> list[tuple[Family, NftTable, bool]]:
        """Every table of ours with its family, and whether it sleeps."""
        return [
            (family, NftTable(family, name), is_dormant)
            for family in Family
            for name, is_dormant in self._tables.names(family)
            if name.startswith(PREFIX)
        ]

    def _forsaken(self) -> list[NftTable]:
        """Tables of probes whose processes are no more."""
        names = [name for name, _ in self._tables.names(Family.IPV4)]
        return [
            NftTable(Family.IPV4, name)
            for name in names
            if name.startswith(PROBE_PREFIX) and not _is_running(name.removeprefix(PROBE_PREFIX))
        ]

    def _missing(self, family: Family, installed: "_Installed") -> Iterator[str]:
        table = installed.table
        if (table.name, False) not in self._tables.names(family):
            yield "the table"
            return
        rules = self._tables.rules(table)
        for name in sorted(installed.rules.keys() | rules.keys()):
            if rules.get(name) != installed.rules.get(name):
                yield f"chain {name}"
        for name, fingerprint in installed.contents.items():
            if self._tables.fingerprint(table, name) != fingerprint % FINGERPRINTS:
                yield f"elements of {name}"


@dataclass(slots=True)
class _Installed:
    """A table in the kernel."""

    table: NftTable
    shape: object
    standby: Standby
    addresses: frozenset[str]
    contents: dict[str, int]
    """By map or set, the fingerprint of what it is to hold."""
    rules: dict[str, int]
    """What the kernel says of each chain."""


def _is_running(process: str) -> bool:
    return process.isdecimal() and Path(f"/proc/{process}").exists()


def _differences(
    change: NatTableChange, before: _Installed
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
