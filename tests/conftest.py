"""What holds for all tests."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine fails no property: no assertion is on time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def _log() -> Iterator[None]:
    """The daemon's log is the process's: a test in which the daemon takes it over would leave its
    handler to all later ones, with a standard error that pytest has closed by then.
    """
    log = logging.getLogger("kbe_nat")
    before = [*log.handlers], [*log.filters], log.level, log.propagate
    yield
    log.handlers[:], log.filters[:], level, log.propagate = before
    log.setLevel(level)
