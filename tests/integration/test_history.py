"""The judge of the fault tests can say no."""

from __future__ import annotations

import pytest

from .history import History, Past, Record, Saw, Shown

SEED = Shown("seed:1", 0)
ONE = Shown("one", 1)
TWO = Shown("two", 2)
AGAIN = Shown("again", 0)
FRESH = Shown("fresh", 0)

HISTORY = History(
    [
        Past(1, SEED),
        Past(1, ONE),
        Past(1, TWO),
        Past(1, None),
        Past(1, AGAIN),
        Past(2, FRESH),
        Past(2, None, at=1000.0),
    ]
)


def faults(*what: tuple[Saw, int, Shown | None], at: float = 2000.0) -> int:
    return len(HISTORY.faults("n", [Record(saw, key, row, at) for saw, key, row in what]))


def reads(key: int, *rows: Shown | None) -> int:
    return faults(*((Saw.READ, key, row) for row in rows))


def test_a_walk_along_the_history_is_right() -> None:
    assert reads(1, SEED, ONE, ONE, TWO, None, None, AGAIN) == 0
    assert reads(1, TWO, AGAIN) == 0  # what came in between need not be seen
    assert reads(1) == 0
    assert reads(2, None, None, FRESH, None) == 0
    assert reads(3, None, None) == 0


def test_what_was_never_in_the_source() -> None:
    assert reads(1, Shown("invented", 1)) == 1
    assert reads(1, Shown("one", 2)) == 1  # this row, but in a version that it never had
    assert reads(2, ONE) == 1  # another key's
    assert reads(3, ONE) == 1


def test_going_back_to_an_older_version() -> None:
    assert reads(1, TWO, ONE) == 1
    assert reads(1, AGAIN, TWO) == 1  # of the row's life before, whatever its version


def test_back_from_the_dead() -> None:
    assert reads(1, ONE, None, TWO) == 1
    assert reads(2, FRESH, None, FRESH) == 1


def test_absent_before_it_was_looked_for() -> None:
    assert reads(1, None, SEED) == 1
    assert reads(1, None, ONE) == 1
    assert reads(1, None) == 0  # deleted later on: a node that starts then may show just that
    gone = (Saw.READ, 2, FRESH), (Saw.READ, 2, None)
    assert faults(*gone, at=999.0) == 1
    assert faults(*gone, at=1000.0) == 0


def test_absent_although_the_source_never_lost_it() -> None:
    assert len(History([Past(1, SEED)]).faults("n", [Record(Saw.READ, 1, None, 0.0)])) == 1
    assert reads(1, AGAIN, None) == 1


def test_refusal_after_which_what_was_built_on_is_shown_is_a_fault() -> None:
    refused = (Saw.READ, 1, ONE), (Saw.REFUSED, 1, ONE)
    assert faults(*refused, (Saw.READ, 1, TWO)) == 0
    assert faults(*refused, (Saw.READ, 1, None)) == 0
    assert faults(*refused, (Saw.READ, 1, ONE)) == 1
    assert faults((Saw.READ, 1, TWO), (Saw.REFUSED, 1, ONE), (Saw.READ, 1, TWO)) == 0


def test_refusal_although_nothing_newer_was_there_is_a_fault() -> None:
    assert faults((Saw.READ, 1, AGAIN), (Saw.REFUSED, 1, AGAIN)) == 1
    assert faults((Saw.READ, 2, FRESH), (Saw.REFUSED, 2, FRESH), at=999.0) == 1


def test_not_reading_what_was_written() -> None:
    assert faults((Saw.WROTE, 1, TWO), (Saw.READ, 1, TWO)) == 0
    assert faults((Saw.WROTE, 1, TWO), (Saw.READ, 1, None)) == 0  # deleted by somebody since
    assert faults((Saw.WROTE, 1, TWO), (Saw.READ, 1, ONE)) == 1
    assert faults((Saw.READ, 1, TWO), (Saw.WROTE, 1, ONE), (Saw.READ, 1, TWO)) == 0
    assert faults((Saw.READ, 1, TWO), (Saw.WROTE, 1, ONE), (Saw.READ, 1, ONE)) == 1


def test_not_reading_what_was_deleted() -> None:
    delete = ((Saw.DELETING, 1, None), (Saw.DELETED, 1, None))
    assert faults((Saw.READ, 1, TWO), *delete, (Saw.READ, 1, None), (Saw.READ, 1, AGAIN)) == 0
    assert faults((Saw.READ, 1, TWO), *delete, (Saw.READ, 1, TWO)) == 1
    late = ((Saw.DELETING, 1, None), (Saw.READ, 1, AGAIN), (Saw.DELETED, 1, None))
    assert faults((Saw.READ, 1, TWO), *late, (Saw.READ, 1, AGAIN)) == 0


@pytest.mark.parametrize("saw", [Saw.WROTE, Saw.DELETED])
def test_an_acknowledgement_of_what_was_never_committed(saw: Saw) -> None:
    assert faults((saw, 3, Shown("lost", 1) if saw is Saw.WROTE else None)) == 1


def test_a_read_that_waited_and_was_overtaken() -> None:
    late = [(Saw.LATE, 1, row) for row in (SEED, ONE, None)]
    assert faults((Saw.READ, 1, TWO), *late, (Saw.READ, 1, TWO)) == 0
    assert faults((Saw.LATE, 1, Shown("invented", 1))) == 1
    assert faults((Saw.LATE, 1, Shown("one", 2))) == 1
    assert faults((Saw.LATE, 2, FRESH), (Saw.LATE, 2, None), at=-1.0) == 1
    assert len(History([Past(1, SEED)]).faults("n", [Record(Saw.LATE, 1, None, 0.0)])) == 1


def test_a_fault_tells_the_last_of_a_long_story() -> None:
    many = [Shown(str(number), number) for number in range(1_000)]
    history = History(Past(1, row) for row in many)
    (fault,) = history.faults("n", [Record(Saw.READ, 1, row, 0.0) for row in (*many, SEED)])
    assert "999 v999, 0.000 r seed:1 v0; the source: 0.000 993: 993 v993" in fault
    assert len(fault) < 2_000


def test_every_key_s_first_contradiction_is_told() -> None:
    found = HISTORY.faults(
        "n",
        [
            Record(Saw.READ, key, row, 0.0)
            for key, row in [(1, TWO), (1, ONE), (1, SEED), (2, FRESH), (2, ONE)]
        ],
    )
    assert [fault.split(" at ")[0] for fault in found] == ["n, key 1", "n, key 2"]
