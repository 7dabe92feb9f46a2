"""Sends an empty datagram to every port above 1023, each from a socket of its own.

`datagram_flood.py ADDRESS`
"""

import socket
import sys


def main() -> None:
    """Send once to each port."""
    for port in range(1024, 65536):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", (sys.argv[1], port))


if __name__ == "__main__":
    main()
