"""Certificates of a running service: renewed, taken from outside, changed with their authority.

Base stations are real TLS connections that speak BSSCI; the service is a real process.
"""

import json
import shutil
import ssl
import subprocess

import pytest
import trio

from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.tls import client_context, fingerprint_of, read_certificates
from tests.processes import (
    FIRST_STATION,
    HOST,
    Site,
    Station,
    bssci,
    in_background,
    open_service,
    open_stations,
    wait_until,
)

pytestmark = pytest.mark.process

NAME = format_eui(FIRST_STATION)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Site.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def site(made, tmp_path):
    return made.copy(tmp_path / "site")


async def run(*arguments, **settings):
    """A command, while base stations go on."""
    return await trio.to_thread.run_sync(lambda: bssci(*arguments, **settings))


async def certs(site, *arguments, **settings):
    return await run("certs", *arguments, "-c", site.config, **settings)


async def shown_to(service, context):
    """The certificate that the service shows to a new connection."""
    stream = trio.SSLStream(
        await trio.open_tcp_stream(HOST, service.port), context, https_compatible=True
    )
    try:
        with trio.fail_after(20):
            await stream.do_handshake()
        return ssl.DER_cert_to_PEM_cert(stream.getpeercert(True))
    finally:
        await trio.aclose_forcefully(stream)


def pem(file):
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(file.read_text()))


def openssl_accepts(ca_file, file, purpose):
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca_file, file]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def openssl_tells(certificate):
    command = ["openssl", "x509", "-noout", "-text"]
    return subprocess.run(
        command, input=certificate, capture_output=True, text=True, check=True
    ).stdout


async def test_a_renewed_certificate_is_shown_to_the_next_connection_and_cuts_nobody_off(site):
    async with (
        open_service(site, mqtt_enabled="false") as service,
        open_stations(service, 1) as (station,),
    ):
        context = site.context(FIRST_STATION + 50)
        before = await shown_to(service, context)
        done = await certs(site, "renew", "--host", "new.example.org", "--json", **service.settings)
        assert (done.returncode, json.loads(done.stdout)["running"]) == (0, True), done.stderr
        after = await shown_to(service, context)
        assert (before == after, after) == (False, pem(site.certs / "service_center_cert.pem"))
        assert openssl_accepts(
            site.certs / "ca_cert.pem", site.certs / "service_center_cert.pem", "sslserver"
        )
        assert (station.is_online, station.losses) == (True, 0)
        assert "IP Address:127.0.0.1, DNS:new.example.org" in openssl_tells(after)


async def test_the_authority_is_changed_while_a_base_station_goes_on(site):
    """Old files all the way to its visit, new files after it, and then only the new authority."""
    ca_file = site.certs / "ca_cert.pem"
    async with open_service(site, mqtt_enabled="false") as service:
        old = site.context(FIRST_STATION)  # trusts the old authority alone
        (first,) = read_certificates(ca_file)
        async with open_stations(service, 1) as (station,):
            done = await certs(site, "renew", "--ca", **service.settings)
            assert done.returncode == 0, done.stderr
            # A station that was not visited may also come back.
            station.cut()
            await wait_until(lambda: station.resumed == 1, "it is back")
            done = await certs(site, "status", **service.settings)
            assert f"bssci certs renew --station {NAME}" in done.stderr
            done = await certs(site, "renew", "--ca", "--finish", **service.settings)
            assert (done.returncode, f"old authority: {NAME}" in done.stderr) == (1, True)
        # The visit: new files, and the CA file that holds both.
        assert (await certs(site, "renew", "--station", NAME)).returncode == 0
        files = site.certs / "stations" / NAME
        for part in ("cert", "key"):
            shutil.copy(files / f"{NAME}_{part}.pem", site.stations / f"{NAME}_{part}.pem")
        new = client_context(
            cert_file=files / f"{NAME}_cert.pem",
            key_file=files / f"{NAME}_key.pem",
            ca_file=files / "ca_cert.pem",
        )
        async with open_stations(service, 1):
            done = await certs(site, "renew", "--ca", "--finish", "--json", **service.settings)
            assert (done.returncode, json.loads(done.stdout)["reissued"]) == (0, True), done.stderr
        assert fingerprint_of(first) not in map(fingerprint_of, read_certificates(ca_file))
        assert await shown_to(service, new) == pem(site.certs / "service_center_cert.pem")
        with pytest.raises(trio.BrokenResourceError):
            await shown_to(service, old)


async def test_a_base_station_with_a_renewed_certificate_comes_in_once_it_is_approved(site):
    async with open_service(site, mqtt_enabled="false", tls_identity="pin") as service:
        async with open_stations(service, 1):
            pass
        for file in site.stations.glob(f"{NAME}_*"):
            file.unlink()  # it gets others
        station = Station(site, service.port, FIRST_STATION)
        async with in_background(station.run):
            await service.wait_for_log("refused: ", reason="identity_mismatch")
            done = await run(
                "stations", "approve", NAME, "--yes", "-c", site.config, **service.settings
            )
            assert done.returncode == 0, done.stderr
            await station.wait_online()
        assert station.connect_refusals
