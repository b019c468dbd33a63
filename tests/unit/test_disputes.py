"""Whose re-read settles a doubt: the rules of `disputes`, and every order in which it would be the wrong one's."""

from __future__ import annotations

import itertools

import pytest

from imperfect_dollop.replica import disputes as disputes_module
from imperfect_dollop.replica.messages import MAX_ANSWERS, MAX_ENTITY, Event, Events, Kind
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.stamp import ABSENT, Stamp, join

from .builders import (
    KEYS,
    NOW,
    ROWS,
    Row,
    batch,
    create,
    delete,
    doubts,
    event,
    found,
    give,
    holds,
    load_all,
    make,
    reread,
    resends,
    settled,
    stamp,
    time,
    update,
)

# Rows of a source that keeps no versions, so that the same content can come back.
OLD, ONE, OTHER = Row(1, 0, "old"), Row(1, 0, "one"), Row(1, 0, "other")
BASE = stamp(0, 1, "z")
NOBODY = stamp(0, 0.5, "nobody")
LEFT = event(Kind.UPDATE, 1, ONE, stamp(0, 2, "b"), BASE)
RIGHT = event(Kind.UPDATE, 1, OTHER, stamp(0, 3, "c"), BASE)
BOTH = (LEFT.stamp, RIGHT.stamp)


def holding(origin: str = "a", *, whole: bool = True) -> Replica[int, Row]:
    replica = make(origin, whole=whole)
    replica.table.put(1, OLD, BASE)
    return replica


def torn(origin: str = "a", *, swapped: bool = False) -> Replica[int, Row]:
    """Has heard of two writers who raced."""
    replica = holding(origin)
    heard = [(LEFT, "b"), (RIGHT, "c")]
    for one, writer in reversed(heard) if swapped else heard:
        give(replica, one, origin=writer)
    return replica


def answer(
    row: Row | None,
    second: float,
    *answers: Stamp,
    reader: str = "d",
    base: Stamp = NOBODY,
) -> Event:
    """What a reader has found, who held something that is held by nobody else."""
    return found(1, row, stamp(0, second, reader), base, answers)


# -- who reads tells it ----------------------------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
def test_a_read_of_what_is_in_doubt_is_told_though_it_confirms_what_is_held(swapped: bool) -> None:
    replica = torn(swapped=swapped)
    row = replica.table.live[1]
    counts, event = reread(replica, 1, row, 50)
    assert counts
    assert event is not None
    assert (event.kind, event.content) == (Kind.FOUND, ROWS.encode(row))
    assert set(event.answers) == set(BOTH)
    assert replica.table.stamp(1) == event.stamp
    assert reread(replica, 1, row, 60) == (True, None)  # which nothing has contradicted since


def test_a_complete_load_answers_too() -> None:
    replica = torn()
    (told,) = load_all(replica, ONE, second=50)
    assert set(told.answers) == set(BOTH)
    assert give(torn("e"), told, origin="a") != []


def test_what_a_complete_load_does_not_settle_is_read_again_though_it_looks_the_same() -> None:
    # Its place in the queue of doubts may be gone: with too many of them everything is loaded instead.
    replica = torn()
    load = replica.begin_load(NOW + 110)
    successor = event(Kind.UPDATE, 1, OLD, stamp(0, 111, "b"), replica.table.stamp(1))
    assert give(replica, successor) == []
    list(replica.replace(load, {1: OLD}))
    replica.end_load(load)
    assert 1 in replica.disputes
    assert load.doubtful == [1]


def test_an_event_during_the_read_is_not_said_to_be_answered() -> None:
    replica = holding()
    give(replica, LEFT)
    load = replica.begin_load(NOW + 50)
    give(replica, RIGHT, origin="c")
    assert replica.loaded(load, 1, ONE) == (False, None)
    replica.end_load(load)


def test_what_is_too_large_to_send_is_told_only_if_it_is_news() -> None:
    # Everybody would read it, and tell that they have.
    replica = holding()
    large = Row(1, 0, "x" * (MAX_ENTITY + 1))
    replica.table.put(1, large, LEFT.stamp)
    give(replica, RIGHT, origin="c")
    assert reread(replica, 1, large, 50) == (True, None)


def test_a_node_that_has_a_cause_of_its_own_answers_for_nobody() -> None:
    # That its failed write was done nonetheless is told by nothing but what it finds.
    replica = torn()
    replica.unsure(1)
    counts, event = reread(replica, 1, Row(1, 0, "of a failed write"), 50)
    assert counts
    assert event is not None
    assert event.answers == ()


@pytest.mark.parametrize("row", [OLD, None])
def test_what_became_of_a_write_that_may_have_been_done_is_told_though_it_looks_the_same(
    row: Row | None,
) -> None:
    # b has written the row, and has not got its answer yet. a then deletes it, or makes it again what it was, and gets
    # no answer: what it finds is what it has held all along.
    if row is None:
        ours, theirs, made = make("a"), make("b"), Kind.CREATE
    else:
        ours, theirs, made = holding("a"), holding("b"), Kind.UPDATE
    write = theirs.begin_write(1)
    ours.unsure(1)
    _, told = reread(ours, 1, row, 50)
    assert told is not None
    give(theirs, told, origin="a")
    event, effects = theirs.wrote(write, made, 1, ONE, NOW + 60)
    theirs.end_write(write)
    assert doubts(effects) == {1}
    assert doubts(give(ours, event)) == {1}
    assert reread(ours, 1, row, 70)[1] is not None


def test_a_write_that_was_refused_is_told_only_if_there_is_news() -> None:
    replica = holding()
    write = replica.begin_write(1)
    assert doubts(replica.refused(write, 1, NOW + 40)) == {1}
    replica.end_write(write)
    assert reread(replica, 1, OLD, 50) == (True, None)


# -- who has the same doubt takes it over ----------------------------------------------------------


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("row", [ONE, OTHER, None])
def test_the_answer_of_another_settles_it(row: Row | None, swapped: bool) -> None:
    replica = torn(swapped=swapped)
    answered = answer(row, 50, *BOTH)
    assert settled(give(replica, answered, origin="d")) == {1}
    assert holds(replica, *([] if row is None else [row]))
    assert replica.table.stamp(1) == answered.stamp
    assert (replica.counts.doubts, replica.counts.shared) == (1, 1)
    # It is over: another answer is news like any other.
    assert not settled(give(replica, answer(ONE, 60, *BOTH), origin="d"))


def test_all_have_the_same_stamp_afterwards_and_the_next_write_is_clean() -> None:
    reader, others = torn("d"), [torn("a"), torn("e", swapped=True)]
    _, told = reread(reader, 1, OTHER, 50)
    assert told is not None
    following = update(Row(1, 0, "next"), 60, told.stamp)
    for one in (reader, *others):
        if one is not reader:
            give(one, told, origin="d")
        assert give(one, following) == []
        assert holds(one, Row(1, 0, "next"))


def test_two_who_read_at_once_end_equal() -> None:
    readers = [torn("d"), torn("e", swapped=True), torn("a")]
    told = []
    for reader in readers:
        _, one = reread(reader, 1, OTHER, 50)  # at the same moment
        assert one is not None
        told.append((reader.origin, one))
    for order in itertools.permutations(told):
        listener = torn("f")
        for origin, one in order:
            give(listener, one, origin=origin)
        readers.append(listener)
    for reader in readers[:3]:
        for origin, one in told:
            if origin != reader.origin:
                assert give(reader, one, origin=origin) == []
    assert len({reader.table.stamp(1) for reader in readers}) == 1


def test_two_who_find_different_rows_are_in_doubt_of_that() -> None:
    replica = torn()
    assert settled(give(replica, answer(ONE, 50, *BOTH), origin="d")) == {1}
    later = answer(OTHER, 51, *BOTH, reader="e")
    assert doubts(give(replica, later, origin="e")) == {1}
    third = answer(OTHER, 60, stamp(0, 50, "d"), later.stamp)
    assert settled(give(replica, third, origin="d")) == {1}
    assert holds(replica, OTHER)


def test_an_answer_before_the_events_that_it_answers() -> None:
    replica = holding()
    give(replica, LEFT)
    early = answer(OTHER, 50, *BOTH, base=LEFT.stamp)
    assert give(replica, early, origin="d") == []  # built on what is held
    assert give(replica, RIGHT, origin="c") == []

    replica = holding()
    give(replica, LEFT)
    assert give(replica, answer(ONE, 50, *BOTH), origin="d") == []
    assert give(replica, RIGHT, origin="c") == []  # another row, and yet no doubt
    assert holds(replica, ONE)
    assert doubts(give(replica, delete(1, 0, 49, BASE, origin="c"), origin="c")) == {1}


def test_an_answer_that_was_missed_settles_it_when_it_is_sent_again() -> None:
    replica = torn()
    assert resends(replica.receive(batch(create(Row(2), 9, origin="d"), first=2, origin="d"), NOW))
    late = batch(answer(OTHER, 50, *BOTH), first=1, origin="d")
    assert settled(replica.receive(late, NOW + 100)) == {1}
    assert holds(replica, OTHER, Row(2))


def test_an_answer_that_comes_after_a_later_write_settles_nothing() -> None:
    replica = torn()
    assert doubts(give(replica, delete(1, 0, 55, RIGHT.stamp, origin="c"), origin="c")) == {1}
    assert doubts(give(replica, answer(OTHER, 50, *BOTH), origin="d")) == {1}
    known = (*BOTH, stamp(0, 50, "d"), stamp(0, 55, "c"))
    assert settled(give(replica, answer(None, 60, *known), origin="d")) == {1}
    assert holds(replica)


def test_an_answer_twice_is_a_duplicate() -> None:
    replica = torn()
    message = batch(answer(OTHER, 50, *BOTH), origin="d")
    assert settled(replica.receive(message, NOW + 100)) == {1}
    assert replica.receive(message, NOW + 100) == []
    assert replica.counts.duplicates == 1


# -- A, B and A again ------------------------------------------------------------------------------


def test_an_answer_that_does_not_know_what_is_held_settles_nothing() -> None:
    # The reader has not heard of a third write, which may have come after its read.
    replica = torn()
    third = event(Kind.UPDATE, 1, OTHER, stamp(0, 4, "b"), LEFT.stamp)
    assert give(replica, third) == []  # a clean successor of what is held
    assert doubts(give(replica, answer(ONE, 50, *BOTH), origin="d")) == {1}
    assert holds(replica, OTHER)


def test_an_answer_that_does_not_know_what_is_disputed_settles_nothing() -> None:
    replica = torn()
    late = event(Kind.UPDATE, 1, OLD, stamp(0, 4, "e"), BASE)
    assert doubts(give(replica, late, origin="e")) == {1}
    assert doubts(give(replica, answer(OTHER, 50, *BOTH), origin="d")) == {1}
    assert holds(replica, ONE)


def test_a_write_that_restores_what_is_held_is_not_overlooked() -> None:
    # b wrote one, c other, and then e, whose clock is late, one again: so says the source. d read before e wrote.
    replica = torn()
    again = event(Kind.UPDATE, 1, ONE, stamp(0, 1.5, "e"), BASE)
    assert give(replica, again, origin="e") == []
    assert replica.table.stamp(1) == join(LEFT.stamp, again.stamp)
    assert doubts(give(replica, answer(OTHER, 50, *BOTH), origin="d")) == {1}
    assert holds(replica, ONE)
    # Who knows of it as well has read it later.
    assert settled(
        give(replica, answer(ONE, 60, *BOTH, again.stamp, stamp(0, 50, "d")), origin="d")
    )


def test_a_stamp_that_took_the_place_of_another_does_not_hide_it() -> None:
    replica = torn()
    again = event(Kind.UPDATE, 1, ONE, stamp(0, 5, "e"), BASE)
    assert give(replica, again, origin="e") == []
    assert replica.table.stamp(1) == join(LEFT.stamp, again.stamp)
    unaware = answer(OTHER, 50, RIGHT.stamp, again.stamp)  # of what was held before
    assert doubts(give(replica, unaware, origin="d")) == {1}


def test_a_row_that_was_deleted_and_created_again_is_not_taken_for_the_old_one() -> None:
    replica = holding()
    gone = delete(1, 0, 2, BASE)
    give(replica, gone)
    stray = update(OTHER, 1.5, BASE, origin="c")
    assert doubts(give(replica, stray, origin="c")) == {1}
    again = create(OLD, 4, base=gone.stamp)
    assert give(replica, again) == []
    # A read from between the delete and the create.
    early = answer(None, 3, gone.stamp, stray.stamp)
    assert doubts(give(replica, early, origin="d")) == {1}
    assert holds(replica, OLD)


def test_an_answer_older_than_the_last_proof_settles_nothing() -> None:
    replica = holding()
    reread(replica, 1, OLD, 60)
    give(replica, LEFT)
    assert not settled(give(replica, answer(ONE, 50, BASE, LEFT.stamp), origin="d"))
    assert holds(replica, OLD)


# -- doubts that nobody else can settle ------------------------------------------------------------


def test_a_failed_write_is_looked_into_by_whoever_made_it() -> None:
    replica = torn()
    replica.unsure(1)
    assert not replica.disputes.shared(1)
    assert not settled(give(replica, answer(OTHER, 50, *BOTH), origin="d"))


def test_a_raced_write_is_looked_into_by_its_writer_and_answers_the_others() -> None:
    writer = holding("c")
    write = writer.begin_write(1)
    give(writer, LEFT)
    told, effects = writer.wrote(write, Kind.UPDATE, 1, OTHER, NOW + 3)
    writer.end_write(write)
    assert doubts(effects) == {1}
    assert not writer.disputes.shared(1)
    others = [holding("a"), holding("b")]
    for one, order in zip(others, ([LEFT, told], [told, LEFT]), strict=True):
        for each in order:
            give(one, each, origin=each.stamp.origin if each is told else "x")
    _, answered = reread(writer, 1, OTHER, 50)
    assert answered is not None
    for one in others:
        assert settled(give(one, answered, origin="c")) == {1}


def test_more_rivals_than_an_answer_has_room_for_leave_it_to_each_node() -> None:
    replica = holding()
    stamps = [stamp(0, 2 + number, f"w{number}") for number in range(MAX_ANSWERS)]
    for number, own in enumerate(stamps):
        rival = Row(1, 0, f"of {number}")
        give(replica, event(Kind.UPDATE, 1, rival, own, NOBODY), origin=own.origin)
        assert replica.disputes.shared(1) == (number + 1 < MAX_ANSWERS)
    _, told = reread(replica, 1, OTHER, 90)
    assert told is not None
    assert len(told.answers) == MAX_ANSWERS
    assert set(told.answers) <= {BASE, *stamps}


def test_more_keys_than_are_remembered_are_left_to_each_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disputes_module, "MAX_DISPUTES", 3)
    replica = make()
    for key in range(5):
        replica.table.put(key, Row(key), stamp(1, 1, "z"))
        give(replica, update(Row(key, 2), 2, NOBODY))
    assert len(replica.disputes) == 3
    late = stamp(2, 3)
    give(replica, update(Row(4, 2, "late"), 3, NOBODY))
    assert not any(replica.disputes.shared(key) for key in range(5))
    incomplete = found(4, Row(4), stamp(1, 50, "d"), late, [stamp(1, 1, "z"), late])
    assert not settled(give(replica, incomplete, origin="d"))
    load_all(replica, *(Row(key) for key in range(5)), second=60)
    assert len(replica.disputes) == 0
    give(replica, update(Row(4, 2, "new"), 70, NOBODY))
    assert replica.disputes.shared(4)


def test_what_is_remembered_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes_module, "MAX_ANSWERED", 2)
    replica = make()
    for key in range(4):
        replica.table.put(key, Row(key), BASE)
        told = found(key, Row(key, 2), stamp(2, 50, "d"), BASE, [BASE, stamp(1, 3)])
        assert give(replica, told, origin="d") == []
    for key, forgotten in enumerate([True, True, False, False]):
        late = update(Row(key, 1, "late"), 3, NOBODY)
        assert bool(doubts(give(replica, late))) == forgotten


# -- on demand -------------------------------------------------------------------------------------


def test_on_demand_the_answer_for_a_row_that_is_not_held_brings_none() -> None:
    replica = make(whole=False)
    assert give(replica, answer(OTHER, 50, *BOTH), origin="d") == []
    assert holds(replica)


def test_on_demand_a_row_that_is_dropped_is_no_longer_disputed() -> None:
    replica = holding(whole=False)
    give(replica, LEFT)
    give(replica, RIGHT, origin="c")
    assert replica.disputes.shared(1)
    replica.forget(1)
    assert len(replica.disputes) == 0
    assert give(replica, answer(OTHER, 50, *BOTH), origin="d") == []
    assert holds(replica)


@pytest.mark.parametrize("whole", [True, False])
def test_who_drops_everything_disputes_nothing(whole: bool) -> None:
    replica = holding(whole=whole)
    give(replica, LEFT)
    give(replica, RIGHT, origin="c")
    replica.cleared()
    assert len(replica.disputes) == 0


# -- two versions of the class ---------------------------------------------------------------------


def foreign(one: Event, origin: str, first: int = 1) -> Events:
    return batch(one, first=first, origin=origin, fingerprint="theirs")


def test_of_a_foreign_write_one_of_all_who_cannot_read_it_reads_the_row() -> None:
    reader, other = holding("a"), holding("b")
    for one in (reader, other):
        assert doubts(one.receive(foreign(RIGHT, "c"), NOW + 100)) == {1}
    _, told = reread(reader, 1, OTHER, 50)
    assert told is not None
    assert settled(give(other, told, origin="a")) == {1}
    assert holds(other, OTHER)


def test_an_answer_of_another_shape_is_no_reason_to_read_the_row() -> None:
    # Or else either version would read what the other has read, and tell it, without end.
    replica = holding()
    assert replica.receive(foreign(answer(OTHER, 50, *BOTH), "d"), NOW + 100) == []
    assert holds(replica, OLD)


def test_an_answer_of_another_shape_settles_nothing() -> None:
    replica = torn()
    assert replica.receive(foreign(answer(OTHER, 50, *BOTH), "d"), NOW + 100) == []
    assert replica.disputes.shared(1)


def test_what_a_sibling_of_another_shape_has_found_by_itself_is_doubt() -> None:
    replica = holding()
    assert doubts(replica.receive(foreign(answer(OTHER, 50), "d"), NOW + 100)) == {1}


def test_a_foreign_write_too_far_in_the_future_is_left_to_each_node() -> None:
    replica = holding()
    late = event(Kind.UPDATE, 1, OTHER, stamp(0, 10_000, "c"), BASE)
    assert doubts(replica.receive(foreign(late, "c"), NOW)) == {1}
    assert not replica.disputes.shared(1)


# -- what cannot be an answer ----------------------------------------------------------------------


def test_only_what_was_found_answers() -> None:
    replica = torn()
    sly = Event(Kind.UPDATE, KEYS.encode(1), ROWS.encode(OTHER), stamp(0, 9, "d"), BASE, BOTH)
    assert doubts(give(replica, sly, origin="d")) == {1}


def test_an_answer_from_the_future_settles_nothing() -> None:
    replica = torn()
    assert not settled(give(replica, answer(OTHER, 10_000, *BOTH), origin="d"))
    assert holds(replica, ONE)


def test_an_answer_without_a_row_that_is_known_is_told_of_a_tombstone() -> None:
    # Nothing was ever known of the key, here or there.
    replica = make()
    assert doubts(give(replica, update(ONE, 2, BASE))) == {1}
    _, told = reread(replica, 1, None, 50)
    assert told is not None
    assert set(told.answers) == {ABSENT, stamp(0, 2)}
    other = make("e")
    give(other, update(ONE, 2, BASE))
    assert settled(give(other, told, origin="a")) == {1}
    assert other.table.dead == {1: Stamp(0, time(50), "a")}
