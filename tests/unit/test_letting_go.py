"""Many rows are let go a few at a time, with a turn for the event loop in between."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from imperfect_dollop import letting_go
from imperfect_dollop.letting_go import let_go

from .school import SchoolSource, repository, soon, students


async def turns_of(dropped: list[dict[int, int]]) -> int:
    """How often the event loop gets its turn until all is let go."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    before = turns
    await let_go(dropped)
    counting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await counting
    return turns - before


@pytest.mark.parametrize(("rows", "slices"), [(0, 1), (1, 1), (10, 1), (11, 2), (35, 4)])
async def test_a_slice_at_a_time(rows: int, slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letting_go, "SLICE", 10)
    dropped = [dict.fromkeys(range(rows), 0)]
    (held,) = dropped
    assert await turns_of(dropped) == slices
    assert dropped == []
    assert held == {}


async def test_several_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letting_go, "SLICE", 10)
    dropped = [dict.fromkeys(range(count), 0) for count in (3, 12, 10)]
    assert await turns_of(dropped) == 4
    assert dropped == []


async def test_nothing_to_let_go_costs_no_turn() -> None:
    assert await turns_of([]) == 0


async def test_what_a_repository_drops_is_let_go_before_it_is_filled_anew() -> None:
    source = SchoolSource(*students(50))
    async with repository(source) as repo:
        session = repo._session
        assert session is not None
        table = session.replica.table
        held = table.live
        await repo.clear()
        assert len(held) == 50
        assert len(await soon(repo.get_all())) == 50
        assert held == {}
        assert table.dropped == []
