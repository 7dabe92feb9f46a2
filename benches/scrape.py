"""What a scrape of /metrics costs at many Services, and how long a packet waits for its snapshot.

Everything is in this process: a controller whose rules are kept in memory, its pages on loopback,
and a thread that hands packets to the engine one by one. Writes benches/results/metrics.json and a
part of benches/RESULTS.md.
"""

import http.client
import socket
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from benches.harness.report import by_services
from kbe_nat._native import Engine
from kbe_nat.control.controller import Controller
from kbe_nat.daemon.liveness import Liveness
from kbe_nat.daemon.node_metrics import NodeMetrics, Observed
from kbe_nat.daemon.reconciler import Reconciler
from kbe_nat.daemon.rows import StatusRow
from kbe_nat.daemon.settings import MetricsBackends
from kbe_nat.datapath.datapath import Diversion
from kbe_nat.datapath.every_packet import EveryPacket
from kbe_nat.family import Family
from kbe_nat.metrics.rest import RestMetrics
from kbe_nat.metrics.sync import SyncMetrics
from kbe_nat.model import Endpoint, EndpointSlice, Service, ServicePort, SlicePort, Snapshot
from kbe_nat.policy.options import Options
from kbe_nat.rules.memory import Memory
from kbe_nat.server.health_check_ports import HealthCheckPorts
from kbe_nat.server.health_page import HealthPages
from kbe_nat.server.pages import PagesThread
from kbe_nat.server.site import Site
from kbe_nat.sources.manifests.manifests import Manifests

ENDPOINTS: Final = 15
FIELDS: Final = {
    "scrape ms": "scrape_p50_ms",
    "slowest ms": "scrape_max_ms",
    "CPU ms": "scrape_cpu_ms",
    "MB": "megabytes",
    "packet waits ms": "packet_wait_p50_ms",
    "at least ms": "packet_wait_min_ms",
}
PACKET: Final = bytes.fromhex(
    "45000028000040004006000001010101020202020400005000000000000000005002ffff00000000"
)
"""A SYN to no Service: the engine's shortest way."""
Row = dict[str, Any]


def measure(services: int, rounds: int) -> Row:
    """One row of the table."""
    controller = controller_of(services)
    thread = PagesThread(Site({"/metrics": metrics_page(controller)}))
    listener = socket.create_server(("127.0.0.1", 0))
    thread.listen(listener)
    port = listener.getsockname()[1]
    scrapes = [scrape(port) for _ in range(rounds + 1)][1:]
    thread.close()
    seconds = [wall for wall, _, _ in scrapes]
    waits = packet_waits(controller.engine, rounds)
    return {
        "services": services,
        "endpoints": services * ENDPOINTS,
        "scrape_p50_ms": statistics.median(seconds) * 1000,
        "scrape_max_ms": max(seconds) * 1000,
        "scrape_cpu_ms": statistics.median(cpu for _, cpu, _ in scrapes) * 1000,
        "megabytes": scrapes[-1][2] / 1e6,
        "packet_wait_p50_ms": statistics.median(waits) * 1000,
        "packet_wait_min_ms": min(waits) * 1000,
    }


def scrape(port: int) -> tuple[float, float, int]:
    """Seconds until the whole text is there, those of them on a processor, and its bytes."""
    started, cpu = time.perf_counter(), time.process_time()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    content = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started, time.process_time() - cpu, len(content)


def packet_waits(engine: Engine, rounds: int) -> list[float]:
    """The longest wait of a packet for each snapshot of the counters. The caller of `stats` has no
    GIL meanwhile, so packets wait for the engine alone.
    """
    gaps: list[tuple[float, float]] = []
    is_over = threading.Event()

    def carry() -> None:
        last = time.perf_counter()
        while not is_over.is_set():
            engine.process(bytearray(PACKET), 1)
            now = time.perf_counter()
            gaps.append((now, now - last))
            last = now

    packets = threading.Thread(target=carry)
    packets.start()
    waits = []
    for _ in range(rounds):
        gaps.clear()
        engine.stats()
        waits.append(max((gap for _, gap in gaps.copy()), default=0.0))
    is_over.set()
    packets.join()
    return waits


def controller_of(services: int) -> Controller:
    """A controller that serves so many Services."""
    controller = Controller(
        Engine(seed=1), EveryPacket(Diversion((100, 100)), Memory()), lambda _: Options()
    )
    ports = (ServicePort("http", "tcp", 80),)
    listed = tuple(
        Service("default", f"service-{number}", (address(10, number),), ports)
        for number in range(services)
    )
    slices = {
        service.key: (
            EndpointSlice(
                f"{service.name}-1",
                Family.IPV4,
                (SlicePort("http", "tcp", 8080),),
                tuple(
                    Endpoint(address(11, number * ENDPOINTS + index)) for index in range(ENDPOINTS)
                ),
            ),
        )
        for number, service in enumerate(listed)
    }
    controller.apply(Snapshot(1, listed, slices))
    for number in range(services):
        connect(controller.engine, address(10, number))
    return controller


def connect(engine: Engine, to: str) -> None:
    """A connection, so that the service port has connect times."""
    syn = PACKET[:16] + socket.inet_aton(to) + PACKET[20:]
    sent = engine.process(syn, 1).packet
    assert sent is not None
    ends = sent[16:20] + sent[12:16] + sent[22:24] + sent[20:22]
    syn_ack = sent[:12] + ends + bytes(7) + b"\1\x50\x12" + sent[34:]
    assert engine.process(syn_ack, 50_000_000).action == "translate"


def address(first: int, number: int) -> str:
    """One of a network of 24 bits."""
    return f"{first}.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def status_of(controller: Controller) -> StatusRow:
    """The status of a daemon with this controller."""
    return StatusRow(
        datapath="every-packet",
        datapath_reason="as asked for",
        driver="native",
        queues=[100],
        rules="memory",
        seed=1,
        pid=1,
        version="1",
        seconds=1,
        generation=1,
        service_ports=len(controller.plan.ports),
        refused=[],
        rules_up_to_date=True,
        drains=[],
        loops=[],
    )


def metrics_page(controller: Controller) -> Callable[[], tuple[int, dict[str, str], bytes]]:
    """/metrics of this controller."""
    sync = SyncMetrics()
    reconciler = Reconciler(Manifests(()), controller, HealthCheckPorts(), metrics=sync)
    liveness = Liveness(lambda: False)
    status = status_of(controller)
    observed = Observed(
        controller=controller,
        reconciler=reconciler,
        liveness=liveness,
        health=HealthPages(liveness.report, lambda: True),
        sync=sync,
        requests=RestMetrics(),
        status=lambda: status,
        loops=[],
        truncated=lambda: 0,
        max_flows=262_144,
    )
    metrics = NodeMetrics(observed, lambda: MetricsBackends.SERVICE)

    def page() -> tuple[int, dict[str, str], bytes]:
        media_type, content = metrics.exposition()
        return 200, {"Content-Type": media_type}, content

    return page


if __name__ == "__main__":
    by_services("metrics", measure, FIELDS, 20, __doc__)
