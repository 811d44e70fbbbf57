import json
import socket
from pathlib import Path

import pytest

from bssci.cli import issuing, main
from bssci.core.runtime.authority import load_pair
from bssci.core.runtime.tls import certificate_names, certificate_warnings, identity_in

EUI = "70B3D59CD0000001"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sc.toml").write_text('[server]\neui = "0200000000000001"\nport = 16017\n')
    return tmp_path


@pytest.fixture
def bssci(folder, capsys):
    """Run a command in a folder with an sc.toml; gives exit code, output and messages."""

    def run(*args: str, at: Path | None = folder) -> tuple[int, str, str]:
        options = ["-c", str(at / "sc.toml")] if at else []
        with pytest.raises(SystemExit) as caught:
            main.run(["certs", *args, *options])
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


def made(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "certs" / f"{name}_cert.pem", folder / "certs" / f"{name}_key.pem"


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "certs").iterdir())


def test_gen_makes_an_authority_and_a_certificate_with_the_names_given(bssci, folder):
    code, out, err = bssci("gen", "--host", "sc.example.org", "--host", "192.0.2.1")
    ca, server = made(folder, "ca"), made(folder, "service_center")
    assert (code, err) == (0, "")
    assert out == (
        f"  authority    {ca[0]}              new\n"
        f"  certificate  {server[0]}  for sc.example.org, 192.0.2.1\n"
        f"  private key  {server[1]}   keep it secret\n"
    )
    assert certificate_names(server[0]) == ["sc.example.org", "192.0.2.1"]
    assert certificate_warnings(server[0], ca[0]) == []
    assert [file.stat().st_mode & 0o777 for file in (*ca, *server)] == [0o644, 0o600] * 2
    load_pair(*ca)
    load_pair(*server)


def test_gen_tells_programs_what_it_made(bssci, folder):
    code, out, _ = bssci("gen", "--host", "sc", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "ca_file": str(folder / "certs/ca_cert.pem"),
            "ca_key_file": str(folder / "certs/ca_key.pem"),
            "cert_file": str(folder / "certs/service_center_cert.pem"),
            "key_file": str(folder / "certs/service_center_key.pem"),
            "names": ["sc"],
            "new_ca": True,
            "kept": [],
        },
    )


def test_gen_overwrites_nothing_without_force(bssci, folder):
    bssci("gen", "--host", "sc")
    before = [file.read_bytes() for file in made(folder, "service_center")]
    cert, key = made(folder, "service_center")
    assert bssci("gen", "--host", "sc") == (
        2,
        "",
        f"error: {cert} and {key} are there already; with --force they are replaced, and kept "
        "under another name\n",
    )
    assert [cert.read_bytes(), key.read_bytes()] == before


def test_gen_with_force_keeps_the_authority_and_the_old_pair(bssci, folder):
    bssci("gen", "--host", "old")
    authority = load_pair(*made(folder, "ca"))
    code, out, _ = bssci("gen", "--host", "new", "--force", "--json")
    kept = [Path(file) for file in json.loads(out)["kept"]]
    assert (code, load_pair(*made(folder, "ca"))) == (0, authority)
    assert certificate_names(made(folder, "service_center")[0]) == ["new"]
    assert certificate_names(kept[0]) == ["old"]
    assert len(files(folder)) == 6


def test_a_new_authority_must_be_asked_for_with_force(bssci, folder):
    bssci("gen", "--host", "sc")
    authority = load_pair(*made(folder, "ca"))
    for file in made(folder, "service_center"):
        file.unlink()
    code, _, err = bssci("gen", "--host", "sc", "--new-ca")
    assert (code, "ca_cert.pem" in err, load_pair(*made(folder, "ca"))) == (2, True, authority)
    assert bssci("gen", "--host", "sc", "--new-ca", "--force")[0] == 0
    assert load_pair(*made(folder, "ca")) != authority
    assert certificate_warnings(made(folder, "service_center")[0], made(folder, "ca")[0]) == []


def test_gen_without_names_takes_those_of_this_machine(bssci, folder, monkeypatch):
    monkeypatch.setattr(issuing, "names_of_this_machine", lambda: ("here", "192.0.2.9"))
    assert bssci("gen")[0] == 0
    assert certificate_names(made(folder, "service_center")[0]) == ["here", "192.0.2.9"]


def test_a_machine_without_a_name_is_asked_for_one(bssci, folder, monkeypatch):
    monkeypatch.setattr(issuing, "names_of_this_machine", lambda: ())
    code, _, err = bssci("gen")
    assert (code, "--host sc.example.org" in err) == (2, True)
    assert not (folder / "certs").exists()


def test_a_name_of_this_machine_only_is_taken_when_it_is_given(bssci, folder):
    assert bssci("gen", "--host", "localhost")[0] == 0
    assert certificate_names(made(folder, "service_center")[0]) == ["localhost"]


def test_a_wrong_name_leaves_nothing_behind(bssci, folder):
    code, _, err = bssci("gen", "--host", "not a name")
    assert (code, err) == (2, "error: 'not a name' is neither a host name nor an IP address\n")
    assert not (folder / "certs").exists()


def test_an_authority_without_its_key_cannot_sign(bssci, folder):
    bssci("gen", "--host", "sc")
    made(folder, "ca")[1].unlink()
    code, _, err = bssci("gen", "--host", "sc", "--force")
    assert (code, "--new-ca --force" in err) == (2, True)


def test_gen_makes_rsa_keys_when_asked(bssci, folder):
    bssci("gen", "--host", "sc", "--rsa")
    # An ECDSA key of 256 bits is some 240 characters long, an RSA key of 2048 bits 1700.
    assert all(len(made(folder, name)[1].read_text()) > 1000 for name in ("ca", "service_center"))


def test_without_a_configuration_it_is_said_how_to_begin(bssci, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "..")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")
    code, _, err = bssci("gen", at=None)
    assert (code, "bssci init" in err) == (2, True)


# --- base stations ---


@pytest.fixture
def ready(bssci):
    bssci("gen", "--host", "sc.example.org", "--host", "192.0.2.1")
    return bssci


def identity(file: Path) -> frozenset[int]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    return identity_in(certificate.public_bytes(Encoding.DER)).euis


def test_station_makes_three_files_and_says_what_goes_where(ready, folder, tmp_path):
    out_folder = tmp_path / "usb"
    code, out, err = ready("station", "70-b3-d5-9c-d0-00-00-01", "--out", str(out_folder))
    cert, key, ca = (
        out_folder / f"{EUI}_cert.pem",
        out_folder / f"{EUI}_key.pem",
        out_folder / "ca_cert.pem",
    )
    assert code == 0
    assert out == f"  certificate  {cert}\n  private key  {key}\n  authority    {ca}\n"
    assert err == (
        f"\nOn base station {EUI}, in its settings for BSSCI or the Service Center:\n"
        "  address             sc.example.org or 192.0.2.1\n"
        "  port                16017, TLS\n"
        "  CA certificate      ca_cert.pem\n"
        f"  client certificate  {EUI}_cert.pem\n"
        f"  private key         {EUI}_key.pem; remove it here once it is there\n"
    )
    assert identity(cert) == frozenset({int(EUI, 16)})
    assert (key.stat().st_mode & 0o777, ca.read_bytes()) == (
        0o600,
        made(folder, "ca")[0].read_bytes(),
    )
    load_pair(cert, key)


def test_station_puts_its_files_beside_the_authority_and_tells_programs(ready, folder):
    code, out, err = ready("station", EUI, "--json")
    place = folder / "certs" / "stations" / EUI
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "eui": EUI,
            "cert_file": str(place / f"{EUI}_cert.pem"),
            "key_file": str(place / f"{EUI}_key.pem"),
            "ca_file": str(place / "ca_cert.pem"),
            "service_center": {"names": ["sc.example.org", "192.0.2.1"], "port": 16017},
        },
    )


def test_station_overwrites_nothing_without_force(ready):
    ready("station", EUI)
    code, _, err = ready("station", EUI)
    assert (code, "with --force" in err) == (2, True)
    assert ready("station", EUI, "--force")[0] == 0


def test_two_stations_may_share_a_folder_but_not_two_authorities(ready, tmp_path):
    out = str(tmp_path / "usb")
    assert ready("station", EUI, "--out", out)[0] == 0
    assert ready("station", "FCA84A030000127C", "--out", out)[0] == 0
    ready("gen", "--host", "sc", "--new-ca", "--force")
    code, _, err = ready("station", "FCA84A030000127D", "--out", out)
    assert (code, "ca_cert.pem is there already" in err) == (2, True)


def test_station_works_before_the_service_center_has_its_certificate(ready, folder):
    made(folder, "service_center")[0].unlink()
    code, _, err = ready("station", EUI)
    assert (code, "a name of this machine" in err) == (0, True)


def test_station_needs_an_authority(bssci, folder):
    code, _, err = bssci("station", EUI)
    assert (code, err) == (
        2,
        f"error: certificate {folder / 'certs/ca_cert.pem'} does not exist; "
        "`bssci certs gen` makes certificates\n",
    )


def test_an_eui_that_is_none_is_refused(ready):
    code, _, err = ready("station", "70B3")
    assert code == 2
    assert "'70B3' is not an EUI: 4 hexadecimal digits found, 16 expected" in err


# --- this machine ---


def test_the_names_of_this_machine_mean_no_other(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr(issuing, "_ipv4_addresses", lambda: iter(["127.0.0.1", "192.0.2.1"]))
    monkeypatch.setattr(issuing, "_ipv6_addresses", lambda: iter(["2001:db8::1", "192.0.2.1"]))
    assert issuing.names_of_this_machine() == ("192.0.2.1", "2001:db8::1")


def test_the_kernel_knows_at_least_the_loopback_address():
    assert "127.0.0.1" in list(issuing._ipv4_addresses())


def test_only_lasting_global_ipv6_addresses_are_taken(tmp_path):
    table = tmp_path / "if_inet6"
    table.write_text(
        "20010db8000000000000000000000001 02 40 00 80     eth0\n"
        "20010db8000000000000000000000002 02 40 00 01     eth0\n"
        "20010db8000000000000000000000003 02 40 00 20     eth0\n"
        "fe800000000000000000000000000001 02 40 20 80     eth0\n"
        "00000000000000000000000000000001 01 80 10 80       lo\n"
    )
    assert list(issuing._ipv6_addresses(table)) == ["2001:db8::1"]
    assert list(issuing._ipv6_addresses(tmp_path / "none")) == []
