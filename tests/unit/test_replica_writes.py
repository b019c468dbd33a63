"""Writes of this node: what it shows, what it tells, and rivals between `begin_write` and `wrote`."""

from __future__ import annotations

import pytest

from imperfect_dollop.replica.effects import Effect
from imperfect_dollop.replica.messages import MAX_BATCH, MAX_ENTITY, Event, Kind
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.stamp import ABSENT, Stamp

from .builders import (
    NOW,
    ROWS,
    Row,
    create,
    delete,
    doubts,
    give,
    holds,
    make,
    reread,
    stamp,
    time,
    update,
)

ONE, TWO, THREE = Row(1, 1, "first"), Row(1, 2, "second"), Row(1, 3, "third")
S1 = stamp(1, 1)


def written(
    replica: Replica[int, Row],
    kind: Kind,
    row: Row | None,
    *during: Event,
    key: int | None = 1,
    second: float = 50,
) -> tuple[Event, list[Effect]]:
    """One write; `during` arrives while the source is called."""
    write = replica.begin_write(key)
    give(replica, *during)
    try:
        return replica.wrote(write, kind, 1, row, NOW + second)
    finally:
        replica.end_write(write)


def holding(row: Row = ONE, own: Stamp = S1) -> Replica[int, Row]:
    replica = make()
    replica.table.put(row.id, row, own)
    return replica


def test_a_write_is_shown_and_built_on_what_was_held() -> None:
    replica = holding()
    event, effects = written(replica, Kind.UPDATE, TWO)
    assert effects == []
    assert holds(replica, TWO)
    assert event.base == S1
    assert event.stamp == replica.table.stamp(1) == Stamp(2, time(50), "a")
    assert event.content == ROWS.encode(TWO)


def test_a_delete_leaves_a_tombstone_of_the_version_that_was_held() -> None:
    replica = holding(TWO, stamp(2, 1))
    event, effects = written(replica, Kind.DELETE, None)
    assert effects == []
    assert holds(replica)
    assert replica.table.dead == {1: event.stamp}
    assert event.stamp.version == 2


def test_writes_are_later_than_all_that_was_taken_in() -> None:
    replica = make()
    give(replica, create(ONE, 120))
    event, _ = written(replica, Kind.UPDATE, TWO, second=50)
    assert event.stamp.time > time(120)


def test_a_chain_of_writes_is_clean_for_a_sibling() -> None:
    replica, sibling = make(), make("c")
    events = [
        written(replica, Kind.CREATE, ONE)[0],
        written(replica, Kind.UPDATE, TWO)[0],
        written(replica, Kind.DELETE, None)[0],
        written(replica, Kind.CREATE, ONE)[0],
    ]
    assert sibling.receive(replica.pack("rows", events), NOW + 60) == []
    assert holds(sibling, ONE)
    assert sibling.table.stamp(1) == replica.table.stamp(1)


# -- rivals in between -----------------------------------------------------------------------------


def test_the_base_is_what_was_held_when_the_write_began() -> None:
    replica = holding()
    event, _ = written(replica, Kind.UPDATE, THREE, update(TWO, 2, S1))
    assert event.base == S1


def test_a_rivals_older_write_stays_until_the_source_has_spoken() -> None:
    replica = holding()
    _, effects = written(replica, Kind.UPDATE, THREE, update(TWO, 2, S1))
    assert doubts(effects) == {1}
    assert holds(replica, TWO)
    assert reread(replica, 1, THREE, 60)[0]
    assert holds(replica, THREE)


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.DELETE])
def test_a_row_that_was_created_again_stays_though_its_version_is_lower(kind: Kind) -> None:
    replica = holding(TWO, stamp(2, 1))
    again = Row(1, 1, "created again")
    write = replica.begin_write(1)
    assert reread(replica, 1, again, 2)[0]  # ours was committed, and then deleted by a rival
    _, effects = replica.wrote(write, kind, 1, THREE if kind is Kind.UPDATE else None, NOW + 3)
    assert doubts(effects) == {1}
    assert holds(replica, again)


def test_a_rivals_newer_write_stays_in_doubt() -> None:
    replica = holding()
    event, effects = written(replica, Kind.UPDATE, TWO, update(THREE, 60, S1))
    assert doubts(effects) == {1}
    assert holds(replica, THREE)
    assert event.stamp.version == 2


def test_a_rivals_delete_stays_until_the_source_has_spoken() -> None:
    replica = holding()
    _, effects = written(replica, Kind.UPDATE, TWO, delete(1, 1, 2, S1))
    assert doubts(effects) == {1}
    assert holds(replica)
    assert reread(replica, 1, TWO, 60)[0]
    assert holds(replica, TWO)


def test_our_delete_of_what_a_rival_has_written_waits_for_the_source() -> None:
    replica = holding()
    rival = Row(1, 1, "rival")
    _, effects = written(replica, Kind.DELETE, None, update(rival, 2, S1))
    assert doubts(effects) == {1}
    assert holds(replica, rival)


def test_our_delete_against_a_rivals_newer_version_leaves_it_in_doubt() -> None:
    # We have deleted version 1, the rival has written 2: it did so before us, or after a create.
    replica = holding()
    _, effects = written(replica, Kind.DELETE, None, update(TWO, 2, S1))
    assert doubts(effects) == {1}
    assert holds(replica, TWO)


def test_a_rival_of_the_same_content_is_no_doubt() -> None:
    # A re-read has found our own commit before the source's answer came.
    replica = holding()
    write = replica.begin_write(1)
    reread(replica, 1, TWO, 10)
    event, effects = replica.wrote(write, Kind.UPDATE, 1, TWO, NOW + 20)
    replica.end_write(write)
    assert effects == []
    assert replica.table.stamp(1) not in (S1, event.stamp)
    assert holds(replica, TWO)


@pytest.mark.parametrize(
    "rival",
    [
        update(
            ONE, 0.5, stamp(1, 0.2, "c")
        ),  # by a clock that is late: what is held keeps its stamp
        update(Row(1, 1, "rival"), 60, stamp(1, 0.2, "c")),  # in doubt: so does this
    ],
    ids=["what is held", "another row"],
)
def test_a_rival_that_leaves_no_trace_is_not_overlooked(rival: Event) -> None:
    # Whether the source has taken ours first, and then the rival's, is not known.
    replica = holding()
    _, effects = written(replica, Kind.UPDATE, TWO, rival)
    assert holds(replica, ONE)
    assert doubts(effects) == {1}


def test_a_write_that_a_clear_overtook_is_left_to_the_next_load() -> None:
    replica = holding()
    write = replica.begin_write(1)
    replica.cleared()
    _, effects = replica.wrote(write, Kind.UPDATE, 1, TWO, NOW + 20)
    assert doubts(effects) == {1}
    assert holds(replica)


def test_after_our_delete_and_a_rivals_no_create_is_clean_for_either() -> None:
    replica = holding()
    rival = delete(1, 1, 60, S1)
    ours, effects = written(replica, Kind.DELETE, None, rival)
    assert effects == []
    for base in (ours.stamp, rival.stamp):
        assert doubts(give(replica, create(TWO, 70, base=base))) == {1}
    assert holds(replica)


# -- keys that the source generates ----------------------------------------------------------------


def test_a_generated_key_is_built_on_nothing() -> None:
    replica = make()
    event, effects = written(replica, Kind.CREATE, ONE, key=None)
    assert (event.base, effects) == (ABSENT, [])
    assert holds(replica, ONE)


def test_a_generated_key_that_was_used_before_is_built_on_its_tombstone() -> None:
    replica = make()
    replica.table.bury(1, S1)
    event, effects = written(replica, Kind.CREATE, ONE, key=None)
    assert (event.base, effects) == (S1, [])
    assert holds(replica, ONE)


def test_a_generated_key_that_a_rival_has_updated_meanwhile_is_in_doubt() -> None:
    replica = make()
    event, effects = written(replica, Kind.CREATE, ONE, create(TWO, 10), key=None)
    assert event.base == ABSENT
    assert doubts(effects) == {1}
    assert holds(replica, TWO)


def test_a_generated_key_that_a_rival_has_deleted_meanwhile_stays_dead_in_doubt() -> None:
    replica = make()
    _, effects = written(replica, Kind.CREATE, ONE, delete(1, 1, 10, S1), key=None)
    assert doubts(effects) == {1}
    assert holds(replica)


# -- numbers ---------------------------------------------------------------------------------------


def test_events_are_numbered_without_gaps() -> None:
    replica = make()
    one = replica.announce(Kind.CLEAR, None, NOW)
    packed = [replica.pack("rows", [one] * count) for count in (1, MAX_BATCH, 2)]
    assert [events.first for events in packed] == [1, 2, MAX_BATCH + 2]
    assert replica.sequence == MAX_BATCH + 3


def test_what_was_never_sent_uses_up_its_numbers() -> None:
    replica = make()
    replica.skip(3)
    assert replica.pack("rows", [replica.announce(Kind.CLEAR, None, NOW)]).first == 4


def test_an_entity_too_large_for_an_event_is_announced_only() -> None:
    replica, sibling = make(), make("c")
    large = Row(1, 1, "x" * MAX_ENTITY)
    event, _ = written(replica, Kind.CREATE, large)
    assert (event.kind, event.content) == (Kind.REREAD, None)
    assert doubts(sibling.receive(replica.pack("rows", [event]), NOW + 60)) == {1}
    assert holds(replica, large)


def test_an_announcement_names_its_key_or_none() -> None:
    replica = make()
    assert replica.announce(Kind.FORGET, 1, NOW).key != b""
    assert replica.announce(Kind.CLEAR, None, NOW).key == b""


def test_a_confirmation_says_when_the_load_began_and_was_answered() -> None:
    replica = make()
    load = replica.begin_load(NOW + 3)
    replica.answered(load, NOW + 5)
    told = replica.confirmation(load)
    assert (told.base, told.stamp) == (Stamp(0, time(3), "a"), Stamp(0, time(5), "a"))
