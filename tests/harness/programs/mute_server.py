"""A server at UDP port 7 that never answers."""

import socket
import time


def main() -> None:
    """Keep the port until ended."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::", 7))
        print("ready", flush=True)
        time.sleep(1000)


if __name__ == "__main__":
    main()
