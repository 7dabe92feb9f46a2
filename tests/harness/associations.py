"""SCTP, which few kernels speak: associations by their first packets."""

import socket
from collections import Counter
from contextlib import ExitStack

from scapy.layers.sctp import crc32c

from harness.clients import NAMES
from harness.waiting import eventually
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import inside


def associations(cluster: Cluster, family: Family, to: str, count: int) -> Counter[str]:
    """How many INITs to port 80 of this address each pod has seen, of as many clients."""
    domain = socket.AF_INET6 if family == Family.IPV6 else socket.AF_INET

    def raw() -> socket.socket:
        made = socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_SCTP)
        made.setblocking(False)
        return made

    chunk = bytes.fromhex("0100001400000007000100000001000100000007")
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        pods = {
            own: stack.enter_context(inside(pod.path, raw))
            for own, pod in zip(NAMES, cluster.pods, strict=True)
        }
        client = stack.enter_context(inside(cluster.client.path, raw))

        def hear() -> bool:
            for own, pod in pods.items():
                while True:
                    try:
                        packet = pod.recv(2000)
                    except BlockingIOError:
                        break
                    seen[own] += chunk in packet
            return seen.total() >= count

        for number in range(count):
            head = (20000 + number).to_bytes(2) + (80).to_bytes(2) + bytes(4)
            packet = head + crc32c(head + bytes(4) + chunk).to_bytes(4) + chunk
            client.sendto(packet, (to, 0))
            hear()
        eventually(hear)
    return seen
