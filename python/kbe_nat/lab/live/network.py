"""The wires of a live run: a client, a node and two pods, of both families, with servers in the
pods.
"""

import os
import time
from contextlib import ExitStack, suppress
from itertools import count
from typing import Final, Self

from kbe_nat.errors import LabError
from kbe_nat.family import Family
from kbe_nat.lab.live.objects import PODS, VIPS
from kbe_nat.lab.live.traffic import Client, Server
from kbe_nat.playground.cluster import NODE_ADDRESS, NODE_ADDRESS_6, wire_ipv6, wire_node, wire_pod
from kbe_nat.playground.namespaces import Namespace

NODE_ADDRESSES: Final = (NODE_ADDRESS, NODE_ADDRESS_6)
ANSWER_SECONDS: Final = 60.0
"""Longer than any way takes from its rules to its first answer."""


class Network:
    """Namespaces, wires and servers, for as long as the block runs. Needs root, or a user namespace
    of its own. Several can stand beside each other.
    """

    def __init__(self) -> None:
        self.suffix = f"{os.getpid()}.{next(NUMBERS)}"
        """Tells its namespaces from those of others."""
        self.node = Namespace(f"kbe-lab-node-{self.suffix}")
        self.client = Namespace(f"kbe-lab-client-{self.suffix}")
        self.pods = tuple(
            Namespace(f"kbe-lab-pod{position}-{self.suffix}")
            for position in range(len(PODS[Family.IPV4]))
        )
        self.servers: tuple[Server, ...] = ()
        """One in each pod; its name is the pod's position."""
        self.traffic = Client(self.client)
        """The client's programs."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Raises `PlaygroundError`."""
        with ExitStack() as stack:
            for namespace in (self.node, self.client, *self.pods):
                stack.enter_context(namespace)
                # Devices answer nobody for two seconds else, while they ask for duplicates of
                # their link-local addresses, and programming would seem to take as long.
                with suppress(FileNotFoundError):
                    namespace.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")
            self.wire()
            self.servers = tuple(
                stack.enter_context(Server(pod, str(position)))
                for position, pod in enumerate(self.pods)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def wire(self) -> None:
        """Join the namespaces, which are there. Raises `PlaygroundError`."""
        wire_node(self.node, self.client)
        for position, pod in enumerate(self.pods):
            wire_pod(self.node, pod, PODS[Family.IPV4][position], f"veth{position}")
        wire_ipv6(self.node, self.client, dict(zip(PODS[Family.IPV6], self.pods, strict=True)))

    def first_answer(
        self, family: Family, protocol: str, *, pod: int | None = None, address: str | None = None
    ) -> float:
        """The moment (`time.monotonic`) of the first answer from the measured Service, or from
        `address`: of that pod, or any. Raises `LabError` when none comes within `ANSWER_SECONDS`.
        """
        deadline = time.monotonic() + ANSWER_SECONDS
        target = address or VIPS[family]
        while time.monotonic() < deadline:
            server = self.traffic.ask(target, protocol, seconds=0.02)
            if server is not None and pod in (None, int(server)):
                return time.monotonic()
        raise LabError(f"{target}: no answer by {protocol} within {ANSWER_SECONDS:.0f} s")


NUMBERS: Final = count()
