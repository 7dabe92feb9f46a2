"""A server at UDP port 7 that sends datagrams back.

`udp_echo.py FAMILY` with 4 or 6.
"""

import socket
import sys


def main() -> None:
    """Serve until ended."""
    family = socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind(("", 7))
        print("ready", flush=True)
        while True:
            content, peer = server.recvfrom(1 << 16)
            server.sendto(content, peer)


if __name__ == "__main__":
    main()
