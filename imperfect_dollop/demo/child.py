"""A process with one member of the demo: ``python -m imperfect_dollop.demo.child``, started by the demo only.

It ends when its standard input does, so it never outlives whoever has started it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any, Final

import anyio
import msgspec

from .log import show_log
from .member import LocalMember, Setup
from .pipe import CALLS, Failure, Reply, Request, receive, send

__all__ = ["serve"]

logger: Final = logging.getLogger(__name__)

FAREWELL_SECONDS: Final = 5
"""For leaving the cluster in order, when nobody listens any more."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Make a member and call its methods as requested, each call in a task of its own."""
    frame = await receive(reader)
    if frame is None:
        return
    setup = msgspec.msgpack.decode(frame, type=Setup)
    show_log(setup.log, name=setup.name)
    member = LocalMember(setup)
    try:
        async with anyio.create_task_group() as calls:
            while (frame := await receive(reader)) is not None:
                request = msgspec.msgpack.decode(frame, type=Request)
                calls.start_soon(_answer, member, request, writer)
            calls.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(FAREWELL_SECONDS, shield=True):
            await member.leave()


async def _answer(member: LocalMember, request: Request, writer: asyncio.StreamWriter) -> None:
    try:
        arguments = CALLS[request.method].arguments(request)
        result: Any = await getattr(member, request.method)(*arguments)
        reply = Reply(request.number, msgspec.Raw(msgspec.msgpack.encode(result)))
    except Exception as error:  # whatever it is, the other end is to hear of it
        reply = Reply(request.number, failure=Failure.of(error))
    try:
        await send(writer, reply)
    except ConnectionError as error:
        logger.debug("nobody reads the answer: %s", error)


async def _standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # Standard output is the pipe; whatever is printed in this process goes to standard error.
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)


async def _main() -> None:
    reader, writer = await _standard_streams()
    try:
        await serve(reader, writer)
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(_main())
