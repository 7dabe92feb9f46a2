"""Answers lines. After "take" it takes what comes, and prints how that ended; after "give N" it
sends so many bytes and ends the connection by RST.
"""

import socket
import struct

PORT = 5001
LINGER = struct.pack("ii", 1, 0)


def answer(connection: socket.socket) -> None:
    with connection, connection.makefile("rb", buffering=0) as lines:
        for line in iter(lines.readline, b""):
            if line == b"take\n":
                print(take(connection), flush=True)
                return
            if line.startswith(b"give "):
                give(connection, int(line[5:]))
                return
            connection.sendall(b"a " + line)


def take(connection: socket.socket) -> str:
    room = bytearray(1 << 20)
    try:
        while connection.recv_into(room):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


def give(connection: socket.socket, count: int) -> None:
    block = bytes(1 << 20)
    for _ in range(count // len(block)):
        connection.sendall(block)
    # The client has read it all: a RST would overtake what is on its way.
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)


def main() -> None:
    """Serve until ended."""
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        print("ready", flush=True)
        while True:
            answer(server.accept()[0])


if __name__ == "__main__":
    main()
