"""Ctrl-C and SIGTERM, heeded only where they do no harm: not while something is being set up or
taken away.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self


class Interruptions:
    """Holds back requests to end for as long as the block runs, but in `heeded` blocks inside of
    it.
    """

    def __init__(self) -> None:
        self._is_heeded = False
        self._is_requested = False
        self._before: list[object] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._request) for number in SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Raises KeyboardInterrupt when a request to end comes, or at once if one has come before."""
        self._is_heeded = True
        try:
            if self._is_requested:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_heeded = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._is_requested = True
        if self._is_heeded:
            raise KeyboardInterrupt


SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
