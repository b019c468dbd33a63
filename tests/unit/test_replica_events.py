"""Events of siblings: each line of the table at the top of `replica.py`, in its order."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest

from imperfect_dollop.codecs import EntityCodec, KeyCodec
from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica import buffer as buffer_module
from imperfect_dollop.replica import holding as holding_module
from imperfect_dollop.replica import progress as progress_module
from imperfect_dollop.replica import table as table_module
from imperfect_dollop.replica.agreement import SETTLE_BEATS
from imperfect_dollop.replica.effects import Cleared, Effect, Reread, Resync
from imperfect_dollop.replica.holding import TOMBSTONE_SECONDS
from imperfect_dollop.replica.messages import Event, Events, Kind, Phase, decode, encode
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.stamp import ABSENT, MAX_DRIFT, Stamp, join, seconds

from .builders import (
    KEYS,
    NOW,
    ROWS,
    Row,
    adds_up,
    batch,
    compares,
    confirm,
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
    resyncs,
    stamp,
    state,
    time,
    update,
)

ONE = Row(1, 1, "first")
TWO = Row(1, 2, "second")
THREE = Row(1, 3, "third")
S1, S2, S3 = stamp(1, 1), stamp(2, 2), stamp(3, 3)


def holding(row: Row = ONE, own: Stamp = S1) -> Replica[int, Row]:
    replica = make()
    replica.table.put(row.id, row, own)
    return replica


def bereft(own: Stamp = S2) -> Replica[int, Row]:
    replica = make()
    replica.table.bury(1, own)
    return replica


# -- duplicates ------------------------------------------------------------------------------------


def test_a_number_already_seen_is_ignored() -> None:
    replica = make()
    message = batch(create(ONE, 1), delete(1, 1, 2, S1))
    assert replica.receive(message, NOW) == []
    assert replica.receive(message, NOW) == []
    assert holds(replica)
    assert (replica.counts.applied, replica.counts.duplicates) == (2, 2)


def test_a_batch_seen_in_part_is_taken_from_there_on() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    assert replica.receive(batch(create(ONE, 1), update(TWO, 2, S1)), NOW) == []
    assert holds(replica, TWO)


def test_a_stamp_that_is_held_is_ignored_whoever_brings_it() -> None:
    replica = holding()
    assert give(replica, create(ONE, 1, origin="b"), origin="c") == []
    assert replica.counts.duplicates == 1


def test_our_own_echo_is_ignored() -> None:
    replica = holding()
    assert replica.receive(batch(delete(1, 1, 9, S1), origin="a"), NOW) == []
    assert holds(replica, ONE)


# -- a clean successor -----------------------------------------------------------------------------


def test_a_clean_successor_is_applied_without_doubt() -> None:
    replica = make()
    assert give(replica, create(ONE, 1), update(TWO, 2, S1)) == []
    assert holds(replica, TWO)
    assert give(replica, delete(1, 2, 3, S2)) == []
    assert holds(replica)
    assert replica.table.stamp(1) == stamp(2, 3)


def test_the_same_id_created_again_is_a_clean_successor_of_its_tombstone() -> None:
    replica = bereft()
    assert give(replica, create(ONE, 3, base=S2)) == []
    assert holds(replica, ONE)


def test_a_successor_of_another_nodes_row_is_clean_too() -> None:
    replica = holding()
    assert give(replica, update(TWO, 2, S1, origin="c"), origin="c") == []
    assert holds(replica, TWO)


def test_an_update_that_goes_back_a_version_is_no_clean_successor() -> None:
    replica = holding(THREE, S3)
    assert doubts(give(replica, update(TWO, 4, S3))) == {1}
    assert holds(replica, THREE)


def test_what_a_load_found_may_go_back_a_version() -> None:
    # The row was deleted and created again, or the database restored from a backup.
    replica = holding(THREE, S3)
    assert give(replica, found(1, ONE, stamp(1, 4), S3)) == []
    assert holds(replica, ONE)


# -- written before the content was last read again ------------------------------------------------


def test_a_successor_written_before_the_row_was_proven_is_doubtful() -> None:
    # b deleted the row at 2, somebody created it again as it was, and at 3 we found it in the source.
    replica = holding()
    assert reread(replica, 1, ONE, 3) == (True, None)
    assert doubts(give(replica, delete(1, 1, 2, S1))) == {1}


def test_a_successor_written_after_the_row_was_proven_is_clean() -> None:
    replica = holding()
    reread(replica, 1, ONE, 3)
    assert give(replica, delete(1, 1, 4, S1)) == []
    assert holds(replica)


def test_a_successor_written_before_a_siblings_complete_load_is_doubtful() -> None:
    replica = holding()
    assert give(replica, confirm(2, 4), origin="c", second=9) == []
    assert replica.confirmed == time(2)
    assert doubts(give(replica, update(TWO, 3, S1))) == {1}


def test_a_successor_written_after_a_siblings_complete_load_was_answered_is_clean() -> None:
    # However long it took until that was heard of.
    replica = holding()
    give(replica, confirm(2, 4), second=9)
    assert give(replica, update(TWO, 5, S1), second=9) == []
    assert holds(replica, TWO)


def just_read() -> Replica[int, Row]:
    """One that holds a row, and has read everything in its fourth second."""
    replica = holding()
    load = replica.begin_load(NOW + 3)
    replica.answered(load, NOW + 4)
    for piece in replica.replace(load, dict(replica.table.live)):
        assert piece == []
    replica.end_load(load)
    return replica


def test_a_new_row_that_is_told_of_just_after_everything_was_read_here_is_doubtful() -> None:
    # By a clock that is ahead: it may have come and gone while it was read.
    replica = just_read()
    assert doubts(give(replica, create(Row(7), 6), second=5)) == {7}
    assert give(replica, create(Row(8), 10), second=10) == []  # that is over
    assert give(replica, update(TWO, 6, S1), second=5) == []  # it stands on what was read


def test_so_is_the_end_of_a_row_that_was_just_read() -> None:
    # It may be there again, and the same as before.
    replica = just_read()
    assert doubts(give(replica, delete(1, 1, 6, S1), second=5)) == {1}
    assert replica.table.live == {1: ONE}
    other = holding()
    assert give(other, delete(1, 1, 6, S1), second=5) == []  # who has not read all of it


def test_the_proof_survives_an_older_event_of_the_same_content() -> None:
    # All of b's events are older than our reading of the source, so none of them may go unchecked.
    replica = holding()
    reread(replica, 1, ONE, 10)
    again = update(ONE, 5, stamp(1, 4, "c"))
    give(replica, again)
    assert doubts(give(replica, delete(1, 1, 6, again.stamp))) == {1}


def test_a_proof_that_is_no_longer_remembered_leaves_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding_module, "MAX_PROVEN", 2)
    replica = make()
    for key in range(5):
        replica.table.put(key, Row(key), stamp(1, key))
    for key in range(5):
        reread(replica, key, Row(key), 10 + key)
    assert doubts(give(replica, delete(0, 1, 7, stamp(1, 0)))) == {0}


# -- another base ----------------------------------------------------------------------------------


def test_the_same_content_by_two_stamps_is_held_by_both_without_doubt() -> None:
    one, other = holding(), holding()
    read, late = found(1, ONE, stamp(1, 5), stamp(1, 4, "c")), found(1, ONE, stamp(1, 3, "c"), S2)
    assert give(one, read) == give(one, late, origin="c") == []
    assert give(other, late, origin="c") == give(other, read) == []
    both = join(S1, join(read.stamp, late.stamp))
    assert one.table.stamp(1) == other.table.stamp(1) == both
    assert give(one, update(TWO, 6, both)) == []
    assert holds(one, TWO)


@pytest.mark.parametrize("which", [S1, stamp(1, 5)])
def test_what_was_built_on_one_of_two_that_said_the_same_is_doubt(which: Stamp) -> None:
    # One, something else, and one again: which of the two is the later one is not known.
    replica = holding()
    assert give(replica, found(1, ONE, stamp(1, 5), stamp(1, 4, "c"))) == []
    assert doubts(give(replica, update(TWO, 6, which))) == {1}
    assert holds(replica, ONE)


def test_a_delete_of_what_is_not_held_leaves_a_tombstone_that_nobody_has_built_on() -> None:
    replica = make()
    gone = delete(1, 1, 5, S1)
    assert give(replica, gone) == []
    assert replica.table.dead.keys() == {1}
    for base in (ABSENT, gone.stamp):
        assert doubts(give(replica, create(TWO, 9, base=base))) == {1}
    assert holds(replica)


def test_a_create_built_on_one_of_two_rival_deletes_stays_dead() -> None:
    # b, whose clock is ahead, deleted and created; then c deleted what b had created, unaware of b.
    # Which of the two deletes came last is not told by their times.
    replica = make()
    give(replica, delete(1, 1, 3, S1, origin="c"), origin="c")
    theirs = delete(1, 1, 8, ABSENT)
    give(replica, theirs)
    assert doubts(give(replica, create(ONE, 9, base=theirs.stamp))) == {1}
    assert holds(replica)


def test_a_create_heard_after_its_delete_is_not_clean_for_an_older_tombstone() -> None:
    # b deleted, c created on top of that, d deleted that: and c is heard last.
    replica = bereft()
    created = create(ONE, 5, base=S2, origin="c")
    give(replica, delete(1, 1, 6, created.stamp, origin="d"), origin="d")
    assert doubts(give(replica, created, origin="c")) == {1}
    assert holds(replica)


def test_delete_before_its_create_keeps_the_row_dead() -> None:
    replica = make()
    give(replica, delete(1, 1, 5, S1, origin="c"), origin="c")
    assert doubts(give(replica, create(ONE, 1))) == {1}
    assert holds(replica)


def test_update_after_its_delete_keeps_the_row_dead() -> None:
    replica = bereft(stamp(1, 5, "c"))
    assert doubts(give(replica, update(TWO, 2, S1))) == {1}
    assert holds(replica)


def test_dead_here_and_live_there_stays_dead_however_new_the_event() -> None:
    replica = bereft()
    assert doubts(give(replica, update(Row(1, 9), 50, stamp(8, 40)))) == {1}
    assert holds(replica)


def test_however_new_it_looks_what_is_held_stands_until_the_source_was_asked() -> None:
    # A clock that is ahead, and the versions of a row that was created again, both look like this.
    for late in (update(THREE, 3, S2), delete(1, 2, 4, S2)):
        replica = holding()
        assert doubts(give(replica, late)) == {1}
        assert holds(replica, ONE)


def test_a_delete_of_an_older_version_is_ignored_in_doubt() -> None:
    replica = holding(THREE, S3)
    assert doubts(give(replica, delete(1, 1, 4, S1))) == {1}
    assert holds(replica, THREE)


@pytest.mark.parametrize(
    ("version", "second"),
    [(2, 2.0), (2, 9.0), (9, 2.0)],
    ids=["older by both", "older by version", "older by time"],
)
def test_anything_else_is_ignored_in_doubt(version: int, second: float) -> None:
    replica = holding(Row(1, 5, "held"), stamp(5, 5))
    assert doubts(give(replica, update(Row(1, version), second, S1))) == {1}
    assert holds(replica, Row(1, 5, "held"))


@pytest.mark.parametrize("second", [0.5, 1.5])
def test_equal_version_with_different_content_is_in_doubt(second: float) -> None:
    replica = holding()
    rival = Row(1, 1, "rival")
    assert doubts(give(replica, create(rival, second, origin="c"), origin="c")) == {1}
    assert holds(replica, ONE)


def test_two_racing_writers_leave_both_orders_in_doubt() -> None:
    left, right = update(TWO, 2, S1), update(Row(1, 2, "rival"), 3, S1, origin="c")
    one, other = holding(), holding()
    give(one, left)
    give(other, right, origin="c")
    assert doubts(give(one, right, origin="c")) == {1}
    assert doubts(give(other, left)) == {1}


# -- what cannot be believed or read ---------------------------------------------------------------


def test_a_time_beyond_the_drift_bound_is_ignored_in_doubt_and_moves_no_clock() -> None:
    replica = holding()
    before = replica.clock.time
    assert doubts(give(replica, update(TWO, 100 + MAX_DRIFT + 1, S1), second=100)) == {1}
    assert holds(replica, ONE)
    assert (replica.clock.time, replica.counts.rejections.total()) == (before, 1)


def test_what_was_applied_is_older_than_what_is_written_next() -> None:
    replica = make()
    give(replica, create(ONE, 30), second=0)
    assert replica.announce(Kind.CLEAR, None, NOW).stamp.time > time(30)


def test_a_foreign_fingerprint_is_a_doubt_and_overwrites_nothing() -> None:
    replica = holding()
    assert doubts(give(replica, update(TWO, 2, S1), fingerprint="theirs")) == {1}
    assert doubts(give(replica, delete(1, 2, 3, S2), fingerprint="theirs")) == {1}
    assert holds(replica, ONE)


@pytest.mark.parametrize(
    "bad",
    [
        Event(Kind.UPDATE, KEYS.encode(1), b"\xc1garbage", S2, S1),
        Event(Kind.UPDATE, KEYS.encode(1), b"", S2, S1),
        Event(Kind.UPDATE, KEYS.encode(1), None, S2, S1),
        Event(Kind.CREATE, KEYS.encode(1), None, S2, S1),
        Event(Kind.DELETE, KEYS.encode(1), ROWS.encode(TWO), S2, S1),
        Event(Kind.UPDATE, KEYS.encode(1), ROWS.encode(Row(7, 2)), S2, S1),
        Event(Kind.UPDATE, KEYS.encode(1), ROWS.encode(THREE), S2, S1),
    ],
    ids=[
        "garbage",
        "empty",
        "update without a row",
        "create without a row",
        "delete with a row",
        "another key's row",
        "another version's row",
    ],
)
def test_content_that_does_not_fit_is_a_doubt(bad: Event) -> None:
    replica = holding()
    assert doubts(give(replica, bad)) == {1}
    assert holds(replica, ONE)
    assert replica.counts.rejections.total() == 1


def test_a_key_function_that_raises_on_their_content_is_a_doubt() -> None:
    def picky(row: Row) -> int:
        return row.id // (row.version - 2)

    replica: Replica[int, Row] = Replica(
        "a", KEYS, ROWS, key_of=picky, version_of=lambda row: row.version, whole=True
    )
    assert doubts(give(replica, create(TWO, 1))) == {1}


@pytest.mark.parametrize("key", [b"", b"\xc1", b"\x92\x01", KEYS.encode(1) + b"\x00", b"\xa11"])
def test_an_unreadable_key_puts_everything_in_doubt(key: bytes) -> None:
    replica = holding()
    assert resyncs(give(replica, Event(Kind.DELETE, key, None, S2, S1)))
    assert holds(replica, ONE)


def test_an_absurd_version_changes_nothing_without_the_source() -> None:
    replica = holding()
    absurd = Row(1, 2**63 - 1, "absurd")
    assert doubts(give(replica, update(absurd, 2, stamp(2**63 - 2, 1)))) == {1}
    # The source says what is there, and its word counts whatever its version.
    assert reread(replica, 1, TWO, 50)[0]
    assert holds(replica, TWO)


def test_version_two_to_the_63_is_no_message() -> None:
    raw = msgspec.msgpack.decode(encode(batch(update(TWO, 2, S1))))
    version = raw[5][0][3][0]
    assert version == 2
    raw[5][0][3][0] = 2**63
    with pytest.raises(ProtocolError):
        decode(msgspec.msgpack.encode(raw))


@dataclasses.dataclass(frozen=True)
class Reading:
    at: float


def test_a_key_that_equals_nothing_raises_nothing() -> None:
    # A NaN can be sent; no row can be held under it.
    keys: KeyCodec[float] = KeyCodec(float)
    rows = EntityCodec(Reading)
    replica: Replica[float, Reading] = Replica(
        "a", keys, rows, key_of=lambda row: row.at, version_of=lambda row: 0, whole=True
    )
    nan = msgspec.msgpack.encode(float("nan"))
    for content in (None, msgspec.msgpack.encode({"at": float("nan")})):
        bad = Event(Kind.FOUND, nan, content, Stamp(0, time(1), "b"), ABSENT)
        message = Events(
            "b", "rows", rows.fingerprint, replica.progress.vector.get("b", 0) + 1, [bad]
        )
        assert replica.receive(message, NOW)
    assert not replica.table.live


def test_a_row_mutated_in_place_raises_nothing_and_can_be_replaced() -> None:
    @dataclasses.dataclass
    class Loose:
        id: int
        text: str

    rows = EntityCodec(Loose)
    replica: Replica[int, Loose] = Replica(
        "a", KEYS, rows, key_of=lambda row: row.id, version_of=lambda row: 0, whole=True
    )
    replica.table.put(1, Loose(1, "x"), Stamp(0, time(1), "b"))
    replica.table.live[1].text = object()  # type: ignore[assignment]
    fresh = Loose(1, "y")
    bad = Event(Kind.UPDATE, KEYS.encode(1), rows.encode(fresh), Stamp(0, time(2), "b"), ABSENT)
    assert replica.receive(Events("b", "rows", rows.fingerprint, 1, [bad]), NOW)
    load = replica.begin_load(NOW + 5)
    list(replica.replace(load, {1: fresh}))
    assert replica.table.live == {1: fresh}


# -- gaps ------------------------------------------------------------------------------------------


def test_a_number_skipped_is_asked_for_and_what_arrived_is_applied() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    assert resends(replica.receive(batch(create(Row(2), 3), first=3), NOW)) == [("b", 2, 2)]
    assert holds(replica, ONE, Row(2))
    assert replica.receive(batch(create(Row(3), 4), first=4), NOW) == []


def test_the_first_events_of_an_origin_missed_are_asked_for() -> None:
    assert resends(make().receive(batch(create(ONE, 1), first=2), NOW)) == [("b", 1, 1)]


def test_what_was_missed_fills_the_hole_however_late() -> None:
    replica = make()
    replica.receive(batch(create(Row(2), 2), first=2), NOW)
    assert not replica.progress.complete
    assert replica.receive(batch(create(ONE, 1), first=1), NOW) == []
    assert holds(replica, Row(2), ONE)
    assert replica.progress.complete
    replica.receive(batch(delete(1, 1, 3, S1), first=1), NOW)  # once is enough
    assert replica.counts.duplicates == 1
    assert holds(replica, Row(2), ONE)


def test_what_was_missed_of_a_key_that_has_moved_on_is_doubt() -> None:
    replica = make()
    replica.receive(batch(create(TWO, 2), first=2), NOW)
    assert doubts(replica.receive(batch(create(ONE, 1), first=1), NOW)) == {1}
    assert holds(replica, TWO)


def test_a_heartbeat_beyond_what_arrived_is_asked_for() -> None:
    # The last event before silence: nothing else would tell.
    sibling, replica = make("b"), make()
    sibling.skip(3)
    assert resends(replica.heard("b", state(sibling), ["a", "b"])) == [("b", 1, 3)]
    assert replica.counts.gaps == 1


def test_an_origin_that_does_not_answer_is_asked_again_and_then_given_up() -> None:
    sibling, replica = make("b"), make()
    sibling.skip(3)
    heard = [replica.heard("b", state(sibling), ["a", "b"]) for _ in range(6)]
    assert [bool(resends(effects)) for effects in heard] == [True, True, False, False, False, False]
    assert [resyncs(effects) for effects in heard] == [False, False, False, False, True, False]
    assert replica.progress.complete


def test_an_origin_that_has_it_no_longer_is_not_waited_for() -> None:
    sibling, replica = make("b"), make()
    sibling.skip(3)
    assert resyncs(replica.heard("b", state(sibling, kept=2), ["a", "b"]))
    assert replica.progress.complete


def test_an_origin_that_is_gone_is_not_waited_for() -> None:
    replica = make()
    assert resends(replica.receive(batch(create(ONE, 1), first=2), NOW))
    assert replica.looked_around(["b", "c"]) == []
    assert resyncs(replica.looked_around(["c"]))
    assert replica.looked_around(["c"]) == []


def test_more_holes_than_are_remembered_is_a_resync() -> None:
    replica = make()
    effects: list[Effect] = []
    for number in range(2, 2 * progress_module.MAX_HOLES + 4, 2):
        effects += replica.receive(batch(create(Row(number), 1), first=number), NOW)
    assert len(resends(effects)) == progress_module.MAX_HOLES
    assert resyncs(effects)


def test_a_heartbeat_that_says_what_arrived_is_nothing() -> None:
    sibling, replica = make("b"), make()
    give(replica, create(ONE, 1))
    sibling.skip(1)
    assert replica.heard("b", state(sibling, phase=Phase.LOADING), ["a", "b"]) == []


def test_a_broker_that_cannot_vouch_is_a_resync() -> None:
    assert resyncs(make().lost("reconnected"))


def test_an_empty_on_demand_replica_misses_nothing() -> None:
    replica, sibling = make(whole=False), make("b")
    sibling.skip(7)
    assert replica.heard("b", state(sibling), ["a", "b"]) == []
    assert make(whole=False).receive(batch(create(ONE, 1), first=5), NOW) == []


def test_on_demand_what_was_sent_before_is_asked_of_nobody_and_may_be_in_no_row() -> None:
    replica, sibling = make(whole=False), make("b")
    load = replica.begin_load(NOW)  # reads what is older than the last of these events
    sibling.skip(7)
    assert replica.heard("b", state(sibling), ["a", "b"]) == [
        Resync("b has sent events before it was first heard")
    ]
    replica.end_load(load)
    replica.table.put(1, ONE, S1)
    assert resyncs(replica.receive(batch(create(Row(2), 1), first=5, origin="c"), NOW))
    assert replica.progress.complete
    assert replica.counts.gaps == 0


def test_on_demand_an_origin_that_was_heard_before_it_sent_anything_is_asked() -> None:
    replica = make(whole=False)
    replica.heard("b", state(make("b")), ["a", "b"])
    replica.table.put(1, ONE, S1)
    assert resends(replica.receive(batch(create(Row(2), 1), first=2), NOW)) == [("b", 1, 1)]


def test_numbers_at_the_end_of_the_range_leave_a_vector_that_can_be_sent() -> None:
    replica = make()
    replica.receive(batch(create(ONE, 1), create(Row(2), 2), first=2**63 - 1), NOW)
    assert all(number < 2**63 for number in replica.progress.vector.values())


def test_origins_are_bounded_warm_and_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "MAX_ORIGINS", 5)
    monkeypatch.setattr(buffer_module, "MAX_ORIGINS", 5)
    warm, cold, listening = make(), make(), make()
    cold.go_cold()
    listening.go_cold()
    for number in range(20):
        origin = f"node {number}"
        warm.receive(batch(create(Row(number), 1, origin=origin), origin=origin), NOW)
        cold.receive(batch(create(Row(number), 1, origin=origin), origin=origin), NOW)
        listening.heard(origin, state(make(origin)), [])
    assert len(warm.progress.vector) <= 5
    assert len(cold.progress.vector) <= 5
    assert len(listening.progress.vector) <= 5


# -- digests ---------------------------------------------------------------------------------------


def test_a_digest_that_differs_twice_is_looked_into() -> None:
    replica, sibling = holding(), make("b")
    assert replica.heard("b", state(sibling), ["a", "b"]) == []
    assert compares(replica.heard("b", state(sibling), ["a", "b"])) == ["b"]


def test_a_digest_says_nothing_while_something_is_wrong_here() -> None:
    replica, sibling = holding(), make("b")
    for _ in range(9):
        assert replica.heard("b", state(sibling), ["a", "b"], clean=False) == []


def test_a_digest_that_agrees_in_between_starts_the_settling_over() -> None:
    replica, sibling = holding(), make("b")
    different, equal = state(sibling), state(replica)
    replica.heard("b", different, ["a", "b"])
    replica.heard("b", equal, ["a", "b"])
    assert replica.heard("b", different, ["a", "b"]) == []


def test_a_digest_says_nothing_while_progress_differs() -> None:
    replica, sibling = holding(), make("b")
    sibling.progress.vector["c"] = 4
    beat = state(sibling, ["a", "b", "c"])
    for _ in range(10):
        assert replica.heard("b", beat, ["a", "b", "c"]) == []


@pytest.mark.parametrize(("phase", "clean"), [(Phase.REFRESHING, True), (Phase.READY, False)])
def test_a_digest_says_nothing_while_the_other_is_not_in_step(phase: Phase, clean: bool) -> None:
    replica, sibling = holding(), make("b")
    beat = state(sibling, phase=phase, clean=clean)
    for _ in range(10):
        assert replica.heard("b", beat, ["a", "b"]) == []


def looks(*, ended: bool) -> list[int]:
    """The heartbeats at which a difference is looked into that stays, where that comes to its end or not."""
    replica, sibling = holding(), make("b")
    beat = state(sibling)
    asked = []
    for second in range(200):
        if compares(replica.heard("b", beat, ["a", "b"])):
            asked.append(second)
            if ended:
                replica.agreement.looked("b")
    return asked


def test_a_difference_that_no_comparison_mends_is_looked_into_ever_more_rarely() -> None:
    asked = looks(ended=True)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert 3 <= len(asked) <= 7
    assert pauses == sorted(set(pauses))


def test_a_comparison_that_came_to_nothing_is_made_as_soon_as_the_first() -> None:
    asked = looks(ended=False)
    assert {after - before for before, after in itertools.pairwise(asked)} == {SETTLE_BEATS}


def test_progress_is_the_same_for_all_that_have_taken_in_the_same() -> None:
    one, other = make("a"), make("b")
    one.skip(4)
    other.skip(2)
    one.progress.vector["b"], other.progress.vector["a"] = 2, 4
    assert state(one).progress == state(other, ["b", "a"]).progress
    other.progress.vector["a"] = 3
    assert state(one).progress != state(other).progress


def test_the_digest_follows_events() -> None:
    replica = make()
    give(replica, create(ONE, 1), create(Row(2), 2), update(TWO, 3, S1), delete(2, 1, 4, ABSENT))
    assert adds_up(replica)


# -- events without a row --------------------------------------------------------------------------


def test_reread_asks_the_source_and_keeps_what_is_held() -> None:
    replica = holding()
    large = Event(Kind.REREAD, KEYS.encode(1), None, S2, S1)
    assert give(replica, large) == [Reread((1,))]
    assert holds(replica, ONE)


def test_confirm_raises_the_time_of_the_last_complete_load_only() -> None:
    replica = holding()
    for second, expected in ((5, 5), (3, 5), (8, 8)):
        give(replica, confirm(second, second))
        assert replica.confirmed == time(expected)


@pytest.mark.parametrize("fingerprint", [ROWS.fingerprint, "theirs"])
def test_confirm_from_the_future_or_of_another_schema_is_ignored(fingerprint: str) -> None:
    replica = holding()
    second = 5.0 if fingerprint == "theirs" else 500.0
    give(replica, confirm(4, second), second=10, fingerprint=fingerprint)
    assert replica.confirmed == 0


def test_confirm_of_a_load_that_was_answered_before_it_began_is_ignored() -> None:
    replica = holding()
    give(replica, confirm(500, 5), second=10)
    assert (replica.confirmed, replica.holding.proven(1)) == (0, 0)


def test_clear_empties_and_what_follows_waits_for_the_next_load() -> None:
    replica = holding()
    clear = Event(Kind.CLEAR, b"", None, Stamp(0, time(5), "b"), ABSENT)
    assert give(replica, clear, create(Row(2), 6)) == [Cleared()]
    assert replica.cold
    assert holds(replica)
    assert replica.table.root == 0


def test_clear_on_demand_empties_and_goes_on() -> None:
    replica = make(whole=False)
    replica.table.put(1, ONE, S1)
    clear = Event(Kind.CLEAR, b"", None, Stamp(0, time(5), "b"), ABSENT)
    assert give(replica, clear) == [Cleared()]
    assert not replica.cold
    assert holds(replica)


def test_forget_drops_an_on_demand_row_and_doubts_a_whole_one() -> None:
    forget = Event(Kind.FORGET, KEYS.encode(1), None, S2, ABSENT)
    on_demand, whole = make(whole=False), holding()
    on_demand.table.put(1, ONE, S1)
    assert give(on_demand, forget) == []
    assert holds(on_demand)
    assert on_demand.table.stamp(1) == ABSENT
    assert doubts(give(whole, forget)) == {1}
    assert holds(whole, ONE)


# -- on demand -------------------------------------------------------------------------------------


def test_on_demand_takes_in_nothing_that_nobody_asked_for() -> None:
    replica = make(whole=False)
    assert give(replica, create(ONE, 1)) == []
    assert holds(replica)
    assert replica.table.stamp(1) == ABSENT


def test_on_demand_follows_the_events_of_what_is_held() -> None:
    replica = make(whole=False)
    replica.table.put(1, ONE, S1)
    assert give(replica, update(TWO, 2, S1)) == []
    assert holds(replica, TWO)


def test_a_remembered_miss_does_not_outlive_the_news_of_the_row() -> None:
    # Nobody re-reads a key that is not held, so "absent" must not go on being the answer.
    replica = make(whole=False)
    reread(replica, 1, None, 5)
    assert 1 in replica.table.dead
    give(replica, create(ONE, 6))
    assert 1 not in replica.table.dead


def test_resync_names_a_reason() -> None:
    (effect,) = make().lost("reconnected")
    assert effect == Resync("reconnected")


def test_kinds_made_of_nothing_are_refused_as_content() -> None:
    replica = holding()
    odd = event(Kind.REREAD, 1, TWO, S2, S1)
    assert doubts(give(replica, odd)) == {1}
    assert holds(replica, ONE)


# -- how long events were on their way -------------------------------------------------------------


def test_only_what_was_written_has_a_time_on_its_way() -> None:
    replica = holding()
    replica.receive(batch(found(1, TWO, S2, S1), first=1), NOW + 10)
    assert replica.counts.applied == 1
    assert sum(replica.counts.propagation.counts) == 0
    replica.receive(batch(update(THREE, 3, S2), first=2), NOW + 10)
    assert sum(replica.counts.propagation.counts) == 1
    assert replica.counts.propagation.total == pytest.approx(7.0)


def test_a_sibling_whose_clock_is_ahead_counts_as_quick() -> None:
    replica = holding()
    ahead = seconds(S2.time) - 5
    replica.receive(batch(update(TWO, 2, S1)), ahead)
    assert replica.counts.applied == 1
    assert (replica.counts.propagation.counts[0], replica.counts.propagation.total) == (1, 0.0)


def test_how_far_a_node_was_taken_in_is_forgotten_long_after_it_has_gone() -> None:
    replica = make()
    give(replica, create(ONE, 1))
    give(replica, create(Row(2), 1, origin="c"), origin="c")
    for _ in range(progress_module.MAX_SWEEPS):
        replica.sweep(NOW, 0, ["b"])
    assert replica.progress.vector == {"b": 1, "c": 1}
    replica.sweep(NOW, 0, ["b", "c"])  # it was back in between
    for _ in range(progress_module.MAX_SWEEPS + 1):
        replica.sweep(NOW, 0, ["b"])
    assert replica.progress.vector == {"b": 1}


def test_a_row_from_before_the_oldest_tombstone_is_not_believed() -> None:
    # Created, deleted, and the tombstone expired while its event was under way: a node that was cut off for long.
    replica = make()
    late = create(ONE, 1)
    assert doubts(replica.receive(batch(late), NOW + TOMBSTONE_SECONDS)) == {1}
    assert holds(replica)
    replica.end_load(replica.begin_load(NOW + TOMBSTONE_SECONDS))
    assert doubts(replica.receive(batch(create(Row(2), 1), first=2), NOW)) == {
        2
    }  # a clock set back


def test_a_row_from_before_a_tombstone_there_was_no_room_for_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table_module, "MAX_TOMBSTONES", 1)
    replica = make()
    give(replica, delete(1, 1, 50, ABSENT), delete(2, 1, 60, ABSENT))
    assert give(replica, create(Row(3), 51)) == []
    assert doubts(give(replica, create(ONE, 49))) == {1}


def test_to_drop_everything_is_not_done_twice_where_all_was_loaded_since() -> None:
    replica = make()
    clear = Event(Kind.CLEAR, b"", None, stamp(0, 5), ABSENT)
    load_all(replica, ONE, second=10)
    assert replica.receive(batch(clear), NOW + 20) == []  # sent again to whoever has missed it
    assert holds(replica, ONE)
    late = Event(Kind.CLEAR, b"", None, stamp(0, 15), ABSENT)
    assert replica.receive(batch(late, first=2), NOW + 20) == [Cleared()]
    assert replica.cold


def test_what_was_sent_with_an_order_to_drop_everything_that_is_too_late_is_taken_in() -> None:
    replica = make()
    clear = Event(Kind.CLEAR, b"", None, stamp(0, 5), ABSENT)
    load_all(replica, ONE, second=10)
    assert replica.receive(batch(clear, create(Row(2), 15)), NOW + 20) == []
    assert holds(replica, ONE, Row(2))


def test_everything_is_dropped_though_it_was_loaded_by_a_clock_that_was_ahead() -> None:
    replica = make()
    load_all(replica, ONE, second=3_600)  # and the clock has been put right since
    clear = Event(Kind.CLEAR, b"", None, stamp(0, 15), ABSENT)
    assert give(replica, clear, second=20) == [Cleared()]
    assert replica.cold


def test_a_row_that_came_and_went_while_it_was_read_does_not_come_back() -> None:
    replica = make()
    load = replica.begin_load(NOW + 10)
    replica.answered(load, NOW + 12)
    assert replica.loaded(load, 1, None) == (True, None)
    ahead = create(ONE, 14)  # told late, and its writer's clock is ahead
    assert doubts(give(replica, ahead, second=13)) == {1}
    assert holds(replica)


def test_what_was_written_before_a_read_was_answered_is_no_clean_successor_of_what_it_found() -> (
    None
):
    replica = make()
    give(replica, create(ONE, 1))
    load = replica.begin_load(NOW + 10)
    replica.answered(load, NOW + 12)
    assert replica.loaded(load, 1, ONE) == (True, None)
    assert doubts(give(replica, update(Row(1, 2, "b"), 11, S1), second=13)) == {1}
    assert holds(replica, ONE)
    assert replica.known_since(1) == time(10)


def test_a_new_row_that_was_under_way_for_long_may_be_gone() -> None:
    replica = make()
    load_all(replica, second=100)
    late = create(ONE, 101)
    assert doubts(give(replica, late, second=500)) == {1}
    assert holds(replica)
