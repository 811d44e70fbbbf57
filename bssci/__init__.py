"""A mioty Service Center: base stations over mutual TLS (BSSCI), uplinks kept on disk, MQTT out.

    from bssci import ServiceCenter, load_config

Importing the package costs nothing; what is named here is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bssci.core.protocol.errors import BssciError
    from bssci.core.runtime.config import Config, ConfigError, load_config
    from bssci.core.runtime.service import ServiceCenter
    from bssci.core.runtime.station import open_station

__all__ = [
    "BssciError",
    "Config",
    "ConfigError",
    "ServiceCenter",
    "__version__",
    "load_config",
    "open_station",
]

__version__ = "0.1.0"

_HOMES = {
    "BssciError": "bssci.core.protocol.errors",
    "Config": "bssci.core.runtime.config",
    "ConfigError": "bssci.core.runtime.config",
    "ServiceCenter": "bssci.core.runtime.service",
    "load_config": "bssci.core.runtime.config",
    "open_station": "bssci.core.runtime.station",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
