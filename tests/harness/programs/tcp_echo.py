"""A server at TCP port 9999 that sends back what its connections say."""

import selectors
import socket


def main() -> None:
    """Serve until ended."""
    server = socket.create_server(("", 9999), backlog=1024)
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    selector.register(server.accept()[0], selectors.EVENT_READ)
                    continue
                assert isinstance(key.fileobj, socket.socket)
                try:
                    content = key.fileobj.recv(4096)
                except OSError:
                    content = b""
                if content:
                    key.fileobj.sendall(content)
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


if __name__ == "__main__":
    main()
