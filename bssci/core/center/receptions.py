"""What was heard and what is made of it: receptions, telegrams, reports, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from bssci.core.protocol.messages import UplinkData, VmUplinkData

__all__ = [
    "DIGEST_SIZE",
    "NO_COUNTER",
    "VM",
    "Heard",
    "Outcome",
    "Reception",
    "Report",
    "SettledUplink",
    "Sighting",
    "Telegram",
    "best_first",
    "digest_of",
    "known_eq_snr",
]

DIGEST_SIZE = 16  # octets

VM = "vm"
"""The channel of Variable MAC reports: what `SettledUplink.channel` says of them."""

NO_COUNTER = -1
"""The packet counter of what has none."""


@dataclass(frozen=True, slots=True)
class Reception:
    """One uplink as heard by one base station.

    Attributes:
        row: its place in the journal; rows grow in the order in which we took the uplinks.
        received_ns: Unix time by our clock at which its last byte had arrived.
        session: the `snScUuid` of the base station's session; with `uplink.op_id` it names the
            operation, also when the base station issues it again.
        payload: the message as it came, MessagePack or JSON.
        reissued: the base station may have issued this operation before (resumed session).
    """

    row: int
    bs_eui: int
    received_ns: int
    session: bytes
    uplink: UplinkData
    payload: bytes
    reissued: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """Something that a base station heard of no end point of ours: a Variable MAC telegram.

    Nothing tells a copy of it at another base station: each report is published for itself.

    Attributes: as of a `Reception`.
    """

    bs_eui: int
    received_ns: int
    session: bytes
    message: VmUplinkData
    reissued: bool = False

    @property
    def digest(self) -> bytes:
        """The operation in 16 octets: the same when it is issued again."""
        operation = self.session + self.message.op_id.to_bytes(8, "big", signed=True)
        return blake2b(operation, digest_size=DIGEST_SIZE).digest()


@dataclass(frozen=True, slots=True)
class Heard:
    """A reception, and its reception time by our clock, where the base station's error is known."""

    reception: Reception
    rx_time_corrected: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telegram:
    """One sent uplink, complete: publish it.

    Attributes:
        digest: of format and user data; with end point and counter it names the telegram.
        counter_reused: the end point sent this counter with other content not long ago.
        receptions: one for each base station, best first.
        received_ns: Unix time of the arrival of the first reception.
        row: the journal row of the first reception.
    """

    ep_eui: int
    packet_cnt: int
    digest: bytes
    counter_reused: bool
    receptions: tuple[Heard, ...]
    received_ns: int
    row: int

    @property
    def best(self) -> Reception:
        return self.receptions[0].reception


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledUplink:
    """One telegram after its copies were removed, or one report, as it is kept.

    Attributes:
        id: its number in the outbox.
        ep_eui: the end point; of a report, the base station.
        packet_cnt: `NO_COUNTER` for a report.
        digest: of format and user data, with `ep_eui` and `packet_cnt` the identity of a telegram;
            of a report, its operation.
        received_ns: Unix time of its first reception.
        journal_row: the journal row of its first reception; 0 for a report.
        body: what is published, JSON.
        channel: None for a telegram of an end point, `VM` for a report.
    """

    id: int
    ep_eui: int
    packet_cnt: int
    digest: bytes
    received_ns: int
    journal_row: int
    body: str
    channel: str | None = None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is left on disk of a reception: enough to recognise a copy."""

    bs_eui: int
    rx_time: int
    rx_time_corrected: int | None = None


class Outcome(Enum):
    """What a reception is."""

    FIRST = "first"
    """Of a new telegram."""
    COUNTER_REUSED = "counter reused"
    """Of a new telegram, whose counter was used with other content not long ago."""
    COPY = "copy"
    """Of a telegram that is still open; it is released with it."""
    LATE_COPY = "late copy"
    """Of a telegram that was released early: it came within the window. Worth waiting for."""
    OVERDUE_COPY = "overdue copy"
    """Of a telegram whose window was over. Waiting for it would be in vain."""

    @property
    def is_copy(self) -> bool:
        return self not in (Outcome.FIRST, Outcome.COUNTER_REUSED)


def digest_of(uplink: UplinkData) -> bytes:
    """The content of an uplink in 16 octets: format and user data."""
    return blake2b(bytes((uplink.format,)) + uplink.user_data, digest_size=DIGEST_SIZE).digest()


def known_eq_snr(uplink: UplinkData) -> float | None:
    """The equivalent SNR in dB; None where the base station does not know it.

    One firmware never leaves out a number: 0.0 stands for unknown. It is told by `profile` and
    `mode`, which it never sends.
    """
    if uplink.eq_snr == 0.0 and uplink.profile is None and uplink.mode is None:
        return None
    return uplink.eq_snr


def best_first(heard: Collection[Heard]) -> tuple[Heard, ...]:
    """By equivalent SNR where every base station knows its own, otherwise by SNR.

    Of two alike the earlier one goes first.
    """
    if len(heard) == 1:
        return tuple(heard)
    equivalent = {h.reception.bs_eui: known_eq_snr(h.reception.uplink) for h in heard}
    if None in equivalent.values():
        return tuple(sorted(heard, key=lambda h: h.reception.uplink.snr, reverse=True))
    return tuple(sorted(heard, key=lambda h: equivalent[h.reception.bs_eui] or 0.0, reverse=True))
