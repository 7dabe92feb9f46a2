"""HAProxy as the userspace proxy of old: a TCP frontend at each virtual IP and port, which ends
connections of clients and opens others to endpoints.

The virtual IPs are addresses of the node (`local_addresses`), so packets end there. Endpoints see
the node as their client. UDP it does not proxy.
"""

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.network import Network
from kbe_nat.lab.live.ways.frontends import frontends, local_addresses, measured
from kbe_nat.lab.live.ways.programs import Program, not_installed
from kbe_nat.lab.live.ways.way import Served, families_of, first_answer
from kbe_nat.model import Snapshot, join_address

PROTOCOLS: Final = frozenset(("tcp",))


class Haproxy:
    """The Debian package, with a configuration of its own."""

    name = "haproxy"
    protocols = PROTOCOLS
    families = frozenset(Family)
    is_static = False

    def missing(self) -> str | None:
        """See `Way`."""
        return not_installed("haproxy", "haproxy")

    @contextmanager
    def serve(self, network: Network, objects: Snapshot) -> Iterator[Served]:
        """See `Way`."""
        addresses = [ip for service in objects.services for ip in service.cluster_ips]
        with (
            tempfile.TemporaryDirectory() as folder,
            # Addresses stand before the clock starts: a node's rules are what is programmed.
            local_addresses(network, addresses),
        ):
            file, control = Path(folder, "haproxy.cfg"), Path(folder, "control")
            file.write_text(configuration(objects, control))
            started = time.monotonic()
            # Not quiet: its own words say why it ends, as of a limit of open files.
            command = ("haproxy", "-db", "-f", str(file))
            with Program(network.node, command) as program:
                took = _first_answer(program, network, objects) - started
                yield _Proxy(network, program, control, took)
                program.check()


class _Proxy(Served):
    def __init__(
        self, network: Network, program: Program, control: Path, programming_seconds: float
    ) -> None:
        super().__init__(network, programming_seconds, program.peak_mb())
        self._control = control
        self.pids = (program.pid,)

    def change(self, objects: Snapshot) -> float:
        """By the runtime interface, as controllers for HAProxy do; their number stays."""
        commands = [
            f"set server {name}/{position} addr {address} port {target}"
            for name, endpoints, target in _backends(measured(objects))
            for position, address in enumerate(endpoints)
        ]
        began = time.monotonic()
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CONTROL_SECONDS)
            control.connect(str(self._control))
            control.sendall((";".join(commands) + "\n").encode())
            answer = b"".join(iter(lambda: control.recv(4096), b"")).decode()
        if "No such" in answer or "unknown" in answer.lower():
            raise LabError(f"haproxy: {' '.join(answer.split())}")
        return began


def configuration(objects: Snapshot, control: Path) -> str:
    """A frontend with its backend for each TCP port of each Service, of all families."""
    lines = [
        "global",
        f"  stats socket {control} mode 600 level admin",
        "defaults",
        "  mode tcp",
        "  balance roundrobin",
        "  timeout connect 5s",
        "  timeout client 1m",
        "  timeout server 1m",
    ]
    for family in families_of(objects):
        for frontend in frontends(objects, family):
            if frontend.protocol != "tcp":
                continue
            lines += [
                f"listen {frontend.name}-{family}",
                f"  bind {join_address(frontend.address, frontend.port)}",
            ]
            lines += [
                f"  server {position} {join_address(endpoint, frontend.target)}"
                for position, endpoint in enumerate(frontend.endpoints)
            ]
    return "".join(f"{line}\n" for line in lines)


def _backends(objects: Snapshot) -> Iterator[tuple[str, tuple[str, ...], int]]:
    for family in families_of(objects):
        for frontend in frontends(objects, family):
            if frontend.protocol == "tcp":
                yield f"{frontend.name}-{family}", frontend.endpoints, frontend.target


def _first_answer(program: Program, network: Network, objects: Snapshot) -> float:
    try:
        return first_answer(network, objects, "tcp")
    except LabError:
        # Its own words say more.
        program.check()
        raise


CONTROL_SECONDS: Final = 10.0
