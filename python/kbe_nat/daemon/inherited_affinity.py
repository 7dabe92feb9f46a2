"""Session affinity that kube-proxy's rules remember, for a daemon that takes their place.

kube-proxy names the memory of each endpoint by a hash that `kubeproxy.names` computes, so each is
asked for by its name, and nothing of kube-proxy's is listed as a whole or changed:

- **nftables mode** has a set of clients for each endpoint, whose elements say when they leave.
- **iptables mode** has a list of the `recent` match for each endpoint, whose lines say in jiffies
  when a client was last seen. What jiffies it is now, and how many make a second, is read from
  /proc/timer_list. Where the kernel does not show that, a client counts as seen just now.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from kbe_nat._native import Engine, NftTable, NftTables
from kbe_nat.errors import RulesError
from kbe_nat.family import Family
from kbe_nat.kubeproxy import names
from kbe_nat.policy.plan import Backend, BackendAddress, Plan, PlannedPort


class Client(NamedTuple):
    """A client that kube-proxy's rules send to an endpoint, and for how many seconds more."""

    address: str
    seconds: float


class Jiffies(NamedTuple):
    """The kernel's clock: ticks since its start, and ticks of a second."""

    now: int
    second: int

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where the kernel does not show it."""
        try:
            now = JIFFIES.search((folder / "timer_list").read_text())
            uptime = float((folder / "uptime").read_text().split()[0])
        except (OSError, ValueError):
            return None
        if now is None or uptime <= 0:
            return None
        jiffies = int(now[1])
        # Jiffies start five minutes before they overflow 32 bits.
        guesses = ((abs(jiffies - START - (uptime - 300) * second), second) for second in SECONDS)
        return cls(jiffies, min(guesses)[1])

    def ago(self, moment: int) -> float:
        """Seconds since then."""
        return max(0.0, (self.now - moment) / self.second)


Memory = Callable[[PlannedPort, Backend], Iterator[Client]]


def inherit_affinity(engine: Engine, plan: Plan, proc: Path = Path("/proc")) -> int:
    """Bind clients to the endpoints that kube-proxy's rules remember for them; returns how many.

    Only endpoints of the plan that new clients may get are asked for. Cost: one question to the
    kernel for each endpoint of a service port with affinity, and mode of kube-proxy that is here.
    """
    ports = [port for port in plan.ports if port.affinity_seconds is not None]
    if not ports:
        return 0
    bound = 0
    for memory in [*_sets(), *_lists(proc)]:
        try:
            for name, key, client in _clients(ports, memory):
                now = time.monotonic_ns()
                bound += engine.bind_client(name, client.address, key, now, seconds=client.seconds)
        except RulesError as error:
            # Serving matters more than where a client went before.
            LOG.warning("kube-proxy's session affinity is taken over in part: %s", error)
    return bound


def _clients(
    ports: list[PlannedPort], memory: Memory
) -> Iterator[tuple[str, BackendAddress, Client]]:
    """The clients that are remembered, with their service port and endpoint."""
    for port in ports:
        for backend in {*port.cluster_backends, *port.local_backends}:
            for client in memory(port, backend):
                yield port.name, backend.key, client


def _sets() -> Iterator[Memory]:
    """nftables mode's memory, by family."""
    try:
        tables = NftTables()
        families = {
            family
            for family in Family
            if any(name == TABLE for name, _ in tables.names(int(family)))
        }
    except RulesError:
        # A kernel without nf_tables has none of kube-proxy's.
        return

    def clients(port: PlannedPort, backend: Backend) -> Iterator[Client]:
        if port.family not in families:
            return
        name = f"affinity-{names.nft_endpoint_base(port, backend)}"
        for address, seconds in tables.addresses(NftTable(int(port.family), TABLE), name):
            if seconds is not None:
                yield Client(address, seconds)

    yield clients


def _lists(proc: Path) -> Iterator[Memory]:
    """iptables mode's memory."""
    folder = proc / "net/xt_recent"
    if not folder.is_dir():
        return
    jiffies = Jiffies.read(proc)

    def clients(port: PlannedPort, backend: Backend) -> Iterator[Client]:
        path = folder / names.iptables_chain(names.ENDPOINT, port, backend)
        try:
            content = path.read_text()
        except OSError:
            # No client has come to this endpoint, or the rule is gone.
            return
        for address, seen in SEEN.findall(content):
            ago = jiffies.ago(int(seen)) if jiffies else 0.0
            seconds = (port.affinity_seconds or 0) - ago
            if seconds > 0:
                yield Client(address, seconds)

    yield clients


LOG: Final = logging.getLogger("kbe_nat.daemon")
TABLE: Final = "kube-proxy"
JIFFIES: Final = re.compile(r"^jiffies: (\d+)$", re.MULTILINE)
SEEN: Final = re.compile(r"^src=(\S+) .*last_seen: (\d+)", re.MULTILINE)
START: Final = 1 << 32
SECONDS: Final = (100, 250, 300, 1000)
"""What a kernel may be built with."""
