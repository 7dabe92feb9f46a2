"""The end of a server of asyncio while its thread goes on."""

import asyncio
from typing import Final


async def stop_accepting(server: asyncio.Server) -> None:
    """Close the sockets of a server; connections that are accepted go on."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    # asyncio makes the transport of a connection some turns after it has accepted it. A server
    # that is closed in between would leave the connection open for ever, without an answer.
    for _ in range(TURNS):
        await asyncio.sleep(0)
    server.close()


TURNS: Final = 3
