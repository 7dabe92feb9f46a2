"""Objects, servers and clients for tests of many flows: UDP and TCP, both families."""

import selectors
import socket
import time
from contextlib import AbstractContextManager

from harness.programs import NAMED_POD
from harness.stage import DATAPATHS, FAMILIES, OFFLOADING_DATAPATHS, served
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside

__all__ = [
    "DATAPATHS",
    "FAMILIES",
    "NAMES",
    "OFFLOADING_DATAPATHS",
    "PORT",
    "VIPS",
    "Clients",
    "endpoints",
    "named",
    "service",
    "sources",
]

VIPS = {4: "172.30.0.53", 6: "fd00:30::53"}
NAMES = {"a": {4: "172.17.0.3", 6: "fd00:17::3"}, "b": {4: "172.17.0.4", 6: "fd00:17::4"}}
PORT = 53


def service(family: Family, name: str = "dns", address: str = "", more: str = "") -> str:
    """A Service with one UDP and one TCP port; `more` goes on with its spec."""
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}{family}}}
spec:
  clusterIP: "{address or VIPS[family]}"
  ports:
  - {{name: dns, port: {PORT}, targetPort: 9953, protocol: UDP}}
  - {{name: tcp, port: {PORT}, targetPort: 9953, protocol: TCP}}
{more}
---
"""


def endpoints(family: Family, *pods: str, name: str = "dns") -> str:
    """Its slice. A pod is a name, with conditions and the like behind it."""
    rows = []
    for pod in pods:
        own, _, more = pod.partition(" ")
        rows.append(f'{{addresses: ["{NAMES[own][family]}"]{", " + more if more else ""}}}')
    return f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}{family}-1, labels: {{kubernetes.io/service-name: {name}{family}}}}}
addressType: IPv{family}
ports: [{{name: dns, port: 9953, protocol: UDP}}, {{name: tcp, port: 9953, protocol: TCP}}]
endpoints: [{", ".join(rows)}]
---
"""


def named(cluster: Cluster) -> None:
    """A server in each pod that answers with its name, to datagrams and connections of both
    families.
    """
    for pod, name in zip(cluster.pods, NAMES, strict=True):
        served(pod, NAMED_POD, name, "9953")


def sources(cluster: Cluster, family: Family, count: int) -> list[str]:
    """So many addresses for the client."""
    is_ipv6 = family == Family.IPV6
    made = [f"fd00:2::{n + 0x200:x}" if is_ipv6 else f"10.0.2.{n + 110}" for n in range(count)]
    for own in made:
        more = ("nodad",) if is_ipv6 else ()
        size = 64 if is_ipv6 else 24
        cluster.client.call("ip", "address", "add", f"{own}/{size}", "dev", "eth0", *more)
    return made


class Clients(AbstractContextManager["Clients"]):
    """Sockets of a client, each with a port of its own that it keeps."""

    def __init__(
        self,
        cluster: Cluster,
        family: Family,
        count: int,
        kind: socket.SocketKind = socket.SOCK_DGRAM,
        to: tuple[str, int] | None = None,
    ) -> None:
        self.questions = 0
        self._to = to or (VIPS[family], PORT)
        domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET
        self._kind = kind

        def open_sockets() -> list[socket.socket]:
            return [socket.socket(domain, kind) for _ in range(count)]

        self.sockets = inside(cluster.client.path, open_sockets)
        for client in self.sockets:
            client.settimeout(30)
            client.connect(self._to)

    def __exit__(self, *raised: object) -> None:
        for client in self.sockets:
            client.close()

    def asked(self, seconds: float = 30) -> list[str]:
        """Who answers each; "" stands for nobody. Asks again after a second without answer, up to
        `seconds`.
        """
        answers: dict[socket.socket, str] = {}
        for start in range(0, len(self.sockets), AT_ONCE):
            deadline = time.monotonic() + seconds
            group = self.sockets[start : start + AT_ONCE]
            while (
                silent := [client for client in group if client not in answers]
            ) and time.monotonic() < deadline:
                self.questions += len(silent)
                answers |= answered(silent, 1)
        return [answers.get(client, "") for client in self.sockets]


def answered(sockets: list[socket.socket], seconds: float) -> dict[socket.socket, str]:
    """Asks each once, and returns the answers that come in time; "refused" is one."""
    answers: dict[socket.socket, str] = {}
    with selectors.DefaultSelector() as selector:
        for client in sockets:
            selector.register(client, selectors.EVENT_READ)
            try:
                client.send(b"who?")
            except ConnectionRefusedError:
                answers[client] = "refused"
        deadline = time.monotonic() + seconds
        while len(answers) < len(sockets) and (remaining := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(remaining):
                readable = key.fileobj
                assert isinstance(readable, socket.socket)
                try:
                    answers[readable] = readable.recv(100).partition(b" ")[0].decode()
                except ConnectionRefusedError:
                    answers[readable] = "refused"
    return answers


AT_ONCE = 50
