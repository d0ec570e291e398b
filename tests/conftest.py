"""Settings of all tests: an example of a property has no time limit, as the machine may be busy."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
