"""It is noon of 2024-05-01, and the place is Greenwich."""

import time

import pytest

from bssci.cli import output
from tests.control import NOW


@pytest.fixture(autouse=True)
def _noon(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(output, "now", lambda: NOW)
    yield
    monkeypatch.undo()
    time.tzset()
