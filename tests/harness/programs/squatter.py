"""Takes the names and locks by which a daemon might tell that another one runs, until its standard
input ends.
"""

import fcntl
import socket
import sys
from contextlib import ExitStack
from pathlib import Path


def main() -> None:
    """Take abstract sockets, the lock of the network namespace's file, and a netlink port."""
    with ExitStack() as stack:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            name = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            name.bind("\0kbe-nat-proxy")
        lock = stack.enter_context(Path("/proc/self/ns/net").open())
        fcntl.flock(lock, fcntl.LOCK_EX)
        netlink = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
        netlink.bind((65535, 0))
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
