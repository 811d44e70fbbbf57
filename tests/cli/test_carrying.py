import json
import zipfile
from datetime import UTC, datetime, timedelta

import pytest

from bssci.core.runtime.authority import (
    load_authority,
    load_pair,
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.tls import certificate_names, read_certificates, subject_of
from tests.cli.certificates import EUI, Place
from tests.control import socket_folder


@pytest.fixture
def place(capsys):
    with socket_folder() as folder:
        made = Place(folder, capsys)
        made.run("gen", "--host", "sc.example.org")
        yield made


def from_outside(place, pair):
    files = place.folder / "new.pem", place.folder / "new_key.pem"
    write_pair(pair, *files)
    return files


def signed(place, *names, authority=None, **options):
    signer = authority or load_authority(place.ca, place.ca_key)
    return from_outside(place, make_server_certificate(signer, names or ["new"], **options))


# --- in ---


def test_a_good_pair_is_taken_in_and_the_old_one_is_kept(place):
    before = load_pair(place.cert, place.key)
    files = signed(place, "new.example.org")
    with place.served() as service:
        code, out, err = place.run("import", *files)
        assert (code, err, service.told) == (
            0,
            "the running service uses it from the next connection on\n",
            ["certs.reload"],
        )
    kept = [next(place.certs.glob(f"service_center_{part}.2*.pem")) for part in ("cert", "key")]
    assert f"for new.example.org\n  private key  {place.key}" in out
    assert load_pair(*kept) == before
    assert load_pair(place.cert, place.key) == load_pair(*files)
    assert place.key.stat().st_mode & 0o777 == 0o600


def test_programs_are_told_what_is_where(place):
    code, out, _ = place.run("import", *signed(place), "--json")
    kept = [next(place.certs.glob(f"service_center_{part}.2*.pem")) for part in ("cert", "key")]
    assert (code, json.loads(out)) == (
        0,
        {
            "cert_file": str(place.cert),
            "key_file": str(place.key),
            "ca_file": str(place.ca),
            "names": ["new"],
            "kept": list(map(str, kept)),
            "running": False,
        },
    )


def of_a_stranger(place):
    return signed(place, authority=make_authority())


def out_of_time(place):
    return signed(place, now=datetime.now(UTC) - timedelta(days=900))


def with_another_key(place):
    files = signed(place)
    files[1].write_bytes(place.ca_key.read_bytes())
    return files


def of_a_base_station(place):
    signer = load_authority(place.ca, place.ca_key)
    return from_outside(place, make_station_certificate(signer, int(EUI, 16)))


def for_this_machine_only(place):
    return signed(place, "localhost", allow_loopback=True)


def that_is_not_there(place):
    return place.folder / "none.pem", place.key


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_a_stranger, "which is not in "),
        (out_of_time, "has expired on "),
        (with_another_key, "does not belong to "),
        (of_a_base_station, "is for clientAuth only"),
        (for_this_machine_only, "means this machine only"),
        (that_is_not_there, "does not exist"),
    ],
)
def test_a_pair_that_cannot_be_used_replaces_nothing(place, make, words):
    files, before = make(place), place.contents()
    code, out, err = place.run("import", *files)
    assert (code, words in out, err) == (
        8,
        True,
        "error: it cannot be used as it is; nothing is replaced\n",
    )
    assert place.contents() == before
    code, out, _ = place.run("import", *files, "--json")
    assert (code, any(words in each["seen"] for each in json.loads(out))) == (8, True)


def test_one_that_expires_soon_is_taken_with_a_warning(place):
    files = signed(place, now=datetime.now(UTC) - timedelta(days=815))
    code, _, err = place.run("import", *files)
    assert (code, "warning: " in err, "expires in 9 days" in err) == (0, True, True)
    assert certificate_names(place.cert) == ["new"]


def test_another_authority_is_trusted_besides_and_base_stations_must_know_it(place):
    (ours,), other = read_certificates(place.ca), make_authority()
    ca = place.folder / "other_ca.pem"
    ca.write_bytes(other.certificate)
    files = signed(place, authority=other)
    code, _, err = place.run("import", *files, "--ca", ca)
    (theirs,) = read_certificates(ca)
    assert (code, read_certificates(place.ca)) == (0, [theirs, ours])
    assert f"the certificate comes from {subject_of(theirs)}, the one before did not" in err
    # Ours goes on signing for base stations, and is nothing that a change would drop.
    assert place.run("station", EUI)[0] == 0
    assert place.run("renew", "--ca", "--finish", "--force")[0] == 2
    trusted = place.ca.read_bytes()
    assert place.run("import", *files, "--ca", ca)[0] == 0
    assert place.ca.read_bytes() == trusted


def test_a_chain_is_kept_whole(place):
    files = signed(place)
    files[0].write_bytes(files[0].read_bytes() + place.ca.read_bytes())
    place.run("import", *files)
    assert read_certificates(place.cert) == read_certificates(files[0])


def test_a_first_pair_may_come_from_outside(place):
    files = signed(place)
    place.cert.unlink()
    place.key.unlink()
    code, _, err = place.run("import", *files)
    assert (code, "warning" in err, certificate_names(place.cert)) == (0, False, ["new"])


# --- out ---

NAMES = [
    "service_center_cert.pem",
    "service_center_key.pem",
    "ca_cert.pem",
    f"stations/{EUI}/{EUI}_cert.pem",
]


@pytest.fixture
def full(place):
    place.run("station", EUI)
    return place


def key_lines(place):
    """What must not be in an export: the secret of the authority and of base stations."""
    return [file.read_bytes().splitlines()[1] for file in (place.ca_key, place.station(EUI, "key"))]


def test_a_folder_gets_everything_but_secrets_of_others(full):
    to = full.folder / "out"
    code, out, _ = full.run("export", to)
    assert (code, out.splitlines()) == (
        0,
        [f"4 files in {to}", *(f"  {name}" for name in NAMES)],
    )
    found = {str(file.relative_to(to)): file for file in to.rglob("*") if file.is_file()}
    assert sorted(found) == sorted(NAMES)
    assert {file.stat().st_mode & 0o777 for file in found.values()} == {0o600}
    content = b"".join(file.read_bytes() for file in found.values())
    assert [line in content for line in key_lines(full)] == [False, False]
    assert load_pair(found[NAMES[0]], found[NAMES[1]]) == load_pair(full.cert, full.key)


def test_a_zip_file_gets_the_same(full):
    to = full.folder / "out.zip"
    code, out, _ = full.run("export", to, "--json")
    assert (code, json.loads(out)) == (
        0,
        {"to": str(to), "files": NAMES, "with_ca_key": False, "kept": []},
    )
    assert to.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(to) as archive:
        assert (archive.testzip(), archive.namelist()) == (None, NAMES)
        assert {each.external_attr >> 16 & 0o777 for each in archive.infolist()} == {0o600}
        content = b"".join(archive.read(name) for name in NAMES)
    assert [line in content for line in key_lines(full)] == [False, False]


def test_the_key_of_the_authority_goes_out_only_when_it_is_asked_for(full):
    to = full.folder / "out"
    assert full.run("export", to, "--with-ca-key")[0] == 0
    authority = load_authority(full.ca, full.ca_key)
    assert load_authority(to / "ca_cert.pem", to / "ca_key.pem") == authority


def test_a_key_that_slipped_into_another_file_stays_there(full):
    for file in (full.ca, full.cert, full.station(EUI)):
        file.write_bytes(file.read_bytes() + full.ca_key.read_bytes())
    to = full.folder / "out"
    assert full.run("export", to)[0] == 0
    content = b"".join(file.read_bytes() for file in to.rglob("*.pem"))
    assert key_lines(full)[0] not in content


def test_a_server_that_is_its_own_authority_is_not_exported_unasked(full):
    full.cert.write_bytes(full.ca.read_bytes())
    full.key.write_bytes(full.ca_key.read_bytes())
    to = full.folder / "out"
    code, _, err = full.run("export", to)
    assert (code, "with --with-ca-key only" in err, to.exists()) == (2, True, False)


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_nothing_is_overwritten_without_force_and_then_kept(full, name):
    to = full.folder / name
    full.run("export", to)
    code, _, err = full.run("export", to)
    assert (code, "there already; with --force" in err) == (2, True)
    code, _, err = full.run("export", to, "--force")
    assert (code, "kept: " in err) == (0, True)
