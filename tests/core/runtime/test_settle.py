"""Settling: from the journal to the outbox, also after a crash and while the disk is full."""

import json
import logging

import pytest
import trio
import trio.testing

from bssci.core.center.dedup import Deduplicator
from bssci.core.center.receptions import Reception, Report, SettledUplink, digest_of
from bssci.core.center.registry import Registry
from bssci.core.protocol.errors import StorageError
from bssci.core.protocol.messages import Connect, UplinkData, VmUplinkData
from bssci.core.runtime import settle
from bssci.core.runtime.settle import Settlement

END_POINT = 0xFCA84A030000127C
NORTH, SOUTH = 0x70B3D59CD0000001, 0x70B3D59CD0000002
NOON = 1_756_193_850_000_000_000
SECOND = 1_000_000_000


def heard(row, bs_eui=NORTH, *, cnt=1, ep_eui=END_POINT, at=NOON, data=b"\x01", **fields):
    uplink = UplinkData(
        op_id=row,
        ep_eui=ep_eui,
        rx_time=at,
        packet_cnt=cnt,
        snr=10.0,
        rssi=-90.0,
        user_data=data,
        dl_open=False,
        response_exp=False,
        dl_ack=False,
    )
    return Reception(row, bs_eui, at, b"s" * 16, uplink, b"", **fields)


def report(op_id=1, bs_eui=NORTH, *, session=b"s" * 16, reissued=False):
    message = VmUplinkData(
        op_id=op_id,
        mac_type=1,
        user_data=b"\x2c",
        trx_time=1,
        sys_time=2,
        freq_off=0.0,
        snr=1.0,
        rssi=-90.0,
        carr_space=1,
        patt_grp=0,
        patt_num=0,
        crc=(1, 2),
    )
    return Report(bs_eui, NOON, session, message, reissued)


class FakeJournal:
    """A journal and outbox in memory, that survives whoever settles."""

    def __init__(self):
        self.rows: list[Reception] = []
        self.uplinks: list[SettledUplink] = []
        self.settled_through = 0
        self.failures = 0
        self.is_unreadable = False
        self._last_uplink = 0

    def next_uplink(self):
        self._last_uplink += 1
        return self._last_uplink

    def uid(self, uplink_id):
        return f"j-{uplink_id}"

    async def settle(self, uplinks, *, settled_through):
        await trio.lowlevel.checkpoint()
        if self.failures:
            self.failures -= 1
            raise StorageError("no space", code=28)
        assert settled_through >= self.settled_through
        self.settled_through = settled_through
        self.uplinks += uplinks

    async def unsettled(self, after, limit):
        await trio.lowlevel.checkpoint()
        after = max(after, self.settled_through)
        return [row for row in self.rows if row.row > after][:limit]

    async def remembered(self, since_ns, limit, *, before=None):
        await trio.lowlevel.checkpoint()
        end = before.id if before else self._last_uplink + 1
        known = [u for u in self.uplinks if u.received_ns >= since_ns and u.id < end]
        return known[::-1][:limit]

    async def find_uplinks(self, ep_eui, packet_cnt):
        await trio.lowlevel.checkpoint()
        if self.is_unreadable:
            raise StorageError("cannot read")
        return [u for u in self.uplinks if (u.ep_eui, u.packet_cnt) == (ep_eui, packet_cnt)][::-1]

    async def has_report(self, bs_eui, digest):
        await trio.lowlevel.checkpoint()
        if self.is_unreadable:
            raise StorageError("cannot read")
        return any((u.ep_eui, u.digest, u.channel) == (bs_eui, digest, "vm") for u in self.uplinks)

    def published(self):
        return [
            (u.packet_cnt, [r["bs_eui"] for r in json.loads(u.body)["receptions"]])
            for u in self.uplinks
        ]


def a_settlement(journal, *stations, drop_unknown=False, early=True, told=None, **options):
    registry = Registry()
    for station in stations:
        registry.station_connected(
            Connect(version="1.0.0", bs_eui=station, bidi=False, sn_bs_uuid=b"u" * 16),
            since_ns=NOON,
        )
    return Settlement(
        journal,
        Deduplicator(early=early),
        registry,
        is_registered=lambda _: False,
        drop_unknown=drop_unknown,
        memory_ns=600 * SECOND,
        unix_ns=lambda: NOON,
        on_settled=(lambda _: None) if told is None else told.extend,
        **options,
    )


def take(settlement, journal, *receptions):
    """As the store does: on disk first, then told."""
    journal.rows += receptions
    settlement.committed(receptions)


async def test_copies_within_the_window_become_one_uplink(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH, SOUTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1), heard(2, SOUTH))
    await settlement.wait_until_idle()
    assert trio.current_time() == 2.0
    assert journal.published() == [(1, [f"{NORTH:016X}", f"{SOUTH:016X}"])]
    assert journal.settled_through == 2
    assert (settlement.received, settlement.duplicates, settlement.released) == (2, 1, 1)


async def test_with_one_base_station_nothing_waits(nursery, autojump_clock):
    journal = FakeJournal()
    told: list[SettledUplink] = []
    settlement = a_settlement(journal, NORTH, told=told)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    assert trio.current_time() == 0.0
    assert told == journal.uplinks


async def test_a_base_station_that_is_gone_is_not_waited_for(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH, SOUTH)
    await nursery.start(settlement.run)
    for cnt in (1, 2, 3):
        later = NOON + cnt * 100 * SECOND
        take(
            settlement,
            journal,
            heard(2 * cnt, cnt=cnt, at=later),
            heard(2 * cnt + 1, SOUTH, cnt=cnt, at=later),
        )
        await settlement.wait_until_idle()
    begun = trio.current_time()
    take(settlement, journal, heard(20, cnt=4, at=NOON + 900 * SECOND))
    await trio.testing.wait_all_tasks_blocked()
    settlement.station_gone(SOUTH)
    await settlement.wait_until_idle()
    assert trio.current_time() == begun
    assert [cnt for cnt, _ in journal.published()] == [1, 2, 3, 4]


async def test_uplinks_of_unknown_sensors_can_be_dropped_and_are_counted(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH, drop_unknown=True)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    assert (journal.uplinks, journal.settled_through) == ([], 1)
    assert (settlement.unregistered, settlement.released) == (1, 0)


async def test_what_is_done_with_unknown_sensors_can_change_for_the_next_uplink(
    nursery, autojump_clock
):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    for row, drop_unknown in ((1, False), (2, True), (3, False)):
        settlement.configure(drop_unknown=drop_unknown)
        take(settlement, journal, heard(row, cnt=row, at=NOON + row * 60 * SECOND))
        await settlement.wait_until_idle()
    assert [cnt for cnt, _ in journal.published()] == [1, 3]
    assert (settlement.unregistered, settlement.released, journal.settled_through) == (3, 2, 3)


async def test_who_was_heard_is_told_only_once_it_is_on_disk(nursery, autojump_clock):
    """What is learned from an uplink must not be ahead of the uplinks that a crash leaves."""
    journal, told = FakeJournal(), []
    journal.failures = 1

    def on_heard(telegrams, through):
        assert journal.uplinks[-1].id == through
        told.append((trio.current_time(), [each.packet_cnt for each in telegrams], through))

    settlement = a_settlement(journal, NORTH, on_heard=on_heard)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1), heard(2, cnt=2, ep_eui=7))
    await settlement.wait_until_idle()
    take(settlement, journal, heard(3, cnt=3, at=NOON + 60 * SECOND))
    await settlement.wait_until_idle()
    assert told == [(settle.RETRY, [1, 2], 2), (settle.RETRY, [3], 3)]


async def test_of_dropped_uplinks_nothing_is_told(nursery, autojump_clock):
    journal, told = FakeJournal(), []
    settlement = a_settlement(
        journal, NORTH, drop_unknown=True, on_heard=lambda *heard: told.append(heard)
    )
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    assert (told, journal.settled_through) == ([], 1)


async def test_what_a_killed_process_left_is_settled_before_anything_new(autojump_clock):
    journal = FakeJournal()
    async with trio.open_nursery() as first_life:
        settlement = a_settlement(journal, NORTH, SOUTH)
        await first_life.start(settlement.run)
        take(settlement, journal, heard(1), heard(2, cnt=2))
        first_life.cancel_scope.cancel()
    assert journal.uplinks == []
    async with trio.open_nursery() as second_life:
        settlement = a_settlement(journal)
        await second_life.start(settlement.run)
        take(settlement, journal, heard(3, SOUTH, cnt=3))
        await settlement.wait_until_idle()
        second_life.cancel_scope.cancel()
    assert [cnt for cnt, _ in journal.published()] == [1, 2, 3]


async def test_a_copy_of_what_an_earlier_process_published_is_not_published_again(autojump_clock):
    journal = FakeJournal()
    for row, station in ((1, NORTH), (2, SOUTH)):
        async with trio.open_nursery() as life:
            settlement = a_settlement(journal)
            await life.start(settlement.run)
            take(settlement, journal, heard(row, station))
            await settlement.wait_until_idle()
            life.cancel_scope.cancel()
    assert journal.published() == [(1, [f"{NORTH:016X}"])]
    assert (settlement.duplicates, journal.settled_through) == (1, 2)


async def test_a_row_settled_before_the_crash_but_above_the_watermark_is_recognised(autojump_clock):
    """Row 2 went out early, row 1 still waited: the watermark had to stay below both."""
    journal = FakeJournal()
    journal.rows = [heard(1, cnt=1), heard(2, cnt=2, ep_eui=7)]
    body = json.dumps({"receptions": [{"bs_eui": f"{NORTH:016X}", "rxTime": NOON}]})
    digest = digest_of(journal.rows[1].uplink)
    journal.uplinks = [
        SettledUplink(
            id=1, ep_eui=7, packet_cnt=2, digest=digest, received_ns=NOON, journal_row=2, body=body
        )
    ]
    journal.next_uplink()
    async with trio.open_nursery() as life:
        settlement = a_settlement(journal)
        await life.start(settlement.run)
        await settlement.wait_until_idle()
        life.cancel_scope.cancel()
    assert [u.packet_cnt for u in journal.uplinks] == [2, 1]
    assert journal.settled_through == 2


async def test_an_operation_issued_again_after_days_is_not_published_again(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    await trio.sleep(5 * 86400)
    take(settlement, journal, heard(2, reissued=True))
    await settlement.wait_until_idle()
    assert [u.packet_cnt for u in journal.uplinks] == [1]
    assert settlement.duplicates == 1


async def test_after_an_attach_the_same_counters_are_new_uplinks(nursery, autojump_clock):
    """What was taken before the attach belongs to what was before."""
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1), heard(2))
    settlement.new_epoch(END_POINT)
    take(settlement, journal, heard(3), heard(4))
    await settlement.wait_until_idle()
    assert [u.journal_row for u in journal.uplinks] == [1, 3]
    assert (settlement.received, settlement.duplicates) == (4, 2)


async def test_what_was_before_an_attach_says_nothing_after_a_restart(autojump_clock):
    """Published before it, waiting from before it, waiting from after it, and new."""
    journal, attached = FakeJournal(), NOON + 5 * SECOND
    async with trio.open_nursery() as first_life:
        settlement = a_settlement(journal, NORTH)
        await first_life.start(settlement.run)
        take(settlement, journal, heard(1))
        await settlement.wait_until_idle()
        first_life.cancel_scope.cancel()
    journal.rows += [heard(2), heard(3, cnt=2), heard(4, at=attached + 1)]
    async with trio.open_nursery() as second_life:
        settlement = a_settlement(
            journal, NORTH, began_ns=lambda ep_eui: attached if ep_eui == END_POINT else 0
        )
        await second_life.start(settlement.run)
        take(
            settlement, journal, heard(5, SOUTH, at=attached + 2), heard(6, cnt=2, at=attached + 3)
        )
        await settlement.wait_until_idle()
        second_life.cancel_scope.cancel()
    assert sorted(u.journal_row for u in journal.uplinks) == [1, 3, 4, 6]
    assert settlement.duplicates == 2


async def test_an_attach_after_all_that_is_read_back_makes_what_comes_new(autojump_clock):
    journal = FakeJournal()
    async with trio.open_nursery() as first_life:
        settlement = a_settlement(journal, NORTH)
        await first_life.start(settlement.run)
        take(settlement, journal, heard(1))
        await settlement.wait_until_idle()
        first_life.cancel_scope.cancel()
    async with trio.open_nursery() as second_life:
        settlement = a_settlement(journal, NORTH, began_ns=lambda _: NOON + SECOND)
        await second_life.start(settlement.run)
        take(settlement, journal, heard(2, at=NOON + 2 * SECOND))
        await settlement.wait_until_idle()
        second_life.cancel_scope.cancel()
    assert [u.journal_row for u in journal.uplinks] == [1, 2]


async def test_if_it_cannot_be_looked_up_it_is_rather_published_twice(
    nursery, autojump_clock, caplog
):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    await trio.sleep(5 * 86400)
    journal.is_unreadable = True
    later = NOON + 5 * 86400 * SECOND
    take(settlement, journal, heard(2, at=later, reissued=True))
    await settlement.wait_until_idle()
    assert [u.packet_cnt for u in journal.uplinks] == [1, 1]
    assert "may be published twice: cannot read" in caplog.text


async def test_settled_uplinks_wait_for_a_full_disk_and_nothing_is_lost(
    nursery, autojump_clock, caplog
):
    caplog.set_level(logging.INFO)
    journal = FakeJournal()
    journal.failures = 3
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.wait_until_idle()
    assert [u.packet_cnt for u in journal.uplinks] == [1]
    assert trio.current_time() == 3 * settle.RETRY
    assert [record.getMessage() for record in caplog.records] == [
        "1 settled uplinks wait for the disk: no space",
        "1 settled uplinks waited for the disk and are on it",
    ]


async def test_when_settling_falls_behind_base_stations_wait(nursery, autojump_clock, monkeypatch):
    monkeypatch.setattr(settle, "MAX_WAITING", 2)
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    settlement.committed([heard(1), heard(2, cnt=2)])
    with trio.move_on_after(1) as too_full:
        await settlement.wait_for_room()
    assert too_full.cancelled_caught
    await nursery.start(settlement.run)
    await settlement.wait_for_room()


async def test_a_stored_body_that_cannot_be_read_is_told_and_passed_over(autojump_clock, caplog):
    journal = FakeJournal()
    journal.uplinks = [
        SettledUplink(
            id=journal.next_uplink(),
            ep_eui=7,
            packet_cnt=2,
            digest=b"d" * 16,
            received_ns=NOON,
            journal_row=1,
            body="not JSON",
        )
    ]
    async with trio.open_nursery() as life:
        await life.start(a_settlement(journal).run)
        life.cancel_scope.cancel()
    assert "a stored uplink cannot be read" in caplog.text


async def test_the_clock_errors_that_an_earlier_process_knew_are_used(autojump_clock):
    years = 85_443_199 * SECOND
    journal = FakeJournal()
    body = json.dumps(
        {
            "receptions": [
                {"bs_eui": f"{SOUTH:016X}", "rxTime": NOON - years, "rxTimeCorrected": NOON}
            ]
        }
    )
    journal.uplinks = [
        SettledUplink(
            id=journal.next_uplink(),
            ep_eui=7,
            packet_cnt=1,
            digest=b"d" * 16,
            received_ns=NOON,
            journal_row=1,
            body=body,
        )
    ]
    settlement = a_settlement(journal)
    async with trio.open_nursery() as life:
        await life.start(settlement.run)
        life.cancel_scope.cancel()
    assert settlement._registry.clock_offset(SOUTH) == -years


async def test_it_is_not_idle_while_the_last_row_is_written(nursery, autojump_clock):
    class SlowJournal(FakeJournal):
        async def settle(self, uplinks, *, settled_through):
            await trio.sleep(1)
            await super().settle(uplinks, settled_through=settled_through)

    journal = SlowJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await trio.sleep(0.5)
    await settlement.wait_until_idle()
    assert trio.current_time() == 1.0
    assert len(journal.uplinks) == 1


async def test_a_row_that_we_cannot_judge_is_told_and_passed_over(nursery, autojump_clock, caplog):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    broken = heard(1)
    object.__setattr__(broken, "uplink", None)
    take(settlement, journal, broken, heard(2, cnt=2))
    await settlement.wait_until_idle()
    assert [u.packet_cnt for u in journal.uplinks] == [2]
    assert "journal row 1 is passed over; this is our fault" in caplog.text


# --- reports that are no uplinks ---


def reports_of(journal):
    return [(u.id, u.ep_eui, json.loads(u.body)["id"]) for u in journal.uplinks if u.channel]


async def test_a_report_is_on_disk_when_pass_on_returns(nursery, autojump_clock):
    journal = FakeJournal()
    told: list[SettledUplink] = []
    settlement = a_settlement(journal, NORTH, told=told)
    await nursery.start(settlement.run)
    passed = report()
    await settlement.pass_on(passed)
    (kept,) = journal.uplinks
    assert kept == SettledUplink(
        id=1,
        ep_eui=NORTH,
        packet_cnt=-1,
        digest=passed.digest,
        received_ns=NOON,
        journal_row=0,
        body=kept.body,
        channel="vm",
    )
    assert json.loads(kept.body)["id"] == "j-1"
    assert told == [kept]
    assert (settlement.received, settlement.released, settlement.unregistered) == (0, 0, 0)


async def test_reports_stay_in_the_order_in_which_they_came(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    async with trio.open_nursery() as base_stations:
        for bs_eui in (SOUTH, NORTH, 7):
            base_stations.start_soon(settlement.pass_on, report(bs_eui=bs_eui))
            await trio.testing.wait_all_tasks_blocked()
        await nursery.start(settlement.run)
    assert reports_of(journal) == [(1, SOUTH, "j-1"), (2, NORTH, "j-2"), (3, 7, "j-3")]


async def test_who_was_heard_is_told_without_the_reports(nursery, autojump_clock):
    journal, heard_of = FakeJournal(), []
    settlement = a_settlement(
        journal,
        NORTH,
        on_heard=lambda telegrams, through: heard_of.append((len(telegrams), through)),
    )
    await nursery.start(settlement.run)
    take(settlement, journal, heard(1))
    await settlement.pass_on(report())
    take(settlement, journal, heard(2, cnt=2, at=NOON + 60 * SECOND))
    await settlement.wait_until_idle()
    assert heard_of == [(1, 1), (1, 3)]
    assert [u.channel for u in journal.uplinks] == [None, "vm", None]


async def test_a_report_that_is_issued_again_is_kept_once(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    await settlement.pass_on(report(7))
    await settlement.pass_on(report(7, reissued=True))
    assert reports_of(journal) == [(1, NORTH, "j-1")]
    await settlement.pass_on(report(8, reissued=True))
    await settlement.pass_on(report(7, SOUTH, reissued=True))
    await settlement.pass_on(report(7, session=b"t" * 16))
    assert [eui for _, eui, _ in reports_of(journal)] == [NORTH, NORTH, SOUTH, NORTH]


async def test_if_a_report_cannot_be_looked_up_it_is_rather_published_twice(
    nursery, autojump_clock, caplog
):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    await nursery.start(settlement.run)
    await settlement.pass_on(report())
    journal.is_unreadable = True
    await settlement.pass_on(report(reissued=True))
    assert len(reports_of(journal)) == 2
    assert "a report that was sent again may be published twice: cannot read" in caplog.text


async def test_a_full_disk_refuses_a_report_and_the_base_station_keeps_it(nursery, autojump_clock):
    journal = FakeJournal()
    journal.failures = 1
    told: list[SettledUplink] = []
    settlement = a_settlement(journal, NORTH, told=told)
    await nursery.start(settlement.run)
    with pytest.raises(StorageError, match="no space") as caught:
        await settlement.pass_on(report())
    assert (caught.value.code, trio.current_time(), told) == (28, 0.0, [])
    await settlement.pass_on(report(reissued=True))
    assert reports_of(journal) == [(2, NORTH, "j-2")]


async def test_while_uplinks_wait_for_a_full_disk_reports_are_refused(nursery, autojump_clock):
    """Uplinks that were taken wait; reports that were not are still with their base stations."""
    journal = FakeJournal()
    refused: list[tuple[int, float]] = []
    journal.failures = 4

    async def pass_on(op_id):
        with pytest.raises(StorageError, match="no space"):
            await settlement.pass_on(report(op_id))
        refused.append((op_id, trio.current_time()))

    settlement = a_settlement(journal, NORTH)
    take(settlement, journal, heard(1))
    nursery.start_soon(pass_on, 1)
    await trio.testing.wait_all_tasks_blocked()
    nursery.start_soon(settlement.run)
    await trio.sleep(0.5 * settle.RETRY)
    nursery.start_soon(pass_on, 2)
    await settlement.wait_until_idle()
    assert refused == [(1, 0.0), (2, settle.RETRY)]
    assert ([u.packet_cnt for u in journal.uplinks], reports_of(journal)) == ([1], [])


async def test_a_report_for_which_nobody_waits_any_more_is_forgotten(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    with trio.move_on_after(1):
        await settlement.pass_on(report())
    await nursery.start(settlement.run)
    await settlement.pass_on(report(2))
    await settlement.wait_until_idle()
    assert reports_of(journal) == [(1, NORTH, "j-1")]


async def test_it_is_not_idle_while_a_report_waits(nursery, autojump_clock):
    journal = FakeJournal()
    settlement = a_settlement(journal, NORTH)
    nursery.start_soon(settlement.pass_on, report())
    await trio.testing.wait_all_tasks_blocked()
    await nursery.start(settlement.run)
    await settlement.wait_until_idle()
    assert len(journal.uplinks) == 1
