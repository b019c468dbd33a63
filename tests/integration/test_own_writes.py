"""Twenty nodes write one row of a real database while their way to a real broker is cut and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import ConflictError, Node, Repository
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .history import History
from .proxy import Proxy
from .rows import Row, Rows, rows_of_a_test

RIVALS = 20
KEY = 0
CUT_SECONDS = 1.5
CONNECTIONS = 8
"""For all nodes: fewer than writers, so that some wait."""


@dataclass(frozen=True)
class Shown:
    """What a node showed after its own write, or after a refusal of a write that was built on this row."""

    mark: str
    refused: bool
    shown: str


async def compete(
    repository: Repository[int, Row], marks: Iterator[str], seen: list[Shown]
) -> None:
    """One write, and the read after it."""
    row = await repository.get(KEY)
    assert row is not None
    mark, refused = next(marks), False
    try:
        await repository.update(replace(row, mark=mark))
    except ConflictError:
        mark, refused = row.mark, True
    shown = await repository.get(KEY)
    assert shown is not None
    seen.append(Shown(mark, refused, shown.mark))


def older(seen: list[Shown], history: History) -> list[Shown]:
    """Reads that have returned an older row than the write before them allows."""
    places = history.places(KEY)
    return [one for one in seen if places[one.shown] < places[one.mark] + one.refused]


async def run(
    rows: Rows, url: str, proxy: Proxy, database: str, *, versioned: bool, preload: bool
) -> list[Shown]:
    engine = create_async_engine(database, pool_size=CONNECTIONS, max_overflow=0)
    version = "version" if versioned else None
    repositories = [
        Repository[int, Row](
            Row,
            source=SQLAlchemySource(engine, rows.table, entity=Row, version_column=version),
            version=version,
            preload=preload,
        )
        for _ in range(RIVALS)
    ]
    seen: list[Shown] = []
    marks, stop = (f"mark {number}" for number in itertools.count()), asyncio.Event()

    async def writer(repository: Repository[int, Row]) -> None:
        while not stop.is_set():
            await compete(repository, marks, seen)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        for repository in repositories:
            await stack.enter_async_context(
                Node(proxy.url(url), repository, namespace=rows.name, heartbeat=0.5)
            )
        async with asyncio.TaskGroup() as group:
            for repository in repositories:
                group.create_task(writer(repository))
            async with proxy.outage():
                await asyncio.sleep(CUT_SECONDS)
            while not all(one.state == "ready" for one in repositories):
                await asyncio.sleep(0.05)
            stop.set()
    return seen


@pytest.mark.timeout(120)
@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "unversioned"])
async def test_read_after_a_write_among_twenty_rivals_returns_that_write_or_a_newer_one(
    redis_url: str, postgres_url: str, versioned: bool, preload: bool
) -> None:
    async with rows_of_a_test(postgres_url) as rows, Proxy.before(redis_url) as proxy:
        await rows.seed(1)
        seen = await run(rows, redis_url, proxy, postgres_url, versioned=versioned, preload=preload)
        assert older(seen, await rows.history()) == []
        assert len(seen) > RIVALS
        assert any(one.refused for one in seen) is versioned
