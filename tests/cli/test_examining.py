import json
from datetime import UTC, datetime, timedelta

import pytest

from bssci.core.runtime.authority import (
    load_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.tls import certificate_facts, read_certificates, subject_of
from tests.cli.certificates import EUI, OTHER, Place
from tests.control import socket_folder


@pytest.fixture
def place(capsys):
    with socket_folder() as folder:
        made = Place(folder, capsys)
        made.run("gen", "--host", "sc.example.org")
        yield made


def authority(place):
    return load_authority(place.ca, place.ca_key)


def age(place, days):
    """A server certificate that was made so many days ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    pair = make_server_certificate(authority(place), ["sc.example.org"], now=then)
    write_pair(pair, place.cert, place.key, force=True)


def words(out):
    return [line.split() for line in out.splitlines()]


# --- status ---


def test_good_certificates_are_shown_with_their_days(place):
    code, out, err = place.run("status")
    subject = subject_of(read_certificates(place.ca)[0]).split()
    server, ca = (read_certificates(each)[0].not_valid_after_utc for each in (place.cert, place.ca))
    assert (code, err, words(out)) == (
        0,
        "",
        [
            ["file", "subject", "names", "until", "days", "state"],
            [
                *("certs/service_center_cert.pem", "CN=sc.example.org", "sc.example.org"),
                *(f"{server.astimezone():%Y-%m-%d}", "824", "●", "ok"),
            ],
            [
                *("certs/ca_cert.pem", *subject, "-", f"{ca.astimezone():%Y-%m-%d}"),
                *("3652", "●", "ok"),
            ],
        ],
    )


def test_programs_get_the_facts_and_those_of_base_stations_too(place):
    place.run("station", EUI)
    place.run("renew", "--station", EUI)  # what is kept is not shown
    code, out, _ = place.run("status", "--json")
    assert (code, json.loads(out)) == (
        0,
        certificate_facts(place.cert, place.ca, place.station(EUI)),
    )


def test_the_running_service_is_asked(place):
    with place.served() as service:
        code, out, _ = place.run("status", "--json")
        assert (code, json.loads(out), service.told) == (
            0,
            certificate_facts(place.cert, place.ca, came={}),
            ["certs.status"],
        )


@pytest.mark.parametrize(
    ("days", "verdict"), [(796, "▲ expires"), (825, "✕ expired"), (-2, "✕ wrong")]
)
def test_what_expires_soon_or_is_wrong_is_exit_8_and_told_with_what_to_do(place, days, verdict):
    age(place, days)
    code, out, err = place.run("status")
    advice = {
        True: "it is not valid yet; is the clock of this machine right?",
        False: "make a new one: bssci certs renew",
    }[days < 0]
    assert (code, verdict in out, err) == (8, True, f"CN=sc.example.org: {advice}\n")


def test_thirty_days_are_enough(place):
    age(place, 794.9)
    assert place.run("status")[0] == 0


def test_of_a_base_station_it_is_told_whose_it_is(place):
    then = datetime.now(UTC) - timedelta(days=360)
    pair = make_station_certificate(authority(place), int(EUI, 16), years=1, now=then)
    write_pair(pair, place.station(EUI), place.station(EUI, "key"))
    code, _, err = place.run("status")
    assert (code, err) == (
        8,
        f"CN={EUI}: make a new one for the base station: bssci certs renew --station {EUI}\n",
    )


def test_an_authority_that_expires_has_to_be_changed(place, monkeypatch):
    from bssci.core.runtime import inspection

    monkeypatch.setattr(inspection, "SOON", 4000)
    _, _, err = place.run("status")
    assert "change the authority: bssci certs renew --ca\n" in err


def test_a_file_that_is_not_there_is_wrong(place):
    place.cert.unlink()
    code, out, err = place.run("status")
    assert (code, words(out)[1]) == (
        8,
        ["certs/service_center_cert.pem", "-", "-", "-", "-", "✕", "wrong"],
    )
    assert err == (
        f"certificate {place.cert} does not exist; `bssci certs gen` makes certificates\n"
    )


def test_during_a_change_those_are_listed_that_still_come_with_the_old_one(place):
    old = subject_of(read_certificates(place.ca)[0])
    place.run("renew", "--ca")
    change = f"the authority is being changed; {old} is to go\n"
    assert place.run("status")[2] == (
        f"{change}which base stations still need it is known only while the service runs\n"
    )
    with place.served() as service:
        first, second = place.fingerprints()
        service.came = {first: [EUI], second: [OTHER]}
        assert place.run("status")[2] == (
            f"{change}1 base station still came with a certificate of it:\n"
            f"  {EUI}  bssci certs renew --station {EUI}\n"
        )
        service.came = {second: [EUI, OTHER]}
        assert place.run("status")[2] == (
            f"{change}no base station came with its certificates: bssci certs renew --ca --finish\n"
        )


# --- verify ---


def checks(out):
    return [(line.split()[0], line.split()[1]) for line in out.splitlines() if line[:2] == "  "]


GOOD = ["file", "chain", "validity", "names", "usage", "strength"]


def test_all_that_the_configuration_names_is_verified(place):
    place.run("station", EUI)
    code, out, err = place.run("verify")
    titles = [line for line in out.splitlines() if line and line[0] != " "]
    assert (code, err, titles) == (
        0,
        "",
        [
            "certs/service_center_cert.pem",
            "certs/service_center_key.pem",
            "certs/ca_cert.pem",
            "certs/ca_key.pem",
            f"certs/stations/{EUI}/{EUI}_cert.pem",
            f"certs/stations/{EUI}/{EUI}_key.pem",
        ],
    )
    assert checks(out) == [
        *((each, "●") for each in GOOD),
        ("key", "●"),
        *((each, "●") for each in ("file", "validity", "usage", "strength")),
        ("key", "●"),
        *((each, "●") for each in GOOD),
        ("key", "●"),
    ]


def test_a_problem_is_exit_8_with_what_was_seen_and_what_to_do(place):
    place.key.write_bytes(place.ca_key.read_bytes())
    code, out, _ = place.run("verify")
    assert (code, [line for line in out.splitlines() if "✕" in line]) == (
        8,
        [
            f"  key       ✕ does not belong to {place.cert}; one of them was replaced without the "
            "other; put back the one that was kept, or make a new pair"
        ],
    )


def test_a_warning_is_exit_8_too(place):
    age(place, 800)
    code, out, _ = place.run("verify")
    assert (code, "  validity  ▲ expires in 24 days" in out) == (8, True)


def test_a_ca_key_in_a_safe_is_not_missed(place):
    place.ca_key.unlink()
    assert place.run("verify")[0] == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_files_that_are_named_are_verified_together(place, order):
    place.run("station", EUI)
    files = [place.station(EUI), place.station(EUI, "key")]
    code, out, _ = place.run("verify", *(files[each] for each in order), "--json")
    found = json.loads(out)
    assert (code, [each["check"] for each in found]) == (
        0,
        ["file", "chain", "key", "validity", "names", "usage", "strength"],
    )
    assert next(each["seen"] for each in found if each["check"] == "usage") == "for a base station"


def test_the_key_beside_a_certificate_is_found(place):
    _, out, _ = place.run("verify", place.cert)
    assert ("key", "●") in checks(out)


def test_a_key_that_does_not_belong_is_told(place):
    code, out, _ = place.run("verify", place.cert, place.ca_key)
    assert (code, ("key", "✕") in checks(out)) == (8, True)


def test_an_authority_is_verified_as_one(place):
    code, out, _ = place.run("verify", place.ca, place.ca_key)
    assert (code, checks(out)[0][0], ("usage", "●") in checks(out)) == (0, "file", True)


def test_a_pair_in_one_file_is_its_own_key(place):
    both = place.folder / "both.pem"
    both.write_bytes(place.key.read_bytes() + place.cert.read_bytes())
    both.chmod(0o600)
    code, out, _ = place.run("verify", both)
    assert (code, ("key", "●") in checks(out)) == (0, True)


def test_a_key_alone_and_a_file_of_nothing_are_told(place):
    nothing = place.folder / "nothing.pem"
    nothing.write_text("nothing")
    code, out, _ = place.run("verify", place.key)
    assert (code, "holds a private key where a certificate is expected" in out) == (8, True)
    code, out, _ = place.run("verify", nothing)
    assert (code, "holds no certificate" in out) == (8, True)
