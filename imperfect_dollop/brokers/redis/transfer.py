"""A transfer over Redis: a stream of chunks that the receiver makes and deletes, and one of its credit."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from ...broker import TRANSFER_WINDOW
from ...clock import monotonic
from ...errors import BrokerUnavailableError
from ...transfer import Credit, checked, cut, nobody, silent_receiver, silent_sender
from .server import BLOCK, Command, Entry, Server, Wire, entries

__all__ = ["Sender", "Transfer"]

TRANSFER_SECONDS: Final = 60
"""What is left of a transfer whose both ends have died is gone after this."""

GOODBYE_SECONDS: Final = 1.0
"""For telling the other end that a transfer is cut, and for cleaning up after it."""

OPEN: Final = b"o"
CHUNK: Final = b"c"
END: Final = b"e"
CUT: Final = b"x"
CREDIT: Final = b"r"
"""First fields of an entry; the value of a credit is how many chunks were read."""


class Transfer:
    """What both ends of a transfer know."""

    def __init__(self, server: Server, namespace: str, address: str, timeout: float) -> None:
        self._server = server
        self.address = address
        self.timeout = timeout
        self.chunk_key: str = server.key("chunks", namespace, address)
        self.credit_key: str = server.key("credit", namespace, address)
        self.keep: int = max(TRANSFER_SECONDS, math.ceil(2 * timeout))

    def add_chunk(self, field: bytes, value: bytes) -> Command:
        """Adds nothing, and says so, if the receiver has gone."""
        return ["XADD", self.chunk_key, "NOMKSTREAM", "*", field, value]

    def expiry(self) -> list[Command]:
        """Both keys live on for a while."""
        return [["EXPIRE", key, self.keep] for key in (self.chunk_key, self.credit_key)]

    async def say_goodbye(self, *commands: Command) -> None:
        """Tell the other end, over a connection of its own; where that fails, the other end has its time-out."""
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                async with self._server.wire() as wire:
                    await wire.call(*commands)
            except BrokerUnavailableError:
                return

    async def wait(self, wire: Wire, *commands: Command, read: Command) -> list[Any]:
        """Send commands and wait for entries of a stream; an empty list if none come in time."""
        deadline = monotonic() + self.timeout
        while True:
            left = min(BLOCK, deadline - monotonic())
            if left <= 0:
                return []
            block: Command = ["XREAD", "BLOCK", max(1, int(left * 1_000)), *read]
            *_, found = await wire.call(*commands, *self.expiry(), block, wait=left)
            if found:
                return entries(found)
            commands = ()

    # -- the two ends ----------------------------------------------------------------------------

    @asynccontextmanager
    async def received(self, wire: Wire) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        try:
            # Inside: cancelled while it waits for the answer, it has made the streams all the same.
            yield self.chunks(wire, await self.open(wire))
        finally:
            await self.say_goodbye(*self.closing())

    @asynccontextmanager
    async def sent(self, wire: Wire) -> AsyncIterator[Sender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        sender = Sender(self, wire)
        await sender.begin()
        try:
            yield sender
            await sender.add(END, b"-")
        except BaseException:
            await self.say_goodbye(self.add_chunk(CUT, b"-"))
            raise

    # -- the receiver's side ---------------------------------------------------------------------

    async def open(self, wire: Wire) -> str:
        """Make the streams; where the chunks begin."""
        _, place, *_ = await wire.call(
            ["DEL", self.chunk_key, self.credit_key],
            ["XADD", self.chunk_key, "*", OPEN, b"-"],
            ["XADD", self.credit_key, "*", CREDIT, 0],
            *self.expiry(),
        )
        return str(place.decode())

    def closing(self) -> list[Command]:
        """What a sender who still waits for credit finds."""
        return [
            ["DEL", self.chunk_key],
            ["XADD", self.credit_key, "NOMKSTREAM", "*", CUT, b"-"],
            ["EXPIRE", self.credit_key, math.ceil(self.timeout) + 1],
        ]

    async def chunks(self, wire: Wire, place: str) -> AsyncIterator[bytes]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        read = 0
        while True:
            credit: Command = ["XADD", self.credit_key, "MAXLEN", 1, "*", CREDIT, read]
            trim: Command = ["XTRIM", self.chunk_key, "MINID", place]
            found = await self.wait(
                wire,
                *([credit, trim] if read else []),
                read=["COUNT", TRANSFER_WINDOW, "STREAMS", self.chunk_key, place],
            )
            if not found:
                raise silent_sender(self.address, self.timeout)
            for _, field, value in found:
                if field == END:
                    return
                if field != CHUNK:
                    raise cut(self.address, "the sender has gone")
                yield value
                read += 1
            place = found[-1][0]


class Sender:
    """See `imperfect_dollop.broker.TransferSender`."""

    def __init__(self, transfer: Transfer, wire: Wire) -> None:
        self._transfer = transfer
        self._wire = wire
        self._credit = Credit()
        self._seen = "0"  # the last entry of the credit that was looked at

    async def begin(self) -> None:
        """Raises `BrokerUnavailableError` if nobody has opened the address."""
        (found,) = await self._wire.call(self._look())
        if not found:
            raise nobody(self._transfer.address)
        self._note(entries(found))

    async def send(self, chunk: bytes) -> None:
        """See `imperfect_dollop.broker.TransferSender.send`."""
        payload = checked(chunk)
        while self._credit.spent:
            found = await self._transfer.wait(
                self._wire,
                read=["COUNT", TRANSFER_WINDOW, "STREAMS", self._transfer.credit_key, self._seen],
            )
            if not found:
                raise silent_receiver(self._transfer.address, self._transfer.timeout)
            self._note(found)
        self._credit.sent += 1
        await self.add(CHUNK, payload)

    async def add(self, field: bytes, value: bytes) -> None:
        """Add an entry, and take in what credit has come meanwhile."""
        place, found = await self._wire.call(self._transfer.add_chunk(field, value), self._look())
        if place is None:
            raise cut(self._transfer.address, "the receiver has gone")
        self._note(entries(found))

    def _look(self) -> Command:
        key = self._transfer.credit_key
        return ["XREAD", "COUNT", TRANSFER_WINDOW, "STREAMS", key, self._seen]

    def _note(self, found: list[Entry]) -> None:
        for self._seen, field, told in found:
            if field == CUT:
                raise cut(self._transfer.address, "the receiver has gone")
            try:
                self._credit.note(told)
            except ValueError as error:
                raise cut(self._transfer.address, f"impossible credit: {error}") from error
