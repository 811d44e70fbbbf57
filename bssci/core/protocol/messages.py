"""Every BSSCI message, in the order of the specification, for both directions (BSSCI 1.0.0, 5).

A message is declared once, here: codec, session, docs and tests read these classes. Fields have
the names of the specification in snake_case; `op_id` is common to all and given first. A field
without a default is mandatory. What a type means on the wire is said by its marker (`Integer`,
`Octets`, ...), which `codec` turns into a check.

Times are integers in nanoseconds since 1970 (UTC) unless a field says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, ClassVar, Literal

__all__ = [
    "MAX_TEXT",
    "MAX_USER_DATA",
    "MESSAGES",
    "Anything",
    "Attach",
    "AttachComplete",
    "AttachPropagate",
    "AttachPropagateComplete",
    "AttachPropagateResponse",
    "AttachResponse",
    "Connect",
    "ConnectComplete",
    "ConnectResponse",
    "Detach",
    "DetachComplete",
    "DetachPropagate",
    "DetachPropagateComplete",
    "DetachPropagateResponse",
    "DetachResponse",
    "DownlinkDataQueue",
    "DownlinkDataQueueComplete",
    "DownlinkDataQueueResponse",
    "DownlinkDataResult",
    "DownlinkDataResultComplete",
    "DownlinkDataResultResponse",
    "DownlinkDataRevoke",
    "DownlinkDataRevokeComplete",
    "DownlinkDataRevokeResponse",
    "DownlinkRxStatus",
    "DownlinkRxStatusComplete",
    "DownlinkRxStatusQuery",
    "DownlinkRxStatusQueryComplete",
    "DownlinkRxStatusQueryResponse",
    "DownlinkRxStatusResponse",
    "Error",
    "ErrorAck",
    "Integer",
    "Integers",
    "Marker",
    "Message",
    "OctetLists",
    "Octets",
    "Ping",
    "PingComplete",
    "PingResponse",
    "Real",
    "Reals",
    "Role",
    "Status",
    "StatusComplete",
    "StatusResponse",
    "Subpackets",
    "UplinkData",
    "UplinkDataComplete",
    "UplinkDataResponse",
    "UplinkDataTransmit",
    "UplinkDataTransmitComplete",
    "UplinkDataTransmitResponse",
    "VmActivate",
    "VmActivateComplete",
    "VmActivateResponse",
    "VmDeactivate",
    "VmDeactivateComplete",
    "VmDeactivateResponse",
    "VmDownlinkData",
    "VmDownlinkDataComplete",
    "VmDownlinkDataResponse",
    "VmStatus",
    "VmStatusComplete",
    "VmStatusResponse",
    "VmUplinkData",
    "VmUplinkDataComplete",
    "VmUplinkDataResponse",
]


class Role(Enum):
    """The two ends of a BSSCI connection."""

    BASE_STATION = "base station"
    SERVICE_CENTER = "service center"

    @property
    def peer(self) -> Role:
        return Role.SERVICE_CENTER if self is Role.BASE_STATION else Role.BASE_STATION


# --- what a value is on the wire -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within bounds.

    Attributes:
        wraps: a negative number is the two's complement of a 64-bit unsigned one. Stacks that
            keep an EUI64 in a signed `long` send it so.
        rounds: a fraction is rounded away; some stacks keep times as floating point numbers.
        code: what a number out of bounds is answered with.
    """

    minimum: int
    maximum: int
    wraps: bool = False
    rounds: bool = False
    code: int = 71


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number; whole ones are accepted as integers. `single`: sent as float32."""

    single: bool = False


@dataclass(frozen=True, slots=True)
class Reals:
    """A list of finite numbers, of exactly `length` elements when given."""

    length: int | None = None


# A radio telegram carries at most some 250 bytes; what is longer is no user data, and no broker
# should have to find that out.
MAX_USER_DATA = 1024

# Names and words are for showing. What is longer is cut.
MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class Octets:
    """A byte string, on the wire an array of integers (also accepted: signed ones, or `bin`)."""

    length: int | None = None
    maximum: int = 2**16


@dataclass(frozen=True, slots=True)
class OctetLists:
    """A list of byte strings."""


@dataclass(frozen=True, slots=True)
class Integers:
    """A list of whole numbers within bounds."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Anything:
    """Kept as it came, as far as JSON can say it."""


Marker = Integer | Real | Reals | Octets | OctetLists | Integers | Anything
"""What a field can be marked with."""


Eui64 = Annotated[int, Integer(0, 2**64 - 1, wraps=True)]
OpId = Annotated[int, Integer(-(2**63), 2**63 - 1)]
QueueId = Annotated[int, Integer(0, 2**64 - 1, wraps=True)]
ShortAddress = Annotated[int, Integer(0, 0xFFFF, code=22)]
PacketCount = Annotated[int, Integer(0, 2**32 - 1)]
Count24 = Annotated[int, Integer(0, 2**24 - 1)]
Byte = Annotated[int, Integer(0, 255)]
Time = Annotated[int, Integer(0, 2**64 - 1, rounds=True)]
Duration = Annotated[int, Integer(0, 2**63 - 1, rounds=True)]
PosixNumber = Annotated[int, Integer(-(2**31), 2**31 - 1)]
Float = Annotated[float, Real()]
Float32 = Annotated[float, Real(single=True)]
Position = Annotated[tuple[float, ...], Reals(3)]
Uuid = Annotated[bytes, Octets(16)]
Key = Annotated[bytes, Octets(16)]
FourBytes = Annotated[bytes, Octets(4)]
UserData = Annotated[bytes, Octets(maximum=MAX_USER_DATA)]
Info = Annotated[object, Anything()]
# Kept as it came: whether a stack counts its CRCs as signed is not told.
Crc = Annotated[tuple[int, ...], Integers(-(2**31), 2**32 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subpackets:
    """Reception quality of each subpacket of a telegram (5.10.1); all lists have one length."""

    snr: Annotated[tuple[float, ...], Reals()]
    """dB"""
    rssi: Annotated[tuple[float, ...], Reals()]
    """dBm"""
    frequency: Annotated[tuple[float, ...], Reals()]
    """Hz, fractional"""
    phase: Annotated[tuple[float, ...], Reals()] | None = None
    """degrees, -180 to 180"""

    def broken_rule(self) -> str | None:
        lengths = {len(self.snr), len(self.rssi), len(self.frequency)}
        if self.phase is not None:
            lengths.add(len(self.phase))
        return None if len(lengths) == 1 else "the lists differ in length"


# --- core ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What all messages share (5.1). No `repr` shows a key."""

    command: ClassVar[str]
    sender: ClassVar[Role | None]
    """Who may send it; None: either."""

    op_id: OpId = 0
    """The operation; the same in all its messages. 0 for connect; a `session` sets the others."""

    def broken_rule(self) -> str | None:
        """The rule between fields that this message breaks, in words; None if it is in order."""
        return None


class _FromBaseStation(Message):
    __slots__ = ()
    sender = Role.BASE_STATION


class _FromServiceCenter(Message):
    __slots__ = ()
    sender = Role.SERVICE_CENTER


class _FromEither(Message):
    __slots__ = ()
    sender = None


# --- 5.3 connect ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(_FromBaseStation):
    """A base station opens, or would like to resume, a session (5.3.1)."""

    command = "con"

    version: str
    """The highest version the base station speaks, "major.minor.patch"."""
    bs_eui: Eui64
    vendor: str | None = None
    model: str | None = None
    name: str | None = None
    sw_version: str | None = None
    info: Info = None
    bidi: bool
    """The base station can transmit."""
    geo_location: Position | None = None
    """Latitude and longitude in degrees, altitude in metres; (0, 0, 0) means no fix."""
    sn_bs_uuid: Uuid
    """The base station's session; the same as before: it would like to resume."""
    sn_bs_op_id: OpId | None = None
    """The lowest base station operation the Service Center must know for a resume."""
    sn_sc_op_id: OpId | None = None
    """The most negative Service Center operation the base station has seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectResponse(_FromServiceCenter):
    """The Service Center takes the connection (5.3.2)."""

    command = "conRsp"

    version: str | None = None
    """The version chosen; absent: the one asked for."""
    sc_eui: Eui64
    vendor: str | None = None
    model: str | None = None
    name: str | None = None
    sw_version: str | None = None
    info: Info = None
    sn_resume: bool
    sn_sc_uuid: Uuid


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectComplete(_FromBaseStation):
    """The session is open (5.3.3)."""

    command = "conCmp"


# --- 5.4 ping ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(_FromEither):
    """Are you there (5.4.1)."""

    command = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class PingResponse(_FromEither):
    """I am (5.4.2)."""

    command = "pingRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class PingComplete(_FromEither):
    """The end of a ping (5.4.3)."""

    command = "pingCmp"


# --- 5.5 status ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(_FromServiceCenter):
    """How are you (5.5.1)."""

    command = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResponse(_FromBaseStation):
    """How a base station is (5.5.2)."""

    command = "statusRsp"

    code: PosixNumber
    """POSIX number, 0 = ok."""
    message: str
    time: Time
    """The base station's clock: ns; some firmware sends microseconds."""
    duty_cycle: Float
    """Share of transmission time in a sliding hour, 0 to 1."""
    geo_location: Position | None = None
    uptime: Duration | None = None
    """Seconds."""
    temp: Float | None = None
    """Degrees Celsius."""
    cpu_load: Float | None = None
    """0 to 1 for all cores; some firmware sends a load average."""
    mem_load: Float | None = None
    """0 to 1."""
    config: Info = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusComplete(_FromServiceCenter):
    """The status has arrived (5.5.3)."""

    command = "statusCmp"


# --- 5.6 attach over the air ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach(_FromBaseStation):
    """An end point asks over the air to be attached (5.6.1)."""

    command = "att"

    ep_eui: Eui64
    rx_time: Time
    """Time of reception, center of the last subpacket."""
    rx_duration: Duration | None = None
    """ns from the center of the first to the center of the last subpacket."""
    attach_cnt: Count24
    snr: Float
    """dB"""
    rssi: Float
    """dBm"""
    eq_snr: Float | None = None
    """dB, AWGN equivalent"""
    profile: str | None = None
    subpackets: Subpackets | None = None
    nonce: FourBytes
    sign: FourBytes
    sh_addr: ShortAddress | None = None
    """Only if the base station assigned it."""
    dual_chan: bool
    repetition: bool
    wide_carr_off: bool
    long_blk_dist: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachResponse(_FromServiceCenter):
    """The end point's session key (5.6.2)."""

    command = "attRsp"

    nwk_sn_key: Key = field(repr=False)
    sh_addr: ShortAddress | None = None
    """Only if the base station did not assign one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachComplete(_FromBaseStation):
    """The end point is attached (5.6.3)."""

    command = "attCmp"


# --- 5.7 detach over the air ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach(_FromBaseStation):
    """An end point says over the air that it leaves (5.7.1)."""

    command = "det"

    ep_eui: Eui64
    rx_time: Time
    rx_duration: Duration | None = None
    packet_cnt: PacketCount
    snr: Float
    rssi: Float
    eq_snr: Float | None = None
    profile: str | None = None
    subpackets: Subpackets | None = None
    sign: FourBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachResponse(_FromServiceCenter):
    """The signature for the end point (5.7.2)."""

    command = "detRsp"

    sign: FourBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachComplete(_FromBaseStation):
    """The end point is detached (5.7.3)."""

    command = "detCmp"


# --- 5.8 attach propagate ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPropagate(_FromServiceCenter):
    """Serve this end point from now on (5.8.1)."""

    command = "attPrp"

    ep_eui: Eui64
    bidi: bool
    nwk_sn_key: Key = field(repr=False)
    sh_addr: ShortAddress
    last_packet_cnt: PacketCount
    dual_chan: bool
    repetition: bool
    wide_carr_off: bool
    long_blk_dist: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPropagateResponse(_FromBaseStation):
    """The end point is known; which one is said by the operation ID alone (5.8.2)."""

    command = "attPrpRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachPropagateComplete(_FromServiceCenter):
    """The end of an attach propagate (5.8.3)."""

    command = "attPrpCmp"


# --- 5.9 detach propagate ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPropagate(_FromServiceCenter):
    """Forget this end point (5.9.1)."""

    command = "detPrp"

    ep_eui: Eui64


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPropagateResponse(_FromBaseStation):
    """The end point is forgotten (5.9.2)."""

    command = "detPrpRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachPropagateComplete(_FromServiceCenter):
    """The end of a detach propagate (5.9.3)."""

    command = "detPrpCmp"


# --- 5.10 uplink data ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkData(_FromBaseStation):
    """This end point was heard (5.10.1)."""

    command = "ulData"

    ep_eui: Eui64
    rx_time: Time
    """Time of reception, center of the last subpacket, by the base station's clock."""
    rx_duration: Duration | None = None
    """ns from the center of the first to the center of the last subpacket."""
    packet_cnt: PacketCount
    snr: Float
    """dB"""
    rssi: Float
    """dBm"""
    eq_snr: Float | None = None
    """dB, AWGN equivalent; some firmware sends 0.0 for unknown"""
    profile: str | None = None
    mode: str | None = None
    """"ulp", "ulp-rep" (repetition) or "ulp-ll" (low latency)."""
    subpackets: Subpackets | None = None
    user_data: UserData
    format: Byte = 0
    """The MPF byte of the radio telegram."""
    dl_open: bool
    """A downlink window follows."""
    response_exp: bool
    """The end point expects an answer in that window."""
    dl_ack: bool
    """The end point got the downlink in the window of `packet_cnt` - 1."""

    def broken_rule(self) -> str | None:
        if self.response_exp and not self.dl_open:
            return "responseExp: true without dlOpen"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkDataResponse(_FromServiceCenter):
    """The uplink is safe; the base station may forget it (5.10.2)."""

    command = "ulDataRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkDataComplete(_FromBaseStation):
    """The end of an uplink (5.10.3)."""

    command = "ulDataCmp"


# --- 5.11 uplink data transmit -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkDataTransmit(_FromServiceCenter):
    """Transmit an uplink on behalf of an end point (5.11.1)."""

    command = "ulDataTx"

    ep_eui: Eui64
    nwk_sn_key: Key = field(repr=False)
    sh_addr: ShortAddress
    packet_cnt: PacketCount
    profile: str | None = None
    user_data: UserData
    format: Byte = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkDataTransmitResponse(_FromBaseStation):
    """The uplink will be transmitted (5.11.2)."""

    command = "ulDataTxRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkDataTransmitComplete(_FromServiceCenter):
    """The end of an uplink transmission (5.11.3)."""

    command = "ulDataTxCmp"


# --- 5.12 downlink data queue --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataQueue(_FromServiceCenter):
    """Keep this downlink for the first suitable window (5.12.1)."""

    command = "dlDataQue"

    ep_eui: Eui64
    que_id: QueueId
    cnt_depend: bool
    """Each entry is for the window of one packet counter only."""
    packet_cnt: Annotated[tuple[int, ...], Integers(0, 2**32 - 1)] | None = None
    """One counter an entry, if and only if `cnt_depend`."""
    user_data: Annotated[tuple[bytes, ...], OctetLists()]
    """One byte string an entry; a pure acknowledgement is one empty entry."""
    format: Byte | None = None
    prio: Float32 = 0.0
    """Higher first."""
    response_exp: bool = False
    response_prio: bool = False
    dl_wind_req: bool = False
    exp_only: bool = False
    """Only in the window of an uplink with responseExp."""

    def broken_rule(self) -> str | None:
        if self.cnt_depend:
            if self.packet_cnt is None:
                return "packetCnt: missing, and cntDepend is true"
            if len(self.packet_cnt) != len(self.user_data):
                return "packetCnt: not as many as entries of userData"
        elif self.packet_cnt is not None:
            return "packetCnt: given, but cntDepend is false"
        elif len(self.user_data) != 1:
            return "userData: exactly one entry without cntDepend"
        return None if self.user_data else "userData: no entry"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataQueueResponse(_FromBaseStation):
    """The downlink is queued, not yet sent (5.12.2)."""

    command = "dlDataQueRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataQueueComplete(_FromServiceCenter):
    """The end of queueing a downlink (5.12.3)."""

    command = "dlDataQueCmp"


# --- 5.13 downlink data revoke -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataRevoke(_FromServiceCenter):
    """Drop a queued downlink (5.13.1)."""

    command = "dlDataRev"

    ep_eui: Eui64
    que_id: QueueId


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataRevokeResponse(_FromBaseStation):
    """The downlink is dropped (5.13.2)."""

    command = "dlDataRevRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataRevokeComplete(_FromServiceCenter):
    """The end of revoking a downlink (5.13.3)."""

    command = "dlDataRevCmp"


# --- 5.14 downlink data result -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataResult(_FromBaseStation):
    """What became of a queued downlink (5.14.1)."""

    command = "dlDataRes"

    ep_eui: Eui64
    que_id: QueueId
    result: Literal["sent", "expired", "invalid"]
    tx_time: Time | None = None
    """Center of the first subpacket, if sent; some firmware sends 0 otherwise."""
    packet_cnt: PacketCount | None = None
    """The uplink whose window was used, if sent."""

    def broken_rule(self) -> str | None:
        if self.result == "sent" and self.tx_time is None:
            return "txTime: missing, and the result is sent"
        if self.result == "sent" and self.packet_cnt is None:
            return "packetCnt: missing, and the result is sent"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataResultResponse(_FromServiceCenter):
    """The result is known (5.14.2)."""

    command = "dlDataResRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkDataResultComplete(_FromBaseStation):
    """The end of a downlink result (5.14.3)."""

    command = "dlDataResCmp"


# --- 5.15 downlink reception status --------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatus(_FromBaseStation):
    """How well the end point received a downlink (5.15.1)."""

    command = "dlRxStat"

    ep_eui: Eui64
    rx_time: Time
    packet_cnt: PacketCount
    dl_rx_snr: Float
    """dB"""
    dl_rx_rssi: Float
    """dBm"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatusResponse(_FromServiceCenter):
    """The reception status is known (5.15.2)."""

    command = "dlRxStatRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatusComplete(_FromBaseStation):
    """The end of a reception status (5.15.3)."""

    command = "dlRxStatCmp"


# --- 5.16 downlink reception status query --------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatusQuery(_FromServiceCenter):
    """Ask this end point, with the next downlink, how well it receives (5.16.1)."""

    command = "dlRxStatQry"

    ep_eui: Eui64


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatusQueryResponse(_FromBaseStation):
    """The end point will be asked (5.16.2)."""

    command = "dlRxStatQryRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownlinkRxStatusQueryComplete(_FromServiceCenter):
    """The end of a reception status query (5.16.3)."""

    command = "dlRxStatQryCmp"


# --- 5.17 errors ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(_FromEither):
    """Ends an operation that cannot go on (5.17.1)."""

    command = "error"

    code: PosixNumber
    """POSIX number."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAck(_FromEither):
    """The error has arrived (5.17.2)."""

    command = "errorAck"


# --- Variable MAC sub-channel (attachment 1.0.0) -------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class VmActivate(_FromServiceCenter):
    """Receive telegrams of this MAC type."""

    command = "vm.activate"

    mac_type: Byte


@dataclass(frozen=True, slots=True, kw_only=True)
class VmActivateResponse(_FromBaseStation):
    """The MAC type is active."""

    command = "vm.activateRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmActivateComplete(_FromServiceCenter):
    """The end of an activation."""

    command = "vm.activateCmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDeactivate(_FromServiceCenter):
    """Receive telegrams of this MAC type no more."""

    command = "vm.deactivate"

    mac_type: Byte


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDeactivateResponse(_FromBaseStation):
    """The MAC type is no longer active."""

    command = "vm.deactivateRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDeactivateComplete(_FromServiceCenter):
    """The end of a deactivation."""

    command = "vm.deactivateCmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatus(_FromServiceCenter):
    """Which MAC types are active."""

    command = "vm.status"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatusResponse(_FromBaseStation):
    """The active MAC types."""

    command = "vm.statusRsp"

    mac_types: Annotated[tuple[int, ...], Integers(0, 255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatusComplete(_FromServiceCenter):
    """The end of a Variable MAC status."""

    command = "vm.statusCmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmUplinkData(_FromBaseStation):
    """A Variable MAC telegram was heard; who sent it is inside the payload."""

    command = "vm.ulData"

    mac_type: Byte
    user_data: UserData
    """The U-MPDU from the first byte after the MAC type."""
    trx_time: Time
    """ns of the transceiver's free-running clock, not Unix time."""
    sys_time: Time
    """Center of the last subpacket."""
    freq_off: Float
    """Hz; above one million it is the absolute frequency, which real stations send."""
    snr: Float
    """dB"""
    rssi: Float
    """dBm"""
    eq_snr: Float | None = None
    subpackets: Subpackets | None = None
    carr_space: Byte
    """0 narrow, 1 standard, 2 wide."""
    patt_grp: Byte
    """0 normal, 1 repetition, 2 low delay."""
    patt_num: Byte
    crc: Crc
    """Header CRC and payload CRC."""

    def broken_rule(self) -> str | None:
        return None if len(self.crc) == 2 else "crc: not two numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmUplinkDataResponse(_FromServiceCenter):
    """The telegram is known."""

    command = "vm.ulDataRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmUplinkDataComplete(_FromBaseStation):
    """The end of a Variable MAC uplink."""

    command = "vm.ulDataCmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDownlinkData(_FromServiceCenter):
    """Send a Variable MAC telegram as the answer to one that was heard."""

    command = "vm.dlData"

    mac_type: Byte
    user_data: UserData
    trx_time: Time
    """ns of the transceiver's free-running clock."""
    sys_time: Time
    """Center of the first subpacket."""
    freq_off: Float
    ul_snr: Float
    ul_rssi: Float
    carr_off_range: Byte
    """1 or 5."""
    carr_space: Byte
    ul_crc: Crc
    tsi: Annotated[int, Integer(21, 16383)] = 128
    sync_burst: bool
    dual_chan: bool
    repetition: bool
    long_blk_dist: bool

    def broken_rule(self) -> str | None:
        return None if len(self.ul_crc) == 2 else "ulCrc: not two numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDownlinkDataResponse(_FromBaseStation):
    """The telegram will be sent."""

    command = "vm.dlDataRsp"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDownlinkDataComplete(_FromServiceCenter):
    """The end of a Variable MAC downlink."""

    command = "vm.dlDataCmp"


MESSAGES: dict[str, type[Message]] = {
    kind.command: kind
    for kind in tuple(globals().values())
    if isinstance(kind, type) and issubclass(kind, Message) and "command" in vars(kind)
}
"""Every message by its command, in the order of the specification."""
