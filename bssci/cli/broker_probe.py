"""Whether the broker takes us: one CONNECT of MQTT 3.1.1, by hand.

The link of the service would announce itself and leave a last word; this leaves no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bssci.cli.checks import Case, Finding
from bssci.core.protocol.errors import BssciError, RemoteProtocolError

if TYPE_CHECKING:
    from bssci.core.runtime.config import Config

__all__ = ["connect_packet", "probe_broker"]

CALL_TIMEOUT = 8.0  # seconds, from the first packet to the last answer
READ_SIZE = 4096
CONNACK_SIZE = 4

# MQTT 3.1.1, table 3.1
_REFUSALS = {
    1: "it does not speak MQTT 3.1.1",
    2: "it does not take our client identifier",
    3: "it is not available",
    4: "it refuses user and password",
    5: "this user may not connect",
}
_HELP = {
    2: "see what it asks of client identifiers, and mqtt.client_id",
    4: "set mqtt.username and mqtt.password_file to what the broker knows",
    5: "set mqtt.username and mqtt.password_file to what the broker knows",
}


async def probe_broker(case: Case) -> Finding:
    """The broker is there and takes us, with the user and the password that are set."""
    import trio

    mqtt = case.config.mqtt
    if not mqtt.enabled:
        note = "" if case.service is None else "uplinks are kept and shown, and go no further"
        return Finding("broker", True, "none is set (mqtt.enabled)", note)
    where = f"{mqtt.host} port {mqtt.port}"
    try:
        with trio.fail_after(CALL_TIMEOUT):
            code = await _ask_broker(case.config)
    except trio.TooSlowError:
        return _broker_fault(f"{where} does not answer within {CALL_TIMEOUT:g} s")
    except OSError as error:
        return _broker_fault(f"{where} cannot be reached: {error.strerror or error}")
    except trio.BrokenResourceError as error:
        return _broker_fault(f"{where}: {_broker_words(error)}")
    except BssciError as error:
        return _broker_fault(f"{where}: {error}")
    who = f"as {mqtt.username}" if mqtt.username else "without a user"
    if code:
        seen = f"{where}, {who}: {_REFUSALS.get(code, f'it refuses us with code {code}')}"
        return Finding("broker", False, seen, _HELP.get(code, "see the log of the broker"))
    return Finding("broker", True, f"{where} takes us {who}")


def _broker_fault(seen: str) -> Finding:
    return Finding("broker", False, seen, "start it, or set mqtt.host, mqtt.port and mqtt.tls")


def _broker_words(error: BaseException) -> str:
    import ssl

    match error.__cause__:
        case ssl.SSLCertVerificationError(verify_message=words):
            return f"its certificate is not accepted (mqtt.ca_file): {words}"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS fails: {reason.replace('_', ' ').lower()}"
        case cause:
            return f"it has ended the connection: {cause or error}"


async def _ask_broker(config: Config) -> int:
    """The return code of its CONNACK; 0: it takes us."""
    import trio

    from bssci.core.runtime.mqtt import open_broker_stream
    from bssci.core.runtime.setup import broker_settings

    given = broker_settings(config)
    stream = await open_broker_stream(given)
    try:
        await stream.send_all(connect_packet(given.username, given.password))
        answer = b""
        while len(answer) < CONNACK_SIZE:
            data = await stream.receive_some(READ_SIZE)
            if not data:
                raise RemoteProtocolError("it has ended the connection without an answer")
            answer += data
        if answer[:2] != b"\x20\x02":
            raise RemoteProtocolError("it speaks no MQTT")
        await stream.send_all(b"\xe0\x00")  # DISCONNECT
        return answer[3]
    finally:
        await trio.aclose_forcefully(stream)


def connect_packet(username: str | None, password: str | None) -> bytes:
    """CONNECT of MQTT 3.1.1 (3.1), with an identifier that is nobody else's.

    With that of the service the broker would take us for it, and end its connection.
    """
    import secrets

    flags = 0x02  # clean session
    fields = [f"bssci-doctor-{secrets.token_hex(4)}"]
    for flag, text in ((0x80, username), (0x40, password)):
        if text is not None:
            flags |= flag
            fields.append(text)
    payload = b"".join(_prefixed(text.encode()) for text in fields)
    body = _prefixed(b"MQTT") + bytes([4, flags, 0, 60]) + payload
    return b"\x10" + _length(len(body)) + body


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _length(number: int) -> bytes:
    """Seven bits a byte, the lowest first (2.2.3)."""
    digits = []
    while True:
        number, digit = divmod(number, 128)
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)
