"""A node whose cache carries flows."""

from collections.abc import Iterator

import pytest

from harness.cached import cached_daemon
from harness.daemons import Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """It serves one pod in both families, for all tests of a file."""
    with cached_daemon(tmp_path_factory.mktemp("node")) as made:
        yield made
