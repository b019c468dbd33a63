"""The rows of the fault tests, and the table that keeps them together with all that they ever were."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Column, Integer, MetaData, String, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from .history import History, Past, Shown

SEED: Final = "seed"
"""Begins the mark of the rows that are there before any node is."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row whose `mark` no other write has, so that what a read returned names its commit."""

    id: int
    mark: str
    filler: str = ""
    version: int = 0


def table_named(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("mark", String(80), nullable=False),
        Column("filler", String, nullable=False),
        Column("version", Integer, nullable=False),
    )


class Rows:
    """One table of PostgreSQL or MariaDB, whose trigger writes down every commit in the order of each key."""

    def __init__(self, engine: AsyncEngine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.table = table_named(name)

    async def seed(self, count: int, *, filler: int = 0) -> None:
        """Fill it, before any node is there."""
        rows = [
            {"id": key, "mark": f"{SEED}:{key}", "filler": "x" * filler, "version": 0}
            for key in range(count)
        ]
        async with self.engine.begin() as connection:
            await connection.execute(insert(self.table), rows)

    async def now(self) -> dict[int, Shown]:
        """What is in the table."""
        async with self.engine.connect() as connection:
            found = await connection.execute(text(f"SELECT id, mark, version FROM {self.name}"))
            return {row.id: Shown(row.mark, row.version) for row in found}

    async def history(self) -> History:
        """What has ever been in the table."""
        statement = text(f"SELECT id, mark, version, gone, at FROM {self.name}_past ORDER BY seq")
        history = History()
        async with self.engine.connect() as connection, connection.stream(statement) as found:
            async for row in found:
                history.add(
                    Past(row.id, None if row.gone else Shown(row.mark, row.version), row.at)
                )
        return history


# The number is drawn while the row's lock is held, by a trigger of the statement that has it: so for one key numbers
# are in the order of commits, on both databases. `at` is the moment of drawing, before the commit.
POSTGRESQL: Final = (
    """
    CREATE TABLE {name} (
        id int PRIMARY KEY, mark text NOT NULL, filler text NOT NULL, version int NOT NULL
    )
    """,
    """
    CREATE TABLE {name}_past (
        seq bigserial PRIMARY KEY, id int, mark text, version int, gone bool,
        at float8 DEFAULT extract(epoch FROM clock_timestamp())
    )
    """,
    """
    CREATE FUNCTION {name}_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO {name}_past (id, mark, version, gone)
                VALUES (OLD.id, OLD.mark, OLD.version, true);
            RETURN OLD;
        END IF;
        INSERT INTO {name}_past (id, mark, version, gone)
            VALUES (NEW.id, NEW.mark, NEW.version, false);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER {name}_noted AFTER INSERT OR UPDATE OR DELETE ON {name}
        FOR EACH ROW EXECUTE FUNCTION {name}_note()
    """,
)

# InnoDB draws an AUTO_INCREMENT as the row is inserted; NOW() would be the statement's beginning, before it waited
# for the lock, which SYSDATE() is not.
MYSQL: Final = (
    """
    CREATE TABLE {name} (
        id int PRIMARY KEY, mark varchar(80) NOT NULL, filler text NOT NULL, version int NOT NULL
    ) ENGINE=InnoDB
    """,
    """
    CREATE TABLE {name}_past (
        seq bigint AUTO_INCREMENT PRIMARY KEY, id int, mark varchar(80), version int, gone bool, at double
    ) ENGINE=InnoDB
    """,
    *(
        f"""
        CREATE TRIGGER {{name}}_{verb} AFTER {verb} ON {{name}} FOR EACH ROW
            INSERT INTO {{name}}_past (id, mark, version, gone, at)
                VALUES ({row}.id, {row}.mark, {row}.version, {gone}, unix_timestamp(sysdate(6)))
        """
        for verb, row, gone in (
            ("INSERT", "NEW", "false"),
            ("UPDATE", "NEW", "false"),
            ("DELETE", "OLD", "true"),
        )
    ),
)

STATEMENTS: Final = {"postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}
"""By SQLAlchemy's name of the database."""


@asynccontextmanager
async def rows_of_a_test(url: str) -> AsyncIterator[Rows]:
    """A table under a name that no other run has, for as long as the block runs."""
    engine = create_async_engine(url, poolclass=NullPool)
    name = f"dollop_{uuid.uuid4().hex[:12]}"
    try:
        try:
            async with engine.begin() as connection:
                for statement in STATEMENTS[engine.dialect.name]:
                    await connection.execute(text(statement.format(name=name)))
            yield Rows(engine, name)
        finally:
            async with engine.begin() as connection:
                await connection.execute(text(f"DROP TABLE IF EXISTS {name}, {name}_past"))
                if engine.dialect.name == "postgresql":
                    await connection.execute(text(f"DROP FUNCTION IF EXISTS {name}_note"))
    finally:
        await engine.dispose()
