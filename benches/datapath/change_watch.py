"""When a new connection first reaches another pod: `change_watch ADDRESS PORT`.

For each name that comes as a line it connects until the pod of that name answers (20 s at most),
and prints the time of the system's monotonic clock.
"""

import socket
import sys
import time


def main() -> None:
    """Answer each line."""
    for line in sys.stdin:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as client:
                name = client.recv(100).decode()
            if name == line.strip():
                break
            time.sleep(0.0005)
        print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
