"""Over-the-air attach: signature, network session key, and the counter (BSSCI 1.0.0, 5.6).

BSSCI leaves the two computations to the mioty radio protocol: both take one AES block that begins
with the end point's EUI, and both use the network key that only the end point and we know.
`cryptography` is loaded when the first of them is done, so that importing this stays cheap.
"""

from __future__ import annotations

from bssci.core.protocol.errors import LocalProtocolError

__all__ = ["attach_counter_advances", "attach_signature", "session_key", "verify_attach"]

KEY_LENGTH = 16
SHORT_LENGTH = 4  # of nonce and signature

LAST_COUNT = 0xFFFFFF  # 24 bits

# Around the end of the 24 bits: who was last heard up here and is now heard down there has rolled
# over. The gap is as wide as an end point may attach without being heard once.
ROLL_OVER_FROM = 0xFFFF00
ROLL_OVER_TO = 0x100


def attach_signature(nwk_key: bytes, ep_eui: int, attach_cnt: int) -> bytes:
    """The four octets by which an end point proves in `att.sign` that it has the network key.

    Raises:
        LocalProtocolError: a key, EUI or counter that does not fit.
    """
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.cmac import CMAC

    # The counter has 24 bits on the air and 32 in this block. With 24 the block would be one octet
    # short, and its CMAC something else entirely.
    _check_count(attach_cnt)
    block = _eui_octets(ep_eui) + b"\xff\x00" + attach_cnt.to_bytes(4, "big") + b"\xff\xff"
    cmac = CMAC(AES(_sized(nwk_key, KEY_LENGTH, "network key")))
    cmac.update(block)
    return cmac.finalize()[:SHORT_LENGTH]


def verify_attach(nwk_key: bytes, ep_eui: int, attach_cnt: int, sign: bytes) -> bool:
    """Whether an attach was signed with this network key; takes as long whatever differs.

    Raises:
        LocalProtocolError: a key, EUI, counter or signature that does not fit.
    """
    from cryptography.hazmat.primitives.constant_time import bytes_eq

    expected = attach_signature(nwk_key, ep_eui, attach_cnt)
    return bytes_eq(expected, _sized(sign, SHORT_LENGTH, "signature"))


def session_key(nwk_key: bytes, ep_eui: int, nonce: bytes, sign: bytes) -> bytes:
    """The network session key that an attach with this nonce and signature leads to.

    It goes to base stations as `nwkSnKey`; the network key itself never does.

    Raises:
        LocalProtocolError: a key, EUI, nonce or signature that does not fit.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    seed = (
        _eui_octets(ep_eui)
        + _sized(nonce, SHORT_LENGTH, "nonce")
        + _sized(sign, SHORT_LENGTH, "signature")
    )
    # One block under a key of its own: there is nothing to chain.
    encryptor = Cipher(AES(_sized(nwk_key, KEY_LENGTH, "network key")), ECB()).encryptor()
    return encryptor.update(seed) + encryptor.finalize()


def attach_counter_advances(stored: int | None, new: int) -> bool:
    """Whether an attach with this counter is a new one, not one that was recorded and replayed.

    Args:
        stored: of the last attach that was accepted over the air; None: there was none, and any
            counter will do, 0 too.

    Raises:
        LocalProtocolError: a counter beyond 24 bits.
    """
    _check_count(new)
    if stored is None:
        return True
    _check_count(stored)
    return new > stored or (stored > ROLL_OVER_FROM and new < ROLL_OVER_TO)


# --- what is refused; the words hold no content: it may be a key in the wrong place ---


def _sized(octets: bytes, length: int, what: str) -> bytes:
    if len(octets) != length:
        raise LocalProtocolError(f"a {what} has {length} octets, not {len(octets)}")
    return octets


def _eui_octets(ep_eui: int) -> bytes:
    try:
        return ep_eui.to_bytes(8, "big")
    except OverflowError as error:
        raise LocalProtocolError("an EUI has 64 bits and no sign") from error


def _check_count(count: int) -> None:
    if not 0 <= count <= LAST_COUNT:
        raise LocalProtocolError("an attach counter has 24 bits and no sign")
