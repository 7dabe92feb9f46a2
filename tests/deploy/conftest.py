"""The programs that build manifests."""

from pathlib import Path

import pytest

from harness.deployment import program


@pytest.fixture(scope="session")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program("kubectl", tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program("helm", tmp_path_factory.mktemp("programs"))
