"""Downlinks without a disk: what stands behind `Downlinks` where a database does not matter."""

from typing import TYPE_CHECKING

from bssci.core.runtime.downlinks import Downlinks
from tests.life_fakes import House

if TYPE_CHECKING:
    from bssci.core.center.dispatch import News
    from bssci.core.center.downlinks import DownlinkRecord
    from bssci.core.protocol.errors import StorageError
    from bssci.core.protocol.messages import DownlinkRxStatus


class DownlinkBook:
    """Keeps what it is given; takes nothing while it has a `fault`."""

    def __init__(self) -> None:
        self.records: dict[int, DownlinkRecord] = {}
        self.fault: StorageError | None = None
        self._last_id = 0

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def decide(self, records):
        await self.flush()
        for record in records:
            self.note(record)

    def note(self, record):
        self.records[record.downlink.que_id] = record

    async def flush(self):
        if self.fault is not None:
            raise self.fault

    async def pending(self):
        return list(self.records.values())

    async def listing(self, ep_eui, state, count):
        return [
            each
            for _, each in sorted(self.records.items(), reverse=True)
            if ep_eui in (None, each.downlink.ep_eui) and state in (None, each.state)
        ][:count]

    async def find(self, que_id):
        return self.records.get(que_id)


class DownlinkDesk:
    """The downlinks of a `House`, and what was told of them.

    Attributes:
        mute: base stations that cannot transmit.
    """

    def __init__(self, house: House, *, lifetime: float = 3600.0, max_per_sensor: int = 5) -> None:
        self.book = DownlinkBook()
        self.news: list[News] = []
        self.receptions: list[tuple[int, DownlinkRxStatus]] = []
        self.mute: set[int] = set()
        self.downlinks = Downlinks(
            self.book,
            house.life,
            find=house.sensors.find,
            can_transmit=lambda bs_eui: (
                house.life.lifecycle.is_connected(bs_eui) and bs_eui not in self.mute
            ),
            lifetime=lambda: lifetime,
            max_per_sensor=lambda: max_per_sensor,
            unix_ns=house.unix_ns,
            tell=self.news.append,
            tell_reception=lambda bs_eui, report: self.receptions.append((bs_eui, report)),
        )
