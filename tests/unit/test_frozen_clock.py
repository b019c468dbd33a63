"""Clocks that a library for tests has frozen."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

from freezegun import freeze_time

from imperfect_dollop import FunctionSource, Node, Repository

from .school import eventually


@dataclass(frozen=True)
class Row:
    id: int
    made: dt.datetime


def repository(table: dict[int, Row]) -> Repository[int, Row]:
    async def load_all() -> Sequence[Row]:
        return list(table.values())

    async def load(key: int) -> Row | None:
        return table.get(key)

    async def put(row: Row) -> Row:
        table[row.id] = row
        return row

    async def delete(key: int) -> None:
        del table[key]

    source: FunctionSource[int, Row] = FunctionSource(
        load=load, load_all=load_all, create=put, update=put, delete=delete
    )
    return Repository(Row, source=source)


async def test_node_frozen_wall_clock_starts_and_replicates() -> None:
    with freeze_time("2026-01-01", real_asyncio=True):
        table = {1: Row(1, dt.datetime.now(dt.UTC))}
        one, two = repository(table), repository(table)
        async with asyncio.timeout(20):
            async with Node("memory://frozen", one), Node("memory://frozen", two) as node:
                await node.wait_ready()
                changed = replace(one[1], made=dt.datetime.now(dt.UTC))
                await one.update(replace(changed, id=1))
                await one.create(Row(2, dt.datetime.now(dt.UTC)))
                await eventually(lambda: 2 in two)
                assert two[2] == one[2]
                assert type(two[2].made) is type(one[2].made)


async def test_node_all_clocks_frozen_starts_alone() -> None:
    with freeze_time("2026-01-01"):
        rows = repository({1: Row(1, dt.datetime.now(dt.UTC))})
        async with Node("memory://frozen alone", rows):
            assert rows.state == "ready"
            await rows.create(Row(2, dt.datetime.now(dt.UTC)))
            assert len(rows) == 2
