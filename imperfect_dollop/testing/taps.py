"""What a broker's tests read links with, and how they judge what was delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Self

from ..broker import Delivery, Gap, Link, Message

__all__ = ["Tap", "accounted", "give_all", "opened"]


class Tap:
    """Reads what a link delivers, in a task of its own, into `deliveries`."""

    def __init__(self, link: Link, patience: float) -> None:
        self.link = link
        self.deliveries: list[Delivery] = []
        self._patience = patience
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def messages(self) -> list[bytes]:
        """The payloads so far."""
        return [one.payload for one in self.deliveries if isinstance(one, Message)]

    async def until(self, condition: Callable[[Collection[bytes]], bool]) -> None:
        """Wait until the payloads fulfil a condition."""
        await self._until(lambda: condition(self.messages))

    async def until_message(self, payload: bytes) -> None:
        """Wait for a message with this payload."""
        await self._until(lambda: Message(payload) in self.deliveries)

    async def until_gap(self) -> None:
        """Wait for a `Gap`."""
        await self._until(lambda: any(isinstance(one, Gap) for one in self.deliveries))

    async def ended(self) -> None:
        """Wait until the deliveries end by themselves; raises what they raise."""
        assert self._task is not None
        await self._task

    async def _until(self, condition: Callable[[], bool]) -> None:
        assert self._task is not None
        try:
            async with asyncio.timeout(self._patience):
                while not condition():
                    if self._task.done():
                        raise AssertionError("the deliveries have ended") from (
                            None if self._task.cancelled() else self._task.exception()
                        )
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            last = [repr(delivery)[:60] for delivery in self.deliveries[-5:]]
            raise AssertionError(
                f"did not arrive in {self._patience:g} s; of {len(self.deliveries)} deliveries"
                f" the last were {last}"
            ) from None

    async def _read(self) -> None:
        try:
            async with aclosing(self.link.deliveries()) as deliveries:
                async for delivery in deliveries:
                    self.deliveries.append(delivery)
                    self._arrived.set()
        finally:
            self._arrived.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def give_all(link: Link, address: str, chunks: Sequence[bytes], timeout: float) -> None:
    """Send these chunks."""
    async with link.send_transfer(address, timeout=timeout) as transfer:
        for chunk in chunks:
            await transfer.send(chunk)


async def opened(connecting: AbstractAsyncContextManager[Link]) -> None:
    """Connect, and leave again."""
    async with connecting:
        pass


def accounted(deliveries: Sequence[Delivery], taken: Sequence[bytes]) -> None:
    """Whatever the broker has taken was delivered, in order and once, or a gap stands in its place."""
    places = {payload: place for place, payload in enumerate(taken)}
    expected = 0
    gap = False
    for delivery in deliveries:
        if isinstance(delivery, Gap):
            gap = True
        elif isinstance(delivery, Message) and delivery.payload in places:
            place = places[delivery.payload]
            assert place >= expected, f"{delivery.payload!r} came late, or twice"
            assert place == expected or gap, f"{taken[expected]!r} is missing, and no gap was told"
            expected, gap = place + 1, False
    assert expected == len(taken) or gap, f"{taken[expected]!r} is missing, and no gap was told"
