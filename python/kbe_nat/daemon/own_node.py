"""Whether load balancers should send new connections to this node, by its Node object."""

import socket
from collections.abc import Mapping

from kbe_nat.daemon.settings import Settings
from kbe_nat.model import Node


class OwnNode:
    """What is known of the node that this daemon works for.

    Files need not hold a Node, and then nothing is known against this one. A Node that was there
    and is gone is a deleted node.
    """

    def __init__(self, *, is_expected: bool = False) -> None:
        """`is_expected`: the source of the objects is asked for this Node, so that one which it
        does not have is missing.
        """
        self.is_eligible = True
        """Read by any thread. Nothing is known against a node before the first objects come."""
        self._is_expected = is_expected
        self._name = ""

    def update(self, name: str, nodes: Mapping[str, Node]) -> None:
        """Take over the Nodes; `name` is this one's, and empty while nothing tells it."""
        self._name = name or self._name
        self._is_expected = self._is_expected or bool(nodes)
        node = nodes.get(self._name)
        self.is_eligible = node.is_eligible if node else not self._is_expected


def node_name(settings: Settings) -> str:
    """The name of the Node that the API server is asked for: as kubelet names a node, the host's
    where nothing says another one.
    """
    name = settings.node.node or settings.configuration.hostname_override.strip().lower()
    return name or socket.gethostname().strip().lower()
