"""A link over which everything is sealed: nobody who has it can send anything that is not, nor read what is forged."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import anyio.lowlevel

from .broker import Delivery, Gap, Link, Message, TransferSender
from .errors import ProtocolError
from .replica.seal import Frames, Seal

__all__ = ["SealedLink"]


class SealedLink:
    """Wraps a broker's link, see `imperfect_dollop.broker.Link`. `rejected` is told of what was not let through.

    `resumed`: the link goes on where an earlier one was, so what it begins with may be old.
    """

    def __init__(
        self,
        link: Link,
        seal: Seal,
        *,
        resumed: bool,
        rejected: Callable[[ProtocolError], object],
    ) -> None:
        self._link = link
        self._seal = seal
        self._rejected = rejected
        if not resumed:
            seal.begin(time.time())

    @property
    def position(self) -> str | None:
        """See `imperfect_dollop.broker.Link.position`."""
        return self._link.position

    @property
    def waiting(self) -> int:
        """See `imperfect_dollop.broker.Link.waiting`."""
        return self._link.waiting

    @property
    def alone(self) -> bool:
        """See `imperfect_dollop.broker`."""
        return getattr(self._link, "alone", False)

    async def publish(self, payload: bytes) -> None:
        """See `imperfect_dollop.broker.Link.publish`."""
        # Sealed at the last moment: in the order of their times is the order in which they arrive.
        await self._link.publish(self._seal.close(payload, time.time()))

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        async with aclosing(self._link.deliveries()) as deliveries:
            async for delivery in deliveries:
                now = time.time()
                if isinstance(delivery, Gap):
                    self._seal.begin(now)
                    yield delivery
                    continue
                try:
                    opened = Message(self._seal.open(delivery.payload, now))
                except ProtocolError as error:
                    self._rejected(error)
                    await anyio.lowlevel.checkpoint()  # a flood of these is to hold up nobody
                    continue
                yield opened

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`. The iterator raises `ProtocolError`, too."""
        async with self._link.receive_transfer(address, timeout=timeout) as chunks:
            yield self._opened(chunks, self._seal.frames(address))

    async def _opened(self, chunks: AsyncIterator[bytes], frames: Frames) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            try:
                frame = frames.open(chunk)
            except ProtocolError as error:
                self._rejected(error)
                raise
            yield frame

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[TransferSender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        async with self._link.send_transfer(address, timeout=timeout) as transfer:
            yield _SealedSender(transfer, self._seal.frames(address))


class _SealedSender:
    """See `imperfect_dollop.broker.TransferSender`."""

    def __init__(self, transfer: TransferSender, frames: Frames) -> None:
        self._transfer = transfer
        self._frames = frames

    async def send(self, chunk: bytes) -> None:
        """See `imperfect_dollop.broker.TransferSender.send`."""
        await self._transfer.send(self._frames.close(chunk))
