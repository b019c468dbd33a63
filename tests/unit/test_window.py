"""Which keys were touched since a load began."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop.replica.window import Load, Window


def test_a_touch_counts_for_loads_that_began_before_it_only() -> None:
    window = Window()
    before = window.open(1)
    window.touch("k")
    after = window.open(2)
    assert not window.untouched("k", before)
    assert window.untouched("k", after)
    assert window.untouched("other", before)


def test_the_end_of_the_oldest_load_keeps_what_a_younger_one_needs() -> None:
    window = Window()
    old = window.open(1)
    window.touch("early")
    young = window.open(2)
    window.touch("late")
    window.close(old)
    assert not window.untouched("late", young)
    assert window.untouched("early", young)


def test_the_end_of_a_younger_load_keeps_what_the_oldest_needs() -> None:
    window = Window()
    old = window.open(1)
    window.touch("k")
    window.close(window.open(2))
    assert not window.untouched("k", old)


def test_past_the_limit_old_loads_are_overrun_and_young_ones_are_not() -> None:
    window = Window(limit=2)
    old = window.open(1)
    for key in "abc":
        window.touch(key)
    young = window.open(2)
    assert window.overrun(old)
    assert not window.untouched("never touched", old)
    assert not window.overrun(young)
    assert window.untouched("a", young)


def test_touching_one_key_often_overruns_nothing() -> None:
    window = Window(limit=2)
    load = window.open(1)
    for _ in range(10):
        window.touch("k")
    assert not window.overrun(load)


def test_touching_everything_overtakes_every_open_load() -> None:
    window = Window()
    load = window.open(1)
    window.touch_all()
    assert window.overrun(load)
    assert not window.untouched("k", load)
    assert window.untouched("k", window.open(2))


def test_a_complete_load_overtakes_all_others_that_are_open() -> None:
    window = Window()
    older, complete, younger = window.open(1), window.open(2), window.open(3)
    window.overtake(complete)
    assert window.overrun(older)
    assert window.overrun(younger)
    assert window.untouched("k", complete)
    assert window.untouched("k", window.open(4))


def test_closing_twice_is_harmless() -> None:
    window = Window()
    load, other = window.open(1), window.open(2)
    window.touch("k")
    window.close(load)
    window.close(load)
    assert not window.untouched("k", other)


@given(
    st.lists(st.tuples(st.sampled_from(["open", "close", "touch"]), st.integers(0, 5)), max_size=60)
)
def test_a_load_is_never_told_that_a_touched_key_is_untouched(
    steps: list[tuple[str, int]],
) -> None:
    window = Window(limit=3)
    loads: list[tuple[Load, set[int]]] = []
    for what, number in steps:
        if what == "open":
            loads.append((window.open(0), set()))
        elif what == "close" and loads:
            window.close(loads.pop(number % len(loads))[0])
        elif what == "touch":
            window.touch(number)
            for _, touched in loads:
                touched.add(number)
        for load, touched in loads:
            assert not any(window.untouched(key, load) for key in touched)
            if not window.overrun(load):
                assert all(window.untouched(key, load) for key in set(range(6)) - touched)
