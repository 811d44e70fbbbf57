import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bssci.core.center.rpc import NotFoundError, RequestError
from bssci.core.protocol.errors import StorageError
from bssci.core.runtime.approval import Approvals
from bssci.core.runtime.link import Peer, Refusal

if TYPE_CHECKING:
    from bssci.core.runtime.tls import IdentityMode

EUI, NAME = 0x70B3D59CD0000001, "70B3D59CD0000001"
OTHER = 0x70B3D59CD0000002
OLD, NEW, FOREIGN = "aa" * 32, "bb" * 32, "cc" * 32


@dataclass
class Pins:
    """A store that keeps pins, or cannot."""

    pins: dict[int, str] = field(default_factory=lambda: {EUI: OLD})
    fault: StorageError | None = None

    async def repin(self, bs_eui, fingerprint, now_ns):
        assert now_ns > 0
        if self.fault is not None:
            raise self.fault
        before = self.pins.get(bs_eui)
        self.pins[bs_eui] = fingerprint
        return before


@dataclass
class Link:
    """A connection that can be ended."""

    peer: Peer
    ended: str | None = None

    def close(self, reason):
        self.ended = reason


class World:
    def __init__(self):
        self.store = Pins()
        self.mode: IdentityMode = "pin"
        self.links: dict[int, Any] = {}
        self.refusals = [
            (1.0, Refusal("identity_mismatch", peer(NEW), EUI, "bound")),
            (2.0, Refusal("identity_mismatch", peer(NEW), EUI, "bound")),
            (3.0, Refusal("identity_mismatch", peer(FOREIGN, OTHER), EUI, "names another")),
            (4.0, Refusal("identity_mismatch", peer("dd" * 32), OTHER, "bound")),
            (5.0, Refusal("protocol_error", peer("ee" * 32), EUI, "nonsense")),
            (6.0, Refusal("no_certificate", Peer("192.0.2.9"), None, "none")),
        ]
        approvals = Approvals(
            self.store,
            mode=lambda: self.mode,
            refusals=lambda: self.refusals,
            find=self.find,
            link_of=lambda bs_eui: self.links.get(bs_eui),
        )
        self.approve = approvals.methods()["stations.approve"]

    def find(self, text):
        if text != "Tower":
            raise NotFoundError(f"there is no {text}")
        return EUI


def peer(fingerprint, *euis):
    return Peer("192.0.2.7", "CN=bs", fingerprint, frozenset(euis))


@pytest.fixture
def world():
    return World()


APPROVED = {"eui": NAME, "fingerprint": NEW, "before": OLD}


@pytest.mark.parametrize("eui", [NAME, "70-b3-d5-9c-d0-00-00-01", "Tower"])
async def test_the_certificate_it_was_refused_with_is_bound_to_it(world, eui):
    assert await world.approve(eui=eui) == APPROVED
    assert world.store.pins == {EUI: NEW}


async def test_one_that_was_not_seen_yet_can_be_bound(world):
    answer = await world.approve(eui=NAME, fingerprint="12" * 32)
    assert answer == APPROVED | {"fingerprint": "12" * 32}


async def test_a_certificate_that_names_another_base_station_is_not_bound(world):
    with pytest.raises(RequestError) as caught:
        await world.approve(eui=NAME, fingerprint=FOREIGN)
    assert (str(caught.value), world.store.pins) == (
        "not approved: the certificate names 70B3D59CD0000002, not 70B3D59CD0000001",
        {EUI: OLD},
    )


async def test_where_nobody_is_bound_there_is_nothing_to_approve(world):
    world.mode = "match"
    with pytest.raises(RequestError, match=r'tls\.identity is "match"'):
        await world.approve(eui=NAME)


async def test_a_base_station_that_was_not_refused_has_nothing_waiting(world):
    with pytest.raises(NotFoundError):
        await world.approve(eui="70B3D59CD0000009")


async def test_a_disk_that_takes_nothing_is_told(world):
    world.store.fault = StorageError("no space left")
    with pytest.raises(RequestError, match="not approved, nothing is changed: no space left"):
        await world.approve(eui=NAME)


async def test_who_is_connected_with_another_certificate_is_cut_off(world):
    world.links[EUI] = Link(peer(OLD))
    await world.approve(eui=NAME)
    assert world.links[EUI].ended == "another certificate was approved for it"


async def test_who_is_connected_with_the_approved_one_stays(world):
    world.links[EUI] = Link(peer(NEW))
    await world.approve(eui=NAME)
    assert world.links[EUI].ended is None


async def test_the_log_tells_what_was_bound(world, caplog):
    caplog.set_level(logging.INFO)
    await world.approve(eui=NAME)
    (record,) = caplog.records
    assert (record.bs_eui, record.fingerprint, record.before) == (NAME, NEW, OLD)
