"""Loads against events: what a read of the source may change, and what has overtaken it."""

from __future__ import annotations

import pytest

from imperfect_dollop.replica import holding as holding_module
from imperfect_dollop.replica import table as table_module
from imperfect_dollop.replica.loads import SLICE
from imperfect_dollop.replica.messages import Kind
from imperfect_dollop.replica.stamp import ABSENT, Stamp

from .builders import (
    NOW,
    Row,
    adds_up,
    create,
    delete,
    doubts,
    found,
    give,
    holds,
    load_all,
    make,
    reread,
    stamp,
    time,
    update,
)

ONE, TWO = Row(1, 1, "first"), Row(1, 2, "second")
S1 = stamp(1, 1)


# -- complete loads --------------------------------------------------------------------------------


def test_a_complete_load_becomes_the_content_and_tells_the_differences() -> None:
    replica = make()
    give(replica, create(ONE, 1), create(Row(2), 2), create(Row(3), 3))
    differences = load_all(replica, TWO, Row(2), Row(4), second=10)
    assert holds(replica, TWO, Row(2), Row(4))
    assert [one.kind for one in differences] == [Kind.FOUND] * 3
    assert adds_up(replica)

    sibling = make("c")
    give(sibling, create(ONE, 1), create(Row(2), 2), create(Row(3), 3))
    assert give(sibling, *differences, origin="a") == []
    assert sibling.table.live == replica.table.live


def test_a_load_that_finds_nothing_new_publishes_nothing_and_keeps_the_stamps() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    assert load_all(replica, ONE, second=10) == []
    assert replica.table.stamp(1) == S1
    assert replica.confirmed == time(10)
    assert replica.known_since(1) == time(10)


def test_a_row_written_during_the_load_keeps_what_the_event_said() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    assert load_all(replica, ONE, second=2, during=[update(TWO, 3, S1)]) == []
    assert holds(replica, TWO)


def test_a_row_deleted_during_the_load_stays_deleted() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    assert load_all(replica, ONE, second=2, during=[delete(1, 1, 3, S1)]) == []
    assert holds(replica)


def test_a_row_created_during_the_load_is_not_removed() -> None:
    replica = make()
    load_all(replica, second=2, during=[create(ONE, 3)])
    assert holds(replica, ONE)


def test_an_event_that_was_ignored_overtakes_the_load_as_well() -> None:
    # Ignored and in doubt: which of the two the load has seen is not known.
    replica = make()
    give(replica, create(TWO, 5))
    load_all(replica, ONE, second=6, during=[update(ONE, 2, ABSENT)])
    assert holds(replica, TWO)


def test_our_own_write_overtakes_the_load() -> None:
    replica = make()
    load = replica.begin_load(NOW)
    write = replica.begin_write(1)
    replica.wrote(write, Kind.CREATE, 1, ONE, NOW + 1)
    replica.end_write(write)
    list(replica.replace(load, {}))
    assert holds(replica, ONE)


def test_absent_keys_are_removed_and_leave_tombstones() -> None:
    replica = make()
    give(replica, create(TWO, 1))
    (gone,) = load_all(replica, second=10)
    assert holds(replica)
    assert replica.table.dead == {1: Stamp(2, time(10), "a")}
    assert (gone.content, gone.base) == (None, stamp(2, 1))


def test_a_row_that_came_while_slices_were_taken_over_is_not_removed() -> None:
    replica = make()
    rows = {key: Row(key) for key in range(2 * SLICE)}
    load = replica.begin_load(NOW)
    slices = replica.replace(load, rows)
    assert len(next(slices)) == SLICE
    give(replica, create(Row(-1), 1), delete(SLICE + 1, 1, 2, ABSENT))
    for _ in slices:
        pass
    assert -1 in replica.table.live
    assert SLICE + 1 not in replica.table.live
    assert len(replica.table.live) == 2 * SLICE


def test_a_tombstone_that_is_forgotten_while_a_load_is_taken_over_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_module, "MAX_TOMBSTONES", 1)
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: 7)  # one bucket
    replica = make()
    give(replica, create(Row(1), 1), create(Row(2), 1), delete(2, 1, 2, S1))
    load_all(replica, second=10)  # which buries 1, so that 2 is forgotten before it is come to
    assert replica.table.dead == {1: Stamp(1, time(10), "a")}


def test_a_tombstone_gives_way_to_a_load_that_began_after_it() -> None:
    replica = make()
    give(replica, create(ONE, 1), delete(1, 1, 2, S1))
    (back,) = load_all(replica, ONE, second=10)
    assert holds(replica, ONE)
    assert back.base == stamp(1, 2)


def test_an_overrun_load_changes_nothing_and_confirms_nothing() -> None:
    replica = make()
    replica.window.limit = 2
    load = replica.begin_load(NOW)
    give(replica, *[create(Row(key), key) for key in (1, 2, 3)])
    assert list(replica.replace(load, {9: Row(9)})) == [[]]
    assert holds(replica, Row(1), Row(2), Row(3))
    assert replica.confirmed == 0


def test_a_clear_overtakes_the_load() -> None:
    replica = make()
    load = replica.begin_load(NOW)
    replica.cleared()
    list(replica.replace(load, {1: ONE}))
    assert holds(replica)
    assert replica.confirmed == 0


def test_an_older_load_that_ends_later_does_not_lower_the_confirmation() -> None:
    replica = make()
    old, young = replica.begin_load(NOW), replica.begin_load(NOW + 5)
    list(replica.replace(young, {}))
    list(replica.replace(old, {}))
    assert replica.confirmed == time(5)


# -- loads that overlap: which of them read first is not known -------------------------------------


def test_a_read_by_key_overtakes_a_complete_load_that_is_under_way() -> None:
    replica = make()
    load = replica.begin_load(NOW)
    reread(replica, 1, TWO, 1)
    list(replica.replace(load, {1: ONE}))
    assert holds(replica, TWO)


def test_a_complete_load_overtakes_the_reads_by_key_that_are_under_way() -> None:
    replica = make()
    read = replica.begin_load(NOW)
    load_all(replica, TWO, second=1)
    assert replica.loaded(read, 1, ONE) == (False, None)
    assert holds(replica, TWO)


@pytest.mark.parametrize("row", [ONE, TWO, None])
def test_of_two_reads_of_a_key_the_second_to_end_does_not_count(row: Row | None) -> None:
    replica = make()
    give(replica, create(ONE, 1))
    older, younger = replica.begin_load(NOW + 2), replica.begin_load(NOW + 3)
    assert replica.loaded(younger, 1, row)[0]
    assert replica.loaded(older, 1, Row(1, 3, "third")) == (False, None)
    assert replica.table.live.get(1) == row


def test_a_write_that_failed_overtakes_the_reads_that_are_under_way() -> None:
    # Whether the source has it is not known, and the read may be older.
    replica = make()
    give(replica, create(ONE, 1))
    load = replica.begin_load(NOW + 2)
    assert doubts(replica.unsure(1)) == {1}
    assert replica.loaded(load, 1, ONE) == (False, None)


# -- reads by key ----------------------------------------------------------------------------------


def test_a_read_that_differs_is_held_and_told() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    counts, event = reread(replica, 1, TWO, 10)
    assert counts
    assert event == found(1, TWO, Stamp(2, time(10), "a"), S1)
    assert holds(replica, TWO)


def test_a_read_of_a_row_that_is_gone_leaves_a_tombstone_above_its_version() -> None:
    replica = make()
    give(replica, create(TWO, 1))
    counts, event = reread(replica, 1, None, 10)
    assert counts
    assert event == found(1, None, Stamp(2, time(10), "a"), stamp(2, 1))
    assert holds(replica)


def test_a_read_that_confirms_tells_nothing_and_keeps_the_stamp() -> None:
    # With a new stamp every sibling's next event would look doubtful.
    replica = make()
    give(replica, create(ONE, 1))
    assert reread(replica, 1, ONE, 10) == (True, None)
    assert replica.table.stamp(1) == S1
    assert replica.known_since(1) == time(10)
    assert give(replica, update(TWO, 11, S1)) == []


def test_a_read_that_confirms_absence_is_remembered_as_proof() -> None:
    replica = make()
    give(replica, create(ONE, 1), delete(1, 1, 2, S1))
    reread(replica, 1, None, 10)
    assert doubts(give(replica, create(TWO, 5, base=stamp(1, 2)))) == {1}
    assert holds(replica)


@pytest.mark.parametrize("row", [None, TWO])
def test_a_read_that_events_overtook_does_not_count(row: Row | None) -> None:
    replica = make()
    give(replica, create(ONE, 1))
    load = replica.begin_load(NOW + 2)
    give(replica, update(Row(1, 3, "third"), 3, S1))
    assert replica.loaded(load, 1, row) == (False, None)
    assert holds(replica, Row(1, 3, "third"))


def test_on_demand_an_event_of_a_key_not_yet_held_overtakes_its_read() -> None:
    replica = make(whole=False)
    load = replica.begin_load(NOW)
    give(replica, update(TWO, 1, S1))
    assert replica.loaded(load, 1, ONE) == (False, None)


def test_on_demand_forgetting_overtakes_the_read() -> None:
    replica = make(whole=False)
    load = replica.begin_load(NOW)
    replica.forget(1)
    assert replica.loaded(load, 1, ONE) == (False, None)
    assert holds(replica)


def test_on_demand_a_miss_is_remembered_and_a_row_replaces_it() -> None:
    replica = make(whole=False)
    assert reread(replica, 1, None, 1) == (True, None)
    assert replica.table.dead == {1: Stamp(0, time(1), "a")}
    assert reread(replica, 1, ONE, 2)[0]
    assert holds(replica, ONE)


def test_a_load_of_ours_is_later_than_all_that_was_taken_in_before() -> None:
    replica = make()
    give(replica, create(ONE, 130))
    assert reread(replica, 1, TWO, 10)[0]
    assert replica.table.stamp(1).time > time(130)


def test_proofs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding_module, "MAX_PROVEN", 3)
    replica = make()
    give(replica, *[create(Row(key), 1) for key in range(10)])
    for key in range(10):
        reread(replica, key, Row(key), 10)
    assert len(replica.holding._proven) <= 3


def test_tombstones_are_swept_when_old_and_seen_by_all() -> None:
    replica = make()
    for key in (1, 2):
        give(replica, delete(key, 1, 10.0 * key, ABSENT))
    later = NOW + 10_000
    assert replica.sweep(later, horizon=time(5)) == 0
    assert replica.sweep(NOW + 500, horizon=time(9_999)) == 0
    assert replica.sweep(later, horizon=time(15)) == 1
    assert list(replica.table.dead) == [2]
