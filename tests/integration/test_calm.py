"""The event loop gets its turn, however many rows there are: nothing of ours does much of its work in one go.

Judged by shares of the whole piece, which are the same on a slow machine; the times are said, and judged by nobody.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import Repository
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .calm import SLOW, Steps, measured
from .test_nodes import Row, Rows
from .test_repairs import Member, all_equal, counted, fleet

ROWS: Final = 100_000

MOST: Final = 0.05
"""Of a piece of work, in one step. A dict that doubles its room at this size takes less; each piece consists of a few
passes over all rows, and one of them in one go would be far more."""


@pytest.fixture
def calm(record_property: Callable[[str, object], None]) -> Callable[[Steps, str], None]:
    """Judges what was done since the last time."""

    def judge(steps: Steps, work: str) -> None:
        total, longest, slow = steps.taken()
        record_property(
            work,
            f"{total:.2f} s, at most {1e3 * longest.seconds:.1f} ms at a time (in {longest.name!r}),"
            f" {slow} over {1e3 * SLOW:g} ms",
        )
        assert longest.seconds < max(SLOW, MOST * total), (work, total, longest)

    return judge


async def test_a_fleet_with_many_rows_lets_the_loop_go_on(
    url: str, calm: Callable[[Steps, str], None]
) -> None:
    async with fleet(Rows(10), url, url):
        pass  # so that everything is imported
    rows = Rows(ROWS)
    with measured() as steps:
        async with fleet(rows, url, url) as members:
            one, other = members
            assert (one.rows.stats.full_loads, other.rows.stats.snapshots) == (1, 1)
            calm(steps, "load and copy")
            changed = {number: Row(number, "changed") for number in range(0, ROWS, 100)}
            rows.rows |= changed
            await one.rows.refresh()
            await all_equal(members, rows)
            assert counted(members, "applied") >= len(changed)
            calm(steps, "refresh")
            plant(other, range(7, ROWS, 1_000))
            await all_equal(members, rows)
            assert counted(members, "comparisons") >= 1
            calm(steps, "comparison")
            await one.rows.clear()
            await all_equal(members, rows)
            assert len(one.rows) == ROWS
            calm(steps, "everything dropped, and filled anew")


def plant(member: Member, keys: range) -> None:
    """Rows that no event has brought."""
    table = member.replica.table
    for key in keys:
        table.put(key, Row(key, "planted"), table.stamp(key))


async def test_many_rows_of_a_database_let_the_loop_go_on(
    postgres_url: str, calm: Callable[[Steps, str], None]
) -> None:
    engine = create_async_engine(postgres_url)
    table = f"calm_{secrets.token_hex(4)}"
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text(f"CREATE TABLE {table} (id integer PRIMARY KEY, text text NOT NULL)")
            )
            await connection.execute(
                text(
                    f"INSERT INTO {table} SELECT n, 'row ' || n FROM generate_series(1, {ROWS}) AS n"
                )
            )
        with measured() as steps:
            async with repository(engine, table) as loaded:
                assert len(loaded) == ROWS
                calm(steps, "load")
    finally:
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        await engine.dispose()


def repository(engine: Any, table: str) -> Repository[int, Row]:
    from sqlalchemy import Column, Integer, MetaData, Table, Text

    columns = Column("id", Integer, primary_key=True), Column("text", Text, nullable=False)
    source = SQLAlchemySource(engine, Table(table, MetaData(), *columns), entity=Row)
    return Repository(Row, source=source)
