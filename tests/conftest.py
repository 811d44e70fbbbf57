"""What holds for all tests."""

import signal

from hypothesis import settings

# A time is never an assertion: this machine may be busy with something else.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# Shells start what runs in the background with SIGINT ignored, and programs that are started from
# there inherit that: Ctrl-C would mean nothing to the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)
