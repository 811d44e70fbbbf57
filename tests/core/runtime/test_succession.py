"""The authority changes, and base stations with old and with new files stay."""

import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from bssci.core.runtime.authority import (
    ca_key_file,
    has_rsa_key,
    load_authority,
    load_pair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.succession import (
    authority_for_server,
    begin,
    finish,
    names_to_keep,
    pem,
    predecessors,
    renewed_server,
    trust,
)
from bssci.core.runtime.tls import (
    CertificateError,
    certificate_names,
    client_context,
    is_issued_by,
    read_certificates,
    server_context,
    subject_of,
)
from tests.core.runtime.test_tls import shake_hands

EUI = 0x70B3D59CD0000001
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Site:
    """The files of a Service Center."""

    def __init__(self, folder):
        self.folder = folder
        self.ca_file = folder / "ca_cert.pem"
        self.ca_key = folder / "ca_key.pem"
        self.cert_file = folder / "sc_cert.pem"
        self.key_file = folder / "sc_key.pem"
        authority = make_authority()
        write_pair(authority, self.ca_file, self.ca_key)
        pair = make_server_certificate(authority, ["192.0.2.1", "sc.example.org"])
        write_pair(pair, self.cert_file, self.key_file)

    @property
    def trusted(self):
        return read_certificates(self.ca_file)

    def begin(self, **options):
        return begin(self.ca_file, **options)

    def finish(self, **options):
        return finish(self.ca_file, self.cert_file, self.key_file, **options)

    def context(self):
        return server_context(
            cert_file=self.cert_file, key_file=self.key_file, ca_file=self.ca_file
        )

    def station(self, name):
        """A base station with what it would be given now."""
        files = [self.folder / f"{name}_{part}.pem" for part in ("cert", "key", "ca")]
        authority = load_authority(self.ca_file, self.ca_key)
        write_pair(make_station_certificate(authority, EUI), files[0], files[1])
        files[2].write_bytes(pem(self.trusted))
        return client_context(cert_file=files[0], key_file=files[1], ca_file=files[2])

    def first_only(self, name):
        """The same one with firmware that reads one certificate of a CA file."""
        file = self.folder / f"{name}_ca.pem"
        file.write_bytes(pem(read_certificates(file)[:1]))
        cert, key = (self.folder / f"{name}_{part}.pem" for part in ("cert", "key"))
        return client_context(cert_file=cert, key_file=key, ca_file=file)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_nobody_is_cut_off_until_the_change_is_finished(site):
    old = site.station("old")
    shake_hands(site.context(), old)
    site.begin()
    new = site.station("new")
    single = site.first_only("new")
    for station in (old, new, single):
        shake_hands(site.context(), station)
    site.finish()
    shake_hands(site.context(), new)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(site.context(), old)


def test_at_the_beginning_the_old_authority_stands_first_and_the_new_one_signs(site):
    (old,) = site.trusted
    kept = site.begin(now=NOW)
    first, new = site.trusted
    assert (first, predecessors(site.ca_file)) == (old, [old])
    assert x509.load_pem_x509_certificate(
        load_authority(site.ca_file, site.ca_key).certificate
    ) == (new)
    assert kept == (
        site.folder / "ca_cert.20260301T120000.pem",
        site.folder / "ca_key.20260301T120000.pem",
    )
    assert [each.stat().st_mode & 0o777 for each in (site.ca_key, kept[1])] == [0o600, 0o600]
    assert read_certificates(kept[0]) == [old]


def test_meanwhile_the_certificate_is_renewed_by_the_old_authority(site):
    (old,) = site.trusted
    site.begin()
    authority = authority_for_server(site.ca_file, site.cert_file)
    pair = renewed_server(authority, site.cert_file)
    assert is_issued_by(x509.load_pem_x509_certificate(pair.certificate), old)


def test_meanwhile_also_a_first_certificate_comes_from_the_old_authority(site):
    (old,) = site.trusted
    site.begin()
    site.cert_file.unlink()
    found = authority_for_server(site.ca_file, site.cert_file)
    assert x509.load_pem_x509_certificate(found.certificate) == old


def test_without_the_key_of_the_old_authority_no_other_one_signs_unasked(site):
    site.begin()
    for file in site.folder.glob("ca_key.*.pem"):
        file.unlink()
    with pytest.raises(CertificateError, match="`bssci certs import`"):
        authority_for_server(site.ca_file, site.cert_file)


def test_once_the_old_authority_has_expired_the_new_one_signs(site):
    site.begin(now=NOW + timedelta(days=3000))
    new = site.trusted[1]
    late = datetime.now(UTC) + timedelta(days=3700)
    found = authority_for_server(site.ca_file, site.cert_file, now=late)
    assert x509.load_pem_x509_certificate(found.certificate) == new


def test_in_the_end_only_the_new_authority_is_left(site):
    old = site.trusted[0]
    site.begin()
    new = site.trusted[1]
    before = load_pair(site.cert_file, site.key_file)
    done = site.finish()
    assert (done.dropped, done.is_reissued, len(done.kept)) == ((subject_of(old),), True, 3)
    assert site.trusted == [new]
    assert is_issued_by(read_certificates(site.cert_file)[0], new)
    assert certificate_names(site.cert_file) == ["sc.example.org", "192.0.2.1"]
    assert load_pair(site.cert_file, site.key_file) != before
    assert predecessors(site.ca_file) == []
    verified = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", site.ca_file, site.cert_file],
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0


def test_a_certificate_of_somebody_else_is_not_made_again(site):
    others = make_authority()
    pair = make_server_certificate(others, ["sc.example.org"])
    write_pair(pair, site.cert_file, site.key_file, force=True)
    site.begin()
    assert (site.finish().is_reissued, load_pair(site.cert_file, site.key_file)) == (False, pair)


def test_a_change_is_begun_once_and_finished_once(site):
    with pytest.raises(CertificateError, match="no change of the authority is under way"):
        site.finish()
    site.begin()
    with pytest.raises(CertificateError, match=r"is under way: CN=bssci CA .* is to go"):
        site.begin()
    site.finish()
    site.begin()
    assert len(predecessors(site.ca_file)) == 1


def test_the_authority_of_somebody_else_can_be_left_without_its_key(site):
    site.ca_key.unlink()
    assert len(site.begin()) == 1
    assert len(predecessors(site.ca_file)) == 1
    site.finish()


def test_an_authority_that_was_added_by_hand_is_no_predecessor(site):
    site.ca_file.write_bytes(site.ca_file.read_bytes() + make_authority().certificate)
    assert predecessors(site.ca_file) == []


@pytest.mark.parametrize(("asked", "is_rsa"), [(None, True), (False, False), (True, True)])
def test_the_kind_of_key_stays_unless_another_is_asked_for(site, asked, is_rsa):
    authority = make_authority(use_rsa=True)
    write_pair(authority, site.ca_file, site.ca_key, force=True)
    pair = make_server_certificate(authority, ["sc"], use_rsa=True)
    write_pair(pair, site.cert_file, site.key_file, force=True)
    renewed = renewed_server(authority, site.cert_file, use_rsa=asked)
    site.begin(use_rsa=asked)
    made = [x509.load_pem_x509_certificate(renewed.certificate), site.trusted[-1]]
    assert [has_rsa_key(each) for each in made] == [is_rsa, is_rsa]


def test_a_renewed_certificate_keeps_subject_and_names_and_gets_those_that_are_added(site):
    authority = load_authority(site.ca_file, ca_key_file(site.ca_file))
    pair = renewed_server(authority, site.cert_file, hosts=["new.example.org"])
    site.cert_file.write_bytes(pair.certificate)
    (certificate,) = read_certificates(site.cert_file)
    assert (subject_of(certificate), names_to_keep(certificate)) == (
        "CN=192.0.2.1",
        ["192.0.2.1", "sc.example.org", "new.example.org"],
    )


def test_names_of_this_machine_only_stay_too(site):
    authority = load_authority(site.ca_file, site.ca_key)
    pair = make_server_certificate(authority, ["localhost"], allow_loopback=True)
    site.cert_file.write_bytes(pair.certificate)
    renewed = renewed_server(authority, site.cert_file)
    assert names_to_keep(x509.load_pem_x509_certificate(renewed.certificate)) == ["localhost"]


def test_a_certificate_without_names_needs_some(site):
    authority = load_authority(site.ca_file, site.ca_key)
    site.cert_file.write_bytes(authority.certificate)
    with pytest.raises(CertificateError, match="names no host; say what base stations connect to"):
        renewed_server(authority, site.cert_file)


def test_others_are_trusted_first_and_each_once(site):
    (ours,) = site.trusted
    other = x509.load_pem_x509_certificate(make_authority().certificate)
    assert trust(site.ca_file, [other, ours]) == [other, ours]
    assert trust(site.folder / "none.pem", [other]) == [other]
