"""One node proxy in a network namespace: two would take each other's rules away."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat.errors import ControlError


@contextmanager
def only_proxy() -> Iterator[None]:
    """Nobody else is the proxy of this network namespace for as long as the block runs. Raises `ControlError`
    when somebody is.
    """
    # Abstract names belong to a network namespace, and go with the process that has bound them (unix(7)).
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        try:
            own.bind(NAME)
        except OSError:
            raise ControlError("another kbe-nat proxy runs in this network namespace") from None
        yield


NAME: Final = b"\0kbe-nat-proxy"
