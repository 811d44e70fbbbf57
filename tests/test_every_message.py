"""Every message of BSSCI, by each role that may send it, between our two roles over real TLS."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from bssci.core.center.end_points import attach_propagate, end_point_of
from bssci.core.protocol.codec import decode, unpack
from bssci.core.protocol.errors import OperationRefusedError
from bssci.core.protocol.frames import FrameDecoder, encode_frame
from bssci.core.protocol.keys import attach_signature, session_key
from bssci.core.protocol.messages import (
    MESSAGES,
    Attach,
    AttachResponse,
    Detach,
    DetachPropagate,
    DetachResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataResultResponse,
    DownlinkDataRevoke,
    DownlinkRxStatus,
    DownlinkRxStatusQuery,
    DownlinkRxStatusResponse,
    Error,
    Message,
    Role,
    Status,
    StatusResponse,
    UplinkData,
    UplinkDataTransmit,
    VmActivate,
    VmDeactivate,
    VmDownlinkData,
    VmStatus,
    VmStatusResponse,
    VmUplinkData,
)
from bssci.core.protocol.operations import OPERATIONS
from bssci.core.runtime.authority import (
    make_authority,
    make_server_certificate,
    make_station_certificate,
    write_pair,
)
from bssci.core.runtime.config import load_config
from bssci.core.runtime.holdings import Holdings
from bssci.core.runtime.service import ServiceCenter
from bssci.core.runtime.station import Identity, StationSettings, open_station, tls_connector
from bssci.core.runtime.station_events import Request
from bssci.core.runtime.tls import client_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from bssci.core.runtime.link import Link
    from bssci.core.runtime.station import Station
    from bssci.core.runtime.station_events import StationEvent

PATIENCE = 60.0  # seconds for a whole test

STATION = 0x70B3D59CD0000001
END_POINT, SERVED, STRANGER = 0xFCA84A030000127C, 0xFCA84A030000127D, 0xFCA84A030000FFFF
KEY = bytes(range(16))
SENSORS: dict[int, dict[str, Any]] = {
    END_POINT: {"key": KEY.hex(), "short_addr": "127C", "ota": True},
    SERVED: {"key": KEY.hex(), "short_addr": "127D", "bidi": True},
}
"""One that attaches over the air, and one that base stations are told of."""

NOON = 1_756_193_850_000_000_000

BASE_STATION, SERVICE_CENTER = Role.BASE_STATION, Role.SERVICE_CENTER


class Wire:
    """What is said on the connections that `connect` opens, as it is written in plain text."""

    def __init__(self, connect: Any) -> None:
        self.payloads: list[tuple[Role, bytes]] = []
        self._connect = connect
        self._stream: trio.abc.Stream | None = None
        self._heard = trio.Event()

    async def connect(self) -> trio.abc.Stream:
        self._stream = TappedStream(await self._connect(), self._take)
        return self._stream

    def _take(self, sender: Role, payload: bytes) -> None:
        self.payloads.append((sender, payload))
        self._heard.set()

    def said(self) -> set[tuple[Role, str]]:
        """Who has said what until now."""
        return {(sender, unpack(payload)["command"]) for sender, payload in self.payloads}

    def messages(self, sender: Role) -> list[Message]:
        """What one of the two has said, in order."""
        return [decode(payload) for each, payload in self.payloads if each is sender]

    async def wait_for(self, sender: Role, command: str) -> None:
        """Return when it has said that."""
        while (sender, command) not in self.said():
            self._heard = trio.Event()
            await self._heard.wait()

    async def say(self, payload: bytes) -> None:
        """Say something that no base station of ours would."""
        assert self._stream is not None
        await self._stream.send_all(encode_frame(payload))


class TappedStream(trio.abc.Stream):
    """A base station's stream on which somebody listens."""

    def __init__(self, stream: trio.abc.Stream, take: Any) -> None:
        self._stream = stream
        self._take = take
        self._speaking = trio.Lock()
        self._frames = {role: FrameDecoder() for role in Role}

    def _listen(self, sender: Role, data: bytes | bytearray) -> None:
        self._frames[sender].feed(data)
        for payload in self._frames[sender].payloads():
            self._take(sender, payload)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._speaking:
            await self._stream.send_all(data)
        self._listen(BASE_STATION, bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._listen(SERVICE_CENTER, data)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class Gateway(Holdings):
    """A base station that can do everything but one MAC type."""

    LACKING = 255

    def __call__(self, event: StationEvent) -> None:
        match event:
            case Request(message=UplinkDataTransmit()):
                event.respond()
            case Request(message=VmDownlinkData(mac_type=mac_type)) if mac_type != self.LACKING:
                event.respond()
            case _:
                super().__call__(event)


@pytest.fixture
def folder(tmp_path):
    """A folder as `bssci init` makes it, with the certificate of a base station."""
    authority, certs = make_authority(), tmp_path / "certs"
    certs.mkdir()
    write_pair(authority, certs / "ca_cert.pem", certs / "ca_key.pem")
    write_pair(
        make_server_certificate(authority, ["127.0.0.1"], allow_loopback=True),
        certs / "service_center_cert.pem",
        certs / "service_center_key.pem",
    )
    write_pair(
        make_station_certificate(authority, STATION), certs / "station.pem", certs / "station.key"
    )
    (tmp_path / "sc.toml").write_text(
        '[server]\neui = "1122334455667788"\nhost = "127.0.0.1"\nport = 0\n'
    )
    return tmp_path


@asynccontextmanager
async def joined(folder: Path) -> AsyncIterator[tuple[Link, Station, Wire]]:
    """A Service Center and a base station that are connected, and the wire between them."""
    certs = folder / "certs"
    context = client_context(
        cert_file=certs / "station.pem",
        key_file=certs / "station.key",
        ca_file=certs / "ca_cert.pem",
    )
    center = ServiceCenter(load_config(folder / "sc.toml", environ={}))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(center.run)
            wire = Wire(tls_connector("127.0.0.1", center.port, context))
            gateway = open_station(
                wire.connect,
                identity=Identity(eui=STATION),
                take=Gateway(),
                settings=StationSettings(idle_ping=0.1),
            )
            async with gateway as station:
                await station.wait_online()
                while not center.registry.connected:
                    await trio.lowlevel.checkpoint()
                for eui, sensor in SENSORS.items():
                    await center.sensors.add(eui=f"{eui:016X}", **sensor)
                yield center._server.links[STATION], station, wire
            center.stop()


# --- what each of the two has to say ---

RADIO: dict[str, Any] = {"rx_time": NOON, "snr": 10.0, "rssi": -90.0}
MODES: dict[str, Any] = {
    "dual_chan": False,
    "repetition": False,
    "wide_carr_off": False,
    "long_blk_dist": False,
}


def attach(ep_eui: int) -> Attach:
    sign = attach_signature(KEY, ep_eui, 1)
    return Attach(ep_eui=ep_eui, attach_cnt=1, nonce=b"nonc", sign=sign, **RADIO, **MODES)


REPORTS = [
    UplinkData(
        ep_eui=END_POINT,
        packet_cnt=1,
        user_data=b"\x01",
        dl_open=False,
        response_exp=False,
        dl_ack=False,
        **RADIO,
    ),
    attach(END_POINT),
    Detach(ep_eui=END_POINT, packet_cnt=2, sign=b"sign", **RADIO),
    DownlinkDataResult(ep_eui=END_POINT, que_id=1, result="sent", tx_time=NOON, packet_cnt=1),
    DownlinkRxStatus(ep_eui=END_POINT, rx_time=NOON, packet_cnt=1, dl_rx_snr=9.5, dl_rx_rssi=-91.0),
    VmUplinkData(
        mac_type=1,
        user_data=b"\x2c",
        trx_time=1,
        sys_time=NOON,
        freq_off=868_157_596.0,
        snr=10.0,
        rssi=-90.0,
        carr_space=1,
        patt_grp=0,
        patt_num=0,
        crc=(1, 2),
    ),
]
"""What a base station tells, of its own accord."""


def vm_downlink(mac_type: int) -> VmDownlinkData:
    return VmDownlinkData(
        mac_type=mac_type,
        user_data=b"\x2c",
        trx_time=1,
        sys_time=NOON,
        freq_off=0.0,
        ul_snr=10.0,
        ul_rssi=-90.0,
        carr_off_range=1,
        carr_space=1,
        ul_crc=(1, 2),
        sync_burst=False,
        dual_chan=False,
        repetition=False,
        long_blk_dist=False,
    )


ORDERS = [
    Status(),
    # As the Service Center has told it already: it does not repeat it in between.
    attach_propagate(end_point_of(SENSORS[SERVED], eui=SERVED)),
    DownlinkRxStatusQuery(ep_eui=SERVED),
    DownlinkDataQueue(ep_eui=SERVED, que_id=7, cnt_depend=False, user_data=(b"\x01",)),
    DownlinkDataRevoke(ep_eui=SERVED, que_id=7),
    UplinkDataTransmit(
        ep_eui=SERVED, nwk_sn_key=KEY, sh_addr=0x127D, packet_cnt=9, user_data=b"\x01"
    ),
    VmActivate(mac_type=1),
    VmActivate(mac_type=2),
    VmDeactivate(mac_type=1),
    VmStatus(),
    vm_downlink(1),
    DetachPropagate(ep_eui=SERVED),
]
"""What a Service Center asks, in an order in which a base station can do it."""


async def test_every_message_is_sent_by_each_role_that_may_send_it(folder):
    everything = {
        (role, command)
        for command, kind in MESSAGES.items()
        for role in Role
        if kind.sender in (role, None)
    }
    async with joined(folder) as (link, station, wire):
        for report in REPORTS:
            assert type(await station.send(report)) is OPERATIONS[type(report)].response
        for order in ORDERS:
            assert type(await link.call(order)) is OPERATIONS[type(order)].response
        await refused_by_each(link, station)
        link.tend(trio.current_time() + link._limits.idle_ping)
        while lacking := everything - wire.said():
            await wire.wait_for(*lacking.pop())
        assert wire.said() == everything


async def refused_by_each(link: Link, station: Station) -> None:
    with pytest.raises(OperationRefusedError) as caught:
        await station.send(attach(STRANGER))
    assert f"{STRANGER:016X}" in caught.value.message
    with pytest.raises(OperationRefusedError) as caught:
        await link.call(vm_downlink(Gateway.LACKING))
    assert caught.value.code == 95


async def test_answers_say_what_was_asked_for(folder):
    async with joined(folder) as (link, station, _):
        responses = [replace(await station.send(report), op_id=0) for report in REPORTS]
        answers = [await link.call(order) for order in ORDERS]
    key = session_key(KEY, END_POINT, b"nonc", attach_signature(KEY, END_POINT, 1))
    assert responses[1:5] == [
        AttachResponse(nwk_sn_key=key, sh_addr=0x127C),
        DetachResponse(sign=b"sign"),
        DownlinkDataResultResponse(),
        DownlinkRxStatusResponse(),
    ]
    status, mac_types = answers[0], answers[9]
    assert isinstance(status, StatusResponse)
    assert (status.code, status.message) == (0, "ok")
    assert isinstance(mac_types, VmStatusResponse)
    assert mac_types.mac_types == (2,)


async def test_what_belongs_to_no_known_sub_channel_is_answered_with_95(folder):
    """ReCon tells nobody its messages: all of `rc.` is refused, and the connection goes on."""
    unknown = {101: "rc.dir", 102: "rc.status", 103: "vm.frobnicate", 104: "xy.anything"}
    async with joined(folder) as (_, station, wire):
        for number, command in unknown.items():
            await wire.say(f'{{"command":"{command}","opId":{number}}}'.encode())
        await station.send(REPORTS[0])
        refusals = [each for each in wire.messages(SERVICE_CENTER) if isinstance(each, Error)]
    assert refusals == [
        Error(op_id=number, code=95, message=f"command '{command}' is not supported")
        for number, command in unknown.items()
    ]
    assert station.connects == 1
