"""Cold replicas: what is buffered, from which number on, and what is played back."""

from __future__ import annotations

import pytest

from imperfect_dollop.replica import buffer as buffer_module
from imperfect_dollop.replica.effects import Cleared, Effect
from imperfect_dollop.replica.messages import Event, Kind
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.stamp import ABSENT, Stamp

from .builders import (
    NOW,
    Row,
    batch,
    create,
    delete,
    doubts,
    give,
    holds,
    make,
    resends,
    resyncs,
    stamp,
    state,
    time,
    update,
)

ONE, TWO = Row(1, 1, "first"), Row(1, 2, "second")
S1 = stamp(1, 1)
CLEAR = Event(Kind.CLEAR, b"", None, Stamp(0, time(5), "b"), ABSENT)


def cold() -> Replica[int, Row]:
    replica = make()
    replica.go_cold()
    return replica


def fill(
    replica: Replica[int, Row], *rows: Row, second: float = 10, during: tuple[Event, ...] = ()
) -> list[Effect]:
    """A cold load, from its beginning until the replica is warm."""
    load = replica.begin_cold_load(NOW + second)
    assert replica._buffer is not None
    first = max(replica.progress.vector.get("b", 0), replica._buffer.tail.get("b", 0)) + 1
    if during:
        replica.receive(batch(*during, first=first), NOW + second)
    for _ in replica.replace(load, {row.id: row for row in rows}):
        pass
    replica.end_load(load)
    effects = replica.replay()
    return effects + replica.go_warm()


def test_cold_means_nothing_is_held_and_events_wait() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    replica.go_cold()
    assert replica.cold
    assert holds(replica)
    assert replica.receive(batch(update(TWO, 2, S1), first=2), NOW) == []
    assert holds(replica)


def test_a_cold_load_fills_and_warms() -> None:
    replica = cold()
    assert fill(replica, ONE, Row(2)) == []
    assert not replica.cold
    assert holds(replica, ONE, Row(2))
    assert replica.confirmed == time(10)


def test_what_was_buffered_before_the_load_began_is_in_it_already() -> None:
    replica = cold()
    replica.receive(batch(create(TWO, 1), first=7), NOW)
    assert fill(replica) == []  # the source knows better: the row is gone
    assert holds(replica)
    assert replica.progress.vector == {"b": 7}


def test_what_came_during_the_load_is_played_back() -> None:
    replica = cold()
    effects = fill(replica, ONE, during=(update(TWO, 20, S1), create(Row(2), 21)))
    assert holds(replica, ONE, Row(2))
    assert doubts(effects) == {1}  # its base is not what was loaded


def test_what_came_during_the_load_and_is_in_it_raises_no_doubt() -> None:
    replica = cold()
    assert fill(replica, TWO, during=(update(TWO, 20, S1),)) == []
    assert replica.table.stamp(1).time == time(20)


def test_a_delete_during_the_load_is_played_back() -> None:
    replica = cold()
    assert doubts(fill(replica, ONE, during=(delete(1, 1, 20, S1),))) == {1}


def test_an_older_event_during_the_load_changes_nothing_unless_the_source_says_so() -> None:
    replica = cold()
    effects = fill(replica, TWO, during=(update(ONE, 2, ABSENT),))
    assert doubts(effects) == {1}
    assert holds(replica, TWO)


# -- the baseline of numbers -----------------------------------------------------------------------


def test_numbers_count_from_the_first_event_that_was_seen() -> None:
    replica = cold()
    fill(replica, during=())
    other = cold()
    other.receive(batch(create(ONE, 1), first=40), NOW)
    assert fill(other, ONE) == []
    assert other.receive(batch(create(Row(2), 30), first=41), NOW + 30) == []
    assert resends(other.receive(batch(create(Row(3), 31), first=43), NOW + 31)) == [("b", 42, 42)]


def test_numbers_count_from_a_heartbeat_where_that_comes_first() -> None:
    replica, sibling = cold(), make("b")
    sibling.skip(12)
    replica.heard("b", state(sibling), ["a", "b"])
    assert fill(replica) == []
    assert replica.receive(batch(create(ONE, 20), first=13), NOW + 20) == []
    sibling.skip(1)
    assert replica.heard("b", state(sibling), ["a", "b"]) == []


def test_a_number_that_its_origin_has_not_reached_is_not_believed_for_ever() -> None:
    replica, sibling = make(), make("b")
    replica.receive(batch(create(ONE, 20), first=1_000_000), NOW + 20)  # by somebody in b's name
    assert replica.heard("b", state(sibling), ["a", "b"]) == []  # perhaps from before that
    assert resyncs(replica.heard("b", state(sibling), ["a", "b"]))
    assert replica.receive(batch(create(Row(2), 21), first=1), NOW + 21) == []
    assert Row(2) in replica.table.live.values()


def test_an_event_lost_while_cold_is_noticed() -> None:
    replica = cold()
    load = replica.begin_cold_load(NOW)
    replica.receive(batch(create(ONE, 1), first=1), NOW)
    replica.receive(batch(create(Row(3), 3), first=3), NOW)
    list(replica.replace(load, {}))
    assert resends([*replica.replay(), *replica.go_warm()]) == [("b", 2, 2)]


def test_the_last_event_lost_while_cold_is_noticed_by_the_heartbeat() -> None:
    replica, sibling = cold(), make("b")
    load = replica.begin_cold_load(NOW)
    replica.receive(batch(create(ONE, 1), first=1), NOW)
    sibling.skip(2)
    assert replica.heard("b", state(sibling), ["a", "b"]) == []
    list(replica.replace(load, {}))
    assert resyncs([*replica.replay(), *replica.go_warm()])


@pytest.mark.parametrize("how", ["gap", "overflow"])
def test_what_was_lost_before_the_load_began_does_not_matter(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer_module, "MAX_BUFFERED", 0)
    replica = cold()
    if how == "gap":
        assert replica.lost("reconnected") == []
    else:
        replica.receive(batch(create(ONE, 1)), NOW)
    assert fill(replica, ONE) == []


@pytest.mark.parametrize("how", ["gap", "overflow"])
def test_what_was_lost_during_the_load_is_a_resync(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer_module, "MAX_BUFFERED", 2)
    replica = cold()
    load = replica.begin_cold_load(NOW)
    if how == "gap":
        replica.lost("reconnected")
    else:
        replica.receive(batch(*[create(Row(key), 1) for key in range(3)]), NOW)
        assert replica._buffer is not None
        assert replica._buffer.events == []
    list(replica.replace(load, {}))
    assert resyncs([*replica.replay(), *replica.go_warm()])


# -- clears ----------------------------------------------------------------------------------------


def test_a_clear_among_what_was_buffered_makes_cold_again() -> None:
    replica = cold()
    load = replica.begin_cold_load(NOW)
    replica.receive(batch(CLEAR, create(ONE, 6)), NOW)
    list(replica.replace(load, {2: Row(2)}))
    assert replica.replay() == [Cleared()]
    assert replica.cold
    assert holds(replica)


def test_after_a_clear_numbers_go_on() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    give(replica, CLEAR)
    assert fill(replica, ONE) == []
    assert replica.receive(batch(create(Row(2), 20), first=3), NOW + 20) == []
    assert holds(replica, ONE, Row(2))


# -- partial replay --------------------------------------------------------------------------------


def test_replay_goes_no_further_than_asked_and_keeps_the_rest() -> None:
    replica = cold()
    replica.receive(batch(create(Row(1), 1), create(Row(2), 2), create(Row(3), 3)), NOW)
    replica.receive(batch(create(Row(9), 1, origin="c"), origin="c"), NOW)
    assert replica.replay(until={"b": 2}) == []
    assert holds(replica, Row(1), Row(2))
    assert replica.replay() == []
    assert holds(replica, Row(1), Row(2), Row(3), Row(9))
    assert replica.progress.vector == {"b": 3, "c": 1}


def test_replay_leaves_out_what_is_covered() -> None:
    replica = cold()
    replica.receive(batch(create(Row(1), 1), create(Row(2), 2)), NOW)
    assert replica.replay(covered=lambda key, origin, number: number == 1) == []
    assert holds(replica, Row(2))
    assert replica.progress.vector == {"b": 2}


def test_the_buffer_reaches_a_vector_once_its_events_are_here() -> None:
    replica = cold()
    assert replica.reached({})
    assert replica.reached({"a": 99})  # our own
    assert not replica.reached({"b": 2})
    replica.receive(batch(create(ONE, 1), first=2), NOW)
    assert replica.reached({"b": 2})
    assert not replica.reached({"b": 2, "c": 1})


def test_what_is_sent_again_meanwhile_takes_back_no_number() -> None:
    """A sibling has asked for old events, which all are sent again."""
    replica = cold()
    told = [create(Row(key), 1) for key in range(1, 101)]
    replica.receive(batch(*told), NOW)
    replica.receive(batch(*told[4:7], first=5), NOW)
    assert replica.reached({"b": 100})
    sibling = make("b")
    sibling.skip(100)
    replica.heard("b", state(sibling), ["a", "b"])
    effects = fill(replica, *(Row(key) for key in range(1, 101)))
    assert effects == []
    assert give(replica, create(Row(101), 20), second=20) == []
    assert replica.progress.complete


# -- writes that may have been done ----------------------------------------------------------------


def test_a_write_of_unknown_outcome_is_looked_for_once_there_are_rows_again() -> None:
    replica = make()
    fill(replica, ONE)
    assert doubts(replica.unsure(1)) == {1}
    replica.cleared()  # by a sibling, whose copy may be from before the write
    replica.unsure(2)  # while nothing is held
    replica.begin_snapshot()
    assert doubts(replica.go_warm()) == {1, 2}
    load = replica.begin_load(NOW + 20)
    told = [replica.loaded(load, key, row)[1] for key, row in ((1, TWO), (2, None))]
    assert [event and event.kind for event in told] == [Kind.FOUND, Kind.FOUND]


def test_other_doubts_go_with_what_was_held() -> None:
    replica = make()
    fill(replica, ONE)
    replica.unsettled(1)
    replica.cleared()
    replica.begin_snapshot()
    assert replica.go_warm() == []
