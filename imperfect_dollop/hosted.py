"""A task that lives as long as a block of code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio

__all__ = ["hosted"]


@asynccontextmanager
async def hosted(loop: Callable[[], Coroutine[Any, Any, object]]) -> AsyncIterator[None]:
    """Run `loop` beside the block, and cancel it at the block's end; what the block raises comes out as it is.

    A task group alone would wrap it in a group of exceptions, which callers of a context manager do not expect.
    """
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(loop)
            try:
                yield
            finally:
                group.cancel_scope.cancel()
    except BaseExceptionGroup as raised:
        first, *others = raised.exceptions
        if others:
            raise
        context = first.__context__
        try:
            raise first
        finally:
            first.__context__ = context  # not the group
