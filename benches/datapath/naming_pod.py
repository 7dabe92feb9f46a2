"""A server at a TCP port that says its name and closes: `naming_pod NAME PORT`."""

import socket
import sys


def main() -> None:
    """Serve until ended."""
    with socket.create_server(("", int(sys.argv[2])), backlog=256) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            connection.sendall(sys.argv[1].encode())
            connection.close()


if __name__ == "__main__":
    main()
