import json
from dataclasses import dataclass

import pytest

from bssci.core.center.receptions import SettledUplink
from bssci.core.center.rpc import InvalidRequestError, NotFoundError
from bssci.core.runtime.explaining import find_uplink
from bssci.core.runtime.store import open_store


@dataclass(frozen=True)
class Kept:
    id: int
    body: str


KEPT = [Kept(number, json.dumps({"id": f"0a1b2c3d-{number:x}"})) for number in (1, 26, 255)]


async def after(number, limit):
    return [each for each in KEPT if each.id > number][:limit]


@pytest.mark.parametrize("uid", ["0a1b2c3d-1a", " 0A1B2C3D-1A\n"])
async def test_an_uplink_is_found_by_its_id(uid):
    assert await find_uplink(uid, after) == KEPT[1]


@pytest.mark.parametrize("uid", ["0a1b2c3d-2", "0a1b2c3d-fff", "ffffffff-1a", "0a1b2c3d-0"])
async def test_an_id_that_nothing_has_is_not_found(uid):
    with pytest.raises(NotFoundError, match=f"there is no uplink {uid}"):
        await find_uplink(uid, after)


@pytest.mark.parametrize("uid", ["", "26", "0a1b2c3d", "0a1b2c3d-", "0a1b2c3d-" + "f" * 16, "-x"])
async def test_what_cannot_be_an_id_is_refused(uid):
    with pytest.raises(InvalidRequestError, match="is no id of an uplink"):
        await find_uplink(uid, after)


async def test_it_is_found_in_a_real_store_under_the_name_that_the_store_gives(tmp_path):
    async with open_store(tmp_path / "bssci.db") as store:
        for _ in range(3):
            number = store.next_uplink()
            uplink = SettledUplink(
                id=number,
                ep_eui=1,
                packet_cnt=number,
                digest=b"d",
                received_ns=number,
                journal_row=number,
                body=json.dumps({"id": store.uid(number)}),
            )
            await store.settle([uplink], settled_through=0)
        assert (await find_uplink(store.uid(2), store.life.uplinks_after)).id == 2
