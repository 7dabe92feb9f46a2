"""Connections and UDP flows that stay open, and ask all pods again for each line that comes.

A line of the standard input is a JSON object: `open` lists the addresses to which `tcp` connections
and `udp` flows more are opened first. It is answered by one with the pods' `names` in the order of
the flows, what is `broken`, and the flows' own `ends`.
"""

import json
import resource
import socket
import sys

PORT = 7


def open_flow(kind: socket.SocketKind, address: str) -> socket.socket:
    """A connected socket."""
    flow = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    flow.settimeout(30)
    flow.connect((address, PORT))
    return flow


def ask(flow: socket.socket, text: bytes) -> str:
    """The name of the pod that answers. Raises OSError, EOFError or ValueError."""
    return ask_stream(flow, text) if flow.type == socket.SOCK_STREAM else ask_pod(flow, text)


def ask_stream(flow: socket.socket, text: bytes) -> str:
    """By TCP."""
    flow.sendall(text + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        content = flow.recv(100)
        if not content:
            raise EOFError("it was closed")
        answer += content
    name, _, echo = answer.strip().partition(b" ")
    if echo != text:
        raise ValueError(f"another answer: {answer!r}")
    return name.decode()


def ask_pod(flow: socket.socket, text: bytes) -> str:
    """By UDP: once a second until the answer comes."""
    flow.settimeout(1)
    for _ in range(30):
        try:
            flow.send(text)
            while True:
                name, _, echo = flow.recv(100).partition(b" ")
                if echo == text:
                    return name.decode()
        except (TimeoutError, ConnectionRefusedError):
            pass
    raise TimeoutError("no answer")


def main() -> None:
    """Answer each line."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    flows: list[socket.socket] = []
    for number, line in enumerate(sys.stdin, 1):
        order = json.loads(line)
        for address in order.get("open", ()):
            flows += [open_flow(socket.SOCK_STREAM, address) for _ in range(order["tcp"])]
            flows += [open_flow(socket.SOCK_DGRAM, address) for _ in range(order["udp"])]
        names, broken = [], []
        for flow in flows:
            try:
                names.append(ask(flow, b"%08d" % number))
            except (OSError, EOFError, ValueError) as error:
                names.append("")
                broken.append(f"{flow.type.name} {flow.getsockname()}: {error!r}")
        ends = [
            ["tcp" if flow.type == socket.SOCK_STREAM else "udp", *flow.getsockname()[:2]]
            for flow in flows
        ]
        print(json.dumps({"names": names, "broken": broken, "ends": ends}), flush=True)


if __name__ == "__main__":
    main()
