"""The tests.  ``acceptance`` starts real servers and clients; everything else stays in memory."""

from hypothesis import HealthCheck, settings

# How long an example takes is decided by whatever else the machine does, and is no property of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
