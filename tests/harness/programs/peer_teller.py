"""A server at UDP and TCP port 5009 that answers with the address of its peer.

`peer_teller.py IPV4 IPV6` listens at these two addresses.
"""

import socket
import sys
import threading

READY = threading.Barrier(5)


def answer_datagrams(family: socket.AddressFamily, address: str) -> None:
    """UDP."""
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, 5009))
        READY.wait()
        while True:
            _, peer = server.recvfrom(100)
            server.sendto(peer[0].encode(), peer)


def answer_streams(family: socket.AddressFamily, address: str) -> None:
    """TCP."""
    with socket.socket(family, socket.SOCK_STREAM) as server:
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((address, 5009))
        server.listen()
        READY.wait()
        while True:
            connection, peer = server.accept()
            connection.recv(100)
            connection.sendall(peer[0].encode())
            connection.close()


def main() -> None:
    """Serve until ended."""
    for serve in (answer_datagrams, answer_streams):
        for family, address in zip((socket.AF_INET, socket.AF_INET6), sys.argv[1:], strict=True):
            threading.Thread(target=serve, args=(family, address)).start()
    READY.wait()
    print("ready", flush=True)


if __name__ == "__main__":
    main()
