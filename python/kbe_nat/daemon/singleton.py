"""One node proxy in a network namespace: two would take each other's rules away."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat.drivers.native import queue_counters
from kbe_nat.errors import ControlError


@contextmanager
def only_proxy() -> Iterator[None]:
    """No other process is the proxy of this network namespace for as long as the block runs. Raises
    `ControlError` when one is, or the kernel does not tell.
    """
    try:
        # A queue belongs to a network namespace and to the process that has bound it, and binding
        # takes the privilege that a proxy needs. A name or a lock could be taken by any user, to
        # keep us from starting.
        holder = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
    except OSError as error:
        raise ControlError(f"the kernel has no netfilter queues: {error.strerror}") from None
    with holder:
        number = _bind(holder)
        if number in (errno.EBUSY, errno.EPERM) and QUEUE in queue_counters():
            raise ControlError(OTHER_PROXY)
        if number:
            raise ControlError(f"queue {QUEUE} cannot be bound: {os.strerror(number)}")
        yield


def is_proxy_here() -> bool:
    """Whether a process is the proxy of this network namespace. Raises `ControlError` without the
    privilege to see it.
    """
    try:
        return QUEUE in queue_counters()
    except PermissionError:
        raise ControlError("only root sees who listens to packet queues") from None


def _bind(holder: socket.socket) -> int:
    """Binds `QUEUE`, to which no packets are sent; the error's number, or 0."""
    holder.settimeout(SECONDS)
    try:
        holder.send(
            HEAD.pack(
                HEAD.size,
                CONFIG,
                REQUEST | ACKNOWLEDGE,
                0,
                0,
                0,
                0,
                QUEUE.to_bytes(2),
                8,
                COMMAND,
                BIND,
            )
        )
        return -int(ERROR.unpack_from(holder.recv(4096))[0])
    except OSError as error:
        return error.errno or errno.ETIMEDOUT


OTHER_PROXY: Final = (
    "another kbe-nat proxy runs in this network namespace: stop it first, after kbe-nat handover"
    " if its rules are to stay"
)
QUEUE: Final = 65_535
"""The process that has bound this queue is the proxy; packets go to other queues."""
NETLINK_NETFILTER: Final = 12
HEAD: Final = struct.Struct("=IHHIIBB2sHHB3x")
"""struct nlmsghdr, struct nfgenmsg, and one attribute with struct nfqnl_msg_config_cmd
(nfnetlink_queue.h).
"""
ERROR: Final = struct.Struct("=16xi")
"""struct nlmsghdr, and the begin of struct nlmsgerr."""
CONFIG: Final = 3 << 8 | 2
"""NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG."""
REQUEST: Final = 1
ACKNOWLEDGE: Final = 4
COMMAND: Final = 1
BIND: Final = 1
SECONDS: Final = 5.0
