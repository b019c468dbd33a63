"""The struct made of a table's columns holds what the database returns, and siblings get an equal copy of it."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import MetaData, Table

from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .databases import engine_of, run, url_of

HOURS_2 = dt.timezone(dt.timedelta(hours=2))

POSTGRESQL: dict[str, Any] = {
    "bigint": ("7", 7),
    "numeric(10, 2)": ("1.50", Decimal("1.50")),
    "double precision": ("0.1", 0.1),
    "text": ("'a'", "a"),
    "char(3)": ("'a'", "a  "),
    "bytea": ("'\\xff'", b"\xff"),
    "boolean": ("true", True),
    "date": ("'2024-02-29'", dt.date(2024, 2, 29)),
    "time": ("'10:00'", dt.time(10)),
    "timetz": ("'10:00+02'", dt.time(10, tzinfo=HOURS_2)),
    "timestamp": ("'2024-02-29 10:00'", dt.datetime(2024, 2, 29, 10)),
    "interval": ("'1 day 2 hours'", dt.timedelta(days=1, hours=2)),
    "uuid": (f"'{uuid.UUID(int=7)}'", uuid.UUID(int=7)),
    "json": ("'{\"a\": [1, null, 1.5]}'", {"a": [1, None, 1.5]}),
    "jsonb": ("'[1, \"x\"]'", [1, "x"]),
    "macaddr": ("'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
    "money": ("'5.50'", "$5.50"),
    "oid": ("12", 12),
    "regclass": ("'pg_class'", "pg_class"),
    "tsvector": ("'a b'", "'a' 'b'"),
    "xml": ("'<a/>'", "<a/>"),
    "int[]": ("'{1, NULL, 2}'", [1, None, 2]),
    "date[]": ("'{2024-02-29}'", [dt.date(2024, 2, 29)]),
    "uuid[]": (f"'{{{uuid.UUID(int=7)}}}'", [uuid.UUID(int=7)]),
    "numeric[]": ("'{1.50}'", [Decimal("1.50")]),
}

MARIADB: dict[str, Any] = {
    "bigint unsigned": ("18446744073709551615", 2**64 - 1),
    "decimal(10, 2)": ("1.50", Decimal("1.50")),
    "float": ("2.5", 2.5),
    "varchar(10)": ("'a'", "a"),
    "blob": ("x'ff'", b"\xff"),
    "tinyint(1)": ("1", 1),
    "bit(4)": ("b'101'", 5),
    "year": ("2024", 2024),
    "date": ("'2024-02-29'", dt.date(2024, 2, 29)),
    "time": ("'10:00'", dt.time(10)),
    "datetime": ("'2024-02-29 10:00'", dt.datetime(2024, 2, 29, 10)),
    "set('x', 'y')": ("'x,y'", {"x", "y"}),
    "enum('p', 'q')": ("'p'", "p"),
    "uuid": (f"'{uuid.UUID(int=7)}'", uuid.UUID(int=7)),
    "inet6": ("'::1'", "::1"),
}


@pytest.mark.filterwarnings("ignore:Did not recognize type")
@pytest.mark.filterwarnings("ignore:Type object .* does not refer to an OperatorClass")
@pytest.mark.parametrize(
    ("kind", "declared"),
    [
        *[("postgresql", declared) for declared in POSTGRESQL],
        *[("mariadb", declared) for declared in MARIADB],
    ],
)
async def test_row_of_a_reflected_column_has_an_equal_copy(
    kind: str, declared: str, request: pytest.FixtureRequest
) -> None:
    literal, value = (POSTGRESQL if kind == "postgresql" else MARIADB)[declared]
    name = f"dollop_{uuid.uuid4().hex[:12]}"
    async with engine_of(url_of(kind, request)) as engine:
        await run(
            engine,
            f"CREATE TABLE {name} (id integer PRIMARY KEY, v {declared})",
            f"INSERT INTO {name} VALUES (1, {literal.replace(':', chr(92) + ':')}), (2, NULL)",
        )
        try:
            async with engine.connect() as connection:
                table = await connection.run_sync(
                    lambda sync: Table(name, MetaData(), autoload_with=sync)
                )
            source: Any = SQLAlchemySource(engine, table)
            rows = [row async for chunk in source.load_all() for row in chunk]
            assert rows == [source.entity(id=1, v=value), source.entity(id=2, v=None)]
            assert type(rows[0].v) is type(value)
            if isinstance(value, list):
                assert [type(item) for item in rows[0].v] == [type(item) for item in value]
            codec = EntityCodec(source.entity, key="id")
            for row in rows:
                copy = codec.decode(codec.verify(row))
                assert (copy, type(copy.v)) == (row, type(row.v))
        finally:
            await run(engine, f"DROP TABLE {name}")
