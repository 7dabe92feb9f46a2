"""The clients of the chaos run: flows that stay, and flows that come and go.

`load.py FRONTENDS FLOWS` with the frontends as JSON: `[[service, "tcp" or "udp", address, port],
...]`. Prints a line of JSON for each thing that happens, and one with counters every second, until
its standard input ends. Times are the system's monotonic clock's, so that they compare with those
of other processes.
"""

import json
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any, Final

PATIENCE_SECONDS: Final = 30.0
"""A flow without an answer for so long is lost."""
RETRY_SECONDS: Final = 1.0
"""A datagram without an answer for so long is sent again."""


ASKED: Final = 60
"""Questions of a flow before another takes its place."""


class Tally:
    """What has happened, told line by line."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self._lock = threading.Lock()

    def tell(self, kind: str, **facts: Any) -> None:
        """One thing, at once."""
        with self._lock:
            self.counts[kind] += 1
            print(json.dumps({"kind": kind, "at": time.monotonic(), **facts}), flush=True)

    def count(self, kind: str, seconds: float) -> None:
        """One of many things, and how long it took."""
        with self._lock:
            self.counts[kind] += 1
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds)

    def report(self) -> None:
        """All counters so far."""
        with self._lock:
            facts = {"counts": self.counts, "slowest": self.slowest}
            print(json.dumps({"kind": "counts", "at": time.monotonic(), **facts}), flush=True)


class Flow:
    """A connection, or a socket that keeps its port."""

    def __init__(self, service: str, protocol: str, address: str, port: int) -> None:
        """Raises OSError when it cannot be had."""
        self.service, self.protocol = service, protocol
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self.socket = socket.socket(family, kind)
        self.socket.settimeout(PATIENCE_SECONDS)
        try:
            self.socket.connect((address, port))
        except OSError:
            self.socket.close()
            raise
        self.name = f"{service}/{protocol} {self.socket.getsockname()[:2]} to {address}"
        self.backend = ""
        """Which pod has answered last."""
        self.answered = time.monotonic()
        self.number = 0

    def ask(self, tally: Tally) -> str:
        """The pod that answers. Raises OSError or EOFError when none does."""
        self.number += 1
        question = b"%d\n" % self.number
        started = time.monotonic()
        self.socket.send(question)
        while True:
            content = self._answer(tally, question, started)
            name, _, rest = content.partition(b" ")
            # An earlier question's answer may come late.
            if rest == question:
                return name.decode()

    def _answer(self, tally: Tally, question: bytes, started: float) -> bytes:
        if self.protocol == "tcp":
            content = b""
            while not content.endswith(b"\n"):
                part = self.socket.recv(100)
                if not part:
                    raise EOFError("the connection was closed")
                content += part
            return content
        while time.monotonic() - started < PATIENCE_SECONDS:
            self.socket.settimeout(RETRY_SECONDS)
            try:
                return self.socket.recv(100)
            except TimeoutError:
                tally.tell("datagram-lost", flow=self.name, backend=self.backend)
                self.socket.send(question)
        raise TimeoutError(f"no answer for {PATIENCE_SECONDS} s")


def stay(frontend: list[Any], count: int, tally: Tally, is_over: threading.Event) -> None:
    """Asks each of so many flows now and then, and tells when another pod answers.

    A flow ends after a while, and another one takes its place: otherwise all would stay with pods
    that never go.
    """
    flows: list[Flow] = []
    while not is_over.wait(0.5):
        for flow in [flow for flow in flows if flow.number >= ASKED]:
            flows.remove(flow)
            flow.socket.close()
        try:
            flows += [Flow(*frontend) for _ in range(min(2, count - len(flows)))]
        except OSError as error:
            tally.tell("failed", frontend=frontend, why=repr(error))
        for flow in list(flows):
            started = time.monotonic()
            try:
                backend = flow.ask(tally)
            except (OSError, EOFError) as error:
                tally.tell("lost", flow=flow.name, backend=flow.backend, why=repr(error))
                flows.remove(flow)
                flow.socket.close()
                continue
            now = time.monotonic()
            tally.count(f"{flow.protocol}-asked", now - started)
            if flow.backend not in ("", backend):
                facts = {"service": flow.service, "before": flow.backend, "after": backend}
                tally.tell(
                    "moved", flow=flow.name, protocol=flow.protocol, since=flow.answered, **facts
                )
            flow.backend, flow.answered = backend, now
            if flow.protocol == "udp":
                tally.tell("answered", service=flow.service, backend=backend, began=started)


def come_and_go(frontends: list[list[Any]], tally: Tally, is_over: threading.Event) -> None:
    """Opens a flow, asks once, and closes it."""
    while not is_over.is_set():
        for frontend in frontends:
            started = time.monotonic()
            try:
                flow = Flow(*frontend)
                try:
                    flow.ask(tally)
                finally:
                    flow.socket.close()
                tally.count(f"{flow.protocol}-new", time.monotonic() - started)
            except ConnectionRefusedError:
                tally.tell("refused", frontend=frontend)
            except (OSError, EOFError) as error:
                tally.tell("failed", frontend=frontend, why=repr(error))
            if is_over.wait(0.01):
                return


def main() -> None:
    """Ask until standard input ends."""
    frontends, count = json.loads(sys.argv[1]), int(sys.argv[2])
    tally, is_over = Tally(), threading.Event()
    threads = [threading.Thread(target=come_and_go, args=(frontends, tally, is_over))]
    for frontend in frontends:
        threads.append(threading.Thread(target=stay, args=(frontend, count, tally, is_over)))

    def wait_for_the_end() -> None:
        sys.stdin.read()
        is_over.set()

    for thread in (*threads, threading.Thread(target=wait_for_the_end)):
        thread.start()
    while not is_over.wait(1):
        tally.report()
    for thread in threads:
        thread.join()
    tally.report()


if __name__ == "__main__":
    main()
