"""Events that wait: in order, bounded, merged under pressure, given up never in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop import outbox as outbox_module
from imperfect_dollop.outbox import Outbox
from imperfect_dollop.replica.messages import MAX_BATCH, Event, Kind
from imperfect_dollop.replica.stamp import ABSENT, Stamp

from .builders import NOW, Row, create, delete, event, holds, make, resends, stamp, update
from .builders import give as deliver


def drained(outbox: Outbox) -> tuple[list[Event], int]:
    """All that is left, and how many were given up."""
    events: list[Event] = []
    skipped = 0
    while True:
        batch, gone = outbox.batch()
        skipped += gone
        if not batch:
            return events, skipped
        events += batch


def chain(key: int, length: int) -> list[Event]:
    """A row created and updated: each event built on the one before."""
    events = [create(Row(key, 1), 0)]
    for version in range(2, length + 1):
        events.append(update(Row(key, version), version, events[-1].stamp))
    return events


def test_events_go_in_the_order_in_which_they_came_unmerged() -> None:
    outbox = Outbox(100)
    events = [*chain(1, 3), *chain(2, 2), delete(1, 3, 9, stamp(3, 3))]
    for one in events:
        outbox.add(one)
    assert len(outbox) == 6
    assert outbox.batch() == (events, 0)
    assert len(outbox) == 0
    assert outbox.batch() == ([], 0)


def test_a_batch_is_bounded_by_number_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(10_000)
    for key in range(MAX_BATCH + 1):
        outbox.add(create(Row(key), 0))
    assert [len(outbox.batch()[0]) for _ in range(3)] == [MAX_BATCH, 1, 0]
    monkeypatch.setattr(outbox_module, "MAX_BATCH_BYTES", 100)
    for key in range(4):
        outbox.add(create(Row(key, 1, "x" * 99), 0))
    assert [len(outbox.batch()[0]) for _ in range(4)] == [1, 1, 1, 1]


def test_under_pressure_the_newest_of_a_key_stays_on_the_oldest_base() -> None:
    outbox = Outbox(4)
    events = chain(1, 5)
    for one in events:
        outbox.add(one)
    (left,), skipped = drained(outbox)
    assert skipped == 0
    assert outbox.merged == 4
    assert (left.content, left.stamp, left.base) == (events[-1].content, events[-1].stamp, ABSENT)


def test_what_was_merged_is_a_clean_successor_for_a_sibling() -> None:
    outbox, sibling = Outbox(6), make()
    events = [*chain(1, 4), *chain(2, 3)]
    for one in events:
        outbox.add(one)
    assert deliver(sibling, *drained(outbox)[0]) == []
    assert holds(sibling, Row(1, 4), Row(2, 3))


def test_a_row_deleted_and_created_again_is_merged_into_the_row() -> None:
    outbox, sibling = Outbox(2), make()
    sibling.table.put(1, Row(1, 7), stamp(7, 1))
    gone = delete(1, 7, 2, stamp(7, 1))
    for one in (gone, create(Row(1), 3, gone.stamp), create(Row(2), 4)):
        outbox.add(one)
    assert deliver(sibling, *drained(outbox)[0]) == []
    assert holds(sibling, Row(1), Row(2))


@pytest.mark.parametrize("kind", [Kind.CLEAR, Kind.CONFIRM, Kind.REREAD, Kind.FORGET])
def test_nothing_is_merged_across_an_announcement(kind: Kind) -> None:
    outbox = Outbox(3)
    one, two = chain(1, 2)
    announced = Event(kind, b"", None, Stamp(0, 1, "b"), ABSENT)
    for waiting in (one, announced, two, create(Row(2), 9)):
        outbox.add(waiting)
    left, skipped = drained(outbox)
    assert [waiting.kind for waiting in left] == [kind, Kind.UPDATE, Kind.CREATE]
    assert skipped == 1
    assert outbox.merged == 0


def test_what_is_given_up_is_the_oldest_and_its_number_is_missed() -> None:
    outbox, writer, sibling = Outbox(3), make("b"), make()
    for key in range(5):
        outbox.add(create(Row(key), 0))
    events, skipped = outbox.batch()
    assert skipped == 2
    writer.skip(skipped)
    assert resends(sibling.receive(writer.pack("rows", events), NOW)) == [("b", 1, 2)]
    assert holds(sibling, Row(2), Row(3), Row(4))
    assert outbox.batch() == ([], 0)


def test_events_given_up_and_none_left_are_still_told() -> None:
    outbox = Outbox(0)
    outbox.add(create(Row(1), 0))
    assert outbox.batch() == ([], 1)


@given(st.integers(1, 30), st.lists(st.integers(0, 40), max_size=120))
def test_it_is_bounded_and_nothing_is_lost_in_silence(limit: int, keys: list[int]) -> None:
    outbox = Outbox(limit)
    for number, key in enumerate(keys):
        outbox.add(event(Kind.UPDATE, key, Row(key, number), stamp(number, number)))
        assert len(outbox) <= limit
    merged = outbox.merged
    left, skipped = drained(outbox)
    assert len(left) + merged + skipped == len(keys)
    last = {key: number for number, key in enumerate(keys)}
    newest = {one.key: one.stamp.version for one in left}
    if not skipped:
        assert sorted(newest.values()) == sorted(last.values())


def test_what_was_merged_waits_for_as_long_as_what_it_was_merged_into() -> None:
    outbox = Outbox(3 * MAX_BATCH)
    for number in range(3 * MAX_BATCH + 1):
        outbox.add(event(Kind.UPDATE, number % 700, Row(number % 700), stamp(1, number)))
    assert (outbox.added, len(outbox), outbox.gone) == (3 * MAX_BATCH + 1, 700, 0)
    outbox.batch()
    assert outbox.gone == MAX_BATCH  # the first of the second batch
    outbox.batch()
    assert outbox.gone == outbox.added


def test_what_is_given_up_is_gone() -> None:
    outbox = Outbox(10)
    for key in range(11):
        outbox.add(create(Row(key), 0))
    assert (outbox.gone, outbox.skipped, len(outbox)) == (2, 2, 9)
