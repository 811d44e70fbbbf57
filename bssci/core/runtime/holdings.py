"""A plain base station: what it holds for the Service Center, and its answers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from bssci.core.protocol.errors import Code, OperationRefusedError
from bssci.core.protocol.messages import (
    Attach,
    AttachPropagate,
    AttachResponse,
    DetachPropagate,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    DownlinkRxStatus,
    DownlinkRxStatusQuery,
    Message,
    UplinkData,
    VmActivate,
    VmDeactivate,
    VmStatus,
    VmStatusResponse,
)
from bssci.core.runtime.station_events import Attached, Detached, Online, Request

if TYPE_CHECKING:
    from bssci.core.runtime.station_events import StationEvent

__all__ = ["Holdings"]

# What a `Holdings` keeps: as many end points as there are short addresses, and what a Service
# Center keeps for one of them by default.
MAX_END_POINTS = 65_536
MAX_DOWNLINKS = 100
MAX_GIVEN = 10_000
# Downlinks that were given away and may be issued again by a resume: many times what a session can
# have on its way.


class Holdings:
    """What a base station holds for the Service Center, and its answers: for `open_station`.

    It keeps end points and queued downlinks, gives a downlink away when its window comes
    (`open_window`), drops those of an end point that is attached again, as real base stations do,
    and forgets everything when a new session begins. An operation that the session issues again is
    not carried out a second time: what was given away is not queued anew.

    Attributes:
        end_points: what it serves, by EUI.
        downlinks: what is queued, by EUI and queue ID, in order of arrival.
        mac_types: active Variable MAC types.
    """

    def __init__(self) -> None:
        self.end_points: dict[int, AttachPropagate] = {}
        self.downlinks: dict[int, dict[int, DownlinkDataQueue]] = {}
        self.mac_types: set[int] = set()
        self._queried: set[int] = set()
        self._given: OrderedDict[tuple[int, int], None] = OrderedDict()
        """End point and queue ID of what has left the queue by our report."""

    def __call__(self, event: StationEvent) -> None:
        """Take an event of the station."""
        match event:
            case Online(resumed=False):
                self._forget_all()
            case Attached(request=request, response=response):
                self._attach(_served_so(request, response))
            case Detached(request=request):
                self._detach(request.ep_eui)
            case Request(message=DownlinkDataQueue(ep_eui=ep_eui, que_id=que_id)) if (
                event.reissued and (ep_eui, que_id) in self._given
            ):
                event.respond()
            case Request(message=message):
                try:
                    event.respond(self._answer(message))
                except OperationRefusedError as refusal:
                    event.refuse(refusal.code, refusal.message)

    def open_window(
        self, uplink: UplinkData, *, tx_time: int
    ) -> list[DownlinkDataResult | DownlinkRxStatus]:
        """An uplink's downlink window is here: what there is to report to the Service Center.

        At most one downlink goes out, that of the highest priority; `tx_time` is the center of its
        first subpacket in ns. Downlinks whose counters have all gone by are reported expired.
        """
        queue = self.downlinks.get(uplink.ep_eui, {})
        reports: list[DownlinkDataResult | DownlinkRxStatus] = []
        for downlink in tuple(queue.values()):
            if downlink.packet_cnt and max(downlink.packet_cnt) < uplink.packet_cnt:
                self._give(queue, downlink)
                reports.append(
                    DownlinkDataResult(
                        ep_eui=uplink.ep_eui, que_id=downlink.que_id, result="expired"
                    )
                )
        if sent := max(
            (downlink for downlink in queue.values() if _fits(downlink, uplink)),
            key=lambda downlink: downlink.prio,
            default=None,
        ):
            self._give(queue, sent)
            reports += self._sent(sent, uplink, tx_time)
        return reports

    def _give(self, queue: dict[int, DownlinkDataQueue], downlink: DownlinkDataQueue) -> None:
        del queue[downlink.que_id]
        self._given[downlink.ep_eui, downlink.que_id] = None
        if len(self._given) > MAX_GIVEN:
            self._given.popitem(last=False)

    def _sent(
        self, sent: DownlinkDataQueue, uplink: UplinkData, tx_time: int
    ) -> list[DownlinkDataResult | DownlinkRxStatus]:
        ep_eui, packet_cnt = uplink.ep_eui, uplink.packet_cnt
        reports: list[DownlinkDataResult | DownlinkRxStatus] = [
            DownlinkDataResult(
                ep_eui=ep_eui,
                que_id=sent.que_id,
                result="sent",
                tx_time=tx_time,
                packet_cnt=packet_cnt,
            )
        ]
        if ep_eui in self._queried:
            self._queried.discard(ep_eui)
            # An end point hears us about as well as we hear it.
            reports.append(
                DownlinkRxStatus(
                    ep_eui=ep_eui,
                    rx_time=tx_time,
                    packet_cnt=packet_cnt,
                    dl_rx_snr=uplink.snr,
                    dl_rx_rssi=uplink.rssi,
                )
            )
        return reports

    def _forget_all(self) -> None:
        self.end_points.clear()
        self.downlinks.clear()
        self.mac_types.clear()
        self._queried.clear()
        self._given.clear()

    def _answer(self, message: Message) -> Message | None:
        """The response; None is the one without fields."""
        match message:
            case AttachPropagate():
                self._attach(message)
            case DetachPropagate(ep_eui=ep_eui):
                self._detach(ep_eui)
            case DownlinkDataQueue():
                self._queue(message)
            case DownlinkDataRevoke(ep_eui=ep_eui, que_id=que_id):
                if self.downlinks.get(ep_eui, {}).pop(que_id, None) is None:
                    raise OperationRefusedError(Code.ENOENT, "no such downlink is queued")
            case DownlinkRxStatusQuery(ep_eui=ep_eui):
                self._served(ep_eui)
                self._queried.add(ep_eui)
            case VmActivate(mac_type=mac_type):
                self.mac_types.add(mac_type)
            case VmDeactivate(mac_type=mac_type):
                self.mac_types.discard(mac_type)
            case VmStatus():
                return VmStatusResponse(mac_types=tuple(sorted(self.mac_types)))
            case _:
                raise OperationRefusedError(
                    Code.EOPNOTSUPP, f"{message.command}: this base station cannot do that"
                )
        return None

    def _attach(self, message: AttachPropagate) -> None:
        if message.ep_eui not in self.end_points and len(self.end_points) >= MAX_END_POINTS:
            raise OperationRefusedError(Code.ENOSPC, "too many end points")
        self.end_points[message.ep_eui] = message
        self.downlinks.pop(message.ep_eui, None)

    def _detach(self, ep_eui: int) -> None:
        self.end_points.pop(ep_eui, None)
        self.downlinks.pop(ep_eui, None)
        self._queried.discard(ep_eui)

    def _queue(self, message: DownlinkDataQueue) -> None:
        self._served(message.ep_eui)
        queue = self.downlinks.setdefault(message.ep_eui, {})
        known = queue.get(message.que_id)
        if known is not None and replace(known, op_id=0) != replace(message, op_id=0):
            raise OperationRefusedError(Code.EEXIST, "this queue ID is in use")
        if known is None and len(queue) >= MAX_DOWNLINKS:
            raise OperationRefusedError(Code.ENOSPC, "too many downlinks for this end point")
        queue[message.que_id] = message

    def _served(self, ep_eui: int) -> None:
        if ep_eui not in self.end_points:
            raise OperationRefusedError(Code.ENOENT, "this end point is not attached here")


def _served_so(request: Attach, response: AttachResponse) -> AttachPropagate:
    """What other base stations are told of an end point that has attached over the air here."""
    short_addr = request.sh_addr if response.sh_addr is None else response.sh_addr
    return AttachPropagate(
        ep_eui=request.ep_eui,
        bidi=True,
        nwk_sn_key=response.nwk_sn_key,
        sh_addr=short_addr or 0,
        last_packet_cnt=0,
        dual_chan=request.dual_chan,
        repetition=request.repetition,
        wide_carr_off=request.wide_carr_off,
        long_blk_dist=request.long_blk_dist,
    )


def _fits(downlink: DownlinkDataQueue, uplink: UplinkData) -> bool:
    """Whether this window may carry this downlink."""
    if downlink.exp_only and not uplink.response_exp:
        return False
    return downlink.packet_cnt is None or uplink.packet_cnt in downlink.packet_cnt
