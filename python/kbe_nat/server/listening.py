"""An address at which the node answers over HTTP, for as long as the daemon runs."""

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from kbe_nat.model import join_address

LOG: Final = logging.getLogger("kbe_nat.daemon")


class Listening:
    """One address. While another program has it, it is tried again."""

    def __init__(
        self, purpose: str, end: tuple[str, int], serve: Callable[[socket.socket], object]
    ) -> None:
        """`purpose` is for the log; `serve` takes over the socket that listens at `end`, and raises
        OSError or RuntimeError when it cannot.
        """
        self._text = f"{purpose} at {join_address(*end)}"
        self._end = end
        self._serve = serve
        self._failure = ""
        self._listener: socket.socket | None = None
        """Bound, and not yet handed over."""
        self._is_open = False

    def bind(self) -> None:
        """Take the address; clients wait until `open`. Raises OSError."""
        if not self._is_open and self._listener is None:
            self._listener = open_listener(self._end)

    def open(self) -> None:
        """Answer. Raises OSError or RuntimeError; the address may be taken then nevertheless."""
        self.bind()
        if self._listener is not None:
            self._serve(self._listener)
            self._listener, self._is_open = None, True

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
                LOG.error("%s: %s; it is tried again", self._text, reason)
            self._failure = reason
        else:
            if self._failure:
                LOG.info("%s: answered now", self._text)
            self._failure = ""


def listening_error(error: OSError | RuntimeError) -> str:
    """Why it does not listen, for people."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "it takes too long"


def open_listener(end: tuple[str, int]) -> socket.socket:
    """A socket that listens. A wildcard address of either family listens in both, as Go does.
    Raises OSError.
    """
    host, port = end
    if host in WILDCARDS and socket.has_dualstack_ipv6():
        try:
            both = ("::", port)
            return socket.create_server(both, family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in NO_IPV6:
                raise
            host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


WILDCARDS: Final = ("0.0.0.0", "::")
NO_IPV6: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors where IPv6 is switched off."""
