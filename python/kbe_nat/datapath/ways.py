"""The two datapaths: what the kernel must know, how verdicts look, and where the ends of flows come from.

Both are in front of the same engine. `EveryPacket`: the engine translates every packet. `FirstPacket`: it decides
about the first packet of a flow, and the kernel translates all of them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from kbe_nat._native import BackendNumbers, Engine, FlowWatch
from kbe_nat.datapath.thread import NativeThread
from kbe_nat.policy import Plan
from kbe_nat.rules import Backend, Marks, RuleSet, Way, families, rule_sets
from kbe_nat.rules.execution import Runner
from kbe_nat.rules.numbering import Numbering
from kbe_nat.rules.standby import OnDeath, Standby, all_backends, standby
from kbe_nat.rules.translation import Translation, Translations


class Datapath(Protocol):
    """What a `Controller` keeps in step with its engine. Methods about the kernel raise `RulesError`."""

    @property
    def way(self) -> Way:
        """Which packets come to the queues."""
        ...

    @property
    def numbers(self) -> BackendNumbers | None:
        """By which queues tell the kernel where a flow goes; None when they translate packets themselves."""
        ...

    def prepare(self, plan: Plan) -> None:
        """Make ready for decisions by this plan, before the engine takes any."""
        ...

    def install(self, plan: Plan) -> None:
        """Put everything into the kernel, in place of what an earlier run has left."""
        ...

    def update(self, plan: Plan) -> None:
        """As `install`, at the price of what has changed; the engine decides by this plan now."""
        ...

    def missing(self) -> tuple[str, ...]:
        """What is not in the kernel as it should be."""
        ...

    def remove(self) -> None:
        """Take everything of ours out of the kernel."""
        ...

    def render(self, plan: Plan) -> str:
        """What `install` would put into the kernel, as the input of each command."""
        ...

    def refresh(self) -> None:
        """Bring the engine's flows up to date."""
        ...

    def following(self, engine: Engine) -> AbstractContextManager[NativeThread | None]:
        """For as long as the block runs, the engine hears what becomes of flows; yields the thread that tells it,
        if there is one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Diversion:
    """What both datapaths begin with: packets come to queues."""

    rules: Backend
    queues: tuple[int, int]
    """The first and the last number."""
    marks: Marks = field(default_factory=Marks)

    def rule_sets(self, plan: Plan, way: Way) -> tuple[RuleSet, ...]:
        """The rules for this plan."""
        return rule_sets(plan, self.queues, self.marks, way)


class EveryPacket:
    """A `Datapath` whose engine has the only connection tracking."""

    way = Way.EVERY_PACKET
    numbers = None

    def __init__(self, diversion: Diversion) -> None:
        self._diversion = diversion
        self._rules = diversion.rules

    def prepare(self, plan: Plan) -> None:
        """See `Datapath`: nothing."""

    def install(self, plan: Plan) -> None:
        """See `Datapath`."""
        self._rules.install(self._diversion.rule_sets(plan, self.way))

    def update(self, plan: Plan) -> None:
        """See `Datapath`."""
        self._rules.update(self._diversion.rule_sets(plan, self.way))

    def missing(self) -> tuple[str, ...]:
        """See `Datapath`."""
        return self._rules.missing()

    def remove(self) -> None:
        """See `Datapath`."""
        self._rules.remove()

    def render(self, plan: Plan) -> str:
        """See `Datapath`."""
        return self._rules.render(self._diversion.rule_sets(plan, self.way))

    def refresh(self) -> None:
        """See `Datapath`: they always are."""

    def following(self, engine: Engine) -> AbstractContextManager[NativeThread | None]:
        """See `Datapath`: it sees them itself."""
        return nullcontext()


class FirstPacket:
    """A `Datapath` whose flows the kernel carries."""

    way = Way.FIRST_PACKET

    def __init__(self, diversion: Diversion, runner: Runner, on_death: OnDeath = OnDeath.SERVE) -> None:
        """`runner` runs nft; `on_death` says what new connections meet when we are gone."""
        self.numbers = BackendNumbers(diversion.marks.index)
        self._diversion = diversion
        self._rules = diversion.rules
        self._translations = Translations(runner, diversion.marks)
        self._on_death = on_death
        self._numbering: dict[int, Numbering] = {}
        self._standby: dict[int, Standby] = {}
        self._watch: FlowWatch | None = None
        self._is_installed = False

    def prepare(self, plan: Plan) -> None:
        """See `Datapath`. New backends are known to the kernel before the engine chooses one of them."""
        is_new = False
        for number in families(plan):
            given = self._numbers_of(number).added(all_backends(plan, number))
            self.numbers.change([(address, port, own) for (address, port), own in given.items()], [])
            is_new |= bool(given)
        if is_new and self._is_installed:
            self._translations.update(self._translation(plan))

    def install(self, plan: Plan) -> None:
        """See `Datapath`."""
        self.prepare(plan)
        self._choose_standby(plan)
        self._translations.install(self._translation(plan))
        self._rules.install(self._diversion.rule_sets(plan, self.way))
        self._is_installed = True

    def update(self, plan: Plan) -> None:
        """See `Datapath`."""
        self._rules.update(self._diversion.rule_sets(plan, self.way))
        has_lost = False
        for number in families(plan):
            gone = self._numbers_of(number).dropped(all_backends(plan, number))
            self.numbers.change([], list(gone))
            has_lost |= bool(gone)
        self._choose_standby(plan)
        self._translations.update(self._translation(plan))
        if has_lost and self._watch:
            # Ends datagrams' flows and unanswered connections to those that left.
            self._watch.ask()

    def missing(self) -> tuple[str, ...]:
        """See `Datapath`."""
        return (*self._translations.missing(), *self._rules.missing())

    def remove(self) -> None:
        """See `Datapath`. Flows that the kernel carries go on."""
        self._is_installed = False
        self._rules.remove()
        self._translations.remove()

    def render(self, plan: Plan) -> str:
        """See `Datapath`."""
        self.prepare(plan)
        self._choose_standby(plan)
        rules = self._rules.render(self._diversion.rule_sets(plan, self.way))
        return self._translations.render(self._translation(plan)) + rules

    def refresh(self) -> None:
        """See `Datapath`: asks the kernel."""
        if self._watch:
            self._watch.refresh(REFRESH_SECONDS)

    @contextmanager
    def following(self, engine: Engine) -> Iterator[NativeThread | None]:
        """See `Datapath`: by the kernel's events, and looks at all its flows."""
        self._watch = FlowWatch(engine, self._diversion.marks.flow, socket_buffer=EVENT_BYTES)
        try:
            with NativeThread(self._watch, "flow watch") as thread:
                yield thread
        finally:
            self._watch = None

    def _numbers_of(self, number: int) -> Numbering:
        mask = self._diversion.marks.index
        return self._numbering.setdefault(number, Numbering(mask // (mask & -mask)))

    def _choose_standby(self, plan: Plan) -> None:
        self._standby = {
            number: standby(plan, number, self._on_death, self._standby.get(number, Standby()))
            for number in families(plan)
        }

    def _translation(self, plan: Plan) -> list[Translation]:
        return [
            Translation(number, dict(self._numbers_of(number).numbers), self._standby.get(number, Standby()))
            for number in families(plan)
        ]


REFRESH_SECONDS: Final = 2.0
EVENT_BYTES: Final = 16 << 20
"""Of events that wait for us: some 60,000."""
