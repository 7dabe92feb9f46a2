"""Hands Services over to the kernel and back, where `--choice auto` or their annotation asks for
it: looks at the queues and counters for `kbe_nat.control.auto_choice`.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from kbe_nat.control.auto_choice import AutoChoice, Handover
from kbe_nat.control.controller import Controller
from kbe_nat.drivers.native import QueueCounters, queue_counters
from kbe_nat.model import Choice
from kbe_nat.policy.plan import PlannedPort
from kbe_nat.rules.standby import is_able_to_choose


class Choices:
    """A task of the daemon's main thread."""

    def __init__(
        self,
        controller: Controller,
        default: Choice,
        queues: range,
        counters: Callable[[], dict[int, QueueCounters]] = queue_counters,
    ) -> None:
        """`default` is the choice of Services that do not say theirs; `queues` are the numbers of
        ours.
        """
        self._controller = controller
        self._default = default
        self._queues = queues
        self._counters = counters
        self._auto = AutoChoice()

    def look(self) -> None:
        """Hand over what has to be. Raises `RulesError` when the kernel refuses it. Cost: a line of
        the kernel's for each queue, and a look at all Services while packets wait.
        """
        now = time.monotonic()
        counters = self._counters()
        waiting = sum(counters[number].waiting for number in self._queues if number in counters)
        if not self._auto.is_due(waiting, now):
            return
        names = self._auto_ports()
        flows = dict.fromkeys(names, 0)
        for service in self._controller.engine.stats().services if names else ():
            if service.name in names:
                flows[service.name] += service.flows
        handovers = self._auto.look(now, waiting, flows)
        if not handovers:
            return
        for handover in handovers:
            LOG.info("%s", describe_handover(handover, waiting))
        self._controller.let_kernel_choose(self._auto.ports)

    def _auto_ports(self) -> set[str]:
        """Ports that may go to the kernel, and those that did."""
        return {
            port.name
            for port in self._controller.plan.ports
            if self._is_open(port) and is_able_to_choose(port)
        }

    def _is_open(self, port: PlannedPort) -> bool:
        # Of ports that went to the kernel the plan says so.
        is_handed = port.name in self._auto.ports and port.choice is Choice.KERNEL
        return is_handed or (port.choice or self._default) is Choice.AUTO


def describe_handover(handover: Handover, waiting: int) -> str:
    """For the log."""
    if handover.to_kernel:
        return (
            f"{handover.port}: the kernel chooses from now on, by {handover.rate:.0f} new"
            f" connections a second; {waiting} packets wait for the engine"
        )
    return f"{handover.port}: the engine chooses again, by {handover.rate:.0f} a second"


LOG: Final = logging.getLogger("kbe_nat.daemon")
