"""Peers that behave: they say exactly what they are told, over any stream.

Most decide nothing and answer nothing by themselves, so that a test reads like the conversation it
checks; `PlainCenter` answers like a real one. `hear` gives up after `PATIENCE` seconds, so that a
test that waits in vain fails.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import trio
import trio.testing

from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.events import Answered, Connected, ConnectRequested, Event, Requested
from bssci.core.protocol.frames import FrameDecoder, encode_frame
from bssci.core.protocol.messages import (
    AttachPropagate,
    Connect,
    ConnectComplete,
    ConnectResponse,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataResultResponse,
    Message,
    UplinkData,
    UplinkDataComplete,
    UplinkDataResponse,
)
from bssci.core.protocol.session import ServiceCenterSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bssci.core.protocol.resume import SessionRecord

__all__ = [
    "BS_EUI",
    "BS_UUID",
    "EP_EUI",
    "SC_EUI",
    "SC_UUID",
    "Exchange",
    "FakeBaseStation",
    "FakePeer",
    "FakeServiceCenter",
    "OneByteStream",
    "PlainCenter",
    "connect_message",
    "connect_response",
    "uplink",
]

PATIENCE = 120.0  # seconds, of a test's clock

BS_EUI = 0x70B3D59CD0000001
SC_EUI = 0x0000000000000002
EP_EUI = 0xFCA84A030000127C
BS_UUID = bytes(range(16))
SC_UUID = bytes(range(100, 116))

AnyMessage = TypeVar("AnyMessage", bound=Message)


def connect_message(**fields: object) -> Connect:
    """A proper `con`, but for the fields given."""
    standard: dict[str, object] = {
        "version": "1.0.0",
        "bs_eui": BS_EUI,
        "bidi": True,
        "sn_bs_uuid": BS_UUID,
    }
    return Connect(**(standard | fields))  # type: ignore[arg-type]  # fields by name


def connect_response(**fields: object) -> ConnectResponse:
    """A proper `conRsp`, but for the fields given."""
    standard: dict[str, object] = {
        "version": "1.0.0",
        "sc_eui": SC_EUI,
        "sn_resume": False,
        "sn_sc_uuid": SC_UUID,
    }
    return ConnectResponse(**(standard | fields))  # type: ignore[arg-type]  # fields by name


def uplink(packet_cnt: int = 1, **fields: object) -> UplinkData:
    """A proper `ulData`, but for the fields given."""
    standard: dict[str, object] = {
        "ep_eui": EP_EUI,
        "rx_time": 1_756_122_544_310_347_284,
        "packet_cnt": packet_cnt,
        "snr": 12.5,
        "rssi": -98.25,
        "user_data": b"\x01\x02\x03",
        "dl_open": False,
        "response_exp": False,
        "dl_ack": False,
    }
    return UplinkData(**(standard | fields))  # type: ignore[arg-type]  # fields by name


def attach_propagate(**fields: object) -> AttachPropagate:
    """A proper `attPrp`, but for the fields given."""
    standard: dict[str, object] = {
        "ep_eui": EP_EUI,
        "bidi": True,
        "nwk_sn_key": bytes(16),
        "sh_addr": 0x127C,
        "last_packet_cnt": 0,
        "dual_chan": False,
        "repetition": False,
        "wide_carr_off": False,
        "long_blk_dist": False,
    }
    return AttachPropagate(**(standard | fields))  # type: ignore[arg-type]  # fields by name


def downlink(que_id: int, **fields: object) -> DownlinkDataQueue:
    """A proper `dlDataQue`, but for the fields given."""
    standard: dict[str, object] = {
        "ep_eui": EP_EUI,
        "cnt_depend": False,
        "user_data": (b"\x01",),
    }
    return DownlinkDataQueue(que_id=que_id, **(standard | fields))  # type: ignore[arg-type]  # fields by name


class FakeLine:
    """What a request of the Service Center comes by; remembers how it was answered."""

    def __init__(self) -> None:
        self.answers: list[Message | tuple[int, int, str]] = []

    def respond(self, response: Message) -> None:
        self.answers.append(response)

    def refuse(self, op_id: int, code: int, reason: str) -> None:
        self.answers.append((op_id, code, reason))


class FakePeer:
    """Either side of a connection."""

    def __init__(self, stream: trio.abc.Stream, *, read_size: int = 64 * 1024) -> None:
        self.stream = stream
        self._read_size = read_size
        self._decoder = FrameDecoder()
        self._heard: list[Message] = []

    async def _listen(self) -> None:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some(self._read_size)
        if not data:
            raise EOFError("the peer has closed")
        self._decoder.feed(data)
        self._heard += map(decode, self._decoder.payloads())

    async def say(self, *messages: Message) -> None:
        """Say messages, all in one write."""
        await self.say_bytes(b"".join(encode_frame(encode(message)) for message in messages))

    async def say_bytes(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hear(self) -> Message:
        """The peer's next message; EOFError when it has closed."""
        while not self._heard:
            await self._listen()
        return self._heard.pop(0)

    async def hear_the(self, message: Message) -> None:
        """Wait for exactly this message; what comes before it is still to be heard."""
        while message not in self._heard:
            await self._listen()
        self._heard.remove(message)

    async def hear_a(self, kind: type[AnyMessage]) -> AnyMessage:
        """The peer's next message, which is of this type."""
        message = await self.hear()
        assert isinstance(message, kind), f"{kind.__name__} expected, heard {message!r}"
        return message

    async def hear_end(self) -> list[Message]:
        """What the peer still says before it closes."""
        rest: list[Message] = []
        while True:
            try:
                rest.append(await self.hear())
            except EOFError:
                return rest

    async def vanish(self) -> None:
        """Be gone without a word."""
        await trio.aclose_forcefully(self.stream)


class FakeBaseStation(FakePeer):
    """A base station that says exactly what it is told."""

    async def connect(self, connect: Connect | None = None) -> ConnectResponse:
        """Connect and complete it; the Service Center's response."""
        await self.say(connect_message() if connect is None else connect)
        response = await self.hear_a(ConnectResponse)
        await self.say(ConnectComplete())
        return response

    async def deliver(self, message: UplinkData) -> None:
        """Say an uplink, with its operation ID; wait for the acknowledgement; complete it."""
        await self.say(message)
        response = await self.hear_a(UplinkDataResponse)
        assert response.op_id == message.op_id
        await self.say(UplinkDataComplete(op_id=message.op_id))


class FakeServiceCenter(FakePeer):
    """A Service Center that says exactly what it is told."""

    async def welcome(self, response: ConnectResponse | None = None) -> Connect:
        """Let the base station in; its `con`."""
        connect = await self.hear_a(Connect)
        await self.say(connect_response() if response is None else response)
        await self.hear_a(ConnectComplete)
        return connect

    async def acknowledge(self) -> UplinkData:
        """Hear an uplink, acknowledge it, hear that completed; the uplink."""
        message = await self.hear_a(UplinkData)
        await self.say(UplinkDataResponse(op_id=message.op_id))
        await self.hear_the(UplinkDataComplete(op_id=message.op_id))
        return message


class Exchange:
    """Where connections are made in memory: `connect` for who calls, `answer` for who is called.

    While `is_closed`, nobody gets through.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.is_closed = False
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](1000)

    async def connect(self) -> trio.abc.Stream:
        """One end of a new connection."""
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if self.is_closed:
            raise ConnectionRefusedError("the exchange is closed")
        ours, theirs = trio.testing.memory_stream_pair()
        self._send.send_nowait(theirs)
        return ours

    async def answer(self, *, read_size: int = 64 * 1024) -> FakeServiceCenter:
        """The other end of the next connection."""
        with trio.fail_after(PATIENCE):
            stream = await self._receive.receive()
        return FakeServiceCenter(stream, read_size=read_size)


class OneByteStream(trio.abc.Stream):
    """A stream that gives and takes one byte at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        for byte in bytes(data):
            await self._stream.send_all(bytes((byte,)))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(1)

    async def aclose(self) -> None:
        await self._stream.aclose()


class PlainCenter:
    """A Service Center that acknowledges (or, with a code, refuses) uplinks and resumes sessions.

    Attributes:
        uplinks: what it heard, each with the EUI of the base station, without operation IDs.
        others: other answers and messages, without operation IDs.
        connects: every `con`.
        asks: what it asks each base station that connects.
    """

    def __init__(self, nursery: trio.Nursery, *, code: int = 0) -> None:
        self.uplinks: list[tuple[int, UplinkData]] = []
        self.others: list[Message] = []
        self.connects: list[Connect] = []
        self.asks: list[Message] = []
        self._code = code
        self._nursery = nursery
        self._records: dict[int, SessionRecord] = {}
        self._sessions = 0

    def connector(self, caller: object) -> Callable[[], Awaitable[trio.abc.Stream]]:
        """What opens a connection to it in memory, whoever calls."""

        async def connect() -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = trio.testing.memory_stream_pair()
            self._nursery.start_soon(self.serve, theirs)
            return ours

        return connect

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends."""
        session = ServiceCenterSession()
        try:
            while data := await stream.receive_some(65536):
                for event in session.receive_data(data):
                    self._take(session, event)
                await stream.send_all(session.data_to_send())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            if self.connects:
                record = session.record()
                self._records[record.bs_eui] = record

    def _take(self, session: ServiceCenterSession, event: Event) -> None:
        match event:
            case ConnectRequested(connect):
                self._sessions += 1
                uuid = self._sessions.to_bytes(16, "big")
                session.accept(
                    connect_response(sn_sc_uuid=uuid), stored=self._records.get(connect.bs_eui)
                )
                self.connects.append(connect)
            case Connected():
                for message in self.asks:
                    session.start(message)
            case Requested(message=UplinkData() as uplink):
                self.uplinks.append((session.record().bs_eui, replace(uplink, op_id=0)))
                if self._code:
                    session.refuse(uplink.op_id, self._code, "no")
                else:
                    session.acknowledge(uplink.op_id)
            case Requested(message=DownlinkDataResult() as result):
                self.others.append(replace(result, op_id=0, tx_time=None))
                session.respond(DownlinkDataResultResponse(op_id=result.op_id))
            case Answered(response=response):
                self.others.append(replace(response, op_id=0))
