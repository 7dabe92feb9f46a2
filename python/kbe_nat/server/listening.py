"""An address at which the node answers over HTTP, for as long as the daemon runs."""

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

from kbe_nat.model import join_address

LOG: Final = logging.getLogger("kbe_nat.daemon")
End: TypeAlias = tuple[str, int]
"""Address and port."""


class Served(NamedTuple):
    """An address at which something answers."""

    end: End
    listener: socket.socket
    stop: Callable[[], object]
    """Ends the answers; connections that have begun go on."""


class Listening:
    """One address, which may become another one. While another program has it, it is tried again,
    and answers go on at the address of before.
    """

    def __init__(
        self,
        purpose: str,
        end: End | None,
        serve: Callable[[socket.socket], Callable[[], object]],
    ) -> None:
        """`purpose` is for the log; `end` None is nowhere. `serve` takes over the socket that
        listens, and returns what stops it; it raises OSError or RuntimeError when it cannot.
        """
        self.end = end
        self._purpose = purpose
        self._serve = serve
        self._failure = ""
        self._listener: socket.socket | None = None
        """Bound to `end`, and not yet handed over."""
        self._served: Served | None = None

    def move(self, end: End | None) -> None:
        """Answer there from now on, or as soon as that can be."""
        if end != self.end:
            self.close()
            self.end, self._failure = end, ""
            self.retry()

    def bind(self) -> None:
        """Take the address; clients wait until `open`. Raises OSError."""
        served = self._served
        if self.end is None or self._listener is not None or (served and served.end == self.end):
            return
        try:
            self._listener = open_listener(self.end)
        except OSError as error:
            if served is None or error.errno != errno.EADDRINUSE:
                raise
            # It may be ours: a wildcard address has the port at every other one. Sockets of one
            # user that both allow it share a port, so the old one need not be closed first.
            _share(served.listener, is_shared=True)
            try:
                self._listener = open_listener(self.end, is_shared=True)
            finally:
                _share(served.listener, is_shared=False)

    def open(self) -> None:
        """Answer. Raises OSError or RuntimeError; the address may be taken then nevertheless."""
        self.bind()
        served = self._served
        if self.end is None:
            self._served = None
        elif self._listener is not None:
            listener = self._listener
            stop = self._serve(listener)
            self._listener, self._served = None, Served(self.end, listener, stop)
        if served is not None and served is not self._served:
            served.stop()
            if self._served is not None:
                _share(self._served.listener, is_shared=False)

    def close(self) -> None:
        """Give the address back, if it has not been handed over."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def retry(self) -> None:
        """Answer, unless it does already. A failure is logged once."""
        try:
            self.open()
        except (OSError, RuntimeError) as error:
            reason = listening_error(error)
            if reason != self._failure:
                stays = f", {join_address(*self._served.end)} meanwhile" if self._served else ""
                LOG.error("%s: %s; it is tried again%s", self._text, reason, stays)
            self._failure = reason
        else:
            if self._failure:
                LOG.info("%s: answered now", self._text)
            self._failure = ""

    @property
    def _text(self) -> str:
        return f"{self._purpose} at {join_address(*self.end)}" if self.end else self._purpose


def listening_error(error: OSError | RuntimeError) -> str:
    """Why it does not listen, for people."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "it takes too long"


def open_listener(end: End, *, is_shared: bool = False) -> socket.socket:
    """A socket that listens; with `is_shared` beside another one that allows it. A wildcard address
    of either family listens in both, as Go does. Raises OSError.
    """
    host, port = end
    if host in WILDCARDS and socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=is_shared
            )
        except OSError as error:
            if error.errno not in NO_IPV6:
                raise
            host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, reuse_port=is_shared)


def _share(listener: socket.socket, *, is_shared: bool) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)


WILDCARDS: Final = ("0.0.0.0", "::")
NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors where IPv6 is switched off."""
