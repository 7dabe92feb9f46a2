"""Where clients of the control socket wait until their request is whole.

One thread listens to all of them, so a client that says nothing costs a descriptor for a few
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


class Reception:
    """Takes clients in at a listening socket, and hands out those whose request is there."""

    def __init__(
        self, listener: socket.socket, refuse: Callable[[socket.socket, str], None]
    ) -> None:
        """`refuse` says to a client why it is not answered, and closes it."""
        self._listener = listener
        self._refuse = refuse
        self._waiting: dict[socket.socket, _Guest] = {}
        """In the order in which they came."""
        self._is_over = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)

    def requests(self) -> Iterator[Request]:
        """Clients with their requests, as they come, until `stop`. Every client is closed or handed
        out.
        """
        try:
            while not self._is_over:
                try:
                    yield from self._turn()
                except (OSError, MemoryError):
                    # Descriptors or memory have run out. Those of clients that wait come back in a
                    # while.
                    time.sleep(OUT_OF_BREATH)
        finally:
            for client in list(self._waiting):
                self._forget(client).close()
            self._selector.close()
            os.close(self._bell)

    def stop(self) -> None:
        """Let `requests` end; from another thread, once."""
        os.close(self._ringer)

    def _turn(self) -> Iterator[Request]:
        """What there is to do now, or next. Raises OSError, MemoryError."""
        self._send_away_the_silent()
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj == self._bell:
                self._is_over = True
            elif key.fileobj is self._listener:
                self._take_in()
            elif isinstance(key.fileobj, socket.socket):
                yield from self._heard(key.fileobj)

    def _take_in(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        client.setblocking(False)
        if peer(client) not in (0, os.geteuid()):
            self._refuse(client, "only root and the daemon's own user may ask")
            return
        if len(self._waiting) >= MAX_WAITING:
            self._refuse(self._forget(next(iter(self._waiting))), "too many clients wait to ask")
        self._selector.register(client, selectors.EVENT_READ)
        self._waiting[client] = _Guest(time.monotonic() + REQUEST_SECONDS)

    def _heard(self, client: socket.socket) -> Iterator[Request]:
        guest = self._waiting.get(client)
        if guest is None:
            # Turned away in this turn, when a newcomer needed the place.
            return
        try:
            content = client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        guest.said += content
        line, end, _ = guest.said.partition(b"\n")
        if end or len(guest.said) > MAX_REQUEST:
            self._forget(client)
            if end and len(line) <= MAX_REQUEST:
                yield client, bytes(line)
            else:
                self._refuse(client, f"a request has at most {MAX_REQUEST} bytes")
        elif not content:
            # No more comes: a line without its end is a request as well.
            self._forget(client)
            if guest.said:
                yield client, bytes(guest.said)
            else:
                client.close()

    def _send_away_the_silent(self) -> None:
        now = time.monotonic()
        for client in [own for own, guest in self._waiting.items() if guest.deadline <= now]:
            self._refuse(self._forget(client), f"no request within {REQUEST_SECONDS:.0f} s")

    def _patience(self) -> float | None:
        first = next(iter(self._waiting.values()), None)
        return None if first is None else max(0.0, first.deadline - time.monotonic())

    def _forget(self, client: socket.socket) -> socket.socket:
        del self._waiting[client]
        self._selector.unregister(client)
        return client


class _Guest:
    """What a client has said, and until when it must have said all."""

    def __init__(self, deadline: float) -> None:
        self.said = bytearray()
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
MAX_WAITING: Final = 64
REQUEST_SECONDS: Final = 5.0
OUT_OF_BREATH: Final = 0.05
"""Seconds until clients are looked at again."""
