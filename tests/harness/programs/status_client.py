"""Asks a control socket for its status, and prints the first line of the answer.

`status_client.py PATH`
"""

import contextlib
import socket
import sys


def main() -> None:
    """Ask once."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(sys.argv[1])
        with contextlib.suppress(OSError):
            client.sendall(b'{"verb": "status"}\n')
        print(client.makefile().readline())


if __name__ == "__main__":
    main()
