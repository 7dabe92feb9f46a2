"""The datapaths as the control loop sees them: the kernel's side of one engine."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from kbe_nat._native import BackendIdMap, ConntrackEntry, Engine, Flow
from kbe_nat.datapath.conntrack_settings import ConntrackSettings
from kbe_nat.drivers.thread import NativeThread
from kbe_nat.policy.delta import PlanConsumer
from kbe_nat.rules.rule import DatapathKind, Marks


class Datapath(PlanConsumer, Protocol):
    """The kernel's side, which a `Controller` keeps in step with its engine. It takes plans as a
    `PlanConsumer`, which asks nothing of the kernel; the other methods bring the kernel up to the
    newest plan, and raise `RulesError` when it refuses. The next change, or `repair`, tries a
    refused one again.
    """

    @property
    def kind(self) -> DatapathKind:
        """Which packets come to the queues."""
        ...

    @property
    def backend_ids(self) -> BackendIdMap | None:
        """By which queues tell the kernel where a flow goes; None when they translate packets
        themselves.
        """
        ...

    def prepare(self) -> None:
        """Make ready for decisions by the newest plan, before the engine takes any."""
        ...

    def install(self) -> None:
        """Put everything into the kernel, in place of what an earlier run has left."""
        ...

    def update(self) -> None:
        """As `install`, at the price of what has changed; the engine decides by the newest plan
        now.
        """
        ...

    def repair(self) -> tuple[str, ...]:
        """Put back rules that other programs have taken out of the kernel, and return these."""
        ...

    def remove(self) -> None:
        """Take everything of ours out of the kernel."""
        ...

    def is_present(self) -> bool:
        """Whether rules of this kind are in the kernel, of this run or an earlier one."""
        ...

    def render(self) -> str:
        """The input of each command by which `install` would fill the kernel."""
        ...

    def refresh(self) -> None:
        """Bring the engine's flows up to date."""
        ...

    def counters(self) -> dict[str, int]:
        """Counters of this datapath alone, by name."""
        ...

    def uncached_devices(self) -> dict[str, str]:
        """Devices whose packets all go the kernel's way although there is a cache of flows, each
        with the reason.
        """
        ...

    def set_conntrack(self, settings: ConntrackSettings) -> list[str]:
        """Let the kernel track connections so, where it does. Returns what it has refused."""
        ...

    def render_conntrack(self, settings: ConntrackSettings) -> str:
        """What `set_conntrack` would set first, for people; empty where nothing differs."""
        ...

    def flow_notes(self, packet: bytes) -> list[tuple[str, str]]:
        """What is to be said about the flow of an IP packet beyond the engine's explanation: steps
        with their results.
        """
        ...

    def is_chosen_by_kernel(self, packet: bytes) -> bool:
        """Whether the kernel chooses the backend of a connection that this IP packet opens, and the
        engine does not.
        """
        ...

    def counts_bytes(self) -> bool:
        """Whether the packets and bytes of flows are counted."""
        ...

    def entries(
        self, flows: Sequence[Flow], *, ended: bool = False
    ) -> Sequence[ConntrackEntry | None]:
        """The kernel's entry of each of these flows; None where it has none. Of flows that have
        ended those that it had, if `watch_flows` was on. Cost: a question to the kernel for each
        that it may have. Raises `ConntrackError`.
        """
        ...

    def watch_flows(self, is_watched: bool) -> None:
        """From now on tell the engine of changes of states as they happen, and keep the kernel's
        entries of flows that end; or do so no more. Raises `RulesError`.
        """
        ...

    def following(self, engine: Engine) -> AbstractContextManager[Sequence[NativeThread]]:
        """For as long as the block runs, the engine hears what becomes of flows; yields the threads
        that this takes.
        """
        ...


@dataclass(frozen=True, slots=True)
class Diversion:
    """Where packets come to queues, which every datapath begins with."""

    queues: tuple[int, int]
    """The first and the last number."""
    marks: Marks = field(default_factory=Marks)
