"""Which certificate an operator means who approves one for a base station."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bssci.core.center.rpc import InvalidRequestError, NotFoundError, RequestError
from bssci.core.protocol.eui import format_eui

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Waiting", "chosen", "parse_fingerprint"]

SHA256_DIGITS = 64
LEAST_DIGITS = 8  # of a fingerprint that is not given to its end

REFUSED = "`bssci stations refused` shows who was not let in, and with which certificate"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A certificate with which a base station was not let in, and could be.

    Attributes:
        fingerprint: SHA-256, in lower-case hex.
        subject: for people.
    """

    fingerprint: str
    subject: str


def chosen(bs_eui: int, waiting: Iterable[Waiting], given: str | None) -> str:
    """The fingerprint of the certificate that is to be approved.

    Args:
        waiting: the certificates with which this base station was refused, in any order.
        given: its fingerprint, or how that begins; None: the only one that waits. One in full
            length need not have been seen yet.

    Raises:
        NotFoundError: none waits, or none that begins so.
        RequestError: several do.
        InvalidRequestError: what is given is no fingerprint.
    """
    # Later knocks with the same certificate are no other certificate.
    known = {each.fingerprint: each for each in waiting}
    digits = "" if given is None else parse_fingerprint(given)
    if len(digits) == SHA256_DIGITS:
        return digits
    fitting = [each for each in known.values() if each.fingerprint.startswith(digits)]
    if len(fitting) == 1:
        return fitting[0].fingerprint
    name = format_eui(bs_eui)
    if not fitting:
        which = f"that begins with {digits} " if digits else ""
        raise NotFoundError(
            f"no certificate {which}waits to be approved for base station {name}", hint=REFUSED
        )
    listed = ", ".join(f"{each.fingerprint[:16]}… ({each.subject})" for each in fitting[:5])
    raise RequestError(
        f"base station {name} was refused with {len(fitting)} certificates: {listed}",
        hint="say which one is its own: --fingerprint; it shows the same on its web page, or "
        "`openssl x509 -noout -fingerprint -sha256 -in FILE` does",
    )


def parse_fingerprint(text: str) -> str:
    """A SHA-256 fingerprint, or the beginning of one, as lower-case digits.

    >>> parse_fingerprint("AB:CD:EF:01:23")
    'abcdef0123'

    Raises:
        InvalidRequestError: it is none.
    """
    digits = text.strip().lower().replace(":", "").replace(" ", "")
    is_hex = digits and not digits.strip("0123456789abcdef")
    if not is_hex or not LEAST_DIGITS <= len(digits) <= SHA256_DIGITS:
        raise InvalidRequestError(
            f"{text[:80]!r} is no SHA-256 fingerprint: expected {SHA256_DIGITS} hexadecimal "
            f"digits, or at least the first {LEAST_DIGITS}"
        )
    return digits
