"""What arrives at a sibling: by a copy of everything when a node joins, and by an event when a row is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from imperfect_dollop import FunctionSource, Node, Repository

__all__ = ["arrivals", "repository"]


def repository(
    entity: type[Any], table: dict[Any, Any], reads: list[object]
) -> Repository[Any, Any]:
    """A repository over a table in memory; `reads` lists what was read of it."""

    async def load(key: Any) -> Any:
        reads.append(key)
        return table.get(key)

    async def load_all() -> AsyncIterator[Any]:
        reads.append("all")
        for row in list(table.values()):
            yield row

    async def put(row: Any) -> Any:
        table[row.id] = row
        return row

    async def delete(key: Any) -> None:
        del table[key]

    source: FunctionSource[Any, Any] = FunctionSource(
        load=load, load_all=load_all, create=put, update=put, delete=delete
    )
    return Repository(entity, source=source, name="rows")


async def arrivals(broker: str, namespace: str, row: Any) -> tuple[list[Any], list[object]]:
    """What a sibling shows of a row that it copied and that it heard of, and what it read of the source."""
    table, reads = {row.id: row}, list[object]()
    writer, reader = repository(type(row), table, []), repository(type(row), table, reads)
    async with Node(broker, writer, namespace=namespace) as node:
        await node.wait_ready()
        async with Node(broker, reader, namespace=namespace) as another:
            await asyncio.wait_for(another.wait_ready(), 20)
            copied = reader[row.id]
            await writer.delete(row.id)
            await until(lambda: row.id not in reader)
            await writer.create(row)
            await until(lambda: row.id in reader)
            return [copied, reader[row.id]], reads


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)
