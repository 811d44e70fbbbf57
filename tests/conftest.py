"""What holds for all tests."""

from hypothesis import settings

# A time is never an assertion: this machine may be busy with something else.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
