"""A datagram and a connection to port 7 of one address and then of the other, without end.

`short_load.py ADDRESS ADDRESS`
"""

import socket
import sys
from contextlib import suppress
from itertools import cycle


def main() -> None:
    """Send until ended."""
    print("ready", flush=True)
    for address in cycle(sys.argv[1:]):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with suppress(OSError):
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.connect((address, 7))
                sender.send(b"load")
            with socket.socket(family) as connection:
                connection.settimeout(0.2)
                connection.connect((address, 7))
                connection.send(b"load")
                connection.recv(100)


if __name__ == "__main__":
    main()
