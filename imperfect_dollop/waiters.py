"""Callers who wait for the end of something that the background does."""

from __future__ import annotations

import asyncio
from typing import Final

from .errors import DollopError
from .flight import own_copy

__all__ = ["Waiters"]

MAX_CANCELLED: Final = 1_000
"""Callers that have gone, before the queue is cleared of them."""


class Waiters:
    """A queue of callers, answered all at once. Cancelling one affects no other."""

    def __init__(self) -> None:
        self._queue: list[asyncio.Future[None]] = []
        self._cancelled = 0

    def __len__(self) -> int:
        """How many are in the queue, cancelled ones included."""
        return len(self._queue)

    async def wait(self) -> None:
        """Wait for the answer. Raises the error that it is."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled():
                self._cancelled += 1
                if self._cancelled > MAX_CANCELLED:
                    self._cancelled = 0
                    self._queue[:] = [other for other in self._queue if not other.done()]

    def take(self) -> Waiters:
        """Those who wait now, apart from those to come."""
        taken = Waiters()
        taken._queue, self._queue = self._queue, []
        return taken

    def give_back(self, taken: Waiters) -> None:
        """They have to wait on."""
        self._queue[:0] = taken._queue
        taken._queue = []

    def answer(self, error: DollopError | None = None) -> None:
        """It has ended, well or not."""
        queue, self._queue = self._queue, []
        for waiter in queue:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(own_copy(error))
