"""What the tests of `link` and `server` share: doors that remember what they are told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgpack
import trio
from cryptography import x509
from cryptography.x509.oid import NameOID

from bssci.core.protocol.eui import parse_eui
from bssci.core.protocol.frames import encode_frame
from bssci.core.protocol.messages import ConnectResponse, Message, UplinkData
from bssci.core.runtime.link import Peer
from tests.fakes import SC_EUI

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Sequence

    from bssci.core.protocol.errors import StorageError
    from bssci.core.protocol.events import Answered, Connected, Refused, Requested
    from bssci.core.protocol.messages import Connect
    from bssci.core.protocol.resume import SessionRecord
    from bssci.core.runtime.link import Certified, Link, Refusal


def frame(content: dict[str, Any]) -> bytes:
    """The bytes of a message that our own codec would not send."""
    packed = msgpack.packb(content)
    assert packed is not None
    return encode_frame(packed)


@dataclass(eq=False)
class FakeDoors:
    """Doors that behave: a journal and sessions in memory, on a disk that can be slow or full.

    Attributes:
        told: what happened, in order; the first of each entry says what.
        journal: the uplinks that are safe.
        sessions: what is on disk.
        delay: how long a write takes, in seconds; none is instant.
        fault: why a write that begins now will fail.
        refusal: why nobody may come in.
        responses: what a request is answered with, by its type.
        bug: what any door raises that it must not raise; by the door's name.
    """

    context: ssl.SSLContext | None = None
    told: list[tuple[object, ...]] = field(default_factory=list)
    journal: list[UplinkData] = field(default_factory=list)
    sessions: dict[int, SessionRecord] = field(default_factory=dict)
    delay: float = 0.0
    fault: StorageError | None = None
    refusal: str | None = None
    responses: dict[type[Message], Message | Exception] = field(default_factory=dict)
    attending: Callable[[Link], Awaitable[None]] | None = None
    bug: dict[str, Exception] = field(default_factory=dict)
    uuids: int = 0

    def all(self, what: str) -> list[tuple[object, ...]]:
        """What was told of one kind, in order, without the kind."""
        return [entry[1:] for entry in self.told if entry[0] == what]

    @property
    def refusals(self) -> list[Refusal]:
        return [entry[1] for entry in self.told if entry[0] == "refused"]  # type: ignore[misc]

    def _tell(self, what: str, *details: object) -> None:
        self.told.append((what, *details))
        if bug := self.bug.get(what):
            raise bug

    async def _write(self) -> None:
        fault = self.fault
        await trio.sleep(self.delay)
        if fault is not None:
            raise fault

    def ssl_context(self) -> ssl.SSLContext:
        self._tell("context")
        assert self.context is not None
        return self.context

    def identify(self, tls: Certified, address: str) -> Peer:
        der = tls.getpeercert(binary_form=True)
        assert der is not None
        subject = x509.load_der_x509_certificate(der).subject
        names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        euis = frozenset(parse_eui(name) for name in names if len(name) == 16)
        return Peer(address, subject.rfc4514_string(), hashlib.sha256(der).hexdigest(), euis)

    def introduce(self) -> ConnectResponse:
        self.uuids += 1
        uuid = self.uuids.to_bytes(16, "big")
        return ConnectResponse(sc_eui=SC_EUI, sn_resume=False, sn_sc_uuid=uuid)

    async def admit(self, connect: Connect, peer: Peer) -> str | None:
        self._tell("admit", connect.bs_eui)
        return self.refusal

    async def load_session(self, bs_eui: int) -> SessionRecord | None:
        await trio.lowlevel.checkpoint()
        return self.sessions.get(bs_eui)

    async def save_session(self, record: SessionRecord) -> None:
        self._tell("save", record)
        await self._write()
        self.sessions[record.bs_eui] = record

    async def drop_session(self, bs_eui: int) -> None:
        self._tell("drop", bs_eui)
        await self._write()
        self.sessions.pop(bs_eui, None)

    async def take_uplinks(self, link: Link, uplinks: Sequence[Requested]) -> None:
        found = [each.message for each in uplinks if isinstance(each.message, UplinkData)]
        self._tell("uplinks", [message.packet_cnt for message in found])
        await self._write()
        self.journal += found

    async def take_request(self, link: Link, request: Requested) -> Message:
        self._tell("request", request.message)
        await self._write()
        response = self.responses[type(request.message)]
        if isinstance(response, Exception):
            raise response
        return response

    def take_completion(self, link: Link, request: Message) -> None:
        self._tell("completion", request)

    def note_outcomes(self, link: Link, outcomes: Sequence[Answered | Refused]) -> None:
        self._tell("outcomes", list(outcomes))

    def take_answer(self, link: Link, outcome: Answered | Refused) -> None:
        self._tell("answer", outcome)

    def link_up(self, link: Link, event: Connected) -> None:
        self._tell("up", link.bs_eui, event.resumed)

    async def attend(self, link: Link) -> None:
        self._tell("attend", link.bs_eui)
        if self.attending:
            await self.attending(link)

    def link_down(self, link: Link, reason: str) -> None:
        self._tell("down", link.bs_eui, reason)

    def refused(self, refusal: Refusal) -> None:
        self._tell("refused", refusal)
