"""A server at TCP port 5002 that sends one message back and closes the connection."""

import socket


def main() -> None:
    """Serve until ended."""
    with socket.create_server(
        ("::", 5002), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    ) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            connection.sendall(connection.recv(100))
            connection.close()


if __name__ == "__main__":
    main()
