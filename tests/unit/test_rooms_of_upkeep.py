"""What upkeep keeps in rooms of their own: whether the source answers, how old the set is, who waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from imperfect_dollop import waiters as waiters_module
from imperfect_dollop.age import Age
from imperfect_dollop.errors import NotReadyError, SourceUnavailableError
from imperfect_dollop.freshness import LONGEST_PAUSE
from imperfect_dollop.health import Health
from imperfect_dollop.replica.stamp import at
from imperfect_dollop.waiters import Waiters

from .clockwork import ClockworkLoop, clockwork
from .school import others, settled

AWAY = SourceUnavailableError("away")


# -- whether the source answers --------------------------------------------------------------------


@clockwork
async def test_failures_that_come_at_once_are_one() -> None:
    changes: list[bool] = []
    health = Health(1.0, lambda: changes.append(health.failure is None))
    for _ in range(50):
        health.failed(AWAY)
    assert (health.failures, health.failure) == (1, AWAY)
    assert 0.5 <= health.pause <= 1.0
    await asyncio.sleep(1.0)
    assert health.may_try
    health.failed(AWAY)
    assert health.failures == 2
    assert 1.0 <= health.pause <= 2.0
    assert not any(changes)


@clockwork
async def test_pauses_grow_up_to_the_longest_and_begin_anew_when_it_answers() -> None:
    health = Health(0.5, lambda: None)
    for _ in range(20):
        health.failed(AWAY)
        assert health.pause <= LONGEST_PAUSE
        await asyncio.sleep(health.pause)
    health.failed(AWAY)
    assert health.pause > LONGEST_PAUSE / 4
    health.answered()
    assert (health.failure, health.failures) == (None, 0)
    assert health.may_try
    health.failed(AWAY)
    assert health.pause <= 0.5


@clockwork
async def test_a_row_that_can_be_read_does_not_make_up_for_a_load_that_failed() -> None:
    health = Health(0.5, lambda: None)
    health.failed(AWAY, load=True)
    health.failed(AWAY)  # of a row, which changes nothing
    health.answered()
    assert health.failure is AWAY
    assert health.alive_since is None
    health.loaded()  # by a sibling
    health.answered()
    assert health.failure is None
    assert health.alive_since == pytest.approx(time.time(), abs=1)


# -- how old ---------------------------------------------------------------------------------------


@clockwork
async def test_a_set_grows_old_at_its_time_whatever_is_heard_twice() -> None:
    stale: list[float] = []
    age = Age(60.0, 10.0, lambda: stale.append(time.monotonic()))
    assert age.seconds is None
    assert age.due(jitter=True) == 0.0
    confirmed = at(time.time() - 20.0)
    began = time.monotonic()
    assert age.note(confirmed)
    assert not age.note(confirmed)
    due = age.due(jitter=True)
    assert due is not None
    assert 30.0 - 0.1 <= due <= 40.0 + 0.1
    assert age.due(jitter=False) == pytest.approx(40.0, abs=0.1)
    await asyncio.sleep(39.0)
    assert not stale
    await asyncio.sleep(2.0)
    assert age.stale
    assert stale[0] - began == pytest.approx(40.0, abs=0.1)
    assert age.note(at(time.time()))
    assert not age.stale
    await asyncio.sleep(59.0)
    age.close()
    await asyncio.sleep(10.0)
    assert len(stale) == 1


@clockwork
async def test_a_clock_that_is_set_makes_nothing_older() -> None:
    age = Age(60.0, 0.0, lambda: None)
    age.note(at(time.time() + 30.0))  # by a clock that is ahead
    assert age.seconds == 0.0
    with pytest.MonkeyPatch.context() as patch:
        wall = time.time()
        patch.setattr(time, "time", lambda: wall + 3_600.0)
        assert age.seconds == 0.0
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockworkLoop)
        loop.stand_still(5.0)
        assert age.seconds == pytest.approx(5.0, abs=0.01)


@clockwork
async def test_without_ttl_nothing_is_ever_due() -> None:
    age = Age(None, 0.0, lambda: pytest.fail("never stale"))
    assert age.note(at(time.time() - 1e6))
    assert age.due(jitter=True) is None
    await asyncio.sleep(1e6)
    assert not age.stale


# -- who waits -------------------------------------------------------------------------------------


async def test_all_are_answered_each_with_an_error_of_its_own() -> None:
    waiters = Waiters()
    calls = [asyncio.ensure_future(waiters.wait()) for _ in range(3)]
    await settled()
    calls[1].cancel()
    await settled()
    waiters.answer(NotReadyError("not yet"))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], NotReadyError)
    assert isinstance(results[1], asyncio.CancelledError)
    assert isinstance(results[2], NotReadyError)
    assert results[0] is not results[2]  # or one's traceback would grow into the other's
    assert len(waiters) == 0


async def test_those_who_come_later_wait_for_the_next_answer() -> None:
    waiters = Waiters()
    first = asyncio.ensure_future(waiters.wait())
    await settled()
    taken = waiters.take()
    later = asyncio.ensure_future(waiters.wait())
    await settled()
    assert (len(taken), len(waiters)) == (1, 1)
    waiters.give_back(taken)
    assert (len(taken), len(waiters)) == (0, 2)
    taken.answer(NotReadyError("nobody waits here any more"))
    again = waiters.take()
    waiters.answer()
    await settled()
    assert not first.done()
    again.answer()
    await asyncio.gather(first, later)


async def test_who_has_gone_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters_module, "MAX_CANCELLED", 10)
    before = others()
    waiters = Waiters()
    stays = asyncio.ensure_future(waiters.wait())
    for _ in range(100):
        call = asyncio.ensure_future(waiters.wait())
        await asyncio.sleep(0)
        call.cancel()
        await settled(3)
        assert len(waiters) <= 1 + 10 + 1
    waiters.answer()
    await stays
    assert others() == before
