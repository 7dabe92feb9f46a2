"""Names of API servers, asked of the system at each connect.

The system's resolver blocks for as long as the servers of names are away, half a minute perhaps.
So each question has a thread of its own that no one waits for at the end: the loop's threads would
hold up the daemon's exit. Connects that ask at one moment share a question.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from random import Random
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult


class SystemResolver(AbstractResolver):
    """For one event loop."""

    def __init__(self, random: Random) -> None:
        """`random` orders the addresses, so that one which hangs is not the first for ever."""
        self._random = random
        self._questions: dict[tuple[str, int, int], asyncio.Future[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See aiohttp. Raises OSError, also after `RESOLVE_SECONDS`, and ValueError for what is no
        name.
        """
        question = host, port, family
        answer = self._questions.get(question)
        if answer is None:
            answer = self._put(question)
        addresses = [*await asyncio.wait_for(asyncio.shield(answer), RESOLVE_SECONDS)]
        self._random.shuffle(addresses)
        return addresses

    def _put(self, question: tuple[str, int, int]) -> "asyncio.Future[list[ResolveResult]]":
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[ResolveResult]] = loop.create_future()
        self._questions[question] = answer

        def forget(*_: object) -> None:
            if self._questions.get(question) is answer:
                del self._questions[question]

        answer.add_done_callback(forget)
        # A question that is lost is asked anew, and so seldom that few threads wait.
        loop.call_later(LOST_SECONDS, forget)
        thread = threading.Thread(
            target=_ask, args=(question, answer), name="kbe-nat-names", daemon=True
        )
        thread.start()
        return answer

    async def close(self) -> None:
        """See aiohttp."""


def _ask(question: tuple[str, int, int], answer: "asyncio.Future[list[ResolveResult]]") -> None:
    """Runs in a thread of its own."""
    addresses, failure = list[ResolveResult](), None
    try:
        addresses = _addresses(*question)
    except (OSError, ValueError) as error:
        failure = error

    def settle() -> None:
        if answer.done():
            return
        if failure is None:
            answer.set_result(addresses)
        else:
            answer.set_exception(failure)
            # Taken, or asyncio would log it where no connect waits any more.
            answer.exception()

    # The loop has ended when the question took longer than the daemon.
    with suppress(RuntimeError):
        answer.get_loop().call_soon_threadsafe(settle)


def _addresses(host: str, port: int, family: int) -> list[ResolveResult]:
    answers = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=_with_scope(address),
            port=port,
            family=own_family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for own_family, _, protocol, _, address in answers
    ]


def _with_scope(address: tuple[object, ...]) -> str:
    """A link-local address is one only together with its device."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])


RESOLVE_SECONDS: Final = 10.0
LOST_SECONDS: Final = 60.0
