"""Namespaces for tests on real packets. Where they cannot be made, the tests are skipped with the
reason.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.daemons import SEED, Daemon
from harness.stage import OTHER, POD, WITHOUT_CACHE
from kbe_nat.errors import PlaygroundError
from kbe_nat.playground.cluster import Cluster
from kbe_nat.playground.namespaces import Namespace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.netns)


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


@pytest.fixture(params=WITHOUT_CACHE, ids=str)
def daemon(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "objects").mkdir()
    with Daemon(cluster, tmp_path, request.param) as made:
        made.write("cluster.yaml", SEED)
        yield made
