"""Stamps and the hybrid clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop.replica.stamp import MAX_DRIFT, HybridClock, Stamp, at, join, seconds

from .builders import NOW

moments = st.floats(min_value=0, max_value=4e9)


@given(st.lists(st.one_of(moments, st.integers(0, at(4e9)))))
def test_times_only_grow_whatever_the_wall_clock_and_the_others_say(
    inputs: list[float | int],
) -> None:
    clock = HybridClock()
    last = 0
    for value in inputs:
        if isinstance(value, int):
            clock.observe(value, 4e9)
        else:
            drawn = clock.tick(value)
            assert drawn > last
            last = drawn


def test_a_tick_is_later_than_what_was_observed() -> None:
    clock = HybridClock()
    remote = at(NOW + 30)
    assert clock.observe(remote, NOW)
    assert clock.tick(NOW) > remote


def test_a_time_at_the_drift_bound_is_taken_and_one_beyond_is_not() -> None:
    clock = HybridClock()
    assert not clock.observe(at(NOW + MAX_DRIFT) + 1, NOW)
    assert clock.time == 0
    assert clock.observe(at(NOW + MAX_DRIFT), NOW)
    assert clock.time == at(NOW + MAX_DRIFT)


def test_the_clock_stays_at_the_wall_clock_while_that_advances() -> None:
    clock = HybridClock()
    assert clock.tick(NOW) == at(NOW)
    assert clock.tick(NOW) == at(NOW) + 1
    assert clock.tick(NOW + 1) == at(NOW + 1)


def test_hybrid_time_keeps_microseconds() -> None:
    assert seconds(at(NOW + 0.000_125)) == NOW + 0.000_125
    assert at(-1) == 0


def test_a_join_has_no_order_and_is_none_of_its_parts() -> None:
    one, other, third = Stamp(1, 5, "a"), Stamp(2, 3, "b"), Stamp(1, 9, "~not hexadecimal!")
    both = join(one, other)
    assert both == join(other, one)
    assert (both.version, both.time) == (2, 5)
    assert join(both, third) == join(one, join(third, other))
    assert len({one, other, third, both, join(both, third), join(one, third)}) == 6
