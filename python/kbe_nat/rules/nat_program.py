"""The kernel's NAT: a table per family with a few rules, and maps that grow with the Services.

Theory of operation. `nft` looks at every element of every table before it changes one, and cannot
write two of our rules. So it makes a table only, and everything else goes to the kernel by netlink:

- *Made asleep*: nft creates a dormant, empty table under a name that is not in use. Its chains see
  no packet yet, and its rules can be completed step by step.
- *Completed*: a small transaction appends the rules that nft cannot write. The kernel may refuse
  one of the two ways in which that is tried, which would cost much in one with all elements.
- *Filled, woken, exchanged*: one transaction adds all elements, deletes the tables of earlier runs
  and activates the new ones. A packet meets either the old tables or the new ones, whole. The
  kernel drops the packets that wait in queues when it unregisters hooks, so a daemon has room in
  its queue only once its tables are installed.
- *Changed*: later changes are elements, all in one transaction, with a rule for each class of
  frontends that comes with them. A change of other rules (`NatTable.shape`) needs another table,
  and another exchange.
- *Compared*: the kernel's generation grows by one with each transaction of any program. While it
  stays, no table has changed and `missing` costs one message. After a transaction of ours that was
  the only one, the tables are as they should be too. Otherwise the chains are compared with their
  first listing, and every set with the sum of its elements' fingerprints; each change adjusts it.

Tables are told by the beginning of their names, so those of a run that crashed, or of another
version with other chains, are found and replaced.
"""

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kbe_nat._native import NftRule, NftTable, NftTables, Transaction
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.policy.plan import BackendAddress
from kbe_nat.rules.commands import Runner
from kbe_nat.rules.frontends import ElementChange
from kbe_nat.rules.inherited_slots import InheritedSlots, read_slots
from kbe_nat.rules.nat_sets import (
    Elements,
    NatSet,
    backend_elements,
    encode,
    quiet_elements,
    standby_elements,
)
from kbe_nat.rules.nat_table import (
    CHOICE_CHAIN,
    FAMILIES,
    INVALID_COUNTER,
    NatTable,
    NatTableWriter,
    sets,
)
from kbe_nat.rules.rule import TAG, Marks
from kbe_nat.rules.slots import SlotClass
from kbe_nat.rules.standby import StandbyChange

PREFIX: Final = f"{TAG}-translation-"
"""The beginning of every table's name. For a moment a family has two, while one replaces the
other.
"""
PROBE_PREFIX: Final = f"{TAG}-probe-"
FINGERPRINTS: Final = 1 << 64
"""Every fingerprint is less than this."""
QUEUE_CHAINS: Final = {"queue-bypass": True, "queue-no-bypass": False}
"""Chains whose packets go to the queue, and whether they go on while no process listens."""
DNAT_CHAIN: Final = "dnat-by-mark"


@dataclass(frozen=True, slots=True)
class NatTableChange:
    """A change of one family's elements."""

    family: Family
    added: Mapping[BackendAddress, int] = field(default_factory=dict)
    """New backends, with their ids."""
    removed: Mapping[BackendAddress, int] = field(default_factory=dict)
    """Backends that no port has any more."""
    standby: StandbyChange = field(default_factory=StandbyChange)
    choice_classes: frozenset[SlotClass] = frozenset()
    """Classes that have rules in `choice-dnat` from now on, if they have none yet."""
    addresses: ElementChange[str] = field(default_factory=ElementChange)
    hairpins: ElementChange[str] = field(default_factory=ElementChange)
    tells_updates: bool | None = None
    """Whether the kernel tells from now on of changes of flows for which it chooses; None: as
    before.
    """

    def elements(self) -> Iterator[tuple[NatSet, Elements, Elements]]:
        """By map or set, the elements to be removed and those to be added."""
        yield NatSet.BACKENDS, backend_elements(self.removed), backend_elements(self.added)
        removed, added = map(standby_elements, (self.standby.removed, self.standby.added))
        for name in removed:
            # A frontend whose backend alone changes stays in its set.
            yield name, _except(removed[name], added[name]), _except(added[name], removed[name])
        for name, change in (
            (NatSet.HAIRPINS, self.hairpins),
            (NatSet.ADDRESSES, self.addresses),
        ):
            yield name, dict.fromkeys(change.removed), dict.fromkeys(change.added)
        if self.tells_updates is not None:
            before, after = map(quiet_elements, (not self.tells_updates, self.tells_updates))
            yield NatSet.CHOICE_QUIET, before, after


class NatProgram:
    """The tables in the kernel. All methods raise `RulesError`."""

    def __init__(
        self,
        runner: Runner,
        tables: NftTables,
        marks: Marks,
        queues: tuple[int, int] = (0, 0),
        hash_seed: int = 0,
    ) -> None:
        """`runner` runs nft in the network namespace of `tables`; `queues` are the first and the
        last number, and a packet goes to the queue of the processor that carries it; `hash_seed` is
        that of tables, unless there are some.
        """
        self.hash_seed = hash_seed
        self._runner = runner
        self._tables = tables
        self._marks = marks
        self._queues = queues
        self._writer = NatTableWriter(marks, queues)
        self._installed: dict[Family, _Installed] = {}
        self._generation: int | None = None
        """The kernel's, when our tables were last as they should be; None: not known."""
        self._commits = 0
        """Transactions of ours that the kernel took, here or by nft."""
        self._dropped = 0
        """Invalid packets that tables of ours have dropped which are gone."""

    @property
    def shapes(self) -> dict[Family, object]:
        """The shape of the installed tables, as of `NatTable.shape`."""
        return {family: installed.shape for family, installed in self._installed.items()}

    def table_names(self) -> dict[Family, str]:
        """The names of the installed tables."""
        return {family: installed.table.name for family, installed in self._installed.items()}

    def invalid_dropped(self) -> int:
        """Packets that belonged to no connection, and that the tables have dropped so far. Cost: a
        message for each.
        """
        tables = [installed.table for installed in self._installed.values()]
        counts = (self._tables.counted_packets(table, INVALID_COUNTER) for table in tables)
        return self._dropped + sum(count or 0 for count in counts)

    def inherit(self, classes: Iterable[SlotClass]) -> InheritedSlots:
        """Take over the seed of the tables in force. Returns the slots of frontends of these
        classes there. Cost: linear in all slots.
        """
        slots: InheritedSlots = {}
        for family, table, is_dormant in self._present_tables():
            # Tables of earlier versions have no seed, and slots that another one leads to.
            seed = None if is_dormant else self._tables.contents(table, NatSet.HASH_SEED)
            if seed:
                self.hash_seed = int.from_bytes(seed[:4], sys.byteorder)
                contents = self._tables.contents(table, NatSet.STANDBY_SLOTS) or b""
                slots[family] = read_slots(family, contents, classes)
        return slots

    def install(self, wanted: Iterable[NatTable]) -> None:
        """Make these our tables, in place of any that an earlier run has left, from one packet to
        the next.
        """
        wanted = list(wanted)
        others = self._tables.generation() - self._commits
        earlier = self._present_tables()
        awake = {table.name for _, table, is_dormant in earlier if not is_dormant}
        # The tables in force keep their name until the exchange, so the new ones need another.
        name = next(f"{PREFIX}{n}" for n in range(len(awake) + 1) if f"{PREFIX}{n}" not in awake)
        # A run that ended ahead of its transaction leaves tables asleep, perhaps of this name.
        self._delete(table for _, table, is_dormant in earlier if is_dormant)
        for nat_table in wanted:
            self._create(nat_table, name)
        contents = {
            nat_table.family: {
                set_name: encode(nat_table.family, set_name, elements, self._marks)
                for set_name, elements in sets(nat_table).items()
            }
            for nat_table in wanted
        }
        tables = [NftTable(nat_table.family, name) for nat_table in wanted]
        self._commit_rules(tables)
        classes = Transaction()
        for nat_table, table in zip(wanted, tables, strict=True):
            if nat_table.choice:
                self._insert_classes(classes, table, nat_table.choice.classes)
        self._commit(classes)
        # The new tables, with all their elements, take the place of the earlier ones.
        transaction = Transaction()
        for table, of_family in zip(tables, contents.values(), strict=True):
            for set_name, elements in of_family.items():
                if elements:
                    transaction.add(table, set_name, elements)
        for _, table, is_dormant in earlier:
            if not is_dormant:
                transaction.delete_table(table)
        for table in tables:
            transaction.activate(table)
        dropped = self.invalid_dropped()
        self._commit(transaction)
        self._dropped = dropped
        # Only now: when the kernel refuses the transaction, the earlier tables are still in force.
        self._installed = {
            nat_table.family: _Installed(
                table,
                nat_table.shape,
                nat_table.choice.classes if nat_table.choice else frozenset(),
                {
                    set_name: elements.fingerprint
                    for set_name, elements in contents[nat_table.family].items()
                },
                self._read_back(nat_table, table),
            )
            for nat_table, table in zip(wanted, tables, strict=True)
        }
        # Unless other programs have changed something meanwhile, it need not be compared: that
        # takes half a second with 150,000 backends.
        generation = self._tables.generation()
        self._generation = generation if generation - self._commits == others else None

    def update(self, changes: Iterable[NatTableChange]) -> None:
        """Change elements, and add the rules that these need, all in one transaction. Cost: linear
        in these; a new rule costs a look at all rules.
        """
        transaction = Transaction()
        contents: dict[Family, dict[NatSet, int]] = {}
        changes = list(changes)
        grown: dict[Family, frozenset[SlotClass]] = {}
        for change in changes:
            installed = self._installed[change.family]
            if classes := change.choice_classes - installed.choice_classes:
                grown[change.family] = installed.choice_classes | classes
                self._insert_classes(transaction, installed.table, classes)
            # The sums are adjusted in a copy. The kernel takes a transaction whole or not at all,
            # so after a refusal the old ones are still true.
            contents[change.family] = sums = dict(installed.contents)
            for set_name, former, new in change.elements():
                # A table whose kernel draws nothing lacks the map of slots.
                if not (former or new):
                    continue
                removed = encode(change.family, set_name, former, self._marks)
                added = encode(change.family, set_name, new, self._marks)
                # Elements leave first: another one may come under the same key.
                if removed:
                    transaction.remove(installed.table, set_name, removed)
                if added:
                    transaction.add(installed.table, set_name, added)
                sums[set_name] += added.fingerprint - removed.fingerprint
        if grown:
            self._commit_classes(transaction, [self._installed[family] for family in grown])
        elif transaction.steps:
            with self._sole_transaction():
                self._commit(transaction)
        for change in changes:
            self._installed[change.family].contents = contents[change.family]
        for family, classes in grown.items():
            self._installed[family].choice_classes = classes

    def missing(self) -> tuple[str, ...]:
        """The tables, chains and sets that are not in the kernel as they should be. Cost: one
        message, unless a program has changed a table since the last comparison.
        """
        if not self._installed:
            return ()
        generation = self._tables.generation()
        if generation == self._generation:
            return ()
        missing = [
            f"{FAMILIES[family]} {installed.table.name}: {part}"
            for family, installed in self._installed.items()
            for part in self._missing_parts(family, installed)
        ]
        self._generation = None if missing else generation
        return tuple(missing)

    def probe(
        self, slot_classes: tuple[SlotClass, ...] = (), *, drops_invalid: bool = False
    ) -> None:
        """Raises `RulesError` when this kernel cannot do what the tables need, cannot draw the
        slots of these classes, or cannot tell which invalid packets would be forwarded. Leaves
        nothing, and removes what a probe that was killed has left.
        """
        # Another process that probes at this moment may delete them first.
        with suppress(RulesError):
            self._delete(self._orphaned_probes())
        name = f"{PROBE_PREFIX}{os.getpid()}"
        probed = NatTable(Family.IPV4, slot_classes=slot_classes, drops_invalid=drops_invalid)
        self._create(probed, name)
        table = NftTable(Family.IPV4, name)
        try:
            self._commit_rules([table])
        finally:
            self._delete([table])

    def remove(self) -> None:
        """Delete the tables, if there are any."""
        self._installed = {}
        self._delete([*(table for _, table, _ in self._present_tables()), *self._orphaned_probes()])

    def is_present(self) -> bool:
        """Whether there is a table of ours, of any run."""
        return bool(self._present_tables())

    def present(self) -> list[str]:
        """The tables of any run, as nft names them."""
        return [
            f"table {FAMILIES[family]} {table.name}" for family, table, _ in self._present_tables()
        ]

    def render(self, wanted: Iterable[NatTable]) -> str:
        """The text of what `install` would put into a kernel without tables of ours."""
        rules = ", ".join((*QUEUE_CHAINS, DNAT_CHAIN, f"classes of {CHOICE_CHAIN}"))
        return _text(
            (
                f"# nft -f -, and by netlink the rules of {rules}",
                *(line for table in wanted for line in self._writer.lines(table, f"{PREFIX}0")),
            )
        )

    def _create(self, nat_table: NatTable, name: str) -> None:
        """Make a table that is asleep and empty."""
        lines = self._writer.lines(nat_table, name, asleep=True)
        self._runner.run(("nft", "-f", "-"), _text(lines))
        self._commits += 1

    def _commit(self, transaction: Transaction) -> None:
        self._tables.commit(transaction)
        # Without steps nothing is sent.
        self._commits += bool(transaction.steps)

    def _insert_classes(
        self, transaction: Transaction, table: NftTable, classes: Iterable[SlotClass]
    ) -> None:
        # Each goes ahead of those before.
        for slot_class in sorted(classes, reverse=True):
            rule = NftRule.dnat_by_slot(
                NatSet.STANDBY_SLOTS,
                size=slot_class.size,
                first=slot_class.first,
                hash_seed=self.hash_seed if slot_class.is_by_source else None,
            )
            transaction.insert(table, CHOICE_CHAIN, rule)

    def _commit_classes(self, transaction: Transaction, tables: Collection["_Installed"]) -> None:
        """Commit a transaction that adds rules to these tables."""
        before = self._tables.generation()
        is_known = not self.missing()
        self._commit(transaction)
        chains = [self._tables.rules(installed.table) for installed in tables]
        # A change of another program meanwhile must not pass for ours: then the chains stay as
        # they were before, are missed, and come with new tables.
        is_alone = is_known and self._tables.generation() == before + 1
        if is_alone:
            for installed, present in zip(tables, chains, strict=True):
                installed.chains = present
        self._generation = before + 1 if is_alone else None

    def _read_back(self, nat_table: NatTable, table: NftTable) -> dict[str, int]:
        """The kernel's listing of each chain. The first listing of a shape counts for its later
        tables too: a foreign change between writing and reading must not pass for ours.
        """
        before = self._installed.get(nat_table.family)
        classes = nat_table.choice.classes if nat_table.choice else frozenset()
        if before and (before.shape, before.choice_classes) == (nat_table.shape, classes):
            return before.chains
        return self._tables.rules(table)

    def _commit_rules(self, tables: list[NftTable]) -> None:
        """Append the rules that nft cannot write."""
        # The kernel has `queue` as an expression of nf_tables and as the NFQUEUE target of
        # x_tables.
        for is_native in (True, False):
            transaction = Transaction()
            for table in tables:
                self._append_rules(transaction, table, is_native)
            try:
                self._commit(transaction)
            except RulesError:
                # Many kernels have only one of the two ways to queue.
                if not is_native:
                    raise
            else:
                return

    def _append_rules(self, transaction: Transaction, table: NftTable, is_native: bool) -> None:
        first, last = self._queues
        for chain, has_bypass in QUEUE_CHAINS.items():
            queue = NftRule.queue(
                first,
                last - first + 1,
                bypass=has_bypass,
                fanout=first < last,
                native=is_native,
            )
            transaction.append(table, chain, queue)
        marks = self._marks
        # The mark's other bits belong to other programs (a CNI, kube-proxy), and stay on the
        # packet.
        keep = (marks.flow | marks.backend) ^ 0xFFFFFFFF
        dnat = NftRule.dnat_by_mark(NatSet.BACKENDS, key=marks.backend, keep=keep)
        transaction.append(table, DNAT_CHAIN, dnat)

    def _delete(self, tables: Iterable[NftTable]) -> None:
        transaction = Transaction()
        for table in tables:
            transaction.delete_table(table)
        self._commit(transaction)

    @contextmanager
    def _sole_transaction(self) -> Iterator[None]:
        """The block commits one transaction. If the kernel took no other one meanwhile, our tables
        are still as they should be.
        """
        before = self._tables.generation()
        yield
        # Another program's transaction would raise the generation once more, and may have changed
        # our tables.
        is_alone = before == self._generation and self._tables.generation() == before + 1
        self._generation = before + 1 if is_alone else None

    def _present_tables(self) -> list[tuple[Family, NftTable, bool]]:
        """Every table of ours with its family, and whether it sleeps."""
        return [
            (family, NftTable(family, name), is_dormant)
            for family in Family
            for name, is_dormant in self._tables.names(family)
            if name.startswith(PREFIX)
        ]

    def _orphaned_probes(self) -> list[NftTable]:
        """Tables of probes whose processes have ended."""
        names = [name for name, _ in self._tables.names(Family.IPV4)]
        return [
            NftTable(Family.IPV4, name)
            for name in names
            if name.startswith(PROBE_PREFIX) and not _is_running(name.removeprefix(PROBE_PREFIX))
        ]

    def _missing_parts(self, family: Family, installed: "_Installed") -> Iterator[str]:
        table = installed.table
        # A dormant table counts as missing: `nft` can put a table to sleep, and its chains see
        # nothing then.
        if (table.name, False) not in self._tables.names(family):
            yield "the table"
            return
        chains = self._tables.rules(table)
        for name in sorted(installed.chains.keys() | chains.keys()):
            if chains.get(name) != installed.chains.get(name):
                yield f"chain {name}"
        for name, fingerprint in installed.contents.items():
            if self._tables.fingerprint(table, name) != fingerprint % FINGERPRINTS:
                yield f"elements of {name}"


@dataclass(slots=True)
class _Installed:
    """A table in the kernel."""

    table: NftTable
    shape: object
    choice_classes: frozenset[SlotClass]
    """Those that have rules in `choice-dnat`."""
    contents: dict[NatSet, int]
    """By map or set, the fingerprint of its elements."""
    chains: dict[str, int]
    """By chain, a number that stands for the kernel's listing of it."""


def _is_running(process: str) -> bool:
    return process.isdecimal() and Path(f"/proc/{process}").exists()


def _except(elements: Elements, excluded: Elements) -> Elements:
    """Elements that differ from the excluded ones in key or value."""
    return {
        key: value
        for key, value in elements.items()
        if key not in excluded or excluded[key] != value
    }


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
