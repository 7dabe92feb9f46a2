"""`c-nfq` as a way of the lab: the least that a queue costs, by a C program that translates UDP of
IPv4 in one direction.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from benches.harness.processes import ROOT, compile_program
from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import NODE_ADDRESSES, Network
from kbe_nat.lab.live.objects import PODS
from kbe_nat.lab.live.serving import QUEUE
from kbe_nat.lab.live.ways.programs import Program, not_installed
from kbe_nat.lab.live.ways.way import Served
from kbe_nat.model import Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.policy.planner import plan
from kbe_nat.rules.commands import Commands
from kbe_nat.rules.diversion import rule_sets
from kbe_nat.rules.installer import InstallerName, installation, probe
from kbe_nat.rules.rule import Marks


class Yardstick:
    """The rules and the mark are the product's, so the kernel has the same work. Nothing answers:
    only floods can be measured.
    """

    name = "c-nfq"
    protocols = frozenset(("udp",))
    families = frozenset((Family.IPV4,))
    is_static = True

    def missing(self) -> str | None:
        """See `Way`."""
        return not_installed("cc", "gcc")

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        program = compile_program(ROOT / "benches/yardstick/nfq.c", "nfq")
        if program is None:
            raise LabError("c-nfq: there is no C compiler")
        command = (str(program), str(QUEUE), PODS[Family.IPV4][0], hex(Marks().flow))
        rules = rule_sets(plan(objects, Options(node_addresses=NODE_ADDRESSES)), (QUEUE, QUEUE))
        installer, _ = probe(InstallerName.AUTO, Commands(network.node.prefix))
        with Program(network.node, command) as process, installation(installer, rules):
            if process.line() != "ready":
                raise LabError("c-nfq does not start")
            served = Served(network, 0.0)
            served.queues, served.pids = (QUEUE,), (process.pid,)
            yield served
