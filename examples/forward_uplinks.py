"""A gateway that forwards uplinks from standard input, a file or a program, to a Service Center.

    python examples/forward_uplinks.py HOST PORT EUI CERTS < uplinks.jsonl

CERTS is the folder that `bssci certs station EUI` has made; a line of input is one uplink:
{"ep_eui": "70B3D59CD1000001", "packet_cnt": 7, "data": "0142", "snr": 12.5, "rssi": -98.0}
"""

import json
import sys
import time
from pathlib import Path

import trio

from bssci import Identity, client_context, open_station, parse_eui
from bssci.core.protocol.messages import UplinkData


def uplink_of(line: str) -> UplinkData:
    heard = json.loads(line)
    ep_eui, user_data = parse_eui(heard.pop("ep_eui")), bytes.fromhex(heard.pop("data"))
    radio = {"rx_time": time.time_ns(), "dl_open": False, "response_exp": False, "dl_ack": False}
    return UplinkData(ep_eui=ep_eui, user_data=user_data, **{**radio, **heard})


async def main() -> None:
    host, port, eui, certs = sys.argv[1:]
    names = f"{eui}_cert.pem", f"{eui}_key.pem", "ca_cert.pem"
    cert, key, ca = (Path(certs, name) for name in names)
    context = client_context(cert_file=cert, key_file=key, ca_file=ca)
    address, identity = (host, int(port)), Identity(eui=parse_eui(eui))
    async with open_station(address, identity=identity, ssl_context=context) as station:
        async for line in trio.wrap_file(sys.stdin):
            await station.send_uplink(uplink_of(line))  # now it is on the Service Center's disk


if __name__ == "__main__":
    trio.run(main)
