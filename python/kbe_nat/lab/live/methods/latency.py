"""Times of packets beside a load, and the rate of one TCP connection."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.methods.connections import times
from kbe_nat.lab.live.scenario import Bulk, Latency
from kbe_nat.lab.tables import Row


def latency(bench: Bench, measure: Latency) -> Rows:
    """Each kind beside each load."""
    traffic = bench.network.traffic
    rows: list[Row] = []
    buckets: list[Row] = []
    traffic.ping(bench.address, count=WARM_UP)
    settle = bench.served.settling_seconds
    for kind in measure.kinds:
        for load in measure.loads:
            with _load(bench, load) as beside:
                done = (
                    traffic.ping(bench.address, count=measure.count, settle=settle)
                    if kind == "round-trip"
                    else traffic.first_packets(bench.address, count=measure.count)
                )
            lost = done.sent - done.answered
            counts = (done.sent, done.answered, lost)
            rows.append((kind, load, beside.rate(), *counts, *times(done.latencies)))
            buckets += [(kind, load, *bucket) for bucket in done.latencies.buckets]
    return {"latency": rows, "histograms": buckets}


class _Load:
    """Datagrams at a steady rate from a thread, until it is stopped."""

    def __init__(self, bench: Bench, wanted: float) -> None:
        self._bench, self._wanted = bench, wanted
        self._stop = threading.Event()
        self._sent, self._seconds = 0, 0.0
        self.error: BaseException | None = None

    def rate(self) -> float:
        """Packets a second that were sent."""
        return self._sent / self._seconds if self._seconds else 0.0

    def run(self) -> None:
        """Send, a slice of a second at a time."""
        try:
            flows = self._bench.flows()
            while not self._stop.is_set():
                flood = flows.flood(
                    packets=max(1, round(self._wanted * SLICE)),
                    rate=self._wanted,
                    burst=SMALL_BURST,
                )
                self._sent += flood.sent
                self._seconds += flood.seconds
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Let the slice be the last."""
        self._stop.set()


@contextmanager
def _load(bench: Bench, wanted: float) -> Iterator[_Load]:
    load = _Load(bench, wanted)
    if not wanted:
        yield load
        return
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stop()
        thread.join()
    if load.error is not None:
        raise load.error
    bench.settle(bench.received() + 1)


def bulk(bench: Bench, measure: Bulk) -> Rows:
    """One connection; its receiver counts."""
    settle = bench.served.settling_seconds
    done = bench.network.traffic.bulk(bench.address, megabytes=measure.megabytes, settle=settle)
    rate = done.bytes * 8 / done.seconds / 1e9 if done.seconds else None
    return {"bulk": [(done.bytes, done.seconds, rate, done.cpu_ns)]}


WARM_UP: Final = 100
SLICE: Final = 0.5
SMALL_BURST: Final = 16
"""Packets at once: large bursts would make the timed packets wait behind them."""
