"""A mioty Service Center: base stations over mutual TLS (BSSCI), uplinks kept on disk, MQTT out.

    from bssci import ServiceCenter, load_config

Be a base station with `open_station`, a Service Center with `ServiceCenter`, talk to a running one
with `open_client`; the protocol without any I/O is in `bssci.core.protocol`.

Importing the package costs nothing; what is named here is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bssci.core.protocol.errors import (
        BssciError,
        OperationLostError,
        OperationRefusedError,
    )
    from bssci.core.protocol.eui import format_eui, parse_eui
    from bssci.core.protocol.events import Withdrawn
    from bssci.core.runtime.client import open_client
    from bssci.core.runtime.config import Config, ConfigError, load_config, make_config
    from bssci.core.runtime.holdings import Holdings
    from bssci.core.runtime.service import ServiceCenter, StartError
    from bssci.core.runtime.sink import Uplink, UplinkReception
    from bssci.core.runtime.station import Identity, Station, StationSettings, open_station
    from bssci.core.runtime.station_events import (
        Attached,
        Detached,
        Offline,
        Online,
        Request,
        StationEvents,
    )
    from bssci.core.runtime.tls import client_context

__all__ = [
    "Attached",
    "BssciError",
    "Config",
    "ConfigError",
    "Detached",
    "Holdings",
    "Identity",
    "Offline",
    "Online",
    "OperationLostError",
    "OperationRefusedError",
    "Request",
    "ServiceCenter",
    "StartError",
    "Station",
    "StationEvents",
    "StationSettings",
    "Uplink",
    "UplinkReception",
    "Withdrawn",
    "__version__",
    "client_context",
    "format_eui",
    "load_config",
    "make_config",
    "open_client",
    "open_station",
    "parse_eui",
]

__version__ = "0.1.0"

_HOMES = {
    "bssci.core.protocol.errors": ("BssciError", "OperationLostError", "OperationRefusedError"),
    "bssci.core.protocol.eui": ("format_eui", "parse_eui"),
    "bssci.core.runtime.client": ("open_client",),
    "bssci.core.runtime.config": ("Config", "ConfigError", "load_config", "make_config"),
    "bssci.core.runtime.holdings": ("Holdings",),
    "bssci.core.runtime.service": ("ServiceCenter", "StartError"),
    "bssci.core.runtime.sink": ("Uplink", "UplinkReception"),
    "bssci.core.runtime.station": ("Identity", "Station", "StationSettings", "open_station"),
    "bssci.core.protocol.events": ("Withdrawn",),
    "bssci.core.runtime.station_events": (
        *("Attached", "Detached", "Offline", "Online", "Request", "StationEvents"),
    ),
    "bssci.core.runtime.tls": ("client_context",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
