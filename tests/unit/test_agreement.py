"""Since when all copies agree: what proves it, what ends it, and what neither does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest

from imperfect_dollop.replica.agreement import SETTLE_BEATS, Agreement
from imperfect_dollop.replica.messages import Phase, RepositoryState
from imperfect_dollop.replica.replica import Replica

from .builders import Row, compares, give, load_all, make, state
from .builders import create as created


def proven(*origins: str, at: float = 10.0) -> Agreement:
    """All of these hold a copy that was equal at a moment, which was looked at then."""
    agreement = Agreement()
    for origin in origins:
        agreement.holds(origin, clean=True)
        agreement.same(origin, at)
    agreement.look(at, sure=True)
    assert agreement.since == agreement.proven == at
    return agreement


def test_whoever_is_alone_agrees_with_itself() -> None:
    agreement = Agreement()
    assert (agreement.agreed, agreement.since, agreement.proven) == (None, None, None)
    agreement.look(5.0, sure=True)
    agreement.look(6.0, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (True, 5.0, 6.0)


def test_all_agree_when_the_last_of_them_was_proven_equal() -> None:
    agreement = Agreement()
    for origin in "bc":
        agreement.holds(origin, clean=True)
    agreement.same("b", 3.0)
    agreement.look(4.0, sure=True)
    assert (agreement.agreed, agreement.since) == (None, None)
    agreement.same("c", 4.5)
    agreement.look(5.0, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (True, 5.0, 5.0)


def test_it_was_last_proven_when_the_one_least_lately_compared_was() -> None:
    agreement = proven("b", "c", at=10.0)
    agreement.same("b", 20.0)
    agreement.same("c", 15.0)
    agreement.look(21.0, sure=True)
    assert (agreement.since, agreement.proven) == (10.0, 15.0)


def test_that_nothing_can_be_compared_ends_nothing_and_proves_nothing() -> None:
    agreement = proven("b")
    for second in range(11, 100):
        agreement.holds("b", clean=True)
        agreement.unknown("b")
        agreement.look(second, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (True, 10.0, 10.0)


def test_one_beat_that_differs_may_come_between_a_write_and_its_number() -> None:
    agreement = proven("b", "c")
    for _ in range(SETTLE_BEATS - 1):
        assert not agreement.differs("b")
    assert agreement.agreed
    agreement.same("b", 12.0)
    for _ in range(SETTLE_BEATS - 1):
        assert not agreement.differs("b")
    assert (agreement.agreed, agreement.since) == (True, 10.0)


def test_beats_that_differ_end_it_until_that_copy_is_equal_again() -> None:
    agreement = proven("b", "c")
    assert [agreement.differs("b") for _ in range(SETTLE_BEATS)][-1]
    assert (agreement.agreed, agreement.since) == (False, None)
    agreement.unknown("b")  # after a write, say: it is still another
    agreement.same("c", 13.0)
    agreement.look(13.0, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (False, None, 10.0)
    agreement.same("b", 14.0)
    agreement.look(15.0, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (True, 15.0, 15.0)
    agreement.look(16.0, sure=False)
    assert agreement.agreed is None  # nothing is held against it any more


def test_it_is_over_at_once_also_where_looking_why_has_been_put_off() -> None:
    agreement = proven("b")
    for _ in range(5 * SETTLE_BEATS):
        agreement.differs("b")
    agreement.holds("b", clean=True)
    agreement.unknown("b")
    assert agreement.agreed is False


def test_a_copy_that_nobody_vouches_for_ends_it() -> None:
    agreement = proven("b", "c")
    agreement.holds("b", clean=False)
    agreement.look(11.0, sure=True)
    assert (agreement.agreed, agreement.since) == (False, None)
    agreement.holds("b", clean=True)
    agreement.look(12.0, sure=True)
    assert (agreement.agreed, agreement.since) == (None, None)
    agreement.same("b", 13.0)
    agreement.look(13.0, sure=True)
    assert (agreement.agreed, agreement.since) == (True, 13.0)


def test_a_newcomer_has_to_be_compared_first() -> None:
    agreement = proven("b")
    agreement.holds("c", clean=True)
    agreement.look(11.0, sure=True)
    assert (agreement.agreed, agreement.since) == (None, None)
    agreement.same("c", 12.0)
    agreement.look(12.0, sure=True)
    assert (agreement.agreed, agreement.since) == (True, 12.0)


def test_whoever_leaves_takes_nothing_along_but_its_own_copy() -> None:
    agreement = proven("b", "c")
    agreement.left("c")
    agreement.look(11.0, sure=True)
    assert (agreement.agreed, agreement.since) == (True, 10.0)
    agreement.holds("d", clean=False)
    assert agreement.agreed is False
    agreement.left("d")
    agreement.look(12.0, sure=True)
    assert (agreement.agreed, agreement.since) == (True, 12.0)
    for _ in range(SETTLE_BEATS):
        agreement.differs("b")
    agreement.left("b")
    assert agreement.agreed is None
    agreement.look(13.0, sure=True)
    assert (agreement.agreed, agreement.since) == (True, 13.0)


def test_doubt_of_this_copy_leaves_nothing_proven() -> None:
    agreement = proven("b")
    agreement.look(11.0, sure=False)
    agreement.look(12.0, sure=True)
    assert (agreement.agreed, agreement.since, agreement.proven) == (None, None, 10.0)
    agreement.same("b", 13.0)
    agreement.look(13.0, sure=True)
    assert (agreement.since, agreement.proven) == (13.0, 13.0)


def test_a_copy_that_is_dropped_agrees_with_nobody() -> None:
    agreement = proven("b")
    agreement.clear()
    agreement.look(11.0, sure=True)
    assert (agreement.agreed, agreement.since) == (None, None)


# -- what a replica makes of heartbeats ------------------------------------------------------------


def pair() -> tuple[Replica[int, Row], RepositoryState]:
    """A replica, and what a sibling of the same content says."""
    one, other = make("a"), make("b")
    for replica in (one, other):
        load_all(replica, Row(1), Row(2))
    return one, state(other)


def look(
    replica: Replica[int, Row], said: RepositoryState, members: Collection[str] = ("a", "b")
) -> bool | None:
    replica.heard("b", said, members, moment=7.0)
    replica.agreement.look(8.0, sure=True)
    return replica.agreement.agreed


def test_equal_progress_and_digest_are_a_proof() -> None:
    replica, said = pair()
    assert look(replica, said)
    assert (replica.agreement.since, replica.agreement.proven) == (8.0, 8.0)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ({"fingerprint": "of another shape"}, None, True),
        ({"progress": 1}, None, True),
        ({"phase": Phase.REFRESHING}, None, True),
        ({"clean": False}, False, False),
        # These have no copy that could differ.
        ({"phase": Phase.COLD}, True, True),
        ({"phase": Phase.LOADING}, True, True),
        ({"whole": False}, True, True),
    ],
    ids=str,
)
def test_what_is_no_proof(change: dict[str, Any], before: bool | None, after: bool | None) -> None:
    """Before there was one nothing is known; after it some things change nothing."""
    replica, said = pair()
    changed = msgspec.structs.replace(said, **change)
    assert look(replica, changed) is before
    assert look(replica, said) is True
    assert look(replica, changed) is after


def test_a_heartbeat_of_one_that_has_left_does_not_bring_it_back() -> None:
    replica, said = pair()
    assert look(replica, msgspec.structs.replace(said, clean=False), members=["a"]) is True


def test_while_it_is_cold_it_notes_who_has_a_copy() -> None:
    replica, said = pair()
    replica.go_cold()
    assert look(replica, said) is None
    replica.go_warm()
    replica.agreement.look(9.0, sure=True)
    assert replica.agreement.agreed is None


def test_a_silent_difference_is_seen_by_digests_and_by_nothing_else() -> None:
    replica, said = pair()
    assert look(replica, said)
    replica.table.put(2, Row(2, 1, "planted"), replica.table.stamp(2))
    assert look(replica, said) is True
    assert look(replica, said) is False
    replica.table.put(2, Row(2), replica.table.stamp(2))
    assert look(replica, said) is True


def test_a_difference_is_looked_into_by_whoever_sees_it() -> None:
    replica, said = pair()
    replica.table.put(2, Row(2, 1, "planted"), replica.table.stamp(2))
    found = [
        compares(replica.heard("b", said, ["a", "b"], moment=float(beat)))
        for beat in range(SETTLE_BEATS)
    ]
    assert found[-1] == ["b"]


def test_an_event_that_has_come_here_first_ends_nothing() -> None:
    replica, said = pair()
    assert look(replica, said)
    give(replica, created(Row(3), 9), origin="c", second=10)  # what was loaded was so some time ago
    assert replica.table.root != said.digest
    assert look(replica, said, members=["a", "b", "c"]) is True
    assert (replica.agreement.since, replica.agreement.proven) == (8.0, 8.0)
