"""What is asked of a radio on the command line: the real methods, over base stations in memory."""

import json
from typing import Any

import pytest

from bssci.cli import main, remote
from bssci.core.protocol.errors import OperationLostError, OperationRefusedError
from bssci.core.protocol.messages import (
    UplinkDataTransmit,
    UplinkDataTransmitResponse,
    VmActivate,
    VmActivateResponse,
    VmDeactivate,
    VmDeactivateResponse,
    VmStatus,
    VmStatusResponse,
)
from bssci.core.runtime.radio import Radio
from tests.control import FakeService, Station

ROOF, CELLAR = 0x70B3D59CD0000001, 0x70B3D59CD0000002
KITCHEN = 0xFCA84A030000127C
KEY = bytes(range(16))


class FakeRadio:
    """The radio of a base station.

    Attributes:
        fault: what it says to everything, instead of doing it.
        status_fault: the same for `vm.status` alone.
    """

    def __init__(self):
        self.active = {3}
        self.transmitted = []
        self.fault = self.status_fault = None

    async def call(self, message):
        fault = self.status_fault if isinstance(message, VmStatus) else None
        if fault := self.fault or fault:
            raise fault
        match message:
            case VmStatus():
                return VmStatusResponse(mac_types=tuple(self.active))
            case VmActivate(mac_type=mac_type):
                self.active.add(mac_type)
                return VmActivateResponse()
            case VmDeactivate(mac_type=mac_type):
                self.active.discard(mac_type)
                return VmDeactivateResponse()
            case UplinkDataTransmit():
                self.transmitted.append(message)
                return UplinkDataTransmitResponse()


class RadioService(FakeService):
    """A service with methods for radios."""

    def __init__(self):
        super().__init__()
        self.radio = FakeRadio()
        self.stations = [Station(ROOF, name="Roof"), Station(CELLAR, is_online=False)]
        self.register(KITCHEN, name="Kitchen")

    def _methods(self):
        room = Radio(
            link_of=lambda eui: self.radio if eui == ROOF else None,
            find_station=lambda text: self._find_station(text).eui,
            find_sensor=self._find,
            session_of=lambda _: (KEY, 0x127C),
            last_counter_of=lambda _: 41,
        )
        return super()._methods() | room.methods()


@pytest.fixture
def service(folder):
    fake = RadioService()
    with fake.serving(folder / "control.sock"):
        yield fake


# --- transmit ---


def transmitted(**fields):
    told: dict[str, Any] = {"packet_cnt": 42, "user_data": b"\x01\x02\xff"} | fields
    return UplinkDataTransmit(ep_eui=KITCHEN, nwk_sn_key=KEY, sh_addr=0x127C, **told)


def test_transmit_says_who_transmits_for_whom(service, cli):
    assert cli("stations", "transmit", "Roof", "Kitchen", "0102ff") == (
        0,
        "70B3D59CD0000001  transmits for FCA84A030000127C, packet 42\n",
        "",
    )
    assert service.radio.transmitted == [transmitted()]


def test_transmit_takes_data_from_standard_input_and_every_option(service, cli):
    options = ["--format", "192", "--profile", "eu1", "--counter", "7", "--json"]
    code, out, err = cli(
        "stations", "transmit", "Roof", "Kitchen", "-", *options, stdin="01 02 FF\n"
    )
    assert (code, json.loads(out), err) == (
        0,
        {"eui": "70B3D59CD0000001", "sensor_eui": "FCA84A030000127C", "packet_cnt": 7},
        "",
    )
    assert service.radio.transmitted == [transmitted(packet_cnt=7, format=192, profile="eu1")]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["Roof", "Kitchen", "xyz"], 2, "data: 3 of its characters are no hexadecimal digits"),
        (["Roof", "Nobody", "00"], 5, "there is no sensor Nobody"),
        (["Nowhere", "Kitchen", "00"], 5, "there is no base station Nowhere"),
        (["70B3D59CD0000002", "Kitchen", "00"], 1, "70B3D59CD0000002 is not connected"),
        (["Roof", "Kitchen", "00", "--format", "256"], 2, "--format"),
        (["Roof", "Kitchen", "00", "--counter", "-1"], 2, "--counter"),
        (["Roof", "Kitchen"], 2, "DATA"),
    ],
)
def test_what_cannot_be_transmitted_is_said_and_not_transmitted(service, cli, args, code, words):
    found, out, err = cli("stations", "transmit", *args)
    assert (found, out) == (code, "")
    assert words in err
    assert service.radio.transmitted == []


# --- Variable MAC ---


def test_status_shows_the_active_mac_types(service, cli):
    assert cli("stations", "vm", "status", "Roof") == (
        0,
        "70B3D59CD0000001  active MAC types: 3\n",
        "",
    )
    service.radio.active = set()
    assert cli("stations", "vm", "status", "Roof")[1] == (
        "70B3D59CD0000001  active MAC types: none\n"
    )
    assert json.loads(cli("stations", "vm", "status", "Roof", "--json")[1]) == {
        "eui": "70B3D59CD0000001",
        "mac_types": [],
    }


def test_activate_and_deactivate_say_what_is_active_then(service, cli):
    assert cli("stations", "vm", "activate", "Roof", "1") == (
        0,
        "70B3D59CD0000001  activated 1; active MAC types: 1, 3\n",
        "",
    )
    assert cli("stations", "vm", "deactivate", "Roof", "3") == (
        0,
        "70B3D59CD0000001  deactivated 3; active MAC types: 1\n",
        "",
    )
    code, out, _ = cli("stations", "vm", "activate", "Roof", "7", "--json")
    assert (code, json.loads(out)) == (0, {"eui": "70B3D59CD0000001", "mac_types": [1, 7]})


def test_a_base_station_that_does_not_say_what_is_active_has_done_it_all_the_same(service, cli):
    service.radio.status_fault = OperationRefusedError(95, "")
    assert cli("stations", "vm", "activate", "Roof", "1") == (
        0,
        "70B3D59CD0000001  activated 1\n",
        "",
    )


@pytest.mark.parametrize("mac_type", ["256", "-1", "one"])
def test_a_mac_type_is_a_byte(service, cli, mac_type):
    assert cli("stations", "vm", "activate", "Roof", "--", mac_type)[0] == 2
    assert service.radio.active == {3}


# --- base stations that do not do it ---


def test_a_refusal_is_told_in_the_base_stations_words(service, cli):
    service.radio.fault = OperationRefusedError(95, "no such thing")
    assert cli("stations", "vm", "status", "Roof") == (
        1,
        "",
        "error: base station 70B3D59CD0000001 refuses vm.status with error 95: no such thing\n"
        "hint: it does not have this feature\n",
    )


def test_no_answer_has_an_exit_code_of_its_own(service, cli):
    service.radio.fault = OperationLostError("ulDataTx: no answer within 30 s")
    code, out, err = cli("stations", "transmit", "Roof", "Kitchen", "")
    assert (code, out) == (7, "")
    assert "error: base station 70B3D59CD0000001: ulDataTx: no answer within 30 s\n" in err


def test_a_service_is_waited_for_longer_than_it_waits_itself(service, cli, monkeypatch):
    """What the base station says in the last moment still arrives."""
    monkeypatch.setattr(remote, "ANSWER_TIMEOUT", 20.0)
    assert cli("stations", "vm", "status", "Roof", "--timeout", "0.5")[0] == 0
    assert cli("stations", "vm", "status", "Roof", "--timeout", "-1")[0] == 2


# --- completion ---


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bssci\nstations\ntransmit\nRo", "Roof"),
        ("bssci\nstations\ntransmit\nRoof\nKit", "Kitchen"),
        ("bssci\nstations\nvm\nactivate\n70b3d59cd0000001", "70b3d59cd0000001"),
        ("bssci\nstations\nvm\ndea", "deactivate"),
    ],
)
def test_names_are_completed(service, folder, capsys, monkeypatch, line, found):
    monkeypatch.setenv("_BSSCI_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count("\n")))
    monkeypatch.setenv("BSSCI_CONTROL_SOCKET", str(folder / "control.sock"))
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit):
        main.run([])
    assert capsys.readouterr() == (f"{found}\n", "")
