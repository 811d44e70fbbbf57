"""A Service Center of one's own, without MQTT: each uplink becomes a line of uplinks.jsonl.

    python examples/own_sink.py FOLDER PORT

FOLDER is one that `bssci init FOLDER` has made, for its certificates. Ctrl-C ends it.
"""

import json
import os
import signal
import sys
from pathlib import Path

import trio

from bssci import ServiceCenter, Uplink, make_config


async def main() -> None:
    folder, port = sys.argv[1:]
    config = make_config(folder, server_eui="70B3D59CD0000009", server_port=int(port))

    async def keep(uplink: Uplink) -> None:
        """It is safe when this returns; if it raises, the same uplink comes again."""
        line = json.dumps(uplink.as_json()).encode() + b"\n"
        async with await trio.open_file(Path(folder, "uplinks.jsonl"), "ab", buffering=0) as file:
            await file.write(line)
            await trio.to_thread.run_sync(os.fsync, file.fileno())

    center = ServiceCenter(config, uplink_sink=keep)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            print("port", await nursery.start(center.run), flush=True)
            await anext(signals)
            center.stop()  # what was taken still goes into the file


if __name__ == "__main__":
    trio.run(main)
