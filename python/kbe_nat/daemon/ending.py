"""Signals that end the daemon, and what becomes of its rules then."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Ending:
    """Whether the daemon is to end, and whether its rules are to stay."""

    def __init__(self, on_signal: Callable[[], None]) -> None:
        """`on_signal` is called when a signal asks for the end."""
        self.is_due = False
        self.leaves_rules = False
        """For a daemon that takes over."""
        self._is_handed_over = False
        self._on_signal = on_signal

    def hand_over(self) -> None:
        """From now on every signal leaves the rules. Any thread may call this."""
        self._is_handed_over = True

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM, SIGINT and SIGHUP ask for the end; so does SIGUSR2, which leaves the rules."""
        ends = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # The terminal closes; under nohup(1) that is no matter.
            ends.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._ask) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.leaves_rules = self._is_handed_over or number == signal.SIGUSR2
        self.is_due = True
        self._on_signal()
