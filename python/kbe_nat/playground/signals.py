"""Ctrl-C and SIGTERM, obeyed only where they do no harm: not while a verb sets something up or
takes it away.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, Self


class Interruptions:
    """Holds back requests to end for as long as the block runs, but in `obey` blocks inside of
    it. In another thread than the main one, which gets no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._is_obeyed = False
        self._is_requested = False
        self._before: list[object] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = [signal.signal(number, self._request) for number in SIGNALS]
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in zip(SIGNALS, self._before, strict=False):
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def obey(self) -> Iterator[None]:
        """Raises KeyboardInterrupt at a request to end, or at once after an earlier one."""
        self._is_obeyed = True
        try:
            if self._is_requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_obeyed = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._is_requested = True
        if self._is_obeyed:
            raise KeyboardInterrupt


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
