"""A pod's server that says its name before what it is told, by TCP and UDP in both families.

`named_pod.py NAME PORT [ADDRESS]`, without an address for all that the pod has.
"""

import resource
import selectors
import socket
import sys


def main() -> None:
    """Serve until ended."""
    name, port = sys.argv[1].encode() + b" ", int(sys.argv[2])
    address = sys.argv[3] if len(sys.argv) > 3 else ""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    families: tuple[socket.AddressFamily, ...] = (socket.AF_INET, socket.AF_INET6)
    if address:
        families = (socket.AF_INET6 if ":" in address else socket.AF_INET,)
        listener = socket.create_server((address, port), family=families[0], backlog=1024)
    else:
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    # One socket for each family, and one address: the answer comes from the address that was asked.
    datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in families]
    for own in datagrams:
        if own.family == socket.AF_INET6:
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        own.bind((address, port))
    with selectors.DefaultSelector() as selector:
        for ready in (listener, *datagrams):
            selector.register(ready, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                socket_ = key.fileobj
                assert isinstance(socket_, socket.socket)
                if socket_ is listener:
                    selector.register(listener.accept()[0], selectors.EVENT_READ)
                elif socket_ in datagrams:
                    content, peer = socket_.recvfrom(1 << 16)
                    socket_.sendto(name + content, peer)
                else:
                    answer(selector, socket_, name)


def answer(selector: selectors.BaseSelector, connection: socket.socket, name: bytes) -> None:
    """Questions are lines, and so are answers."""
    try:
        content = connection.recv(4096)
        if content:
            connection.sendall(name + content)
            return
    except OSError:
        pass
    selector.unregister(connection)
    connection.close()


if __name__ == "__main__":
    main()
