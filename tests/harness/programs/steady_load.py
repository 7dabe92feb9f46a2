"""Connections that stay and are asked all the time, and others that come and go meanwhile.

`steady_load.py ADDRESS PORT CONNECTIONS` answers each line of its standard input by one of JSON
with its counters so far, and prints them once more at the input's end.
"""

import json
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field


@dataclass
class Counters:
    """Of both kinds of connections. Times are seconds."""

    new: int = 0
    failed: list[str] = field(default_factory=list)
    rounds: int = 0
    broken: list[str] = field(default_factory=list)
    slowest_round: float = 0.0


class Load:
    """Clients of one address, until `over` is set."""

    def __init__(self, address: str, port: int) -> None:
        self.end = (address, port)
        self.counters = Counters()
        self.over = threading.Event()

    def stay(self, connections: list[socket.socket]) -> None:
        """Ask by each of the connections in turn."""
        number = 0
        while not self.over.is_set():
            number += 1
            for connection in connections:
                start = time.monotonic()
                try:
                    ask(connection, b"%08d" % number)
                    self.counters.rounds += 1
                except (OSError, EOFError, ValueError) as error:
                    self.counters.broken.append(repr(error))
                    connections.remove(connection)
                    break
                duration = time.monotonic() - start
                self.counters.slowest_round = max(self.counters.slowest_round, duration)
            time.sleep(0.01)

    def come_and_go(self) -> None:
        """Ask once by each of many connections."""
        while not self.over.is_set():
            try:
                with socket.create_connection(self.end, timeout=20) as connection:
                    ask(connection, b"new")
                self.counters.new += 1
            except (OSError, EOFError, ValueError) as error:
                self.counters.failed.append(repr(error))
                time.sleep(0.05)
            time.sleep(0.002)

    def tell(self) -> None:
        """Print the counters."""
        print(json.dumps(asdict(self.counters)), flush=True)


def ask(connection: socket.socket, text: bytes) -> None:
    """Raises OSError, EOFError or ValueError when the answer is not the question."""
    connection.sendall(text)
    answer = b""
    while len(answer) < len(text):
        content = connection.recv(100)
        if not content:
            raise EOFError("it was closed")
        answer += content
    if answer != text:
        raise ValueError("another answer")


def main() -> None:
    """Run until the standard input ends."""
    load = Load(sys.argv[1], int(sys.argv[2]))
    connections = [socket.create_connection(load.end, timeout=20) for _ in range(int(sys.argv[3]))]
    threads = [
        threading.Thread(target=load.stay, args=(connections,)),
        threading.Thread(target=load.come_and_go),
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for _ in sys.stdin:
        load.tell()
    load.over.set()
    for thread in threads:
        thread.join()
    load.tell()


if __name__ == "__main__":
    main()
