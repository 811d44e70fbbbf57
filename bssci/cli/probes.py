"""What only the running service can tell, asked as a client and called as a base station.

The port is tried as a base station does it: TCP, TLS with a certificate of our authority, and the
connect operation as far as the answer of the Service Center. That is then declined with an error,
so that no base station is left behind which never was one.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bssci.cli import settings
from bssci.cli.broker_probe import probe_broker
from bssci.cli.checks import Case, Finding
from bssci.core.protocol.errors import BssciError, RemoteProtocolError

if TYPE_CHECKING:
    import ssl

    import trio

    from bssci.core.protocol.messages import Message
    from bssci.core.runtime.config import Config

__all__ = ["PROBES", "Probe", "ask_service"]

Probe = Callable[[Case], Awaitable[Finding]]

ANSWER_TIMEOUT = 5.0  # seconds, from the request to the answer of the service
CALL_TIMEOUT = 8.0  # seconds, from the first packet to the last answer
READ_SIZE = 4096
VALIDITY = 0.01  # years of the certificate that we call with
FAREWELL = "bssci doctor has seen enough"


# --- the running service ---


async def ask_service(config: Config) -> Case:
    """What there is to know before anything is checked."""
    import trio

    from bssci.core.runtime.client import open_client

    try:
        with trio.fail_after(ANSWER_TIMEOUT):
            async with open_client(config.control.socket) as client:
                return Case(config, await client.call("service.info"))
    except trio.TooSlowError:
        silence = (
            f"the service at {config.control.socket} gives no answer within {ANSWER_TIMEOUT:g} s",
            "its log may say what it is busy with; else restart it",
        )
    except BssciError as error:
        silence = str(error), getattr(error, "hint", "")
    return Case(config, None, silence)


async def probe_control(case: Case) -> Finding:
    """The service runs, and it is this one."""
    from bssci import __version__

    if case.service is None:
        return Finding("service", False, *case.silence)
    version, file = case.service["version"], case.service["config_file"]
    seen = f"process {case.service['pid']}, version {version}, with {file or 'no file'}"
    if file is not None and case.config.file is not None and Path(file) != case.config.file:
        advice = f"say -c {file}, or give the two another control.socket each"
        return Finding("service", False, f"{seen}, not with {case.config.file}", advice)
    if version != __version__:
        advice = "restart it, so that it has what is installed"
        return Finding("service", False, f"{seen}; {__version__} is installed", advice)
    return Finding("service", True, seen)


async def probe_port(case: Case) -> Finding:
    """The port is ours, or free for us."""
    import trio

    host, port = case.config.server.host, case.config.server.port
    where = f"{host} port {port}"
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        return _port_fault(case, where, error)
    for listener in listeners:
        await listener.aclose()
    if case.service is None or not port:
        return Finding("port", True, f"{where} is free")
    advice = "it was set after the start, as it seems: restart the service"
    return Finding("port", False, f"the service runs, and {where} is free", advice)


def _port_fault(case: Case, where: str, error: OSError) -> Finding:
    match error.errno:
        case errno.EADDRINUSE if case.service is not None:
            return Finding("port", True, f"{where} is in use while the service runs")
        case errno.EADDRINUSE:
            advice = f"end it (ss -ltnp 'sport = :{case.config.server.port}' shows it), or set "
            advice += "server.port"
            return Finding("port", False, f"another program has {where}", advice)
        case errno.EACCES:
            advice = "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or a port above 1023"
            return Finding("port", False, f"{where}: permission denied", advice)
        case errno.EADDRNOTAVAIL:
            advice = "set server.host to one that it has, or to 0.0.0.0"
            return Finding("port", False, f"{where}: this machine has no such address", advice)
    seen = f"cannot listen on {where}: {error.strerror or error}"
    return Finding("port", False, seen, "set server.host and server.port to what there is")


# --- from outside ---


async def probe_outside(case: Case) -> Finding:
    """A base station gets in."""
    import trio

    config = case.config
    if not config.server.port:
        return Finding("connect", None, "server.port is 0, any free one")
    if case.service is None:
        return Finding("connect", None, "no service runs")
    try:
        caller = await trio.to_thread.run_sync(_caller, config)
        with trio.fail_after(CALL_TIMEOUT):
            if caller.eui is None:
                return await _shake_hands(config, caller.context)
            return await _connect(config, caller.context, caller.eui)
    except trio.TooSlowError:
        return _outside_fault(f"no complete connect within {CALL_TIMEOUT:g} s")
    except OSError as error:
        return _outside_fault(f"no connection: {error.strerror or error}")
    except trio.BrokenResourceError as error:
        return _outside_fault(_tls_words(error))
    except BssciError as error:
        return _outside_fault(str(error))


def _outside_fault(seen: str) -> Finding:
    advice = "the log of the service says what it has seen of it; so does `bssci stations refused`"
    return Finding("connect", False, seen, advice)


def _tls_words(error: BaseException) -> str:
    import ssl

    match error.__cause__:
        case ssl.SSLCertVerificationError(verify_message=words):
            return (
                f"TLS: the certificate that the service shows is not accepted: {words}. It may "
                "still have an older one: `kill -HUP` has it read the files"
            )
        case ssl.SSLEOFError():
            return "TLS: the connection was ended in the middle of it"
        case ssl.SSLError(reason=str(reason)):
            return f"TLS: {reason.replace('_', ' ').lower()}"
        case cause:
            return f"the service has ended the connection: {cause or error}"


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who calls: a base station that our authority vouches for, or nobody."""

    context: ssl.SSLContext
    eui: int | None


def _caller(config: Config) -> _Caller:
    """Raises CertificateError: the files of the authority cannot be used."""
    import ssl
    import tempfile

    from bssci.core.runtime.authority import (
        ca_key_file,
        load_authority,
        make_station_certificate,
        write_pair,
    )
    from bssci.core.runtime.tls import client_context, read_certificates

    ca_file = config.tls.ca_file
    signing_key = ca_key_file(ca_file)
    if not signing_key.exists():
        read_certificates(ca_file, "CA file")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(ca_file)
        return _Caller(context, None)
    authority, eui = load_authority(ca_file, signing_key), settings.new_eui()
    with tempfile.TemporaryDirectory() as name:
        cert_file, key_file = Path(name) / "cert.pem", Path(name) / "key.pem"
        pair = make_station_certificate(authority, eui, years=VALIDITY)
        write_pair(pair, cert_file, key_file)
        context = client_context(cert_file=cert_file, key_file=key_file, ca_file=ca_file)
    return _Caller(context, eui)


async def _open(config: Config, context: ssl.SSLContext) -> trio.abc.Stream:
    from bssci.core.runtime.station import tls_connector

    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.server.host, config.server.host)
    return await tls_connector(host, config.server.port, context)()


async def _shake_hands(config: Config, context: ssl.SSLContext) -> Finding:
    """TLS only: the Service Center must want a certificate, of which we have none."""
    import trio

    try:
        stream = await _open(config, context)
        try:
            with trio.move_on_after(ANSWER_TIMEOUT):
                await stream.receive_some(READ_SIZE)
        finally:
            await trio.aclose_forcefully(stream)
    except trio.BrokenResourceError as error:
        reason = str(getattr(error.__cause__, "reason", ""))
        if not any(word in reason for word in ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")):
            raise
        seen = "TLS is right as far as the question for a certificate"
        note = "for more, the key of the authority would have to be here: ca_key.pem"
        return Finding("connect", True, seen, note)
    return _outside_fault("the program that has the port asks for no certificate")


async def _connect(config: Config, context: ssl.SSLContext, eui: int) -> Finding:
    import os

    from bssci.core.protocol.eui import format_eui
    from bssci.core.protocol.messages import Connect, ConnectResponse, Error
    from bssci.core.protocol.resume import VERSION

    async with await _open(config, context) as stream:
        call = _Call(stream)
        await call.say(
            Connect(
                op_id=0,
                version=VERSION,
                bs_eui=eui,
                name="bssci doctor",
                bidi=False,
                sn_bs_uuid=os.urandom(16),
            )
        )
        answer = await call.hear()
        if isinstance(answer, Error):
            return _outside_fault(f"it refuses the connect with {answer.code}: {answer.message}")
        if not isinstance(answer, ConnectResponse):
            return _outside_fault(f"it answers the connect with {answer.command}")
        await call.say(Error(op_id=0, code=errno.ECANCELED, message=FAREWELL))
        await call.hear()
    who = f"TLS and BSSCI, to Service Center {format_eui(answer.sc_eui)}"
    if answer.sc_eui != config.server.eui:
        advice = "another Service Center has the port, or the EUI was set after the start"
        seen = f"{who}, which is not {format_eui(config.server.eui)}"
        return Finding("connect", False, seen, advice)
    return Finding("connect", True, who)


class _Call:
    """Messages over a stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        from bssci.core.protocol.frames import FrameDecoder

        self._stream = stream
        self._frames = FrameDecoder()

    async def say(self, message: Message) -> None:
        from bssci.core.protocol.codec import encode
        from bssci.core.protocol.frames import encode_frame

        await self._stream.send_all(encode_frame(encode(message)))

    async def hear(self) -> Message:
        """Raises RemoteProtocolError: there is no message, or none that can be read."""
        from bssci.core.protocol.codec import decode

        while True:
            for payload in self._frames.payloads():
                return decode(payload)
            data = await self._stream.receive_some(READ_SIZE)
            if not data:
                raise RemoteProtocolError("it has ended the connection without an answer")
            self._frames.feed(data)


PROBES: dict[str, Probe] = {
    "service": probe_control,
    "port": probe_port,
    "connect": probe_outside,
    "broker": probe_broker,
}
"""In the order in which they are told."""
