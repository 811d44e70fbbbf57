import json
import socket

import pytest

from bssci.core.center.rpc import RequestError
from bssci.core.runtime.authority import has_rsa_key, load_authority, load_pair
from bssci.core.runtime.tls import certificate_names, is_issued_by, read_certificates, subject_of
from tests.cli.certificates import EUI, OTHER, Place
from tests.control import Station, socket_folder

NOT_RUNNING = (
    "the service does not run; it will use it when it starts. (One that was not found at its "
    "control socket takes it after SIGHUP.)\n"
)


@pytest.fixture
def place(capsys):
    with socket_folder() as folder:
        made = Place(folder, capsys)
        made.run("gen", "--host", "sc.example.org")
        yield made


def kept(place, name):
    (file,) = place.certs.glob(f"{name}.*.pem")
    return file


def test_a_renewed_certificate_has_the_names_of_the_old_one_which_is_kept(place):
    before = load_pair(place.cert, place.key)
    code, out, err = place.run("renew")
    old = kept(place, "service_center_cert"), kept(place, "service_center_key")
    assert (code, err) == (0, NOT_RUNNING)
    assert out.split() == [
        *("certificate", str(place.cert), "for", "sc.example.org"),
        *("private", "key", str(place.key), "keep", "it", "secret"),
        *("kept", str(old[0]), "kept", str(old[1])),
    ]
    assert (load_pair(*old), load_pair(place.cert, place.key) == before) == (before, False)
    assert place.key.stat().st_mode & 0o777 == 0o600
    assert is_issued_by(read_certificates(place.cert)[0], read_certificates(place.ca)[0])


def test_names_are_added_to_those_it_has(place):
    code, out, _ = place.run("renew", "--server", "--host", "localhost", "--json")
    names = ["sc.example.org", "localhost"]
    assert (code, certificate_names(place.cert)) == (0, names)
    assert json.loads(out) == {
        "cert_file": str(place.cert),
        "key_file": str(place.key),
        "names": names,
        "kept": [str(kept(place, f"service_center_{part}")) for part in ("cert", "key")],
        "running": False,
    }


@pytest.mark.parametrize("options", [["--rsa"], ["--rsa", "--host", "x"]])
def test_rsa_is_made_when_asked_for_and_stays(place, options):
    assert place.run("renew", *options)[0] == 0
    assert has_rsa_key(read_certificates(place.cert)[0])
    assert place.run("renew")[0] == 0
    assert has_rsa_key(read_certificates(place.cert)[0])
    place.run("renew", "--ecdsa")
    assert not has_rsa_key(read_certificates(place.cert)[0])


def test_the_running_service_is_told(place):
    with place.served() as service:
        code, _, err = place.run("renew")
        assert (code, err, service.told) == (
            0,
            "the running service uses it from the next connection on\n",
            ["certs.reload"],
        )


def test_a_socket_that_a_dead_service_has_left_is_no_service(place):
    path = place.folder / "state" / "control.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    code, _, err = place.run("renew")
    assert (code, err) == (0, NOT_RUNNING)


def test_a_service_that_does_not_take_it_is_told_with_where_the_old_one_is(place):
    with place.served() as service:
        service.refusal = "not reloaded, nothing is changed: it is Friday"
        code, _, err = place.run("renew")
        assert (code, err) == (
            1,
            "error: the new files are in place, but the running service does not take them: not "
            "reloaded, nothing is changed: it is Friday\n"
            f"hint: the old ones are kept: {kept(place, 'service_center_cert')}, "
            f"{kept(place, 'service_center_key')}\n",
        )


def test_a_base_station_gets_new_files_and_the_old_ones_are_kept(place):
    place.run("station", EUI, "--rsa")
    before = load_pair(place.station(EUI), place.station(EUI, "key"))
    code, out, err = place.run("renew", "--station", EUI)
    assert (code, str(place.station(EUI)) in out, f"On base station {EUI}" in err) == (
        0,
        True,
        True,
    )
    folder = place.certs / "stations" / EUI
    (old_cert,), (old_key,) = folder.glob("*_cert.2*.pem"), folder.glob("*_key.2*.pem")
    assert load_pair(old_cert, old_key) == before
    assert f"kept: {old_key}" in err
    assert has_rsa_key(read_certificates(place.station(EUI))[0])
    assert "approve" not in err


def test_a_base_station_that_is_bound_has_to_be_approved(place):
    place.configure('[tls]\nidentity = "pin"\n')
    _, _, err = place.run("renew", "--station", EUI, "--out", place.folder / "usb")
    assert (err.endswith(f"bssci stations approve {EUI}\n"), place.station(EUI).exists()) == (
        True,
        False,
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ca", "--server"], "--server and --ca: give one of them"),
        (["--ca", "--station", EUI], "--station and --ca: give one of them"),
        (["--ca", "--host", "x"], "--host: it belongs to the Service Center's certificate"),
        (["--out", "x"], "--out: it belongs to --station"),
        (["--finish"], "--finish: it belongs to --ca"),
        (["--ca", "--force"], "--force: it belongs to --finish"),
        (["--station", "70B3"], "'70B3' is not an EUI"),
    ],
)
def test_what_does_not_go_together_is_refused(place, options, words):
    before = place.contents()
    code, _, err = place.run("renew", *options)
    assert (code, words in err, place.contents()) == (2, True, before)


def test_without_a_certificate_there_is_nothing_to_renew(place):
    place.cert.unlink()
    code, _, err = place.run("renew")
    assert (code, "does not exist; `bssci certs gen` makes certificates" in err) == (2, True)


# --- the authority ---


@pytest.fixture
def changing(place):
    """A change is under way."""
    place.run("renew", "--ca")
    return place


def subjects(place):
    return [subject_of(each) for each in read_certificates(place.ca)]


def test_a_change_begins_with_both_trusted_and_says_what_comes_next(place):
    server, (old,) = place.cert.read_bytes(), subjects(place)
    code, out, err = place.run("renew", "--ca", "--json")
    new = subjects(place)[1]
    assert (code, json.loads(out)) == (
        0,
        {
            "ca_file": str(place.ca),
            "ca_key_file": str(place.ca_key),
            "trusted": [old, new],
            "kept": [str(kept(place, "ca_cert")), str(kept(place, "ca_key"))],
            "running": False,
        },
    )
    assert err == (
        "\nNext:\n"
        "  1.  bssci certs renew --station EUI  for each base station; put its three files on it\n"
        "  2.  bssci certs status               lists those that still come with the old "
        "authority\n"
        "  3.  bssci certs renew --ca --finish  when there are none\n"
    )
    assert place.cert.read_bytes() == server


def test_bound_base_stations_have_to_be_approved_one_by_one(place):
    place.configure('[tls]\nidentity = "pin"\n')
    assert "      bssci stations approve EUI     " in place.run("renew", "--ca")[2]


def test_meanwhile_base_stations_get_certificates_of_the_new_one_and_both_authorities(changing):
    assert changing.run("station", EUI)[0] == 0
    old, new = read_certificates(changing.ca)
    assert is_issued_by(read_certificates(changing.station(EUI))[0], new)
    given = changing.station(EUI).with_name("ca_cert.pem")
    assert read_certificates(given) == [old, new]


def test_meanwhile_the_service_center_shows_one_of_the_old_one_however_it_is_made(changing):
    old = read_certificates(changing.ca)[0]
    for command in (["renew"], ["gen", "--host", "sc", "--force"]):
        assert changing.run(*command)[0] == 0
        assert is_issued_by(read_certificates(changing.cert)[0], old)


def refused(changing):
    before = changing.contents()
    code, _, err = changing.run("renew", "--ca", "--finish")
    assert (code, changing.contents()) == (1, before)
    return err


def test_it_is_not_finished_while_nobody_knows_who_would_be_cut_off(changing):
    assert refused(changing) == (
        "error: the service does not run, so nobody can tell which base stations still come with a "
        "certificate of the old authority\n"
        "hint: start it and wait until they have come, or finish with --force\n"
    )


def test_it_is_not_finished_while_base_stations_come_with_the_old_one(changing):
    with changing.served() as service:
        service.came = {changing.fingerprints()[0]: [EUI, OTHER]}
        assert refused(changing) == (
            "error: 2 base stations would be cut off, which came with a certificate of the old "
            f"authority: {EUI}, {OTHER}\n"
            f"hint: bssci certs renew --station {EUI}, and put its files on it; or finish with "
            "--force\n"
        )


def test_it_is_not_finished_while_a_base_station_has_not_come_since_the_start(changing):
    with changing.served() as service:
        service.came = {changing.fingerprints()[1]: [EUI]}
        service.stations = [Station(int(EUI, 16)), Station(int(OTHER, 16), is_online=False)]
        assert refused(changing).startswith(
            f"error: nobody knows which certificate 1 base station would come with: {OTHER}\n"
        )


def test_many_base_stations_are_named_as_far_as_they_fit(changing):
    with changing.served() as service:
        service.came = {changing.fingerprints()[0]: [f"{n:016X}" for n in range(11)]}
        assert "0000000000000007 and 3 more\n" in refused(changing)


def test_it_is_finished_when_all_come_with_the_new_one(changing):
    old, new = subjects(changing)
    with changing.served() as service:
        service.came = {changing.fingerprints()[1]: [EUI]}
        service.stations = [Station(int(EUI, 16))]
        code, out, err = changing.run("renew", "--ca", "--finish")
        assert (code, err, service.told[-1]) == (
            0,
            "the running service uses it from the next connection on\n",
            "certs.reload",
        )
    assert (f"no longer: {old}" in out, "of the new authority" in out) == (True, True)
    assert subjects(changing) == [new]
    authority = read_certificates(changing.ca)[0]
    assert is_issued_by(read_certificates(changing.cert)[0], authority)
    load_authority(changing.ca, changing.ca_key)


def test_it_can_be_finished_by_force(changing):
    new = subjects(changing)[1]
    code, out, _ = changing.run("renew", "--ca", "--finish", "--force", "--json")
    told = json.loads(out)
    assert (code, told["reissued"], subjects(changing)) == (0, True, [new])


@pytest.mark.parametrize("options", [["--finish"], ["--finish", "--force"]])
def test_what_was_not_begun_cannot_be_finished(place, options):
    code, _, err = place.run("renew", "--ca", *options)
    assert (code, "no change of the authority is under way" in err) == (2, True)


def test_a_change_is_not_begun_twice(changing):
    code, _, err = changing.run("renew", "--ca")
    assert (code, "`bssci certs renew --ca --finish` ends it" in err) == (2, True)


def test_a_service_that_refuses_to_tell_is_told(changing):
    with changing.served() as service:
        service.faults["certs.status"] = RequestError("not now")
        assert refused(changing) == "error: not now\n"
