"""From a configuration to what the rooms of a Service Center are made with."""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING

from bssci.core.center.registry import BaseStation
from bssci.core.center.roster import Limits as Patience
from bssci.core.protocol.eui import format_eui
from bssci.core.runtime import tls
from bssci.core.runtime.link import Limits
from bssci.core.runtime.mqtt import BrokerSettings

if TYPE_CHECKING:
    import ssl

    from bssci.core.runtime.config import Config

__all__ = [
    "absent",
    "broker_settings",
    "limits",
    "nanoseconds",
    "patience",
    "raise_file_limit",
    "server_context",
]

logger = logging.getLogger(__name__)


def server_context(config: Config) -> ssl.SSLContext:
    """What base stations are met with.

    Raises:
        CertificateError: a certificate or a key cannot be used.
    """
    files = config.tls
    for warning in tls.certificate_warnings(files.cert_file, files.ca_file):
        logger.warning("%s", warning)
    return tls.server_context(
        cert_file=files.cert_file,
        key_file=files.key_file,
        ca_file=files.ca_file,
        min_version=files.min_version,
    )


def absent(bs_eui: int, since_ns: int) -> BaseStation:
    """A base station that an earlier process knew and that has not come back yet."""
    return BaseStation(
        eui=bs_eui,
        is_connected=False,
        since_ns=since_ns,
        address=None,
        name=None,
        vendor=None,
        model=None,
        sw_version=None,
        bidi=False,
        position=None,
        uplinks=0,
        clock_offset_ns=None,
        status=None,
        status_ns=None,
    )


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, as the two lower floors count."""
    return round(seconds * 1e9)


def patience(config: Config) -> Patience:
    """How long end points may be silent."""
    auto_detach = config.auto_detach
    return Patience(
        warn_ns=nanoseconds(auto_detach.warning_timeout),
        detach_ns=nanoseconds(auto_detach.timeout),
        is_enabled=auto_detach.enabled,
    )


def limits(config: Config) -> Limits:
    """How long base stations may take, and how many there may be."""
    server = config.server
    return Limits(
        max_connections=server.max_connections,
        max_half_open=server.max_half_open,
        max_half_open_per_address=server.max_half_open_per_address,
        handshake_timeout=server.handshake_timeout,
        idle_ping=server.idle_ping,
        idle_timeout=server.idle_timeout,
        write_timeout=server.write_timeout,
        operation_timeout=server.operation_timeout,
        max_frame=server.max_frame,
    )


def broker_settings(config: Config) -> BrokerSettings:
    """Where the broker is.

    Raises:
        CertificateError: a certificate or a key for it cannot be used.
    """
    mqtt = config.mqtt
    context = None
    if mqtt.tls:
        context = tls.broker_context(
            ca_file=mqtt.ca_file, cert_file=mqtt.cert_file, key_file=mqtt.key_file
        )
    return BrokerSettings(
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username or None,
        password=mqtt.password or None,
        client_id=mqtt.client_id or f"bssci-{format_eui(config.server.eui)}",
        qos=mqtt.qos,
        keepalive=mqtt.keepalive,
        tls=context,
        max_inflight=mqtt.max_inflight,
        reconnect_max=mqtt.reconnect_max,
    )


def raise_file_limit(wanted: int) -> None:
    """As many descriptors as base stations may connect; the usual limit of 1024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
