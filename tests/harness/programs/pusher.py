"""A pod's server that talks by itself: to each client a number, one more every 20 ms.

`pusher.py PORT`: by TCP as lines, by UDP as datagrams to whoever has sent it one, in both families.
"""

import selectors
import socket
import sys
import time
from contextlib import suppress


def main() -> None:
    """Serve until ended."""
    port = int(sys.argv[1])
    listener = socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
    )
    datagrams = []
    for family in (socket.AF_INET, socket.AF_INET6):
        bound = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("", port))
        datagrams.append(bound)
    connections: list[socket.socket] = []
    peers: set[tuple[socket.socket, tuple[str, int]]] = set()
    with selectors.DefaultSelector() as selector:
        for ready in (listener, *datagrams):
            selector.register(ready, selectors.EVENT_READ)
        print("ready", flush=True)
        number, due = 0, time.monotonic()
        while True:
            for key, _ in selector.select(max(0, due - time.monotonic())):
                own = key.fileobj
                assert isinstance(own, socket.socket)
                if own is listener:
                    connections.append(own.accept()[0])
                else:
                    peers.add((own, own.recvfrom(100)[1]))
            if time.monotonic() >= due:
                number, due = number + 1, time.monotonic() + 0.02
                line = b"%d\n" % number
                for connection in list(connections):
                    try:
                        connection.send(line)
                    except OSError:
                        connections.remove(connection)
                for bound, peer in peers:
                    with suppress(OSError):
                        bound.sendto(line, peer)


if __name__ == "__main__":
    main()
