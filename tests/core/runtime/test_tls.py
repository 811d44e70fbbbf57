import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.eui import format_eui
from bssci.core.runtime.authority import (
    KeyPair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
)
from bssci.core.runtime.tls import (
    CertificateError,
    Identity,
    broker_context,
    certificate_facts,
    certificate_names,
    certificate_warnings,
    check_identity,
    check_pair,
    client_context,
    days_until_expiry,
    euis_in,
    fingerprint_of,
    identity_in,
    identity_of,
    is_authority,
    is_loopback,
    issuer_of,
    read_certificates,
    read_key,
    server_context,
)

EUI = 0x70B3D59CD0000001
OTHER = 0xFCA84A030000127C
NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Files:
    cert_file: Path
    key_file: Path
    ca_file: Path

    def as_arguments(self) -> dict[str, Path]:
        return {"cert_file": self.cert_file, "key_file": self.key_file, "ca_file": self.ca_file}


class World:
    """An authority, and the files of whoever needs some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = make_authority()

    def files(self, pair: KeyPair, authority: KeyPair | None = None, name: str = "x") -> Files:
        made = Files(*(self.folder / f"{name}_{kind}.pem" for kind in ("cert", "key", "ca")))
        made.cert_file.write_bytes(pair.certificate)
        made.key_file.write_bytes(pair.key)
        made.ca_file.write_bytes((authority or self.authority).certificate)
        return made

    def server(self, *names: str) -> Files:
        pair = make_server_certificate(self.authority, names or ["sc.example.org"])
        return self.files(pair, name="server")

    def station(self, **options: bool) -> Files:
        pair = make_station_certificate(self.authority, EUI, use_rsa=options.get("use_rsa", False))
        return self.files(pair, name="station")


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection, after the handshake."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_side=False, server_hostname=name),
        server.wrap_bio(up, down, server_side=True),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    assert waiting == []
    # With TLS 1.3 the client is done before its certificate is looked at.
    ends[0].write(b"x")
    assert ends[1].read(1) == b"x"
    return ends[1], ends[0]


# --- contexts ---


@pytest.mark.parametrize("use_rsa", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_base_station_and_the_service_center_trust_each_other(world, version, use_rsa):
    client = client_context(**world.station(use_rsa=use_rsa).as_arguments())
    client.maximum_version = version
    ours, theirs = shake_hands(server_context(**world.server().as_arguments()), client)
    assert identity_of(ours).euis == frozenset({EUI})
    assert identity_of(theirs).subject == "CN=sc.example.org"
    assert not theirs.session_reused


def test_tls_1_2_is_refused_where_1_3_is_asked_for(world):
    client = client_context(**world.station().as_arguments())
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake_hands(server_context(**world.server().as_arguments(), min_version="1.3"), client)


def test_tls_1_1_is_never_spoken(world):
    assert server_context(**world.server().as_arguments()).minimum_version == ssl.TLSVersion.TLSv1_2


def test_no_session_tickets_are_handed_out(world):
    context = server_context(**world.server().as_arguments())
    assert (context.num_tickets, ssl.OP_NO_TICKET in ssl.Options(context.options)) == (0, True)


def test_a_base_station_without_a_certificate_is_refused(world):
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(server_context(**world.server().as_arguments()), client)


def test_a_base_station_of_another_authority_is_refused(world):
    stranger = make_authority()
    files = world.files(make_station_certificate(stranger, EUI), name="stranger")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(
            server_context(**world.server().as_arguments()),
            client_context(**files.as_arguments()),
        )


def test_a_service_center_of_another_authority_is_refused(world):
    files = world.files(make_server_certificate(make_authority(), ["sc"]), name="stranger")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(
            server_context(**files.as_arguments()),
            client_context(**world.station().as_arguments()),
        )


def test_the_name_of_the_service_center_is_checked_only_when_asked_for(world):
    server = server_context(**world.server("sc.example.org").as_arguments())
    station = world.station().as_arguments()
    shake_hands(server, client_context(**station), "other.example.org")
    shake_hands(server, client_context(**station, check_names=True), "sc.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, client_context(**station, check_names=True), "other.example.org")


def test_a_plain_certificate_of_the_field_is_accepted(world):
    """One shared by all base stations, with neither alternative names nor usages, from a CA that
    knows no key identifiers."""
    authority = bare_certificate("CA", is_ca=True)
    shared = bare_certificate("localhost", issuer=authority)
    station = world.files(shared, name="shared")
    server = world.server()
    server.ca_file.write_bytes(authority.certificate)
    ours, _ = shake_hands(
        server_context(**server.as_arguments()), client_context(**station.as_arguments())
    )
    assert (identity_of(ours).subject, identity_of(ours).euis) == ("CN=localhost", frozenset())


def test_old_and_new_authority_are_trusted_together(world):
    new = make_authority()
    server = world.server()
    server.ca_file.write_bytes(world.authority.certificate + new.certificate)
    for pair in (
        make_station_certificate(world.authority, EUI),
        make_station_certificate(new, EUI),
    ):
        station = world.files(pair, name="station")
        shake_hands(
            server_context(**server.as_arguments()), client_context(**station.as_arguments())
        )


def test_a_single_certificate_may_be_trusted_without_its_authority(world):
    stranger = make_station_certificate(make_authority(), EUI)
    server, station = world.server(), world.files(stranger, name="stranger")
    server.ca_file.write_bytes(stranger.certificate)
    ours, _ = shake_hands(
        server_context(**server.as_arguments()), client_context(**station.as_arguments())
    )
    assert identity_of(ours).euis == frozenset({EUI})


def test_a_broker_must_have_its_name(world):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = world.server("broker.example.org")
    server.load_cert_chain(files.cert_file, files.key_file)
    shake_hands(server, broker_context(ca_file=files.ca_file), "broker.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, broker_context(ca_file=files.ca_file), "other.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, broker_context(), "broker.example.org")


def test_a_broker_may_ask_for_our_certificate(world):
    server, ours = world.server("broker"), world.station()
    context = broker_context(
        ca_file=server.ca_file, cert_file=ours.cert_file, key_file=ours.key_file
    )
    theirs, _ = shake_hands(server_context(**server.as_arguments()), context, "broker")
    assert identity_of(theirs).euis == frozenset({EUI})


def bare_certificate(
    name: str, *, issuer: KeyPair | None = None, is_ca: bool = False, san: object = None
) -> KeyPair:
    """A certificate as somebody made it by hand, years ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signing, issuer_name = key, subject
    if issuer is not None:
        loaded = load_pem_private_key(issuer.key, None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        signing = loaded
        issuer_name = x509.load_pem_x509_certificate(issuer.certificate).subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=100))
    )
    if is_ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
    if isinstance(san, x509.SubjectAlternativeName | x509.UnrecognizedExtension):
        builder = builder.add_extension(san, critical=False)
    pem = builder.sign(signing, hashes.SHA256()).public_bytes(Encoding.PEM)
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(pem, octets)


# --- files that cannot be used ---


def refusal(call, *args, **options) -> str:
    with pytest.raises(CertificateError) as caught:
        call(*args, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_missing_file_is_named(world):
    files = world.server()
    files.key_file.unlink()
    assert refusal(server_context, **files.as_arguments()) == (
        f"private key {files.key_file} does not exist; `bssci certs gen` makes certificates"
    )


def test_a_key_of_another_certificate_is_told_with_both_files(world):
    files = world.server()
    files.key_file.write_bytes(world.authority.key)
    assert refusal(server_context, **files.as_arguments()) == (
        f"private key {files.key_file} does not belong to certificate {files.cert_file}; "
        "one of them was replaced without the other"
    )


def test_an_encrypted_key_is_refused_instead_of_asking_at_the_terminal(world):
    files = world.server()
    key = load_pem_private_key(files.key_file.read_bytes(), None)
    files.key_file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    assert "is encrypted, and a service has nobody to ask" in refusal(
        server_context, **files.as_arguments()
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "CA file {} is empty"),
        (b"  \n", "CA file {} is empty"),
        (b"hello", "CA file {} holds no certificate; expected PEM (-----BEGIN CERTIFICATE-----)"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "CA file {} holds a damaged certificate; copy it again",
        ),
        (
            b"\x30\x82\x01\x02",
            "CA file {0} is DER, expected PEM: openssl x509 -inform DER -in {0} -out {0}.pem",
        ),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "CA file {} holds a private key where a certificate is expected; "
            "are the two files swapped?",
        ),
    ],
)
def test_a_ca_file_without_a_certificate_is_told(world, content, words):
    files = world.server()
    files.ca_file.write_bytes(content)
    assert refusal(server_context, **files.as_arguments()) == words.format(files.ca_file)


def test_swapped_files_are_told(world):
    files = world.server()
    assert "are the two files swapped?" in refusal(check_pair, files.key_file, files.cert_file)
    assert "holds a certificate where a key is expected" in refusal(read_key, files.cert_file)


def test_a_key_file_without_a_key_is_told(world):
    file = world.folder / "key.pem"
    file.write_text("hello")
    assert refusal(read_key, file) == (
        f"private key {file} holds no private key; expected PEM (-----BEGIN PRIVATE KEY-----)"
    )


def test_a_folder_and_an_endless_file_are_told(world):
    assert refusal(read_key, world.folder) == (
        f"private key {world.folder} cannot be read: Is a directory"
    )
    assert "is longer than 4194304 bytes" in refusal(read_certificates, Path("/dev/zero"))


def test_a_pair_that_openssl_refuses_is_told_in_its_words(world):
    """A key that fits the certificate and is of no use for TLS."""
    key = x25519.X25519PrivateKey.generate()
    authority = load_pem_private_key(world.authority.key, None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .sign(authority, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files = world.files(KeyPair(certificate, octets))
    assert refusal(server_context, **files.as_arguments()).startswith(
        f"certificate {files.cert_file} with key {files.key_file} cannot be used: "
    )


# --- what to tell the operator ---


def test_the_days_until_a_certificate_expires_are_known(world):
    files = world.server()
    later = NOW + timedelta(days=800)
    assert days_until_expiry(files.cert_file, now=later) == pytest.approx(25, abs=0.1)
    assert days_until_expiry(files.cert_file) == pytest.approx(825, abs=0.1)


def test_the_names_of_a_server_certificate_are_known(world):
    files = world.server("192.0.2.1", "sc.example.org", "2001:db8::1")
    assert certificate_names(files.cert_file) == ["sc.example.org", "192.0.2.1", "2001:db8::1"]
    assert certificate_names(world.files(bare_certificate("x")).cert_file) == []


def facts_of(file: Path, *, now: datetime) -> dict[str, object]:
    (fact,) = certificate_facts(file, now=now)
    return fact


def end_of(file: Path) -> datetime:
    return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc


def test_the_facts_of_a_good_pair_are_whose_it_is_and_until_when(world):
    files = world.server("192.0.2.1", "sc.example.org")
    authority = x509.load_pem_x509_certificate(world.authority.certificate)
    assert certificate_facts(files.cert_file, files.ca_file) == [
        {
            "file": str(files.cert_file),
            "subject": "CN=192.0.2.1",
            "names": ["sc.example.org", "192.0.2.1"],
            "not_after": end_of(files.cert_file).timestamp(),
            "days": 824,
            "ok": True,
        },
        {
            "file": str(files.ca_file),
            "subject": authority.subject.rfc4514_string(),
            "names": [],
            "not_after": authority.not_valid_after_utc.timestamp(),
            "days": 3652,
            "ok": True,
        },
    ]


def test_a_file_has_a_fact_for_each_certificate_in_it(world):
    files, new = world.server(), make_authority()
    files.ca_file.write_bytes(world.authority.certificate + new.certificate)
    subjects = [
        x509.load_pem_x509_certificate(each.certificate).subject.rfc4514_string()
        for each in (world.authority, new)
    ]
    assert [each["subject"] for each in certificate_facts(files.ca_file)] == subjects


def test_a_certificate_is_good_from_its_first_moment_until_just_before_its_last(world):
    file = world.server().cert_file
    begin = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_before_utc
    end, moment = end_of(file), timedelta(microseconds=1)
    good = facts_of(file, now=end - timedelta(days=10))
    assert (good["days"], good["ok"]) == (10, True)
    assert facts_of(file, now=end) == good | {"days": 0, "ok": False}
    assert facts_of(file, now=end + timedelta(days=3)) == good | {"days": -3, "ok": False}
    assert [
        facts_of(file, now=now)["ok"] for now in (begin - moment, begin, end - moment, end)
    ] == [False, True, True, False]


def test_a_file_that_cannot_be_read_is_a_fact_too(world):
    files = world.server()
    files.ca_file.unlink()
    good, missing = certificate_facts(files.cert_file, files.ca_file)
    assert good["ok"]
    assert missing == {
        "file": str(files.ca_file),
        "subject": None,
        "names": None,
        "not_after": None,
        "days": None,
        "ok": False,
        "error": f"certificate {files.ca_file} does not exist; `bssci certs gen` makes "
        "certificates",
    }


def test_an_authority_tells_who_came_with_its_certificates(world):
    files, new = world.server(), make_authority()
    files.ca_file.write_bytes(world.authority.certificate + new.certificate)
    old_mark, new_mark = map(fingerprint_of, read_certificates(files.ca_file))
    facts = certificate_facts(files.cert_file, files.ca_file, came={old_mark: ["A", "B"]})
    assert [(each.get("fingerprint"), each.get("stations")) for each in facts] == [
        (None, None),
        (old_mark, ["A", "B"]),
        (new_mark, []),
    ]


def test_a_good_certificate_raises_no_warning(world):
    files = world.server()
    assert certificate_warnings(files.cert_file, files.ca_file) == []


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (timedelta(days=826), "has expired on "),
        (timedelta(days=-1), "is not valid before "),
    ],
)
def test_a_certificate_out_of_its_time_is_used_and_warned_about(world, shift, words):
    files = world.server()
    server_context(**files.as_arguments())
    warnings = certificate_warnings(files.cert_file, files.ca_file, now=NOW + shift)
    assert warnings[0].startswith(f"certificate {files.cert_file} {words}")


def test_an_expired_authority_is_warned_about(world):
    files = world.server()
    warnings = certificate_warnings(files.cert_file, files.ca_file, now=NOW + timedelta(days=3660))
    assert [line.partition(" has expired")[0] for line in warnings] == [
        f"certificate {files.cert_file}",
        f"an authority in {files.ca_file}",
    ]


def test_a_certificate_of_another_authority_is_warned_about(world):
    files = world.files(make_server_certificate(make_authority(), ["sc"]))
    server_context(**files.as_arguments())
    assert certificate_warnings(files.cert_file, files.ca_file) == [
        f"certificate {files.cert_file} does not come from an authority in {files.ca_file}; "
        "peers that know only those will refuse it"
    ]


def test_a_certificate_that_is_its_own_authority_raises_no_warning(world):
    pair = bare_certificate("self")
    files = world.files(pair, pair)
    assert certificate_warnings(files.cert_file, files.ca_file) == []


# --- who a certificate names ---


@pytest.mark.parametrize(
    "text",
    [
        "70B3D59CD0000001",
        "70b3d59cd0000001",
        "0x70B3D59CD0000001",
        "70-B3-D5-9C-D0-00-00-01",
        "70:b3:d5:9c:d0:00:00:01",
        "70b3:d59c:d000:0001",
        "70 B3 D5 9C D0 00 00 01",
        "70b3d59cd0000001.stations.example.org",
        "bs-70b3d59cd0000001.example.org",
        "bs-70-b3-d5-9c-d0-00-00-01-a.example.org",
        "70-b3-d5-9c-d0-00-00-01-abc",
        "urn:dev:eui64:70b3d59cd0000001",
        "https://example.org/bs/70B3D59CD0000001?x=1",
        "70b3d59cd0000001@example.org",
        "eui_70B3D59CD0000001",
        "Station 70B3D59CD0000001 (roof)",
    ],
)
def test_an_eui_is_found_in_any_usual_spelling(text):
    assert euis_in(text) == frozenset({EUI})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "70B3D59CD000000",
        "70B3D59CD00000012",
        "x70B3D59CD0000001",
        "70-B3-D5-9C-D0-00-00",
        "70-B3-D5-9C-D0-00-00-01-02",
        "AA:70:B3:D5:9C:D0:00:00:01",
        "70-B3:D5-9C:D0-00:00-01",
        "org-550e8400-e29b-41d4-a716-446655440000",
        "ab:" * 31 + "ab",
    ],
)
def test_what_only_looks_like_an_eui_is_none(text):
    assert euis_in(text) == frozenset()


def test_several_euis_are_all_found():
    assert euis_in(f"{EUI:016x} {OTHER:016X}") == frozenset({EUI, OTHER})


@given(st.integers(0, 2**64 - 1), st.sampled_from(["", "-", ":"]))
def test_every_eui_is_found_again(eui, separator):
    digits = format_eui(eui)
    text = separator.join(digits[i : i + 2] for i in range(0, 16, 2))
    assert euis_in(f"cn-of.{text}.example") == frozenset({eui})


def der(pair: KeyPair) -> bytes:
    return x509.load_pem_x509_certificate(pair.certificate).public_bytes(Encoding.DER)


def test_euis_are_found_in_names_of_every_kind_but_not_in_addresses():
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    euis = [0x1000000000000000 + number for number in range(6)]
    texts = [format_eui(eui) for eui in euis]
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName(f"{texts[1]}.example.org"),
            x509.UniformResourceIdentifier(f"urn:eui:{texts[2]}"),
            x509.RFC822Name(f"{texts[3]}@example.org"),
            x509.OtherName(oid, b"\x0c\x10" + texts[4].encode()),
            x509.OtherName(oid, b"\x04\x08" + euis[5].to_bytes(8)),
            x509.OtherName(oid, b"\x04\x02ab"),
            x509.OtherName(oid, b"\x0c\x81\x82" + b"x" * 130),
            x509.OtherName(oid, b"\x05\x00"),
            x509.IPAddress(ipaddress.ip_address("70b3:d59c:d000:1::")),
            x509.RegisteredID(oid),
        ]
    )
    found = identity_in(der(bare_certificate(texts[0], san=names)))
    assert found.euis == frozenset(euis)


def test_an_identity_is_subject_fingerprint_and_euis(world):
    pair = make_station_certificate(world.authority, EUI)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    assert identity_in(der(pair)) == Identity(
        "CN=70B3D59CD0000001",
        certificate.fingerprint(hashes.SHA256()).hex(),
        frozenset({EUI}),
    )


def test_a_subject_cannot_break_a_log_line():
    assert identity_in(der(bare_certificate("a\nb\x1b[31mü"))).subject == "CN=a\\x0ab\\x1b[31mü"


def test_a_long_subject_is_cut():
    name = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "u" * 64) for _ in range(4)]
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1)
    ).sign(key, hashes.SHA256())
    subject = identity_in(certificate.public_bytes(Encoding.DER)).subject
    assert (len(subject), subject[:5], subject[-1]) == (201, "OU=uu", "…")


def test_a_certificate_that_cannot_be_read_names_nobody():
    octets = b"\x30\x00"
    assert identity_in(octets) == Identity("(not readable)", hashlib.sha256(octets).hexdigest())


def test_alternative_names_that_cannot_be_read_name_nobody():
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05\xff")
    assert identity_in(der(bare_certificate(format_eui(EUI), san=broken))).euis == frozenset({EUI})


def test_a_connection_without_a_certificate_has_no_identity(world):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = world.server()
    server.load_cert_chain(files.cert_file, files.key_file)
    ours, _ = shake_hands(server, broker_context(ca_file=files.ca_file), "sc.example.org")
    assert refusal(identity_of, ours) == "the peer shows no certificate"


def test_the_authority_is_known_that_a_base_station_s_certificate_comes_from(world):
    """As a context has them after both were loaded."""
    new, server = make_authority(), world.server()
    server.ca_file.write_bytes(world.authority.certificate + new.certificate)
    trusted = server_context(**server.as_arguments()).get_ca_certs(binary_form=True)
    made = [make_station_certificate(each, EUI) for each in (world.authority, new)]
    assert [issuer_of(der(each), trusted) for each in made] == [
        hashlib.sha256(der(each)).hexdigest() for each in (world.authority, new)
    ]
    assert issuer_of(der(made[0]), [der(new)]) is None
    assert issuer_of(b"nonsense", trusted) is None


def test_only_what_says_so_is_an_authority(world):
    pairs = [world.authority, bare_certificate("x"), bare_certificate("x", is_ca=True)]
    opened = [x509.load_pem_x509_certificate(each.certificate) for each in pairs]
    assert [is_authority(each) for each in opened] == [True, False, True]


# --- who may come in ---

NAMED = Identity("CN=70B3D59CD0000001", "f1", frozenset({EUI}))
UNNAMED = Identity("CN=localhost", "f2")


@pytest.mark.parametrize(
    ("mode", "identity", "claimed", "pinned", "reason"),
    [
        ("chain", NAMED, OTHER, "f9", None),
        ("chain", UNNAMED, OTHER, None, None),
        ("match", NAMED, EUI, "f9", None),
        ("match", UNNAMED, EUI, None, None),
        (
            "match",
            NAMED,
            OTHER,
            None,
            "the certificate names 70B3D59CD0000001, not FCA84A030000127C",
        ),
        ("match", Identity("", "f", frozenset({EUI, OTHER})), OTHER, None, None),
        ("pin", NAMED, EUI, None, None),
        ("pin", NAMED, EUI, "f1", None),
        ("pin", UNNAMED, EUI, None, None),
        ("pin", UNNAMED, EUI, "f2", None),
        ("pin", NAMED, OTHER, "f1", "the certificate names 70B3D59CD0000001, not FCA84A030000127C"),
        ("pin", NAMED, EUI, "f9", "70B3D59CD0000001 is bound to the certificate f9, not f1"),
        ("require", NAMED, EUI, "f9", None),
        (
            "require",
            UNNAMED,
            EUI,
            None,
            "the certificate names no EUI, and 70B3D59CD0000001 must be named",
        ),
        (
            "require",
            NAMED,
            OTHER,
            None,
            "the certificate names 70B3D59CD0000001, not FCA84A030000127C",
        ),
    ],
)
def test_who_may_be_which_base_station(mode, identity, claimed, pinned, reason):
    assert check_identity(mode, identity, claimed, pinned) == reason


def test_a_client_certificate_is_no_server_certificate(world):
    """Its purpose says so; whoever steals a base station's key is no Service Center."""
    files = world.files(make_station_certificate(world.authority, EUI), name="thief")
    assert ExtendedKeyUsageOID.CLIENT_AUTH in list(
        read_certificates(files.cert_file)[0]
        .extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        .value
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(
            server_context(**files.as_arguments()),
            client_context(**world.station().as_arguments()),
        )


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("localhost", True),
        ("LocalHost.", True),
        ("x.localhost", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        ("192.0.2.1", False),
        ("sc.example.org", False),
        ("2001:db8::1", False),
    ],
)
def test_names_of_this_machine_only_are_recognised(name, answer):
    assert is_loopback(name) is answer
