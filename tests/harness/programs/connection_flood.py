"""Opens 4,000 connections to the health check port 30200 of the node, and leaves them open.

`connection_flood.py GREETING` sends GREETING (with Python's escapes), if there is one, by the last
50 connections after each new one. Prints a number after every 400 connections.
"""

import resource
import socket
import sys
from contextlib import suppress


def main() -> None:
    """Open them all."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
    greeting = sys.argv[1].encode().decode("unicode_escape").encode()
    connections: list[socket.socket] = []
    for number in range(1, 4001):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("10.0.2.15", 30200))
        connections.append(connection)
        if greeting:
            for slow in connections[-50:]:
                with suppress(OSError):
                    slow.send(greeting)
        if number % 400 == 0:
            print(number, flush=True)


if __name__ == "__main__":
    main()
