"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A busy machine fails no property: no assertion is on time.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
