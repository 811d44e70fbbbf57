"""Over-the-air attach, against known answers: none of them was made with the code they test."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from bssci.core.protocol.errors import LocalProtocolError
from bssci.core.protocol.keys import (
    attach_counter_advances,
    attach_signature,
    session_key,
    verify_attach,
)


@dataclass(frozen=True)
class Answer:
    key: bytes
    eui: int
    count: int
    cmac: str
    nonce: str
    session_key: str

    @property
    def sign(self) -> bytes:
        return bytes.fromhex(self.cmac)[:4]


NIST = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
PLAIN = bytes.fromhex("00112233445566778899aabbccddeeff")

ANSWERS = [
    Answer(
        key=NIST,
        eui=0x70B3D56770111505,
        count=0x123456,
        cmac="d717341291981bc9f62bdd7bd83453a5",
        nonce="a1b2c3d4",
        session_key="e77429f27a4d62080a8cef1447a42777",
    ),
    Answer(
        key=NIST,
        eui=0x70B3D56770111505,
        count=0,
        cmac="4f79d27240bc07d9e5d7f21c9c68e0d6",
        nonce="00000000",
        session_key="95a03a9f205f9f4e237507b134eb2ff7",
    ),
    Answer(
        key=NIST,
        eui=0xFCA84A030000127C,
        count=1,
        cmac="3bb3adb89c1de5608f44965aa0fe4b40",
        nonce="01020304",
        session_key="5b2bf7672fece8ed75bed028cd26c9d2",
    ),
    Answer(
        key=NIST,
        eui=0xFCA84A030000127C,
        count=0xFFFFFF,
        cmac="9f23150329a7d1edb92f30ac0a28cb59",
        nonce="ffffffff",
        session_key="1dffe47f68b85007a9d7aae7ba526cfe",
    ),
    Answer(
        key=PLAIN,
        eui=0x74731D0000000016,
        count=7,
        cmac="6c38cc63bd08be40651e9368666e4351",
        nonce="deadbeef",
        session_key="35af1ad5d2da68ccce618d4d7504ddf9",
    ),
]

some = ANSWERS[0]
keys = st.binary(min_size=16, max_size=16)
four = st.binary(min_size=4, max_size=4)
euis = st.integers(0, 2**64 - 1)
counts = st.integers(0, 0xFFFFFF)


# --- signature and session key ---


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_signature_is_the_first_four_octets_of_the_cmac(answer):
    assert attach_signature(answer.key, answer.eui, answer.count) == answer.sign


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_session_key_is_the_known_one(answer):
    made = session_key(answer.key, answer.eui, bytes.fromhex(answer.nonce), answer.sign)
    assert made.hex() == answer.session_key


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_known_attach_is_taken_for_genuine(answer):
    assert verify_attach(answer.key, answer.eui, answer.count, answer.sign) is True


def test_the_block_with_a_counter_of_24_bits_is_not_what_is_signed():
    """Others had it so once; its 15 octets give another signature, which must not be accepted."""
    cmac = CMAC(AES(some.key))
    cmac.update(bytes.fromhex("70b3d56770111505ff00123456ffff"))
    wrong = cmac.finalize()[:4]
    assert wrong.hex() == "c31aeb23"
    assert verify_attach(some.key, some.eui, some.count, wrong) is False


@given(keys, euis, counts)
def test_what_is_signed_is_verified(key, eui, count):
    assert verify_attach(key, eui, count, attach_signature(key, eui, count)) is True


@given(st.integers(0, 31))
def test_one_bit_of_the_signature_is_enough_to_refuse_it(bit):
    forged = (int.from_bytes(some.sign) ^ 1 << bit).to_bytes(4)
    assert verify_attach(some.key, some.eui, some.count, forged) is False


@pytest.mark.parametrize(
    ("key", "eui", "count"),
    [
        (PLAIN, some.eui, some.count),
        (some.key, some.eui ^ 1, some.count),
        (some.key, some.eui, some.count + 1),
    ],
    ids=["key", "eui", "counter"],
)
def test_a_signature_holds_for_one_key_end_point_and_counter(key, eui, count):
    assert verify_attach(key, eui, count, some.sign) is False


@given(keys, euis, four, four)
def test_a_session_key_is_a_key_again(key, eui, nonce, sign):
    made = session_key(key, eui, nonce, sign)
    assert (len(made), made == key) == (16, False)


def test_the_session_key_depends_on_the_nonce():
    first, second = (session_key(some.key, some.eui, bytes(3) + n, some.sign) for n in (b"0", b"1"))
    assert first != second


# --- what does not fit ---


@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_a_network_key_of_another_length_is_refused_also_where_aes_would_take_it(length):
    key = b"\xab" * length
    words = f"a network key has 16 octets, not {length}"
    for make in (
        lambda: attach_signature(key, 1, 2),
        lambda: verify_attach(key, 1, 2, bytes(4)),
        lambda: session_key(key, 1, bytes(4), bytes(4)),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            make()
        assert str(caught.value) == words


@pytest.mark.parametrize("length", [0, 3, 5, 16])
def test_a_nonce_or_signature_of_another_length_is_refused(length):
    octets = b"\xab" * length
    told = []
    for make in (
        lambda: session_key(some.key, 1, octets, bytes(4)),
        lambda: session_key(some.key, 1, bytes(4), octets),
        lambda: verify_attach(some.key, 1, 2, octets),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            make()
        told.append(str(caught.value))
    assert told == [
        f"a nonce has 4 octets, not {length}",
        f"a signature has 4 octets, not {length}",
        f"a signature has 4 octets, not {length}",
    ]


@pytest.mark.parametrize("eui", [-1, 2**64])
def test_a_number_that_is_no_eui_is_refused(eui):
    for make in (
        lambda: attach_signature(some.key, eui, 2),
        lambda: session_key(some.key, eui, bytes(4), bytes(4)),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            make()
        assert str(caught.value) == "an EUI has 64 bits and no sign"


@pytest.mark.parametrize("count", [-1, 0x1000000])
def test_a_counter_beyond_24_bits_is_refused(count):
    for make in (
        lambda: attach_signature(some.key, 1, count),
        lambda: attach_counter_advances(None, count),
        lambda: attach_counter_advances(count, 1),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            make()
        assert str(caught.value) == "an attach counter has 24 bits and no sign"


# --- the counter ---


@given(counts)
def test_the_first_attach_may_carry_any_counter(new):
    assert attach_counter_advances(None, new) is True


@pytest.mark.parametrize(
    ("stored", "new", "advances"),
    [
        (0, 0, False),
        (0, 1, True),
        (7, 6, False),
        (7, 7, False),
        (7, 8, True),
        (7, 0xFFFFFF, True),
        (0xFFFF00, 0, False),
        (0xFFFF00, 0xFF, False),
        (0xFFFF00, 0xFFFF01, True),
        (0xFFFF01, 0, True),
        (0xFFFF01, 0xFF, True),
        (0xFFFF01, 0x100, False),
        (0xFFFFFF, 0, True),
        (0xFFFFFF, 0xFF, True),
        (0xFFFFFF, 0x100, False),
        (0xFFFFFF, 0xFFFFFF, False),
    ],
)
def test_a_counter_goes_up_and_rolls_over_only_at_its_end(stored, new, advances):
    assert attach_counter_advances(stored, new) is advances


@given(counts)
def test_the_same_counter_is_never_new(count):
    assert attach_counter_advances(count, count) is False


# --- what is loaded when ---


def test_cryptography_is_loaded_only_when_something_is_computed():
    program = (
        "import sys\n"
        "from bssci.core.protocol.keys import attach_counter_advances, attach_signature\n"
        "attach_counter_advances(None, 1)\n"
        "assert 'cryptography' not in sys.modules\n"
        "attach_signature(bytes(16), 1, 2)\n"
        "assert 'cryptography' in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
