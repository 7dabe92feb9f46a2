"""Asks `short_server.py` again and again, each time by a new connection, and counts the answers.

`short_client.py ADDRESS COUNT [SOURCE ...]` takes the source addresses in turn.
"""

import socket
import sys


def main() -> None:
    """Print how many answers came."""
    address, count, *sources = sys.argv[1:]
    answers = 0
    for number in range(int(count)):
        source = (sources[number % len(sources)], 0) if sources else None
        with socket.create_connection(
            (address, 5002), timeout=5, source_address=source
        ) as connection:
            connection.sendall(b"hello")
            answers += connection.recv(100) == b"hello"
    print(answers, "answered")


if __name__ == "__main__":
    main()
