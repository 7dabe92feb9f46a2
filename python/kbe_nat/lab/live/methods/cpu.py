"""The processor time of a packet.

The sender's thread does all of the kernel's work up to a queue or the receiver; the way's threads
do the rest. What the sender does for itself is measured with packets that the node drops before all
else, and subtracted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.methods.bench import Bench, Rows
from kbe_nat.lab.live.scenario import Cpu
from kbe_nat.lab.live.traffic import Flows
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.commands import Commands


def cpu(bench: Bench, measure: Cpu) -> Rows:
    """One load below what the way can carry, and another above it."""
    traffic = bench.network.traffic
    with _dropped_first(bench.network.node):
        bare = traffic.flows(UNUSED[bench.family]).flood(packets=BARE_PACKETS, rate=BARE_RATE)
    flows = bench.flows()
    flows.flood(packets=WARM_UP, rate=measure.rate)
    bench.settle(bench.received() + WARM_UP)
    idle_share = _idle_share(bench)
    received, spent, started = bench.received(), bench.cpu_ns(), time.monotonic()
    flood = flows.flood(packets=measure.packets, rate=measure.rate)
    if not flood.sent:
        raise LabError("nothing could be sent")
    lost = flood.sent - (bench.settle(received + flood.sent).received - received)
    way_ns = (bench.cpu_ns() - spent) / flood.sent
    idle_ns = idle_share * (time.monotonic() - started) * 1e9 / flood.sent
    net_ns = flood.cpu_ns - bare.cpu_ns + way_ns - idle_ns
    core_kpps = _core_kpps(bench, flows) if measure.saturate and bench.served.pids else None
    place = (flood.sent, flood.cpu_ns, bare.cpu_ns, way_ns, idle_share, net_ns, lost, core_kpps)
    return {"cpu": [place]}


def _idle_share(bench: Bench) -> float:
    """The share of a processor that the way's threads take without packets."""
    spent, started = bench.cpu_ns(), time.monotonic()
    time.sleep(IDLE_SECONDS)
    return (bench.cpu_ns() - spent) / 1e9 / (time.monotonic() - started)


def _core_kpps(bench: Bench, flows: Flows) -> float | None:
    """Thousands of packets that the way's threads carry in a second of their time while more come
    than they can carry. None where packets do not come to them: the kernel carries the flows.
    """
    carried, spent = bench.handed_out(), bench.cpu_ns()
    if carried is None:
        return None
    flood = flows.flood(packets=SATURATION_PACKETS)
    # The queue is still full, and its threads have not rested since.
    packets, time_ns = (bench.handed_out() or 0) - carried, bench.cpu_ns() - spent
    bench.settle(bench.received() + flood.sent)
    if packets < flood.sent * CARRIED_LEAST or not time_ns:
        return None
    return packets * 1e6 / time_ns


@contextmanager
def _dropped_first(node: Namespace) -> Iterator[None]:
    """Packets to the unused addresses are dropped before connections are tracked."""
    rules = "\n".join(f"  {family} daddr {UNUSED[key]} drop" for family, key in FIELDS)
    Commands(node.prefix).run(
        ("nft", "-f", "-"),
        f"table inet {TABLE} {{\n chain first {{\n"
        f"  type filter hook prerouting priority raw;\n{rules}\n }}\n}}\n",
    )
    yield
    Commands(node.prefix).run(("nft", "delete", "table", "inet", TABLE))


TABLE: Final = "kbe-nat-lab-control"
UNUSED: Final = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}
FIELDS: Final = (("ip", Family.IPV4), ("ip6", Family.IPV6))
BARE_PACKETS: Final = 51_200
BARE_RATE: Final = 300_000.0
WARM_UP: Final = 2048
IDLE_SECONDS: Final = 0.1
SATURATION_PACKETS: Final = 409_600
CARRIED_LEAST: Final = 0.01
"""A queue that has handed out a smaller share of a flood carries no established flows."""
