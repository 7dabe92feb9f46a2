"""kbe-nat's datapaths, and the queue package of PyPI with our engine or in plain Python."""

import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from typing import Final

from kbe_nat.datapath.detect import choose, spread_refusal
from kbe_nat.errors import PlaygroundError, RulesError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.serving import KERNEL_CHOICE, OFFLOADING, Change, queues_of
from kbe_nat.lab.live.ways.kernel import IPTABLES, clear_iptables
from kbe_nat.lab.live.ways.programs import Program
from kbe_nat.lab.live.ways.way import Served, first_answer
from kbe_nat.model import Snapshot
from kbe_nat.playground.namespaces import Namespace, inside
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.installer import InstallerName, probe
from kbe_nat.rules.rule import DatapathKind

PACKAGE: Final = "netfilterqueue"


class Driver:
    """A process with an engine, its rules and its queue."""

    protocols = frozenset(("tcp", "udp"))

    def __init__(
        self, name: str, *, families: frozenset[Family] = frozenset(Family), is_static: bool = False
    ) -> None:
        self.name = name
        self.families = families
        self.is_static = is_static

    def missing(self) -> str | None:
        """See `Way`."""
        if self.name.startswith(PACKAGE) and find_spec(PACKAGE) is None:
            return f"the package {PACKAGE} is not installed: pip install kbe-nat[{PACKAGE}]"
        try:
            _probe(self.name)
        except (PlaygroundError, RulesError) as error:
            return str(error)
        return None

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        command = (sys.executable, "-m", "kbe_nat.lab.live.serving", self.name)
        try:
            with Program(network.node, command, ends_with_input=True) as program:
                started, peak = _tell(program, objects)
                took = first_answer(network, objects) - started
                served = _Engine(network, program, took, peak, queues_of(self.name))
                if self.name == DatapathKind.CACHED:
                    served.settling_seconds = CACHED_SECONDS
                yield served
                program.check()
        finally:
            # Empty chains of iptables, which stay behind its rules, would cost the next way a hook.
            for family in Family:
                if shutil.which(f"{IPTABLES[family]}-restore"):
                    clear_iptables(network.node, family)


class _Engine(Served):
    def __init__(
        self,
        network: Network,
        program: Program,
        programming_seconds: float,
        peak_mb: float,
        queues: range,
    ) -> None:
        super().__init__(network, programming_seconds, peak_mb)
        self.queues = queues
        self._program = program
        self.pids = (program.pid,)

    def change(self, objects: Snapshot) -> float:
        service = objects.services[-1].key
        began, _ = _tell(self._program, Change(service, objects.slices[service]))
        return began


def _tell(program: Program, message: Snapshot | Change) -> tuple[float, float]:
    """When the process had the message, and its memory in MB."""
    content = pickle.dumps(message)
    program.send(len(content).to_bytes(8) + content)
    words = program.line().split()
    return float(words[0]), float(words[1])


def _probe(kind: str) -> None:
    """Raises `RulesError` when this kernel does not take the rules of a driver; asks it in a
    namespace that is gone afterwards. Raises `PlaygroundError` without the privilege.
    """
    with Namespace(f"kbe-lab-probe-{os.getpid()}.{next(PROBES)}") as namespace:
        commands = Commands(namespace.prefix)
        if kind not in OFFLOADING:
            probe(InstallerName.AUTO, commands)
            return
        datapath = DatapathKind.CACHED if kind == DatapathKind.CACHED else DatapathKind.FIRST_PACKET
        inside(namespace.path, lambda: choose(datapath, commands))
        refusal = inside(namespace.path, lambda: spread_refusal(commands))
        if kind == KERNEL_CHOICE and refusal:
            raise RulesError(refusal)


PROBES: Final = count()
CACHED_SECONDS: Final = 2.5
"""The cache takes connections that are a second old, and datagrams after two seconds of answers;
both with their next packets.
"""
