"""When data is due, and when a source that failed is asked again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop.freshness import LONGEST_PAUSE, Backoff, due_after

draws = st.floats(0, 1, exclude_max=True)


@given(st.floats(0, 1e6), st.floats(0, 1e6), draws)
def test_nothing_is_due_later_than_its_ttl_nor_in_the_past(
    ttl: float, jitter: float, draw: float
) -> None:
    assert max(0.0, ttl - jitter) <= due_after(ttl, jitter, draw) <= ttl


def test_jitter_spreads_what_is_due() -> None:
    assert due_after(60, 10, 0.0) == 60
    assert due_after(60, 10, 0.5) == 55
    assert due_after(60, 0, 0.9) == 60


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0)
    assert [backoff.failed(0.0) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert backoff.failed(0.999) <= LONGEST_PAUSE


def test_half_of_a_pause_is_drawn() -> None:
    assert Backoff(4.0).failed(0.0) == 2
    assert Backoff(4.0).failed(0.5) == 3


def test_success_starts_over() -> None:
    backoff = Backoff(1.0)
    for _ in range(5):
        backoff.failed(0.0)
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.failed(0.0) == 0.5


@pytest.mark.parametrize("first", [0.01, 1.0, 120.0])
@given(st.integers(0, 5_000), draws)
def test_no_number_of_failures_gives_a_pause_out_of_bounds(
    first: float, failures: int, draw: float
) -> None:
    backoff = Backoff(first)
    backoff.failures = failures
    assert first / 2 <= backoff.failed(draw) <= max(LONGEST_PAUSE, first)
