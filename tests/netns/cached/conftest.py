"""A node whose cache carries flows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cached import cached_daemon
from harness.daemons import Daemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """It serves one pod in both families."""
    with cached_daemon(tmp_path) as made:
        yield made
