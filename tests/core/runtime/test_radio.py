"""What is asked of base stations' radios, and what is made of their answers."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from bssci.core.center.methods import describe
from bssci.core.center.rpc import InvalidRequestError, NoAnswerError, NotFoundError, RequestError
from bssci.core.protocol.errors import OperationLostError, OperationRefusedError, StorageError
from bssci.core.protocol.messages import (
    Message,
    UplinkDataTransmit,
    UplinkDataTransmitResponse,
    VmActivate,
    VmActivateResponse,
    VmDeactivate,
    VmDeactivateResponse,
    VmDownlinkData,
    VmDownlinkDataResponse,
    VmStatus,
    VmStatusResponse,
)
from bssci.core.runtime import radio as module
from bssci.core.runtime.radio import Radio

ROOF, CELLAR = 0x70B3D59CD0000001, 0x70B3D59CD0000002
SENSOR, DETACHED = 0xFCA84A030000127C, 0xFCA84A030000127D
KEY = bytes(range(16))


class FakeLink:
    """A base station that answers as it is told to, and remembers what it was asked."""

    def __init__(self, *answers: Message | Exception | float) -> None:
        self.asked: list[Message] = []
        self._answers = list(answers)

    async def call(self, message: Message) -> Message:
        self.asked.append(message)
        answer = self._answers.pop(0)
        if isinstance(answer, float):
            await trio.sleep(answer)
            raise OperationLostError(f"{message.command}: no answer within {answer:g} s")
        if isinstance(answer, Exception):
            raise answer
        return answer


class Site:
    """A center as the room knows it."""

    def __init__(self, link: FakeLink | None = None) -> None:
        self.link = link
        self.key = KEY
        self.counters: dict[int, int] = {}
        self.radio = Radio(
            link_of=lambda eui: self.link if eui == ROOF else None,
            find_station=self._find({"roof": ROOF, "cellar": CELLAR}),
            find_sensor=self._find({"kitchen": SENSOR, "shed": DETACHED}),
            session_of=lambda eui: (self.key, 0x127C) if eui == SENSOR else None,
            last_counter_of=self.counters.get,
        )

    def _find(self, names: dict[str, int]) -> Any:
        def find(text: str) -> int:
            if text not in names:
                raise NotFoundError(f"{text} is not known")
            return names[text]

        return find


def transmit(packet_cnt, **fields):
    told: dict[str, Any] = {
        "ep_eui": SENSOR,
        "nwk_sn_key": KEY,
        "sh_addr": 0x127C,
        "user_data": b"\x01\xff",
    }
    return UplinkDataTransmit(packet_cnt=packet_cnt, **(told | fields))


async def failure(coroutine):
    with pytest.raises(RequestError) as caught:
        await coroutine
    return type(caught.value), str(caught.value), caught.value.hint


# --- transmitting as an end point ---


async def test_a_base_station_transmits_with_the_session_of_the_sensor():
    site = Site(link := FakeLink(UplinkDataTransmitResponse()))
    site.counters[SENSOR] = 41
    told = await site.radio.transmit(eui="roof", sensor="kitchen", data="01FF")
    assert told == {"eui": f"{ROOF:016X}", "sensor_eui": f"{SENSOR:016X}", "packet_cnt": 42}
    assert link.asked == [transmit(42)]


async def test_what_is_said_of_the_uplink_goes_along():
    site = Site(link := FakeLink(UplinkDataTransmitResponse()))
    await site.radio.transmit(
        eui="roof", sensor="kitchen", data=[1, 255], format=192, profile="eu1", packet_cnt=7
    )
    assert link.asked == [transmit(7, format=192, profile="eu1")]


async def test_no_counter_is_used_twice_also_when_the_sensor_is_not_heard_again():
    """With one key and one counter, two telegrams would be encrypted alike."""
    site = Site(
        link := FakeLink(
            UplinkDataTransmitResponse(),
            OperationRefusedError(5, "perhaps it was transmitted"),
            UplinkDataTransmitResponse(),
            UplinkDataTransmitResponse(),
            UplinkDataTransmitResponse(),
        )
    )
    kitchen: dict[str, Any] = {"eui": "roof", "sensor": "kitchen", "data": "01ff"}
    await site.radio.transmit(**kitchen)
    assert (await failure(site.radio.transmit(**kitchen)))[0] is RequestError
    await site.radio.transmit(**kitchen, packet_cnt=9)
    site.counters[SENSOR] = 6
    await site.radio.transmit(**kitchen)
    site.counters[SENSOR] = 20
    await site.radio.transmit(**kitchen)
    assert link.asked == [transmit(n) for n in (1, 2, 9, 10, 21)]


async def test_what_was_transmitted_is_forgotten_for_the_sensor_that_is_used_least(monkeypatch):
    monkeypatch.setattr(module, "MAX_TRANSMITTED", 1)
    site = Site()
    for ep_eui in (SENSOR, DETACHED):
        site.radio._note_transmitted(ep_eui, KEY, 5)
    assert [site.radio._next_counter(each, KEY) for each in (SENSOR, DETACHED)] == [1, 6]


async def test_with_a_new_session_counters_begin_anew():
    answers = [UplinkDataTransmitResponse() for _ in range(3)]
    site = Site(link := FakeLink(*answers))
    kitchen: dict[str, Any] = {"eui": "roof", "sensor": "kitchen", "data": "01ff"}
    await site.radio.transmit(**kitchen, packet_cnt=500)
    await site.radio.transmit(**kitchen)
    site.key = KEY[::-1]
    await site.radio.transmit(**kitchen)
    assert link.asked == [
        transmit(500),
        transmit(501),
        transmit(1, nwk_sn_key=KEY[::-1]),
    ]


async def test_after_the_last_counter_there_is_none():
    site = Site(FakeLink())
    site.counters[SENSOR] = 2**32 - 1
    assert await failure(site.radio.transmit(eui="roof", sensor="kitchen", data="")) == (
        RequestError,
        f"sensor {SENSOR:016X} has used its last packet counter",
        "it has to be attached anew",
    )


async def test_without_a_session_there_is_no_key_to_transmit_with():
    site = Site(FakeLink())
    assert await failure(site.radio.transmit(eui="roof", sensor="shed", data="")) == (
        RequestError,
        f"sensor {DETACHED:016X} has no session whose key could be used",
        "`bssci sensors attach` gives a registered sensor one",
    )


@pytest.mark.parametrize(
    ("data", "octets"),
    [
        ("", b""),
        ("0x01 ff", b"\x01\xff"),
        ("01:FF", b"\x01\xff"),
        ("01-ff\n", b"\x01\xff"),
        ([], b""),
        ([0, 255], b"\x00\xff"),
    ],
)
async def test_data_is_hexadecimal_or_a_list_of_bytes(data, octets):
    site = Site(link := FakeLink(UplinkDataTransmitResponse()))
    await site.radio.transmit(eui="roof", sensor="kitchen", data=data)
    assert link.asked == [transmit(1, user_data=octets)]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"data": "0"}, "data: has 1 hexadecimal digits, two a byte are expected"),
        ({"data": "xy"}, "data: 2 of its characters are no hexadecimal digits"),
        ({"data": [256]}, "data: found 256, numbers from 0 to 255 are expected"),
        ({"data": "00" * 201}, "data: has 201 bytes, at most 200 are possible"),
        ({"format": 256}, "ulDataTx: format: 256 is not within 0 to 255"),
        ({"packet_cnt": -1}, "ulDataTx: packetCnt: -1 is not within 0 to 4294967295"),
        ({"timeout": -1.0}, "cannot wait -1 s: 0 to 3600 are possible"),
        ({"timeout": float("nan")}, "cannot wait nan s: 0 to 3600 are possible"),
    ],
)
async def test_what_cannot_be_asked_is_asked_of_nobody(params, words):
    site = Site(link := FakeLink())
    told: dict[str, Any] = {"eui": "roof", "sensor": "kitchen", "data": ""} | params
    assert await failure(site.radio.transmit(**told)) == (InvalidRequestError, words, "")
    assert link.asked == []
    assert site.radio._next_counter(SENSOR, KEY) == 1


# --- Variable MAC ---


async def test_the_active_mac_types_are_told_once_each_in_order():
    site = Site(link := FakeLink(VmStatusResponse(mac_types=(7, 1, 7))))
    assert await site.radio.vm_status(eui="roof") == {
        "eui": f"{ROOF:016X}",
        "mac_types": [1, 7],
    }
    assert link.asked == [VmStatus()]


@pytest.mark.parametrize(
    ("verb", "message", "response"),
    [
        ("activate", VmActivate(mac_type=1), VmActivateResponse()),
        ("deactivate", VmDeactivate(mac_type=1), VmDeactivateResponse()),
    ],
)
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (VmStatusResponse(mac_types=(1,)), {"mac_types": [1]}),
        (OperationRefusedError(95, "no"), {}),
        (OperationLostError("gone"), {}),
        (StorageError("disk full"), {}),
    ],
)
async def test_what_is_switched_is_told_with_what_is_active_then(
    verb, message, response, status, told
):
    """What was done was done, also if the base station does not say what is active."""
    site = Site(link := FakeLink(response, status))
    switch = getattr(site.radio, f"vm_{verb}")
    assert await switch(eui="roof", mac_type=1) == {"eui": f"{ROOF:016X}"} | told
    assert link.asked == [message, VmStatus()]


SENT: dict[str, Any] = {
    "eui": "roof",
    "mac_type": 1,
    "data": "2cb4",
    "trx_time": 2_624_805_061_575_111,
    "sys_time": 1_756_476_361_123_456_789,
    "freq_off": 250.0,
    "ul_snr": 10.5,
    "ul_rssi": -90.5,
    "carr_off_range": 5,
    "carr_space": 1,
    "ul_crc": [201, 7],
    "sync_burst": True,
    "dual_chan": False,
    "repetition": False,
    "long_blk_dist": True,
}


async def test_a_variable_mac_telegram_is_sent_with_all_its_fields():
    site = Site(link := FakeLink(VmDownlinkDataResponse(), VmDownlinkDataResponse()))
    assert await site.radio.vm_send(**SENT) == {"eui": f"{ROOF:016X}", "mac_type": 1}
    await site.radio.vm_send(**SENT | {"tsi": 16383})
    fields = {name: value for name, value in SENT.items() if name not in ("eui", "data")}
    message = VmDownlinkData(**fields | {"user_data": b"\x2c\xb4", "ul_crc": (201, 7)})
    assert link.asked[0] == message
    assert [each.tsi for each in link.asked if isinstance(each, VmDownlinkData)] == [128, 16383]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tsi": 20}, "vm.dlData: tsi: 20 is not within 21 to 16383"),
        ({"ul_crc": [1]}, "vm.dlData: ulCrc: not two numbers"),
        (
            {"ul_crc": [1, 2**32]},
            "vm.dlData: ulCrc: 4294967296 is not within -2147483648 to 4294967295",
        ),
        ({"data": "00" * 1025}, "data: has 1025 bytes, at most 1024 are possible"),
        ({"mac_type": 256}, "vm.dlData: macType: 256 is not within 0 to 255"),
    ],
)
async def test_a_variable_mac_telegram_that_cannot_be_is_not_sent(params, words):
    site = Site(link := FakeLink())
    assert await failure(site.radio.vm_send(**SENT | params)) == (InvalidRequestError, words, "")
    assert link.asked == []


# --- base stations that do not do it ---


@pytest.mark.parametrize(
    ("refusal", "words", "hint"),
    [
        (
            OperationRefusedError(95, "not supported"),
            " with error 95: not supported",
            "it does not have this feature",
        ),
        (OperationRefusedError(1, ""), " with error 1", ""),
        (OperationRefusedError(38, "x" * 300), f" with error 38: {'x' * 200}", ""),
    ],
)
async def test_a_refusal_names_base_station_operation_code_and_words(refusal, words, hint):
    kind, told, found = await failure(Site(FakeLink(refusal)).radio.vm_status(eui="roof"))
    assert (kind, told, found) == (
        RequestError,
        f"base station {ROOF:016X} refuses vm.status{words}",
        hint,
    )
    assert kind.exit_code == 1


async def test_a_base_station_that_is_not_connected_is_named():
    assert await failure(Site().radio.vm_status(eui="cellar")) == (
        RequestError,
        f"base station {CELLAR:016X} is not connected, vm.status cannot be asked of it",
        "`bssci stations list` shows which are",
    )


@pytest.mark.parametrize(
    ("silence", "timeout", "words", "waited"),
    [
        (60.0, 2.0, "vm.status: no answer in time", 2.0),
        (60.0, 0.0, "vm.status: no answer in time", 0.0),
        (5.0, 30.0, "vm.status: no answer within 5 s", 5.0),
    ],
)
async def test_of_a_silent_base_station_it_is_said_that_it_may_still_do_it(
    silence, timeout, words, waited, autojump_clock
):
    radio = Site(FakeLink(silence)).radio
    kind, told, hint = await failure(radio.vm_status(eui="roof", timeout=timeout))
    assert (kind, told, hint) == (
        NoAnswerError,
        f"base station {ROOF:016X}: {words}",
        "it may still do it: look before you repeat it",
    )
    assert (kind.exit_code, trio.current_time()) == (7, waited)


async def test_switching_takes_no_longer_than_one_timeout(autojump_clock):
    radio = Site(FakeLink(VmActivateResponse(), 60.0)).radio
    told = await radio.vm_activate(eui="roof", mac_type=1, timeout=3.0)
    assert (told, trio.current_time()) == ({"eui": f"{ROOF:016X}"}, 3.0)


async def test_what_could_not_be_put_on_disk_was_not_asked():
    with pytest.raises(StorageError, match="disk full"):
        await Site(FakeLink(StorageError("disk full"))).radio.vm_status(eui="roof")


async def test_whom_nobody_knows_is_asked_nothing():
    radio = Site(FakeLink()).radio
    assert (await failure(radio.vm_status(eui="attic")))[:2] == (
        NotFoundError,
        "attic is not known",
    )
    told = await failure(radio.transmit(eui="roof", sensor="attic", data=""))
    assert told[:2] == (NotFoundError, "attic is not known")


def test_every_method_can_be_bound_to_json():
    assert sorted(describe(Site().radio.methods())) == [
        "stations.transmit",
        "stations.vm_activate",
        "stations.vm_deactivate",
        "stations.vm_send",
        "stations.vm_status",
    ]
