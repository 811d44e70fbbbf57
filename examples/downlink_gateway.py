"""A gateway with downlinks, which keeps on disk what the Service Center has not acknowledged.

    python examples/downlink_gateway.py HOST PORT EUI CERTS SPOOL < uplinks

CERTS is the folder that `bssci certs station EUI` has made, SPOOL a file that is made if there is
none. Standard input stands for the radio, a line is one uplink:
{"ep_eui": "70B3D59CD1000001", "packet_cnt": 7, "data": "0142", "snr": 12.5, "rssi": -98.0,
 "dl_open": true}
It runs until it is stopped, however: what was kept is delivered after the next start.
"""

import json
import sqlite3
import sys
import time
from collections import defaultdict
from pathlib import Path

import trio

from bssci import (
    Attached,
    Detached,
    Identity,
    Online,
    OperationRefusedError,
    Request,
    Station,
    StationEvents,
    client_context,
    format_eui,
    open_station,
    parse_eui,
)
from bssci.core.protocol.codec import decode, encode
from bssci.core.protocol.errors import Code
from bssci.core.protocol.messages import (
    AttachPropagate,
    DetachPropagate,
    DownlinkDataQueue,
    DownlinkDataResult,
    DownlinkDataRevoke,
    Message,
    UplinkData,
)


def tell(event: str, ep_eui: int, **fields: object) -> None:
    print(json.dumps({"event": event, "ep_eui": format_eui(ep_eui), **fields}), flush=True)


class Spool:
    """What is to be said to the Service Center, in order, on disk until it has answered."""

    def __init__(self, file: str) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)  # each statement commits
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE IF NOT EXISTS spool (id INTEGER PRIMARY KEY, payload)")
        self._is_filled = trio.Event()

    def put(self, message: Message) -> None:
        self._database.execute("INSERT INTO spool (payload) VALUES (?)", (encode(message),))
        self._is_filled.set()

    async def deliver(self, station: Station) -> None:
        """For ever, one after the other: after a kill at most one comes twice."""
        while True:
            self._is_filled = trio.Event()
            oldest = "SELECT id, payload FROM spool ORDER BY id LIMIT 1"
            row = self._database.execute(oldest).fetchone()
            if row is None:
                await self._is_filled.wait()
            else:
                await self._deliver(station, *row)

    async def _deliver(self, station: Station, number: int, payload: bytes) -> None:
        message = decode(payload)
        try:
            await station.send(message)  # however often the connection is lost meanwhile
        except OperationRefusedError as refusal:  # it will not be taken tomorrow either
            print(f"{message.command}: {refusal}", file=sys.stderr)
        self._database.execute("DELETE FROM spool WHERE id = ?", (number,))


class Gateway:
    """What a base station must know: its end points, and a downlink queue for each."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._keys: dict[int, bytes] = {}
        self._sent: set[int] = set()
        self._queues: dict[int, dict[int, DownlinkDataQueue]] = defaultdict(dict)

    async def serve(self, events: StationEvents) -> None:
        """Answer the Service Center."""
        async for event in events:
            if isinstance(event, Online) and not event.resumed:  # it tells everything again
                self._keys.clear()
                self._queues.clear()
                self._sent.clear()
            elif isinstance(event, Attached):  # over the air, as we have reported
                self._keys[event.request.ep_eui] = event.response.nwk_sn_key
            elif isinstance(event, Detached):
                self._keys.pop(event.request.ep_eui, None)
            elif isinstance(event, Request):
                self._take(event)

    def _take(self, request: Request) -> None:
        match request.message:
            case AttachPropagate(ep_eui=ep_eui) as message:
                self._keys[ep_eui] = message.nwk_sn_key  # for the radio
                self._queues.pop(ep_eui, None)
                tell("attached", ep_eui)
            case DetachPropagate(ep_eui=ep_eui):
                self._keys.pop(ep_eui, None)
                self._queues.pop(ep_eui, None)
                tell("detached", ep_eui)
            case DownlinkDataQueue(que_id=que_id) if request.reissued and que_id in self._sent:
                pass  # our answer was lost; the downlink was not
            case DownlinkDataQueue(ep_eui=ep_eui) as message if ep_eui in self._keys:
                self._queues[ep_eui][message.que_id] = message
                tell("queued", ep_eui, que_id=message.que_id)
            case DownlinkDataRevoke(ep_eui=ep_eui, que_id=que_id) if que_id in self._queues[ep_eui]:
                del self._queues[ep_eui][que_id]
                tell("revoked", ep_eui, que_id=que_id)
            case DownlinkDataQueue() | DownlinkDataRevoke():
                return request.refuse(Code.ENOENT, "no such end point or downlink here")
            case _:
                return request.refuse(Code.EOPNOTSUPP, "this gateway cannot do that")
        request.respond()

    async def listen(self) -> None:
        """Keep what the radio hears, and use the downlink window after it."""
        async for line in trio.wrap_file(sys.stdin):
            heard = json.loads(line)
            ep_eui, user_data = parse_eui(heard.pop("ep_eui")), bytes.fromhex(heard.pop("data"))
            known = {"dl_open": False, "response_exp": False, "dl_ack": False, **heard}
            uplink = UplinkData(ep_eui=ep_eui, user_data=user_data, rx_time=time.time_ns(), **known)
            self._spool.put(uplink)
            tell("kept", ep_eui, packet_cnt=uplink.packet_cnt)
            if uplink.dl_open:
                self._use_window(uplink)

    def _use_window(self, uplink: UplinkData) -> None:
        ep_eui, cnt = uplink.ep_eui, uplink.packet_cnt
        queue = self._queues[ep_eui]
        fitting = [
            each
            for each in queue.values()
            if (each.packet_cnt is None or cnt in each.packet_cnt)
            and (uplink.response_exp or not each.exp_only)
        ]
        if fitting:
            sent = max(fitting, key=lambda each: each.prio)
            entry = 0 if sent.packet_cnt is None else sent.packet_cnt.index(cnt)
            tell("transmitted", ep_eui, que_id=sent.que_id, data=sent.user_data[entry].hex())
            self._spool.put(
                DownlinkDataResult(
                    ep_eui=ep_eui,
                    que_id=sent.que_id,
                    result="sent",
                    tx_time=time.time_ns(),
                    packet_cnt=cnt,
                )
            )
            self._sent.add(sent.que_id)
            del queue[sent.que_id]


async def main() -> None:
    host, port, eui, certs, file = sys.argv[1:]
    context = client_context(
        cert_file=Path(certs, f"{eui}_cert.pem"),
        key_file=Path(certs, f"{eui}_key.pem"),
        ca_file=Path(certs, "ca_cert.pem"),
    )
    identity = Identity(eui=parse_eui(eui), model="downlink_gateway", bidi=True)
    events, spool = StationEvents(), Spool(file)
    gateway = Gateway(spool)
    async with (
        open_station(
            (host, int(port)), identity=identity, ssl_context=context, take=events.put
        ) as station,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(spool.deliver, station)
        nursery.start_soon(gateway.serve, events)
        nursery.start_soon(gateway.listen)


if __name__ == "__main__":
    trio.run(main)
