"""An API server on another machine, whose packets stop without FIN and without RST: the daemon's
connections are half open.
"""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cluster.server import LiveServer
from harness.waiting import eventually
from kbe_nat.playground.cluster import CLIENT_ADDRESS, Cluster
from kbe_nat.playground.namespaces import inside
from kbe_nat.rules.rule import DatapathKind
from netns.test_cluster_source import Node, node_of

DROP = "table inet cable { chain in { type filter hook input priority 0; policy drop; };"
PULLED = DROP + " chain out { type filter hook output priority 0; policy drop; }; }"


@pytest.fixture
def far(cluster: Cluster, tmp_path: Path) -> Iterator[Node]:
    """The server is in the client's namespace, a wire away."""
    server = LiveServer(run_in=partial(inside, cluster.client.path), address=CLIENT_ADDRESS)
    with node_of(server, cluster, tmp_path, DatapathKind.FIRST_PACKET) as place:
        yield place


def test_f104_a_half_open_connection_is_noticed_and_opened_anew(far: Node) -> None:
    far.start()
    far.serves("a")
    far.daemon.cluster.client.call("nft", PULLED)
    started = time.monotonic()
    far.point("b")
    eventually(lambda: {row["phase"] for row in far.watches().values()} == {"stale"}, seconds=100)
    # By TCP keep-alive: 150 s of silence are not needed.
    assert 10 < time.monotonic() - started < 100
    far.daemon.cluster.client.call("nft", "delete table inet cable")
    far.serves("b")
    eventually(far.is_in_step)
