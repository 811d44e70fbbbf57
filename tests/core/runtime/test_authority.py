import errno
import ipaddress
import os
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bssci.core.runtime import authority as authority_module
from bssci.core.runtime import files as files_module
from bssci.core.runtime.authority import (
    KeyPair,
    NewFile,
    files_of,
    load_authority,
    load_pair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    replace_files,
    write_pair,
)
from bssci.core.runtime.tls import CertificateError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EUI = 0x70B3D59CD0000001


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return make_authority(now=NOW)


def opened(pair: KeyPair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def common_name(certificate: x509.Certificate) -> object:
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return attribute.value


def names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


def purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# --- the authority ---


def test_an_authority_signs_end_certificates_only_and_lasts_ten_years(authority):
    certificate = opened(authority)
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(True, 0))
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3652.5)
    certificate.verify_directly_issued_by(certificate)


def test_two_authorities_have_different_names_keys_and_serials(authority):
    other = opened(make_authority(now=NOW))
    ours = opened(authority)
    assert other.subject != ours.subject
    assert other.serial_number != ours.serial_number
    assert other.public_key() != ours.public_key()


@pytest.mark.parametrize(
    ("use_rsa", "kind"), [(False, ec.EllipticCurvePublicKey), (True, rsa.RSAPublicKey)]
)
def test_keys_are_ecdsa_unless_rsa_is_asked_for(authority, use_rsa, kind):
    made = [
        make_authority(use_rsa=use_rsa),
        make_station_certificate(authority, EUI, use_rsa=use_rsa, now=NOW),
    ]
    keys = [opened(pair).public_key() for pair in made]
    assert [isinstance(key, kind) for key in keys] == [True, True]
    assert [getattr(key, "key_size", 0) for key in keys] == ([2048] * 2 if use_rsa else [256] * 2)


# --- what it signs ---


def test_a_server_certificate_carries_its_names_and_nothing_else(authority):
    pair = make_server_certificate(
        authority,
        ["sc.example.org", "192.0.2.7", "[2001:db8::1]", "sc.example.org", "müller.example."],
        now=NOW,
    )
    certificate = opened(pair)
    assert common_name(certificate) == "sc.example.org"
    assert names(certificate) == [
        x509.DNSName("sc.example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
        x509.DNSName("xn--mller-kva.example"),
    ]
    assert purposes(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=825)
    certificate.verify_directly_issued_by(opened(authority))


def test_a_station_certificate_names_its_eui_twice(authority):
    certificate = opened(make_station_certificate(authority, EUI, years=2, now=NOW))
    assert common_name(certificate) == "70B3D59CD0000001"
    assert names(certificate) == [x509.DNSName("70B3D59CD0000001")]
    assert purposes(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == NOW + timedelta(days=730.5)
    certificate.verify_directly_issued_by(opened(authority))


@pytest.mark.parametrize(("use_rsa", "enciphers"), [(False, False), (True, True)])
def test_only_rsa_keys_encipher_others(authority, use_rsa, enciphers):
    certificate = opened(make_station_certificate(authority, EUI, use_rsa=use_rsa, now=NOW))
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (
        True,
        enciphers,
        False,
    )


def test_no_certificate_outlives_its_authority(authority):
    later = NOW + timedelta(days=365 * 9)
    certificate = opened(make_station_certificate(authority, EUI, years=10, now=later))
    assert certificate.not_valid_after_utc == opened(authority).not_valid_after_utc


def test_an_expired_authority_signs_nothing(authority):
    with pytest.raises(CertificateError, match="the authority has expired on 2036-"):
        make_station_certificate(authority, EUI, now=NOW + timedelta(days=3653))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a b",
        "-a",
        "a-",
        "a..b",
        "x" * 64,
        "1.2.3",
        "256.1.1.1",
        ".".join(["abcdefg"] * 33),
        "ü" * 70,
    ],
)
def test_what_is_no_name_is_refused(authority, name):
    with pytest.raises(CertificateError, match="is neither a host name nor an IP address"):
        make_server_certificate(authority, [name], now=NOW)


@pytest.mark.parametrize(
    "name", ["localhost", "127.0.0.1", "::1", "[::1]", "a.localhost.", "0.0.0.0"]
)
def test_a_name_of_this_machine_only_is_refused_unless_it_is_asked_for(authority, name):
    with pytest.raises(CertificateError, match="means this machine only"):
        make_server_certificate(authority, ["sc.example.org", name], now=NOW)
    pair = make_server_certificate(authority, [name], allow_loopback=True, now=NOW)
    assert len(names(opened(pair))) == 1


def test_a_server_certificate_without_a_name_is_refused(authority):
    with pytest.raises(CertificateError, match="at least one host name"):
        make_server_certificate(authority, [], now=NOW)


def test_a_long_name_is_cut_in_the_common_name_only(authority):
    name = ".".join(["abcdefghij"] * 10)
    certificate = opened(make_server_certificate(authority, [name], now=NOW))
    assert (common_name(certificate), names(certificate)) == (name[:64], [x509.DNSName(name)])


def test_an_authority_of_another_kind_of_key_is_refused(authority):
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    with pytest.raises(CertificateError, match="neither ECDSA nor RSA"):
        make_station_certificate(KeyPair(authority.certificate, key), EUI, now=NOW)


def test_serial_numbers_are_not_repeated(authority):
    made = [make_station_certificate(authority, EUI, now=NOW) for _ in range(8)]
    assert len({opened(pair).serial_number for pair in made}) == 8


def test_a_key_is_in_no_repr(authority):
    assert "PRIVATE" not in repr(authority)


@pytest.mark.parametrize("use_rsa", [False, True])
def test_openssl_accepts_the_chain_under_its_strict_rules(tmp_path, use_rsa):
    authority = make_authority(use_rsa=use_rsa)
    station = make_station_certificate(authority, EUI, use_rsa=use_rsa)
    server = make_server_certificate(authority, ["sc.example.org"], use_rsa=use_rsa)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    for purpose, pair in (("sslclient", station), ("sslserver", server)):
        (tmp_path / "end.pem").write_bytes(pair.certificate)
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        command += ["-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "end.pem")]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_python_accepts_the_chain_under_its_strict_rules(tmp_path, authority):
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.certificate)
    context = ssl.create_default_context(cafile=file)
    assert len(context.get_ca_certs()) == 1


# --- files ---


def test_a_pair_is_written_with_its_key_for_the_owner_only(tmp_path, authority):
    files = tmp_path / "certs" / "ca_cert.pem", tmp_path / "certs" / "ca_key.pem"
    assert write_pair(authority, *files) == ()
    assert [file.stat().st_mode & 0o777 for file in files] == [0o644, 0o600]
    assert load_pair(*files) == authority


def test_a_pair_is_not_overwritten_without_force(tmp_path, authority):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[1].write_text("mine")
    with pytest.raises(CertificateError) as caught:
        write_pair(authority, *files)
    assert str(caught.value) == (
        f"{files[1]} exists; with --force it is replaced, and kept under another name"
    )
    assert (files[0].exists(), files[1].read_text()) == (False, "mine")


def test_with_force_the_old_pair_is_kept_under_a_name_with_the_time(tmp_path, authority):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(authority, *files)
    new = make_authority(now=NOW)
    kept = write_pair(new, *files, force=True, now=NOW)
    assert kept == (tmp_path / "cert.20260301T120000.pem", tmp_path / "key.20260301T120000.pem")
    assert (load_pair(*files), load_pair(kept[0], kept[1])) == (new, authority)
    assert kept[1].stat().st_mode & 0o777 == 0o600


def test_a_pair_that_cannot_be_written_is_told_with_its_file(tmp_path, authority):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CertificateError, match=r"cannot be written: (Not a directory|File exists)"):
        write_pair(authority, tmp_path / "file" / "cert.pem", tmp_path / "file" / "key.pem")


def test_a_pair_that_does_not_belong_together_is_not_loaded(tmp_path, authority):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(KeyPair(authority.certificate, make_authority(now=NOW).key), *files)
    with pytest.raises(CertificateError, match="does not belong to certificate"):
        load_pair(*files)


def test_certificates_are_signed_with_sha256(authority):
    algorithm = opened(make_station_certificate(authority, EUI, now=NOW)).signature_hash_algorithm
    assert isinstance(algorithm, hashes.SHA256)


def test_the_authority_is_the_one_in_its_file_that_the_key_is_for(tmp_path, authority):
    files = tmp_path / "ca_cert.pem", tmp_path / "ca_key.pem"
    files[0].write_bytes(make_authority(now=NOW).certificate + authority.certificate)
    files[1].write_bytes(authority.key)
    assert load_authority(*files) == authority
    files[1].write_bytes(make_authority(now=NOW).key)
    with pytest.raises(CertificateError, match="does not belong to certificate"):
        load_authority(*files)


def test_a_pair_may_live_in_one_file(tmp_path, authority):
    file = tmp_path / "both.pem"
    write_pair(authority, file, file)
    assert (load_pair(file, file), file.stat().st_mode & 0o777) == (authority, 0o600)


def test_what_cannot_be_written_to_its_end_leaves_everything_as_it_was(
    tmp_path, authority, monkeypatch
):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(authority, *files)
    write = files_module.write_file

    def fill_up(file, data, *, mode=0o644):
        if file == files[1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        write(file, data, mode=mode)

    monkeypatch.setattr(authority_module, "write_file", fill_up)
    new = NewFile(tmp_path / "new.pem", b"new")
    pair = make_authority(now=NOW)
    with pytest.raises(CertificateError, match=r"key\.pem cannot be written: No space left"):
        replace_files([new, *files_of(pair, *files)])
    assert load_pair(*files) == authority
    assert sorted(each.name for each in tmp_path.iterdir()) == ["cert.pem", "key.pem"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_new_file_belongs_to_whom_the_old_one_belonged(tmp_path, authority):
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_pair(authority, *files)
    os.chown(files[1], 12345, 23456)
    write_pair(make_authority(now=NOW), *files, force=True)
    owners = [(each.stat().st_uid, each.stat().st_gid) for each in files]
    assert owners == [(0, 0), (12345, 23456)]


def test_a_new_file_is_in_no_repr_with_its_content():
    assert "secret" not in repr(NewFile(Path("key.pem"), b"secret"))
