"""What a transport must be able to do, and nothing else.

A `Broker` connects one node to one namespace and hands back a `Link`. A link is one connection: when that is lost
the link is, everything of it raises `BrokerUnavailableError`, and the node connects again. A link has two
ways to carry bytes:

* **fan-out** (`Link.publish` to `Link.deliveries`): small messages to every link of the namespace, *the
  sender's own included* - its echo proves that a subscription works. Messages of one sender arrive in the
  order in which they were published. A broker that cannot be sure of that says so with a `Gap`.
* **transfer** (`Link.send_transfer` to `Link.receive_transfer`): bulk from one link to one other, in order,
  with flow control, so that neither side nor the broker buffers more than a window of chunks.

A broker that joins only nodes of its own process may have a true attribute ``local``: then `Node` takes it without
``namespace=``.

Its links may have an attribute ``alone``, true while no other link of the namespace is there: then a node that starts
does not wait for siblings.

A broker reports - *messages may be missing here* (`Gap`), *this link is lost* - and never decides: when to connect
again, what a gap means and how it is repaired is decided once, for all brokers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias, runtime_checkable

import msgspec

__all__ = [
    "TRANSFER_WINDOW",
    "Broker",
    "Delivery",
    "Gap",
    "Link",
    "Message",
    "TransferSender",
]

TRANSFER_WINDOW: Final = 8
"""Chunks of a transfer that may be under way: with chunks of about 64 KiB half a megabyte."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One published message, as it was published."""

    payload: bytes


class Gap(msgspec.Struct, frozen=True):
    """Messages may be missing between what was delivered before this and what comes after it."""

    reason: str


Delivery: TypeAlias = Message | Gap


class TransferSender(Protocol):
    """The giving end of a transfer."""

    async def send(self, chunk: bytes) -> None:
        """Send one chunk; waits while `TRANSFER_WINDOW` chunks are unread at the other end.

        Raises `ValueError` for an empty chunk, `BrokerUnavailableError` when the receiver has gone, or has read
        nothing for the transfer's timeout.
        """
        ...


@runtime_checkable
class Link(Protocol):
    """One node's connection to its namespace, for as long as it lasts."""

    @property
    def position(self) -> str | None:
        """How far the deliveries have come, for a next link to go on `after` it.

        ``None`` where the broker keeps nothing: what is sent before the next link is there is missed.
        """
        ...

    @property
    def waiting(self) -> int:
        """Messages that have arrived in this process and are still to be delivered: a figure to be shown."""
        ...

    async def publish(self, payload: bytes) -> None:
        """Hand one message to the broker for every link of the namespace, this one included.

        Returns when the broker has taken it. Calls may overlap; the messages arrive in the order of the calls.
        Raises `BrokerUnavailableError` when the link is lost, or the broker has not answered within its own
        time-out; the message may or may not have been taken then, so a sender repeats it (receivers are idempotent).
        """
        ...

    def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """What arrives, from the moment `Broker.connect` returned. To be called once for a link.

        Bounded: a reader that falls behind loses messages and is told so by a `Gap`. Raises
        `BrokerUnavailableError` when the link is lost, after what had arrived before.
        """
        ...

    def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open `address`, which nobody else may have open, for one sender; reading a chunk gives it its credit back.

        The iterator ends when the sender has left its block normally. It raises
        `BrokerUnavailableError` when the sender was cut off, or sent nothing for `timeout` seconds.
        """
        ...

    def send_transfer(
        self, address: str, *, timeout: float
    ) -> AbstractAsyncContextManager[TransferSender]:
        """Send to an `address` that some link has opened.

        Raises `BrokerUnavailableError` when nobody has. `timeout` (seconds) bounds every wait for
        credit. Leaving the block with an exception tells the receiver that the transfer is cut.
        """
        ...


@runtime_checkable
class Broker(Protocol):
    """A transport: see the module's text for what it owes."""

    def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AbstractAsyncContextManager[Link]:
        """Connect the node `node` to `namespace`.

        Links of different namespaces never see each other's messages. `node` is unique per
        start of a node. With `after`, the `Link.position` of an earlier link of this node, the deliveries go on behind
        what that one had delivered, or begin with a `Gap` if that cannot be. Leaving the block closes the link, and
        never takes longer than a few seconds.

        Raises `BrokerUnavailableError` when the broker is away, within a few of the broker's own time-outs.
        """
        ...

    async def aclose(self) -> None:
        """Release what the broker itself has opened. Idempotent."""
        ...
