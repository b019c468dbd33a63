"""How far events were taken in, and the holes in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imperfect_dollop.replica import progress as progress_module
from imperfect_dollop.replica.progress import ASK_BEATS, MAX_HOLES, MAX_SWEEPS, Progress


def missing(progress: Progress, origin: str = "b", upto: int = 60) -> list[int]:
    """The numbers up to the last that are still news."""
    last = min(upto, progress.last(origin))
    return [number for number in range(1, last + 1) if progress.news(origin, number)]


def holed(*holes: tuple[int, int], last: int = 20) -> Progress:
    progress = Progress()
    progress.saw("b", last)
    for first, end in holes:
        assert progress.miss("b", first, end)
    return progress


@pytest.mark.parametrize(
    ("first", "last", "left"),
    [
        (1, 4, [5, 6, 7, 8]),  # before it
        (9, 12, [5, 6, 7, 8]),  # behind it
        (5, 8, []),
        (1, 20, []),
        (5, 5, [6, 7, 8]),
        (8, 8, [5, 6, 7]),
        (6, 7, [5, 8]),
        (3, 6, [7, 8]),
        (7, 30, [5, 6]),
    ],
)
def test_what_arrives_takes_its_part_of_a_hole(first: int, last: int, left: list[int]) -> None:
    progress = holed((5, 8))
    progress.took("b", first, last)
    assert missing(progress) == left
    assert progress.complete is (not left)
    assert progress.last("b") == max(20, last)


def test_holes_of_one_origin_are_not_those_of_another() -> None:
    progress = holed((5, 8))
    progress.saw("c", 9)
    progress.miss("c", 5, 5)
    progress.took("c", 5, 5)
    assert progress.awaited == ["b"]
    assert not progress.complete
    progress.took("b", 5, 8)
    assert progress.complete


def test_one_batch_fills_several_holes() -> None:
    progress = holed((2, 3), (6, 7), (9, 12))
    progress.took("b", 3, 10)
    assert missing(progress) == [2, 11, 12]


def test_what_falls_into_a_hole_leaves_no_more_holes_than_are_remembered() -> None:
    progress = holed((1, 10_000), last=10_001)
    progress.saw("c", 9)
    progress.miss("c", 5, 8)
    for number in range(2, 10_000, 2):
        progress.took("b", number, number)
    again, _ = progress.overdue("b", 1)
    again, _ = progress.overdue("b", 1)
    assert len(again) == MAX_HOLES - 1
    assert progress.news("b", 9_999)
    for number in range(1, 10_001):  # sent again
        progress.took("b", number, number)
    assert progress.awaited == ["c"]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(0, 8), st.booleans()), min_size=1, max_size=25
    )
)
def test_holes_are_what_has_not_come(steps: list[tuple[int, int, bool]]) -> None:
    """Against a set of numbers: events come in any order, or are only heard of."""
    progress = Progress()
    taken: set[int] = set()
    heard = 0
    for first, more, arrives in steps:
        last = first + more
        before = progress.last("b")
        if arrives:
            if first > before + 1:
                progress.miss("b", before + 1, first - 1)
            progress.took("b", first, last)
            taken.update(range(first, last + 1))
        elif last > before:
            progress.saw("b", last)
            progress.miss("b", before + 1, last)
        heard = max(heard, last)
        assert missing(progress) == [n for n in range(1, heard + 1) if n not in taken]
        assert progress.complete is (set(range(1, heard + 1)) <= taken)
        assert progress.news("b", heard + 1)


def test_holes_are_bounded_over_all_origins() -> None:
    progress = Progress()
    for number in range(MAX_HOLES):
        origin = f"b{number % 7}"
        progress.saw(origin, 2 * number + 2)
        assert progress.miss(origin, 2 * number + 1, 2 * number + 1)
    assert not progress.miss("c", 1, 1)
    progress.give_up("b1")
    assert progress.miss("c", 1, 1)


def test_an_origin_is_asked_again_once_and_given_up_after_as_many_beats_more() -> None:
    progress = holed((5, 8), (11, 11))
    beats = [progress.overdue("b", kept=1) for _ in range(2 * ASK_BEATS)]
    assert beats == [
        ([(5, 8), (11, 11)] if beat == ASK_BEATS else [], False)
        for beat in range(1, 2 * ASK_BEATS + 1)
    ]
    assert progress.overdue("b", kept=1) == ([], True)
    assert progress.complete
    assert progress.overdue("b", kept=1) == ([], False)


def test_what_is_left_of_a_hole_is_as_old_as_the_hole() -> None:
    progress = holed((5, 8))
    progress.overdue("b", kept=1)
    progress.took("b", 6, 6)
    assert progress.overdue("b", kept=1) == ([(5, 5), (7, 8)], False)


@pytest.mark.parametrize(("kept", "lost"), [(5, False), (6, True), (21, True)])
def test_what_the_origin_has_kept_no_longer_is_given_up_at_once(kept: int, lost: bool) -> None:
    progress = holed((5, 8))
    assert progress.overdue("b", kept) == ([], lost)
    assert progress.complete is lost


def test_one_hole_that_cannot_be_filled_is_the_end_of_all_of_its_origin() -> None:
    progress = holed((5, 8), (12, 12))
    progress.saw("c", 2)
    progress.miss("c", 1, 1)
    assert progress.overdue("b", kept=6) == ([], True)
    assert progress.awaited == ["c"]


def test_what_a_copy_contains_fills_holes_up_to_there() -> None:
    progress = holed((5, 8), (12, 14))
    progress.contains({"b": 13, "c": 4})
    assert missing(progress) == [14]
    assert (progress.last("b"), progress.last("c")) == (20, 4)
    progress.contains({"b": 30})
    assert progress.complete
    assert progress.last("b") == 30


def test_a_start_from_a_vector_leaves_no_holes_of_an_attempt_before() -> None:
    progress = holed((5, 8))
    progress.start({"b": 7, "c": 1})
    assert progress.complete
    assert progress.vector == {"b": 7, "c": 1}


def test_who_was_spoken_for_is_believed_again_from_what_it_says() -> None:
    progress = holed((5, 8), last=1_000_000)
    assert not progress.less("b", 8)
    assert not progress.less("b", 8, timely=False)
    assert progress.last("b") == 1_000_000
    assert progress.less("b", 8)
    assert progress.complete
    assert progress.news("b", 9)
    assert not progress.news("b", 8)


def test_one_smaller_number_may_be_older_than_what_was_seen() -> None:
    progress = holed((5, 8))
    for _ in range(3):
        assert not progress.less("b", 8)
        progress.overdue("b", 1)  # and the next one says as much as was seen
    assert not progress.complete


def test_an_origin_that_is_forgotten_for_another_leaves_no_hole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_module, "MAX_ORIGINS", 2)
    progress = holed((5, 8))
    assert progress.saw("c", 1)
    assert not progress.saw("d", 1)
    assert progress.complete
    assert set(progress.vector) == {"c", "d"}


def test_only_who_was_long_no_member_is_forgotten() -> None:
    progress = holed((5, 8))
    progress.saw("c", 1)
    for _ in range(MAX_SWEEPS):
        progress.sweep(["c"])
    assert "b" in progress.vector
    progress.sweep(["b", "c"])  # it is back
    for _ in range(MAX_SWEEPS):
        progress.sweep(["c"])
    assert "b" in progress.vector
    progress.sweep(["c"])
    assert set(progress.vector) == {"c"}
    assert progress.complete


def test_the_hash_is_of_the_members_only_and_of_every_number() -> None:
    one, other = Progress(), Progress()
    one.saw("b", 3)
    one.saw("gone", 9)
    other.saw("a", 5)
    assert one.hash(["a", "b"], "a", 5) == other.hash(["b", "a"], "b", 3)
    assert one.hash(["a", "b"], "a", 5) != one.hash(["a", "b"], "a", 6)
    assert one.hash(["a", "b"], "a", 5) != one.hash(["a", "b", "gone"], "a", 5)


def test_progress_numbers_given_up_are_lacking_until_a_copy_contains_them() -> None:
    progress = Progress()
    progress.took("a", 1, 1)
    progress.miss("a", 2, 3)
    progress.took("a", 4, 4)
    progress.give_up("a")
    assert progress.complete
    assert not progress.lacks({"a": 2})
    assert progress.lacks({"a": 3})
    assert progress.lacks({"a": 4})
    progress.contains({"a": 2})
    assert progress.lacks({"a": 4})
    progress.contains({"a": 4})
    assert not progress.lacks({"a": 4})
