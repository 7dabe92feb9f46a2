"""The main thread's rounds: each task that is due, then a wait for changes of the objects.

The main thread carries no packets. A task that fails logs that once, and has its next turn as
always. Before each task, and while a command runs, systemd hears that the daemon is alive.
"""

import time
from collections.abc import Sequence
from typing import Final

from kbe_nat.commands import GracePeriod
from kbe_nat.daemon.ending import Ending
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.systemd import Notifier, watchdog_seconds
from kbe_nat.daemon.tasks import Task
from kbe_nat.sources.source import Source


class Rounds:
    """Runs until the daemon is to end, or a thread that carries packets has ended."""

    def __init__(
        self,
        follow: Task,
        others: Sequence[Task],
        source: Source,
        liveness: Liveness,
        notifier: Notifier,
        ending: Ending,
    ) -> None:
        """`follow` takes over what has changed in `source`: a change gives it a turn of its own."""
        self.tasks = [follow, *others]
        self._follow = follow
        self._source = source
        self._liveness = liveness
        self._notifier = notifier
        self._ending = ending
        patience = watchdog_seconds()
        self._alive = Task(
            patience / ALIVE_PARTS if patience else None,
            self._notify_watchdog,
            "systemd cannot be told",
            "systemd is told again",
        )
        self._is_changed = False
        """The objects have changed while the main thread waited."""

    def run(self, grace: GracePeriod) -> None:
        """Commands of `grace` may take as long as their time limit. Raises what a thread that
        carries packets has failed of.
        """
        # One that takes long is no reason to be ended by systemd.
        grace.while_waiting = lambda: self._alive.run_if_due(time.monotonic())
        wait = Task(
            WAIT_SECONDS, self._wait, "changes are not heard of", "changes are heard of again"
        )
        while not self._ending.is_due:
            ended = self._liveness.failure()
            if ended is not None:
                if ended.failure:
                    raise ended.failure
                return
            for task in self.tasks:
                # Each of them may take as long as a command that hangs.
                self._alive.run_if_due(time.monotonic())
                task.run_if_due(time.monotonic())
            if not wait.run():
                time.sleep(WAIT_SECONDS)
            elif self._is_changed:
                self._follow.run()

    def _wait(self) -> None:
        self._is_changed = self._source.wait(WAIT_SECONDS)

    def _notify_watchdog(self) -> None:
        """Only while every thread turns: a daemon that hangs must be ended by its watchdog."""
        if self._liveness.is_turning():
            self._notifier.notify("WATCHDOG=1")


WAIT_SECONDS: Final = 0.1
ALIVE_PARTS: Final = 10
"""So many times within its patience the watchdog is told that we are alive, if nothing takes
longer.
"""
