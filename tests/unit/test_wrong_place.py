"""Use from another event loop, another thread or a forked child: one clear error, and no harm to the owner."""

from __future__ import annotations

import asyncio
import os
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from imperfect_dollop import ClosedError, FunctionSource, Node, Repository


@dataclass(frozen=True)
class Row:
    id: int


TABLE = {1: Row(1)}


async def load_all() -> list[Row]:
    return list(TABLE.values())


async def load(key: int) -> Row | None:
    return TABLE.get(key)


async def put(row: Row) -> Row:
    return row


async def delete(key: int) -> None:
    pass


def repository(**options: Any) -> Repository[int, Row]:
    source: FunctionSource[int, Row] = FunctionSource(
        load=load, load_all=load_all, create=put, update=put, delete=delete
    )
    return Repository(Row, source=source, **options)


CALLS: list[Callable[[Node, Repository[int, Row]], Awaitable[object]]] = [
    lambda node, rows: rows.get(2),
    lambda node, rows: rows.get(1, max_staleness=1.0),
    lambda node, rows: rows.get_many([1]),
    lambda node, rows: rows.get_all(),
    lambda node, rows: rows.create(Row(3)),
    lambda node, rows: rows.update(Row(1)),
    lambda node, rows: rows.delete(1),
    lambda node, rows: rows.refresh(),
    lambda node, rows: rows.invalidate(1),
    lambda node, rows: rows.clear(),
    lambda node, rows: node.flush(),
    lambda node, rows: node.wait_ready(),
    lambda node, rows: node.__aexit__(None, None, None),
]


@pytest.mark.parametrize("call", CALLS)
async def test_call_in_another_event_loop_raises_and_leaves_the_node_as_it_was(
    call: Callable[[Node, Repository[int, Row]], Awaitable[object]],
) -> None:
    rows = repository()
    async with Node("memory://wrong place", rows) as node:
        raised: list[BaseException] = []

        def elsewhere() -> None:
            async def use() -> None:
                await call(node, rows)

            try:
                asyncio.run(use())
            except ClosedError as error:
                raised.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.01)
        (error,) = raised
        assert "another event loop" in str(error)
        await rows.update(Row(1))
        await node.flush()
        assert rows.state == "ready"


async def test_thread_without_a_loop_may_look_at_what_is_in_memory() -> None:
    async with repository() as rows:
        assert await asyncio.to_thread(lambda: (rows.peek(1), rows[1], len(rows), 2 in rows)) == (
            Row(1),
            Row(1),
            1,
            False,
        )


def in_a_fork(use: Callable[[], None]) -> str:
    """What went wrong in a forked child that called `use`; empty if nothing did."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            use()
            said = ""
        except BaseException:
            said = traceback.format_exc()
        os.write(writing, said.encode()[-4000:])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


READS: list[Callable[[Repository[int, Row]], object]] = [
    lambda rows: rows.peek(1),
    lambda rows: rows[1],
    lambda rows: 1 in rows,
    len,
    list,
    lambda rows: asyncio.run(_await(rows.get(1))),
    lambda rows: asyncio.run(_await(rows.update(Row(1)))),
]


async def _await(call: Awaitable[object]) -> object:
    return await call


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork() beside threads
async def test_forked_child_reads_and_writes_raise_and_a_child_may_open_anew() -> None:
    rows = repository()
    async with Node("memory://fork", rows) as node:

        def use() -> None:
            for read in READS:
                with pytest.raises(ClosedError, match="is a fork of it"):
                    read(rows)
            assert rows.state == node.state == "closed"
            with pytest.raises(ClosedError, match="is a fork of it"):
                asyncio.run(_await(node.flush()))
            asyncio.run(_await(node.__aexit__(None, None, None)))

            async def anew() -> None:
                async with Node("memory://fork", rows):
                    assert await rows.get(1) == Row(1)

            asyncio.run(anew())

        assert in_a_fork(use) == ""
        assert await rows.get(1) == Row(1)
        await rows.update(Row(1))
        assert rows.state == "ready"
