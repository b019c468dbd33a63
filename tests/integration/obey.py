"""The worker's end of the pipes: orders on standard input, and what comes of them on standard output."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import msgspec

from .orders import READY, Order, Reply, Report, line

S = TypeVar("S")


def tell(report: Report) -> None:
    """To the test. It always reads, so this does not wait for long."""
    sys.stdout.buffer.write(line(report))
    sys.stdout.buffer.flush()


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 20)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


async def setup_of(orders: asyncio.StreamReader, kind: type[S]) -> S:
    """The first line: who this is."""
    return msgspec.json.decode(await orders.readline(), type=kind)


async def enter(node: AbstractAsyncContextManager[Any]) -> None:
    """Join, and say so."""
    try:
        await node.__aenter__()
    except Exception as error:  # the test knows what to make of it
        tell(Reply(READY, error=type(error).__name__, message=str(error)))
    else:
        tell(Reply(READY))


async def obey(
    orders: asyncio.StreamReader,
    worker: object,
    *beside: Coroutine[Any, Any, object],
    before_reply: Callable[[], None] = lambda: None,
) -> None:
    """Carry out orders, each a coroutine method of `worker`, until the pipe is closed: then the process ends.

    `beside` runs all the time, and an error of it ends the process; `before_reply` is called when an order
    has been carried out.
    """
    decode = msgspec.json.Decoder(Order).decode

    async def carry_out(order: Order) -> None:
        verb: Callable[..., Awaitable[Any]] = getattr(worker, order.verb)
        try:
            reply = Reply(order.number, await verb(**order.arguments))
        except Exception as error:  # the test knows what to make of it
            reply = Reply(order.number, error=type(error).__name__, message=str(error))
        before_reply()
        tell(reply)

    running: set[asyncio.Task[Any]] = set()
    for work in beside:
        task = asyncio.create_task(work)
        running.add(task)
        task.add_done_callback(_end_with)
    while text := await orders.readline():
        task = asyncio.create_task(carry_out(decode(text)))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)  # the test has gone, or wants no more of this


def _end_with(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        traceback.print_exception(error)
        os._exit(1)
