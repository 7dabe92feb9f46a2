"""Namespaces for tests on real packets. Where they cannot be made, the tests are skipped with the
reason.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from zlib import crc32

import pytest

from harness.cached import Begin, Talk, talk
from harness.cached_router import Datagrams, Router, datagrams, router, skip_without_cache
from harness.daemons import SEED, Daemon
from harness.stage import OTHER, POD
from kbe_nat.drivers.native import NativeQueue
from kbe_nat.drivers.netfilterqueue import NetfilterQueue
from kbe_nat.errors import PlaygroundError
from kbe_nat.family import Family
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace
from kbe_nat.rules.rule import DatapathKind


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.netns)
    items[:] = [item for item in items if not _is_spared(item)]


def _is_spared(item: pytest.Item) -> bool:
    """Whether time is saved by leaving this out: each test that `cached` shares with other
    datapaths runs on it, but of two families or drivers with one, by the test's name.
    """
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if DatapathKind.CACHED not in parameters.values() or item.path.stem in ALL_CACHED:
        return False
    name = item.nodeid.partition("[")[0]
    turn = crc32(name.encode())
    return any(
        values[(turn >> place) % len(values)] != parameters[axis]
        for place, (axis, values) in enumerate(AXES.items())
        if parameters.get(axis) in values
    )


AXES: Final[dict[str, list[object]]] = {
    "family": list(Family),
    "driver": [NativeQueue, NetfilterQueue],
    "mode": ["iptables", "nftables"],
}
"""What the cache does not depend on in the datapaths' common tests."""
ALL_CACHED: Final = ("test_cached",)


@pytest.fixture(scope="session", autouse=True)
def _can_make_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("root is needed for network namespaces")
    for command in ("ip", "iptables-restore", "ipset", "nsenter", "curl"):
        if shutil.which(command) is None:
            pytest.skip(f"{command} is not installed")
    try:
        with Namespace(f"kbe-probe-{os.getpid()}"):
            pass
    except PlaygroundError as error:
        pytest.skip(f"network namespaces cannot be made: {error}")


@pytest.fixture(scope="session", autouse=True)
def _hangups_end_processes() -> None:
    # Under nohup they are ignored, children inherit that, and a daemon keeps it as it should.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster((POD, OTHER)) as made:
        yield made


@pytest.fixture(params=list(DatapathKind), ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "objects").mkdir()
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("cluster.yaml", SEED)
        yield made


@pytest.fixture
def cached(daemon: Daemon) -> Iterator[Begin]:
    """Begins a flow to what the daemon serves, and talks until its cache carries it."""
    with ExitStack() as stack:

        def begin(family: Family, protocol: str) -> Talk:
            own = stack.enter_context(talk(daemon, family, protocol))
            own.await_cache()
            return own

        yield begin


@pytest.fixture(scope="module")
def stage() -> Iterator[Router]:
    """A router with the flow cache's programs."""
    skip_without_cache()
    with router() as made:
        yield made


@pytest.fixture
def flow(stage: Router, request: pytest.FixtureRequest) -> Iterator[Datagrams]:
    """See `FLOWS`."""
    with datagrams(stage, request.param) as made:
        yield made
