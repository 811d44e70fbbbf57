"""From a configuration to what the rooms are made with."""

import resource
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bssci.core.center.registry import BaseStation
from bssci.core.center.roster import Limits as Patience
from bssci.core.runtime.authority import make_authority, make_server_certificate
from bssci.core.runtime.config import Config, load_config
from bssci.core.runtime.link import Limits
from bssci.core.runtime.mqtt import BrokerSettings
from bssci.core.runtime.setup import (
    absent,
    broker_settings,
    limits,
    nanoseconds,
    patience,
    raise_file_limit,
    server_context,
)
from bssci.core.runtime.tls import CertificateError

EUI = "70B3D59CD0000001"
AVA = 0x70B3D59CD0000951
NOON = 1_756_193_850_000_000_000
SECOND = 1_000_000_000


@pytest.fixture
def read(tmp_path):
    """A configuration of these options; all others have their defaults."""

    def config(**options: object) -> Config:
        (tmp_path / "sc.toml").write_text(f'[server]\neui = "{EUI}"\n')
        named = {name.replace("__", "."): value for name, value in options.items()}
        return load_config(tmp_path, environ={}, options=named)

    return config


def write_certificates(folder: Path, *, now: datetime | None = None) -> None:
    """An authority and a certificate of it, where the defaults look for them."""
    authority = make_authority()
    pair = make_server_certificate(authority, ["sc.example.org"], now=now)
    folder.mkdir()
    (folder / "ca_cert.pem").write_bytes(authority.certificate)
    (folder / "service_center_cert.pem").write_bytes(pair.certificate)
    (folder / "service_center_key.pem").write_bytes(pair.key)


# --- what base stations are met with ---


def test_base_stations_must_show_a_certificate(read, tmp_path, caplog):
    write_certificates(tmp_path / "certs")
    context = server_context(read(tls__min_version="1.3"))
    assert (context.verify_mode, context.minimum_version) == (
        ssl.CERT_REQUIRED,
        ssl.TLSVersion.TLSv1_3,
    )
    assert caplog.messages == []


def test_an_expired_certificate_is_used_and_the_operator_is_told(read, tmp_path, caplog):
    write_certificates(tmp_path / "certs", now=datetime.now(UTC) - timedelta(days=900))
    server_context(read())
    file = tmp_path / "certs/service_center_cert.pem"
    assert [line.partition(" on ")[0] for line in caplog.messages] == [
        f"certificate {file} has expired"
    ]


def test_a_certificate_that_is_not_there_is_refused(read):
    with pytest.raises(CertificateError, match="does not exist"):
        server_context(read())


def test_a_base_station_of_an_earlier_process_is_away_and_nothing_else_is_known():
    assert absent(AVA, NOON) == BaseStation(
        eui=AVA,
        is_connected=False,
        since_ns=NOON,
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


# --- times and numbers ---


@pytest.mark.parametrize(
    ("seconds", "ns"), [(0, 0), (2.0, 2 * SECOND), (0.1, 100_000_000), (1e-9, 1), (0.6e-9, 1)]
)
def test_nanoseconds_are_whole(seconds, ns):
    assert (nanoseconds(seconds), type(nanoseconds(seconds))) == (ns, int)


def test_the_patience_with_silent_end_points_is_what_is_set(read):
    assert patience(read()) == Patience(
        warn_ns=36 * 3600 * SECOND, detach_ns=72 * 3600 * SECOND, is_enabled=True
    )
    own = read(
        auto_detach__enabled=False, auto_detach__warning_timeout="30m", auto_detach__timeout="2h"
    )
    assert patience(own) == Patience(
        warn_ns=1800 * SECOND, detach_ns=7200 * SECOND, is_enabled=False
    )


def test_what_is_set_without_a_word_is_what_a_link_takes_by_itself(read):
    assert limits(read()) == Limits()


def test_every_limit_of_a_link_can_be_set(read):
    """Each has another value, so that none can stand in for another."""
    values = {
        "max_connections": 11,
        "max_half_open": 12,
        "max_half_open_per_address": 13,
        "handshake_timeout": 14.0,
        "idle_ping": 15.0,
        "idle_timeout": 16.0,
        "write_timeout": 17.0,
        "operation_timeout": 18.0,
        "max_frame": 190_000,
    }
    config = read(**{f"server__{name}": value for name, value in values.items()})
    assert limits(config) == Limits(
        max_connections=11,
        max_half_open=12,
        max_half_open_per_address=13,
        handshake_timeout=14.0,
        idle_ping=15.0,
        idle_timeout=16.0,
        write_timeout=17.0,
        operation_timeout=18.0,
        max_frame=190_000,
    )


# --- the broker ---


def test_a_broker_is_met_without_a_name_and_by_a_stable_client(read):
    assert broker_settings(read()) == BrokerSettings(client_id=f"bssci-{EUI}")


def test_every_setting_of_the_broker_arrives(read):
    config = read(
        mqtt__host="broker.example.org",
        mqtt__port=1884,
        mqtt__username="bssci",
        mqtt__password="hunter2",
        mqtt__client_id="mine",
        mqtt__qos=2,
        mqtt__keepalive=31,
        mqtt__max_inflight=32,
        mqtt__reconnect_max=33.0,
    )
    settings = broker_settings(config)
    assert settings == BrokerSettings(
        host="broker.example.org",
        port=1884,
        username="bssci",
        password="hunter2",
        client_id="mine",
        qos=2,
        keepalive=31,
        tls=None,
        max_inflight=32,
        reconnect_max=33.0,
    )
    assert "hunter2" not in repr(settings)


def test_a_broker_with_tls_must_have_its_name(read, tmp_path):
    write_certificates(tmp_path / "certs")
    settings = broker_settings(read(mqtt__tls=True, mqtt__ca_file="certs/ca_cert.pem"))
    assert settings.tls is not None
    assert (settings.tls.verify_mode, settings.tls.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert replace(settings, tls=None) == BrokerSettings(client_id=f"bssci-{EUI}")


def test_an_authority_for_the_broker_that_is_not_there_is_refused(read):
    with pytest.raises(CertificateError, match=r"nowhere\.pem does not exist"):
        broker_settings(read(mqtt__tls=True, mqtt__ca_file="nowhere.pem"))


# --- descriptors ---


@pytest.fixture
def hard_limit():
    """256 descriptors while a test runs, and how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def file_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


def test_there_are_as_many_descriptors_as_are_wanted(hard_limit):
    raise_file_limit(300)
    assert file_limits() == (300, hard_limit)


def test_a_limit_that_is_high_enough_stays(hard_limit):
    raise_file_limit(100)
    assert file_limits() == (256, hard_limit)


def test_more_than_the_machine_gives_is_not_asked_for(hard_limit):
    if hard_limit == resource.RLIM_INFINITY:
        pytest.skip("this machine gives any number")
    raise_file_limit(hard_limit + 1)
    assert file_limits() == (hard_limit, hard_limit)
