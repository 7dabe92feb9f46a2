"""A server at TCP port 5001 that answers the end of a stream with the stream's SHA-256."""

import hashlib
import socket


def main() -> None:
    """Serve until ended."""
    with socket.create_server(("::", 5001), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            digest = hashlib.sha256()
            while content := connection.recv(1 << 20):
                digest.update(content)
            connection.sendall((digest.hexdigest() + "\n").encode())
            connection.close()


if __name__ == "__main__":
    main()
