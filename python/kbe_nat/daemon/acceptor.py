"""Accepts clients of the control socket, and reads their requests.

One thread listens to all of them, so a client that sends nothing costs a descriptor for a few
seconds, and no thread. When more clients wait than there are places, the one that came first gives
way.
"""

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

Request: TypeAlias = tuple[socket.socket, bytes]
"""A client, and the line that it has sent, without its end."""


class Acceptor:
    """Accepts clients at a listening socket, and hands out those whose request is whole."""

    def __init__(
        self, listener: socket.socket, refuse: Callable[[socket.socket, str], None]
    ) -> None:
        """`refuse` tells a client why it is not answered, and closes it."""
        self._listener = listener
        self._refuse = refuse
        self._pending: dict[socket.socket, _PartialRequest] = {}
        """In the order in which the clients came, so the first has the earliest deadline."""
        self._is_stopped = False
        self._selector = selectors.DefaultSelector()
        self._stop_reader, self._stop_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._stop_reader, selectors.EVENT_READ)

    def requests(self) -> Iterator[Request]:
        """Clients with their requests, as they come, until `stop`. Every client is closed or handed
        out.
        """
        try:
            while not self._is_stopped:
                try:
                    yield from self._turn()
                except (OSError, MemoryError):
                    # Descriptors or memory have run out. Waiting clients give theirs back when
                    # their time is over.
                    time.sleep(RETRY_SECONDS)
        finally:
            for client in list(self._pending):
                self._release(client).close()
            self._selector.close()
            os.close(self._stop_reader)

    def stop(self) -> None:
        """Let `requests` end; from another thread, once."""
        os.close(self._stop_writer)

    def _turn(self) -> Iterator[Request]:
        """Waits for the next events, and works on them. Raises OSError, MemoryError."""
        self._refuse_late()
        for key, _ in self._selector.select(self._timeout()):
            if key.fileobj == self._stop_reader:
                self._is_stopped = True
            elif key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.fileobj, socket.socket):
                yield from self._receive(key.fileobj)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        client.setblocking(False)
        if peer(client) not in (0, os.geteuid()):
            self._refuse(client, "only root and the daemon's own user may ask")
            return
        if len(self._pending) >= MAX_PENDING:
            self._refuse(self._release(next(iter(self._pending))), "too many clients wait to ask")
        self._selector.register(client, selectors.EVENT_READ)
        self._pending[client] = _PartialRequest(time.monotonic() + REQUEST_SECONDS)

    def _receive(self, client: socket.socket) -> Iterator[Request]:
        request = self._pending.get(client)
        if request is None:
            # It was refused in this turn, when another client needed the place.
            return
        try:
            content = client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        request.content += content
        line, end, _ = request.content.partition(b"\n")
        if end or len(request.content) > MAX_REQUEST:
            self._release(client)
            if end and len(line) <= MAX_REQUEST:
                yield client, bytes(line)
            else:
                self._refuse(client, f"a request has at most {MAX_REQUEST} bytes")
        elif not content:
            # No more comes: a line without its end is a request as well.
            self._release(client)
            if request.content:
                yield client, bytes(request.content)
            else:
                client.close()

    def _refuse_late(self) -> None:
        """Refuses clients whose time is over."""
        now = time.monotonic()
        late = [client for client, request in self._pending.items() if request.deadline <= now]
        for client in late:
            self._refuse(self._release(client), f"no request within {REQUEST_SECONDS:.0f} s")

    def _timeout(self) -> float | None:
        """Seconds until the next client is late."""
        first = next(iter(self._pending.values()), None)
        return None if first is None else max(0.0, first.deadline - time.monotonic())

    def _release(self, client: socket.socket) -> socket.socket:
        """Stops listening to a client."""
        del self._pending[client]
        self._selector.unregister(client)
        return client


class _PartialRequest:
    """The bytes that a client has sent, and the time until which the rest must come."""

    def __init__(self, deadline: float) -> None:
        self.content = bytearray()
        self.deadline = deadline


def peer(connection: socket.socket) -> int:
    """The user at the other end (SO_PEERCRED, unix(7))."""
    _, user, _ = CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    )
    return int(user)


CREDENTIALS: Final = struct.Struct("iII")
MAX_REQUEST: Final = 1 << 18
"""Bytes. A packet of 64 kB in hexadecimal has half of it."""
MAX_PENDING: Final = 64
REQUEST_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.05
