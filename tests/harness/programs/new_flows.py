"""New connections and datagrams without end, each from a port of its own, by turns to every
address.

`new_flows.py PORT ADDRESS...` answers each line of its standard input by one of JSON: how many were
answered by each server and protocol, what failed, and the longest time that one took.
"""

import json
import socket
import sys
import threading
import time
from collections import Counter
from itertools import cycle

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
ATTEMPTS = 5
"""Of a datagram's sender, one a second: a client of DNS asks again as well."""


class Load:
    """The connections of one protocol to all addresses."""

    def __init__(self, kind: str, port: int, addresses: list[str]) -> None:
        self._kind, self._port, self._addresses = kind, port, addresses
        self.names: Counter[str] = Counter()
        self.failed: list[str] = []
        self.slowest = 0.0

    def run(self) -> None:
        """Open connections until the program ends."""
        for address in cycle(self._addresses):
            start = time.monotonic()
            try:
                self.names[f"{self._kind} {address} {self._ask(address)}"] += 1
            except OSError as error:
                self.failed.append(f"{self._kind} {address}: {error!r}")
            self.slowest = max(self.slowest, time.monotonic() - start)
            time.sleep(0.002)

    def _ask(self, address: str) -> str:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, KINDS[self._kind]) as client:
            client.settimeout(20 if self._kind == "tcp" else 1)
            client.connect((address, self._port))
            for attempt in range(ATTEMPTS):
                client.send(b"who?")
                try:
                    return client.recv(100).partition(b" ")[0].decode()
                except TimeoutError:
                    if self._kind == "tcp" or attempt == ATTEMPTS - 1:
                        raise
        raise TimeoutError


def main() -> None:
    """Run until the standard input ends."""
    loads = [Load(kind, int(sys.argv[1]), sys.argv[2:]) for kind in KINDS]
    for load in loads:
        threading.Thread(target=load.run, daemon=True).start()
    print("ready", flush=True)
    for _ in sys.stdin:
        names: Counter[str] = Counter()
        for load in loads:
            names |= load.names
        answer = {
            "names": names,
            "failed": [text for load in loads for text in load.failed],
            "slowest": max(load.slowest for load in loads),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
