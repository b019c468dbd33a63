"""A cold node ready from a sibling, beside the same rows read from PostgreSQL.

Every round has a process of its own for each side: over each broker a copy of the sibling's rows; a repository with an
`SQLAlchemySource` and no sibling; and SQLAlchemy's ORM alone, all objects of a session in a dict.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from imperfect_dollop import Repository

from .children import Parent, child
from .copies import COPY_SECONDS, copied, right
from .figures import Mistake, Rounds, Skipped
from .rows import CITIES, Row, row
from .servers import BROKERS, add_numbers, add_server, server

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, *BROKERS, "postgresql")
    add_numbers(parser, {"--rows": (1_000_000, "rows"), "--rounds": (3, "rounds of each side")})


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    count: int = arguments.rows
    rounds = Rounds()
    figures: dict[str, object] = {"rows": count}
    brokers = {}
    async with AsyncExitStack() as stack:
        for kind in BROKERS:
            try:
                brokers[kind] = await stack.enter_async_context(server(kind, arguments))
            except Skipped as skipped:
                print(f"  {kind} is left out: {skipped}")
        try:
            url = await stack.enter_async_context(server("postgresql", arguments))
        except Skipped as skipped:
            raise Mistake(f"there is nothing to compare with: {skipped}") from skipped
        table = await stack.enter_async_context(_table(url, count))
        for number in range(arguments.rounds):
            for side, work in (("source", _by_source), ("orm", _by_orm)):
                async with child(side, work, url, table, count) as process:
                    rounds.add(side, await process.told(COPY_SECONDS))
            for kind, broker in brokers.items():
                namespace = f"{table}-{number}"
                async with copied(broker, namespace, count) as (given, taken):
                    rounds.add(kind, taken.seconds)
                    rounds.add(f"{kind} giver", given.peak / given.resident)
                    rounds.add(f"{kind} taker", taken.peak / taken.resident)
                    figures[f"{kind}_bytes"] = taken.bytes
    print(f"  {count:,} rows, seconds until ready:")
    for side in ("source", "orm", *brokers):
        figures[f"{side}_s"] = round(rounds.median(side), 2)
        print(f"    {rounds.median(side):>7.2f}  {side}")
    for kind in brokers:
        for side in ("source", "orm"):
            ratio = rounds.ratio(side, kind)
            figures |= ratio.figures(f"{kind}_{side}_speedup")
            print(f"  {kind}_{side}_speedup: {ratio}")
        for side in ("giver", "taker"):
            figures[f"{kind}_{side}_peak_ratio"] = round(rounds.median(f"{kind} {side}"), 2)
        print(
            f"  {kind}: memory at its peak, of what it is afterwards:"
            f" giver {rounds.median(f'{kind} giver'):.2f}, taker {rounds.median(f'{kind} taker'):.2f}"
        )
    return figures


@asynccontextmanager
async def _table(url: str, count: int) -> AsyncIterator[str]:
    """A table with all rows; its name."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    table = f"bench_{secrets.token_hex(4)}"
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    f"CREATE TABLE {table} (id integer PRIMARY KEY, name text NOT NULL, city text NOT NULL,"
                    " year integer NOT NULL, version integer NOT NULL)"
                )
            )
            await connection.execute(
                text(
                    f"INSERT INTO {table} SELECT n, 'Student ' || n || ' 1',"
                    f" (CAST(:cities AS text[]))[1 + n % {len(CITIES)}], 1990 + n % 30, 1"
                    " FROM generate_series(0, :last) AS n"
                ),
                {"cities": list(CITIES), "last": count - 1},
            )
        async with engine.connect() as connection:
            await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
                text(f"VACUUM ANALYZE {table}")
            )
        yield table
    finally:
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        await engine.dispose()


def _model(table: str) -> Any:
    from sqlalchemy import Integer, Text
    from sqlalchemy.orm import DeclarativeBase, mapped_column

    class Base(DeclarativeBase):
        pass

    class Student(Base):
        __tablename__ = table
        id = mapped_column(Integer, primary_key=True)
        name = mapped_column(Text, nullable=False)
        city = mapped_column(Text, nullable=False)
        year = mapped_column(Integer, nullable=False)
        version = mapped_column(Integer, nullable=False)

    return Student


async def _by_source(parent: Parent, url: str, table: str, count: int) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

    engine = create_async_engine(url)
    source = SQLAlchemySource(engine, _model(table), entity=Row, version_column="version")
    began = time.monotonic()
    async with Repository(
        Row, source=source, version="version", ttl=None, read_only=True
    ) as repository:
        seconds = time.monotonic() - began
        if not right(repository, count):
            raise Mistake("the rows are not those of the table")
        parent.tell(seconds)
        await parent.asked()
    await engine.dispose()


async def _by_orm(parent: Parent, url: str, table: str, count: int) -> None:
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(url)
    student = _model(table)
    began = time.monotonic()
    async with AsyncSession(engine, expire_on_commit=False) as session:
        found = await session.stream_scalars(
            select(student), execution_options={"yield_per": 10_000}
        )
        held = {each.id: each async for each in found}
        seconds = time.monotonic() - began
        last = row(count - 1)
        if len(held) != count or held[last.id].name != last.name:
            raise Mistake("the rows are not those of the table")
        parent.tell(seconds)
        await parent.asked()
    await engine.dispose()
