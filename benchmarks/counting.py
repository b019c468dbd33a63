"""A broker in memory that counts what it carries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from imperfect_dollop.broker import Link, TransferSender
from imperfect_dollop.brokers.memory import MemoryBroker

__all__ = ["Counting"]


class Counting:
    """Counts the messages that its links publish, and the bytes of these and of transfers."""

    local = True

    def __init__(self, broker: MemoryBroker) -> None:
        self.bytes = 0
        self.messages = 0
        self._broker = broker

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Link]:
        """See `imperfect_dollop.broker.Broker`."""
        async with self._broker.connect(namespace, node, after=after) as link:
            yield cast(Link, _Counted(self, link))

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker`."""
        await self._broker.aclose()


class _Counted:
    def __init__(self, broker: Counting, link: Link) -> None:
        self._broker = broker
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def publish(self, payload: bytes) -> None:
        self._broker.bytes += len(payload)
        self._broker.messages += 1
        await self._link.publish(payload)

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[TransferSender]:
        async with self._link.send_transfer(address, timeout=timeout) as transfer:
            yield cast(TransferSender, _Sender(self._broker, transfer))


class _Sender:
    def __init__(self, broker: Counting, transfer: TransferSender) -> None:
        self._broker = broker
        self._transfer = transfer

    async def send(self, chunk: bytes) -> None:
        self._broker.bytes += len(chunk)
        await self._transfer.send(chunk)
