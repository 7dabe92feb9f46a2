"""How many connections a server of ours has at once, and which goes when there are too many."""

import resource
import socket
from typing import Final, Protocol


class Connection(Protocol):
    """A connection that takes a slot."""

    @property
    def client(self) -> bytes:
        """The key of its client, see `client_key`."""
        ...

    def drop(self) -> None:
        """Reset it, and leave the slot."""
        ...


class ConnectionSlots:
    """All connections. When there are too many, the client with most of them loses its oldest: a
    client with few is answered, however many another one opens.
    """

    def __init__(self) -> None:
        self._clients: dict[bytes, dict[Connection, None]] = {}
        """Connections in the order in which they came, by client."""
        self._count = 0
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = max(1, min(MAX_CONNECTIONS, descriptors // 4))

    def enter(self, connection: Connection) -> None:
        """Take a slot; when none is free, another connection is dropped for it."""
        if self._count >= self._limit:
            self.drop_one()
        self._clients.setdefault(connection.client, {})[connection] = None
        self._count += 1

    def leave(self, connection: Connection) -> None:
        """Give the slot back; a connection that has none changes nothing."""
        connections = self._clients.get(connection.client, {})
        if connection in connections:
            del connections[connection]
            self._count -= 1
        if not connections:
            self._clients.pop(connection.client, None)

    def drop_one(self) -> None:
        """Drop the oldest connection of the client with most of them."""
        if self._clients:
            largest = max(self._clients.values(), key=len)
            next(iter(largest)).drop()

    def drop_all(self) -> None:
        """Drop every connection."""
        while self._clients:
            self.drop_one()


def client_key(peer: tuple[str, ...] | None) -> bytes:
    """The key of a client: an IPv4 address, or the /64 that an IPv6 host has."""
    if peer is None:
        return b""
    address = peer[0].partition("%")[0]
    # A socket of both families shows IPv4 clients so.
    address = address.removeprefix("::ffff:") if "." in address else address
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)[:8]
    return socket.inet_pton(socket.AF_INET, address)


MAX_CONNECTIONS: Final = 256
