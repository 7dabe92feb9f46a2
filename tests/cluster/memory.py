"""A `Connection` to the test API server without a socket, and an event loop whose time is driven.

The loop's clock jumps to the next timer whenever nothing else is to be done, so an hour of outage
takes milliseconds.
"""

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from cluster.answers import Answer, ApiServer, Cut, Request
from kbe_nat.sources.kubernetes.connection import ConnectionFailure

_T = TypeVar("_T")


class MemoryResponse:
    """A `Response`."""

    def __init__(self, answer: Answer, broken: asyncio.Event) -> None:
        self._answer = answer
        self._broken = broken
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        assert self._answer.body is not None
        body, breaking = self._answer.body, asyncio.ensure_future(self._broken.wait())
        try:
            while True:
                reading = asyncio.ensure_future(anext(body))
                try:
                    await asyncio.wait((reading, breaking), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not reading.done():
                        reading.cancel()
                        await asyncio.wait((reading,))
                if breaking.done():
                    raise Cut
                if chunk := reading.result():
                    yield chunk
        except StopAsyncIteration:
            return
        except Cut:
            raise ConnectionFailure("the connection was cut") from None
        finally:
            breaking.cancel()


class MemoryConnection:
    """A `Connection`."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._broken = asyncio.Event()
        self._is_down = False
        self.token = "sound"
        self.next_token = "sound"

    @property
    def is_down(self) -> bool:
        return self._is_down

    @is_down.setter
    def is_down(self, is_down: bool) -> None:
        """A server that goes down takes its connections along."""
        self._is_down = is_down
        if is_down:
            self._broken.set()
            self._broken = asyncio.Event()

    @asynccontextmanager
    async def get(
        self, path: str, parameters: Mapping[str, str], accept: str
    ) -> AsyncIterator[MemoryResponse]:
        yield await self._ask(path, parameters, accept)

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncIterator[MemoryResponse]:
        yield await self._ask(path, {}, "application/json", "POST", body)

    async def _ask(
        self,
        path: str,
        parameters: Mapping[str, str],
        accept: str,
        method: str = "GET",
        body: bytes = b"",
    ) -> MemoryResponse:
        await asyncio.sleep(0.001)
        if self._is_down:
            raise ConnectionFailure("127.0.0.1:6443: Connection refused", is_refused=True)
        headers = {"Accept": accept, "Authorization": f"Bearer {self.token}"}
        answer = await self.server.answer(Request(path, dict(parameters), headers, method, body))
        return MemoryResponse(answer, self._broken)

    def renew_credentials(self) -> None:
        self.token = self.next_token

    async def close(self) -> None:
        pass


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it lets the loop's clock jump by as much as it would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen in this loop")
        if not ready and timeout:
            self.now += timeout
        return ready


class DrivenLoop(asyncio.SelectorEventLoop):
    """Its time passes only while everything waits."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def drive(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in driven time."""
    with asyncio.Runner(loop_factory=DrivenLoop) as runner:
        return runner.run(coroutine)
