"""Work that the daemon does again and again, also after it has failed.

A defect in one task must not take the others down, and forwarding with them: an exception of a task
is logged once, and the task has its next turn as always.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from kbe_nat.daemon.logs import ConditionLog
from kbe_nat.errors import KbeNatError


class Task:
    """An action with its period."""

    def __init__(
        self, seconds: float | None, action: Callable[[], None], complaint: str, over: str
    ) -> None:
        """`complaint` is logged for a failure, with its reason; `over` when the action succeeds
        again. With `seconds` None it is never due.
        """
        self._seconds = seconds
        self._action = action
        self._complaint = complaint
        self._trouble = ConditionLog(logging.ERROR, over)
        self._due = 0.0

    def run_if_due(self, now: float) -> None:
        """Do it if its time has come; `now` is as of `time.monotonic`. A failed action is not tried
        again at once, since it may have cost much.
        """
        if self._seconds is not None and now >= self._due:
            self._due = now + self._seconds
            if not self.run():
                self._due = now + max(self._seconds, RETRY_SECONDS)

    def run(self) -> bool:
        """Do it; whether it went through. Raises nothing but KeyboardInterrupt and SystemExit."""
        try:
            self._action()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # A panic of the engine is no `Exception`. Without memory it may be that nothing can be
            # said.
            with suppress(Exception):
                self._trouble.update([f"{self._complaint}: {describe_error(error)}"])
            return False
        self._trouble.update([])
        return True


def describe_error(error: BaseException) -> str:
    """The reason of a failure; unless the error is made for people, also its place."""
    if isinstance(error, KbeNatError):
        return str(error)
    is_plain = isinstance(error, OSError) and error.strerror
    reason = (
        f"{error.strerror}" if is_plain and isinstance(error, OSError) else repr(error)[:MAX_REASON]
    )
    return f"{reason} ({_place(error.__traceback__)})"


def _place(trace: TracebackType | None) -> str:
    """The innermost line of this package, or of all where none of it was in the way."""
    inner = ours = None
    while trace is not None:
        inner = trace
        path = Path(trace.tb_frame.f_code.co_filename)
        if PACKAGE in path.parents and path != Path(__file__):
            ours = trace
        trace = trace.tb_next
    frame = ours or inner
    if frame is None:
        return "nowhere"
    code = frame.tb_frame.f_code
    return f"{Path(code.co_filename).name}:{frame.tb_lineno}, in {code.co_name}"


PACKAGE: Final = Path(__file__).parents[1]
RETRY_SECONDS: Final = 5.0
MAX_REASON: Final = 300
"""Characters."""
