"""A cache on the node (as NodeLocal DNSCache): it answers "cache" at UDP port 7 and TCP port 5001.

`node_cache.py ADDRESS`
"""

import selectors
import socket
import sys


def main() -> None:
    """Serve until ended."""
    address = sys.argv[1]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.bind((address, 7))
    streams = socket.create_server((address, 5001), family=family)
    selector = selectors.DefaultSelector()
    for server in (datagrams, streams):
        selector.register(server, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is datagrams:
                datagrams.sendto(b"cache", datagrams.recvfrom(100)[1])
            else:
                connection, _ = streams.accept()
                connection.recv(100)
                connection.sendall(b"cache")
                connection.close()


if __name__ == "__main__":
    main()
