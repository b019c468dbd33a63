"""``memory://``: joins the nodes of one process, for tests, demos and services of a single process.

Nothing is sent anywhere, but everything is as with a real broker: bytes, echoes, bounded inboxes that
overflow into a `Gap`, transfers with credits, and outages (`MemoryBroker.outage`) to try out what an
application does in one.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from ..broker import TRANSFER_WINDOW, Delivery, Gap, Message
from ..config import fault_in_count
from ..errors import BrokerUnavailableError, ConfigurationError
from ..inbox import INBOX, Inbox
from ..transfer import checked, cut, nobody, silent_receiver, silent_sender

__all__ = ["MemoryBroker"]

_END: Final = b""
"""Ends a transfer; no chunk is empty."""

_named: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, weakref.WeakValueDictionary[str, MemoryBroker]
] = weakref.WeakKeyDictionary()


class _Hub:
    """What the links of one broker share."""

    def __init__(self) -> None:
        self.links: list[_MemoryLink] = []
        self.transfers: dict[tuple[str, str], MemoryObjectSendStream[bytes]] = {}
        self.away: str | None = None

    def check(self) -> None:
        if self.away is not None:
            raise BrokerUnavailableError(f"the memory broker is away: {self.away}")


class MemoryBroker:
    """A broker within this process; it connects the nodes that share the instance.

    `named` finds one by name for the running event loop, which is what URLs do: two nodes with
    ``memory://school`` meet, and are none of the business of ``memory://office``.
    """

    local: Final = True
    """Nobody outside of this process is reached, so a node may do without ``namespace=``."""

    def __init__(self, *, inbox: int = INBOX) -> None:
        fault = fault_in_count("inbox", inbox)
        if fault is not None:
            raise ConfigurationError(fault)
        self._inbox = inbox
        self._hub = _Hub()

    @classmethod
    def named(cls, name: str) -> MemoryBroker:
        """The broker of this name in the running event loop; it lasts while somebody holds it."""
        brokers = _named.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
        broker = brokers.get(name)
        if broker is None:
            broker = brokers[name] = cls()
        return broker

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[_MemoryLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        self._hub.check()
        link = _MemoryLink(self._hub, namespace, self._inbox)
        if after is not None:
            link.inbox.put(Gap("this broker keeps nothing for a link that was lost"))
        self._hub.links.append(link)
        try:
            yield link
        finally:
            if link in self._hub.links:
                self._hub.links.remove(link)
            link.inbox.end()

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker.aclose`."""

    @contextlib.contextmanager
    def outage(self, reason: str = "outage") -> Iterator[None]:
        """The broker is away while the block runs: links are lost, and transfers under way are cut."""
        self._hub.away = reason
        for link in self._hub.links:
            link.inbox.lose(reason)
        self._hub.links.clear()
        for transfer in self._hub.transfers.values():
            transfer.close()
        self._hub.transfers.clear()
        try:
            yield
        finally:
            self._hub.away = None


class _MemoryLink:
    """See `imperfect_dollop.broker.Link`."""

    position: str | None = None

    def __init__(self, hub: _Hub, namespace: str, inbox: int) -> None:
        self._hub = hub
        self.namespace = namespace
        self.inbox = Inbox("the memory broker", inbox)

    def _check(self) -> None:
        self._hub.check()
        self.inbox.check()

    async def publish(self, payload: bytes) -> None:
        await anyio.lowlevel.checkpoint()  # as with any broker, a caller can be cancelled here
        self._check()
        message = Message(bytes(payload))
        for link in self._hub.links:
            if link.namespace == self.namespace:
                link.inbox.put(message)

    @property
    def waiting(self) -> int:
        """See `imperfect_dollop.broker.Link.waiting`."""
        return self.inbox.waiting

    @property
    def alone(self) -> bool:
        """See `imperfect_dollop.broker`."""
        return all(link is self or link.namespace != self.namespace for link in self._hub.links)

    def deliveries(self) -> AsyncGenerator[Delivery, None]:
        return self.inbox.deliveries()

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self._check()
        place = (self.namespace, address)
        if place in self._hub.transfers:
            raise BrokerUnavailableError(f"the transfer {address!r} is open already")
        sender, receiver = anyio.create_memory_object_stream[bytes](TRANSFER_WINDOW)
        self._hub.transfers[place] = sender
        try:
            with receiver:
                yield _chunks(receiver, address, timeout)
        finally:
            # An outage may have given the address away, and somebody else may have taken it.
            if self._hub.transfers.get(place) is sender:
                del self._hub.transfers[place]
            sender.close()

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[_Sender]:
        self._check()
        stream = self._hub.transfers.get((self.namespace, address))
        if stream is None:
            raise nobody(address)
        sender = _Sender(stream, address, timeout)
        try:
            yield sender
            await sender.push(_END)
        finally:
            stream.close()


class _Sender:
    def __init__(self, stream: MemoryObjectSendStream[bytes], address: str, timeout: float) -> None:
        self._stream = stream
        self._address = address
        self._timeout = timeout

    async def send(self, chunk: bytes) -> None:
        await self.push(checked(chunk))

    async def push(self, chunk: bytes) -> None:
        try:
            with anyio.fail_after(self._timeout):
                await self._stream.send(chunk)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise cut(self._address, "the receiver has gone") from error
        except TimeoutError as error:
            raise silent_receiver(self._address, self._timeout) from error


async def _chunks(
    stream: MemoryObjectReceiveStream[bytes], address: str, timeout: float
) -> AsyncIterator[bytes]:
    while True:
        try:
            with anyio.fail_after(timeout):
                chunk = await stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError) as error:
            raise cut(address, "the sender has gone") from error
        except TimeoutError as error:
            raise silent_sender(address, timeout) from error
        if chunk == _END:
            return
        yield chunk
