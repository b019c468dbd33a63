"""Several messages on their way to the broker at a time, in the order in which they are given.

While they are, events gather to the next message, and a lone one leaves at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import anyio
from anyio.abc import TaskGroup

from .broker import Link
from .errors import BrokerUnavailableError

__all__ = ["PIPELINE", "Outgoing", "Pipeline"]

PIPELINE: Final = 8
"""Messages that may be on their way to the broker: with fewer, its answers are waited for; with more, events that
could have shared a message do not."""


class Outgoing(NamedTuple):
    """A message, and what to do when the broker has taken it."""

    payload: bytes
    taken: Callable[[], None]


class Pipeline:
    """Of one link. A message has `timeout` seconds from when it was given, or the last one before it was taken.

    The broker may answer out of order. That a later message was taken says nothing for one whose answer never comes.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self.link = link
        self.timeout = timeout
        self._waiting: dict[
            int, anyio.CancelScope
        ] = {}  # by place, in the order in which they were given
        self._given = 0

    async def publish(self, payload: bytes) -> None:
        """Hand one message to the broker. Raises `BrokerUnavailableError`, also when it is not taken in time."""
        self._given += 1
        place = self._given
        with anyio.move_on_after(self.timeout) as waiting:
            self._waiting[place] = waiting
            try:
                await self.link.publish(payload)
            finally:
                del self._waiting[place]
            # Whatever waits behind this one has its time from now on: the way may be slow, and it is not dead.
            for other, scope in self._waiting.items():
                if other > place:
                    scope.deadline = anyio.current_time() + self.timeout
            return
        raise BrokerUnavailableError(f"it took no message for {self.timeout:g} s")

    def start(
        self,
        group: TaskGroup,
        outgoing: AsyncIterator[Outgoing],
        lost: Callable[[str], object],
    ) -> None:
        """Hand over message after message, in tasks of `group`; when one is not taken, `lost` is told why."""
        turn = asyncio.Lock()
        for _ in range(PIPELINE):
            group.start_soon(self._send, outgoing, turn, lost)

    async def _send(
        self,
        outgoing: AsyncIterator[Outgoing],
        turn: asyncio.Lock,
        lost: Callable[[str], object],
    ) -> None:
        """As one of several who do; between taking a message and offering it to the broker nobody else has a turn."""
        while True:
            async with turn:
                message = await anext(outgoing, None)
            if message is None:
                return  # the link is lost, or another of these was cancelled, and so will this one be
            try:
                await self.publish(message.payload)
            except BrokerUnavailableError as error:
                lost(str(error))
                return
            message.taken()
