"""What is found out about certificate files; openssl is asked for its opinion of the same ones."""

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bssci.core.runtime.authority import (
    KeyPair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    pair_of,
    write_pair,
)
from bssci.core.runtime.inspection import inspect_authorities, inspect_pair, purpose_of
from bssci.core.runtime.tls import read_certificates, read_key, subject_of

EUI, OTHER = 0x70B3D59CD0000001, 0x70B3D59CD0000002
NOW = datetime.now(UTC)
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
SOMETHING = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.4")])


class Folder:
    def __init__(self, path):
        self.cert, self.key = path / "x_cert.pem", path / "x_key.pem"
        self.ca, self.ca_key = path / "ca_cert.pem", path / "ca_key.pem"
        self.authority = make_authority()
        write_pair(self.authority, self.ca, self.ca_key)
        (self.issuer,) = read_certificates(self.ca)

    def holds(self, pair, *between):
        write_pair(pair, self.cert, self.key, force=True)
        with self.cert.open("ab") as file:
            file.writelines(each.certificate for each in between)
        return self

    def server(self, *names, **options):
        return self.holds(make_server_certificate(self.authority, names or ["sc"], **options))

    def found(self, purpose="server", **options):
        options = {"key_file": self.key, "ca_file": self.ca, **options}
        return inspect_pair(self.cert, purpose=purpose, **options)

    def wrong(self, purpose="server", **options):
        """What is not right, by check, in words."""
        found = self.found(purpose, **options)
        return {each.check: each.seen for each in found if not each.ok}

    def openssl_refuses(self, purpose):
        command = ["openssl", "verify", "-purpose", f"ssl{purpose}", "-auth_level", "2"]
        command += ["-CAfile", self.ca, "-untrusted", self.cert, self.cert]
        return subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def certificate(
    name,
    *extensions,
    issuer=None,
    key=None,
    begin=NOW - timedelta(days=1),
    end=NOW + timedelta(days=100),
    digest=None,
):
    """A certificate as somebody makes it by hand, with whatever mistakes."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject_name=subject, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(end)
    for each in extensions:
        builder = builder.add_extension(each, critical=isinstance(each, x509.BasicConstraints))
    if issuer is None:
        signed = builder.issuer_name(subject).sign(key, digest or hashes.SHA256())
    else:
        above = x509.load_pem_x509_certificate(issuer.certificate)
        signed = builder.issuer_name(above.subject).sign(_key_of(issuer), digest or hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(signed.public_bytes(Encoding.PEM), pem)


def _key_of(pair):
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return load_pem_private_key(pair.key, None)


def named(*names):
    return x509.SubjectAlternativeName([x509.DNSName(each) for each in names])


def usage(**allowed):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    names += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**(dict.fromkeys(names, False) | allowed))


CA = x509.BasicConstraints(ca=True, path_length=None)


def test_a_good_pair_is_good_in_everything(folder):
    found = folder.server("sc.example.org", "192.0.2.1").found()
    assert [(each.check, each.ok, each.seen, each.advice) for each in found] == [
        ("file", True, "CN=sc.example.org", ""),
        ("chain", True, f"comes from {subject_of(folder.issuer)}", ""),
        ("key", True, f"belongs to {folder.cert}", ""),
        ("validity", True, f"until {NOW + timedelta(days=825):%Y-%m-%d}, 824 days", ""),
        ("names", True, "sc.example.org, 192.0.2.1", ""),
        ("usage", True, "for a server", ""),
        ("strength", True, "ECDSA secp256r1", ""),
    ]
    assert {each.file for each in found} == {str(folder.cert), str(folder.key)}
    assert not folder.openssl_refuses("server")


def test_so_is_that_of_a_base_station(folder):
    folder.holds(make_station_certificate(folder.authority, EUI, use_rsa=True))
    found = folder.found("station", eui=EUI)
    assert [each.seen for each in found][-3:] == [
        "70B3D59CD0000001",
        "for a base station",
        "RSA 2048",
    ]
    assert (all(each.ok for each in found), folder.openssl_refuses("client")) == (True, False)


def test_a_chain_may_go_by_way_of_others_in_the_file(folder):
    root = certificate("root", CA)
    folder.ca.write_bytes(root.certificate)
    between = certificate("between", CA, issuer=root)
    end = certificate("sc", named("sc"), issuer=between)
    assert folder.holds(end, between).wrong() == {}
    assert not folder.openssl_refuses("server")


def test_what_stands_in_the_ca_file_is_trusted_itself(folder):
    folder.holds(certificate("sc", named("sc")))
    folder.ca.write_bytes(folder.cert.read_bytes())
    assert folder.wrong() == {}
    assert folder.found()[1].seen == f"trusted itself, it stands in {folder.ca}"


def stranger(_):
    return [make_server_certificate(make_authority(), ["sc"])]


def self_signed(_):
    return [certificate("sc", named("sc"))]


def of_no_authority(folder):
    above = certificate("above", issuer=folder.authority)
    return [certificate("sc", named("sc"), issuer=above), above]


def too_deep(folder):
    """An authority of ours may have no other below it."""
    between = certificate("between", CA, issuer=folder.authority)
    return [certificate("sc", named("sc"), issuer=between), between]


def of_one_that_may_not_sign(folder):
    root = certificate("root", CA)
    folder.ca.write_bytes(root.certificate)
    between = certificate("between", CA, usage(digital_signature=True), issuer=root)
    return [certificate("sc", named("sc"), issuer=between), between]


def of_an_expired_one(folder):
    root = certificate("root", CA, end=NOW - timedelta(hours=1))
    folder.ca.write_bytes(root.certificate)
    return [certificate("sc", named("sc"), issuer=root)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (stranger, "which is not in "),
        (self_signed, "comes from CN=sc (itself), which is not in "),
        (of_no_authority, "comes from CN=above, which is no authority"),
        (too_deep, "which may have no other authority below it"),
        (of_one_that_may_not_sign, "comes from CN=between, which may sign no certificates"),
        (of_an_expired_one, "comes from CN=root, which has expired on "),
    ],
)
def test_a_chain_that_openssl_refuses_is_told_in_words(folder, make, words):
    folder.holds(*make(folder))
    wrong = folder.wrong()
    assert (list(wrong), words in wrong["chain"]) == (["chain"], True)
    assert folder.openssl_refuses("server")


def out_of_time(folder):
    begin, end = NOW - timedelta(days=9), NOW - timedelta(days=1)
    return certificate("sc", named("sc"), issuer=folder.authority, begin=begin, end=end)


def before_its_time(folder):
    begin, end = NOW + timedelta(days=1), NOW + timedelta(days=99)
    return certificate("sc", named("sc"), issuer=folder.authority, begin=begin, end=end)


def for_something_else(folder):
    return certificate("sc", named("sc"), SOMETHING, issuer=folder.authority)


def that_signs_nothing(folder):
    return certificate("sc", named("sc"), usage(key_agreement=True), issuer=folder.authority)


def with_a_weak_key(folder):
    key = rsa.generate_private_key(65537, 1024)
    return certificate("sc", named("sc"), issuer=folder.authority, key=key)


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (out_of_time, "validity", "has expired on "),
        (before_its_time, "validity", "not valid before "),
        (for_something_else, "usage", "is for 1.3.6.1.5.5.7.3.4 only"),
        (with_a_weak_key, "strength", "RSA 1024"),
    ],
)
def test_a_certificate_that_openssl_refuses_is_told_in_words(folder, make, check, words):
    folder.holds(make(folder))
    wrong = folder.wrong()
    assert (list(wrong), words in wrong[check]) == ([check], True)
    assert folder.openssl_refuses("server")


def test_a_key_that_may_sign_nothing_is_of_no_use(folder):
    folder.holds(that_signs_nothing(folder))
    assert folder.wrong() == {"usage": "its key may sign nothing"}


def test_a_base_station_s_certificate_is_none_for_a_server_and_the_other_way_round(folder):
    folder.holds(make_station_certificate(folder.authority, EUI))
    assert folder.wrong()["usage"] == "is for clientAuth only"
    assert folder.server().wrong("station") == {"usage": "is for serverAuth only"}


def test_what_expires_soon_is_not_right_but_can_wait_for_daylight(folder):
    later = NOW + timedelta(days=800, hours=1)
    (finding,) = [each for each in folder.server().found(now=later) if not each.ok]
    assert (finding.check, finding.is_fatal, finding.advice) == (
        "validity",
        False,
        "`bssci certs renew` makes a new one",
    )
    assert finding.seen.startswith("expires in 24 days, on ")


def test_the_key_of_another_certificate_is_told(folder):
    folder.server().key.write_bytes(folder.authority.key)
    assert folder.wrong() == {"key": f"does not belong to {folder.cert}"}


def test_a_key_that_everybody_can_read_is_told_with_what_to_type(folder):
    folder.server().key.chmod(0o644)
    (finding,) = [each for each in folder.found() if not each.ok]
    assert (finding.is_fatal, finding.advice) == (False, f"chmod 600 {folder.key}")


def test_without_a_key_it_is_not_looked_at(folder):
    assert "key" not in {each.check for each in folder.server().found(key_file=None)}


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_file_that_cannot_be_read_is_a_finding(folder, part):
    check = {"cert": "file", "key": "key", "ca": "chain"}[part]
    getattr(folder.server(), part).unlink()
    wrong = folder.wrong()
    assert (list(wrong), "does not exist" in wrong[check]) == ([check], True)


def test_a_server_without_a_name_for_others_is_told(folder):
    folder.holds(certificate("sc", issuer=folder.authority))
    assert folder.wrong() == {"names": "names no host (no subject alternative name)"}
    folder.server("localhost", "127.0.0.1", allow_loopback=True)
    assert folder.wrong() == {"names": "localhost, 127.0.0.1: means this machine only"}
    assert folder.server("localhost", "sc", allow_loopback=True).wrong() == {}


def test_a_base_station_needs_its_own_certificate_or_one_that_names_none(folder):
    folder.holds(make_station_certificate(folder.authority, OTHER))
    assert folder.wrong("station", eui=EUI) == {
        "names": "names 70B3D59CD0000002, not 70B3D59CD0000001"
    }
    folder.holds(certificate("localhost", issuer=folder.authority))
    assert folder.wrong("station", eui=EUI) == {}


def test_a_signature_that_libraries_refuse_is_told(folder):
    # The library makes none with SHA-1 any more, but there are such certificates.
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha1"]
    command += ["-subj", "/CN=x", "-days", "60"]
    command += ["-keyout", str(folder.key), "-out", str(folder.cert)]
    command += ["-CA", str(folder.ca), "-CAkey", str(folder.ca_key)]
    command += ["-addext", "subjectAltName=DNS:sc"]
    made = subprocess.run(command, capture_output=True, check=False)
    assert made.returncode == 0, made.stderr
    assert folder.wrong()["strength"] == "signed with sha1"
    assert folder.openssl_refuses("server")


def test_what_a_certificate_is_for_is_known_from_what_it_says(folder):
    pairs = [
        folder.authority,
        make_server_certificate(folder.authority, ["sc"]),
        make_station_certificate(folder.authority, EUI),
        certificate("70B3D59CD0000001"),
        certificate("sc"),
    ]
    opened = [x509.load_pem_x509_certificate(each.certificate) for each in pairs]
    assert [purpose_of(each) for each in opened] == [
        "authority",
        "server",
        "station",
        "station",
        "server",
    ]


# --- authorities ---


def test_a_good_authority_is_good_in_everything(folder):
    found = inspect_authorities(folder.ca, key_file=folder.ca_key)
    assert [(each.check, each.ok, each.seen) for each in found] == [
        ("file", True, subject_of(folder.issuer)),
        ("validity", True, f"until {folder.issuer.not_valid_after_utc:%Y-%m-%d}, 3652 days"),
        ("usage", True, "for an authority"),
        ("strength", True, "ECDSA secp256r1"),
        ("key", True, f"belongs to {folder.ca}"),
    ]


def test_each_authority_in_a_file_is_looked_at_and_the_key_may_be_of_any(folder):
    other = certificate("other", CA, end=NOW + timedelta(days=10, hours=1))
    folder.ca.write_bytes(other.certificate + folder.authority.certificate)
    found = inspect_authorities(folder.ca, key_file=folder.ca_key, now=NOW)
    assert [(each.check, each.seen) for each in found if not each.ok] == [
        ("validity", f"expires in 10 days, on {NOW + timedelta(days=10, hours=1):%Y-%m-%d}")
    ]


def test_the_key_of_no_authority_in_the_file_is_told(folder):
    folder.ca_key.write_bytes(make_authority().key)
    found = inspect_authorities(folder.ca, key_file=folder.ca_key)
    assert [each.seen for each in found if not each.ok] == [f"does not belong to {folder.ca}"]
    folder.ca_key.write_text("nothing")
    found = inspect_authorities(folder.ca, key_file=folder.ca_key)
    assert "holds no private key" in found[-1].seen


def test_a_file_without_an_authority_is_a_finding(folder):
    folder.ca.write_text("nothing")
    (finding,) = inspect_authorities(folder.ca)
    assert (finding.check, finding.ok, finding.is_fatal) == ("file", False, True)


def test_a_single_certificate_may_be_trusted(folder):
    folder.ca.write_bytes(certificate("bs").certificate)
    assert inspect_authorities(folder.ca)[2].seen == (
        "a single certificate: only its owner is trusted"
    )


def test_programs_get_findings_as_they_are(folder):
    folder.server().key.write_bytes(folder.authority.key)
    finding = next(each for each in folder.found() if not each.ok)
    assert finding.as_json() == {
        "file": str(folder.key),
        "check": "key",
        "ok": False,
        "seen": f"does not belong to {folder.cert}",
        "advice": "one of them was replaced without the other; put back the one that was kept, or "
        "make a new pair",
    }
    assert pair_of(folder.issuer, read_key(folder.ca_key)) == folder.authority
