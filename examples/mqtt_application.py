"""An application on MQTT: prints what sensors say, and answers those that expect it.

    python examples/mqtt_application.py BROKER [PORT] [BASE_TOPIC]

What became of each answer (queued, sent, acknowledged, ...) is printed as well.
"""

import json
import sys
from collections import deque
from functools import partial

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

say = partial(print, flush=True)
answered: deque[str] = deque(maxlen=1000)  # an uplink may come twice, with the same id


def take(client: Client, base: str, message: MQTTMessage) -> None:
    _, sensor, kind = message.topic.removeprefix(base).strip("/").split("/", 2)
    body = json.loads(message.payload)
    if kind == "dl/status":
        return say(sensor, "answer", body.get("ref"), body["result"], body.get("error", ""))
    say(sensor, body["cnt"], bytes(body["data"]).hex())
    if body["responseExp"] and body["id"] not in answered:
        answered.append(body["id"])
        answer = {"data": "4f4b", "ref": body["id"], "expires_in": 3600}
        client.publish(f"{base}/ep/{sensor}/dl", json.dumps(answer), qos=1)


def main(broker: str, port: str = "1883", base: str = "mioty") -> None:
    client = Client(CallbackAPIVersion.VERSION2)
    topics = [(f"{base}/ep/+/ul", 1), (f"{base}/ep/+/dl/status", 1)]
    client.on_connect = lambda client, *_: client.subscribe(topics)
    client.on_subscribe = lambda *_: say("subscribed")
    client.on_message = lambda client, _, message: take(client, base, message)
    client.connect(broker, int(port))
    client.loop_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
