"""What has arrived on a link and waits for its reader: bounded, so that a slow reader costs messages, not memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from .broker import Delivery, Gap, Message
from .errors import BrokerUnavailableError

__all__ = ["INBOX", "Inbox"]

INBOX: Final = 10_000
"""Messages that wait for a slow reader."""

INBOX_BYTES: Final = 64 << 20
"""Bytes of the messages that wait; a single one may be larger."""


class Inbox:
    """Of one link, to a broker that is `where`. With more than `limit` messages all are dropped, for a gap."""

    def __init__(self, where: str, limit: int = INBOX) -> None:
        self._where = where
        self._limit = limit
        self._waiting: deque[Delivery] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._ended = False
        self._lost: str | None = None

    @property
    def waiting(self) -> int:
        """How much has arrived and is still to be delivered."""
        return len(self._waiting)

    def put(self, delivery: Delivery) -> None:
        """Something has arrived."""
        size = len(delivery.payload) if isinstance(delivery, Message) else 0
        if self._waiting and (
            len(self._waiting) >= self._limit or self._bytes + size > INBOX_BYTES
        ):
            dropped = len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            self._waiting.append(Gap(f"{dropped} messages were waiting and have been dropped"))
        self._waiting.append(delivery)
        self._bytes += size
        self._arrived.set()

    def lose(self, reason: str) -> None:
        """Nothing more arrives; the reader is told why after it has read what is here."""
        if self._lost is None:
            self._lost = reason
        self._arrived.set()

    def end(self) -> None:
        """The link was left: the reader is to stop at once."""
        self._ended = True
        self._arrived.set()

    def check(self) -> None:
        """Raises `BrokerUnavailableError` unless the link is there."""
        if self._ended:
            raise BrokerUnavailableError(f"the link to {self._where} was closed")
        if self._lost is not None:
            raise BrokerUnavailableError(f"the link to {self._where} is lost: {self._lost}")

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        while not self._ended:
            while self._waiting and not self._ended:
                delivery = self._waiting.popleft()
                if isinstance(delivery, Message):
                    self._bytes -= len(delivery.payload)
                yield delivery
            self._arrived.clear()
            if self._ended:
                return
            if self._lost is not None:
                raise BrokerUnavailableError(f"{self._where}: {self._lost}")
            await self._arrived.wait()
