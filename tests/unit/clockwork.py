"""Time that passes by itself when everybody waits, so that an hour of reconnecting takes a moment.

And a broker on it that notes what it is given and misbehaves as it is told.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeAlias

import pytest

from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.replica.messages import Events, Heartbeat, News, decode

TURNS = 200
RESOLUTION = 1e-9
"""Seconds that so many turns of the loop take: else who waits for less than a clock can tell apart waits for ever."""


class _Idle(selectors.SelectSelector):
    """Instead of waiting it moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        self._turns += 1
        if self._turns % TURNS == 0:
            self.now += RESOLUTION
        if not ready:
            if timeout is None:
                raise AssertionError("everybody waits for ever")
            self.now += max(0.0, timeout)
        return ready


class ClockworkLoop(asyncio.SelectorEventLoop):
    """An event loop with a time of its own."""

    def __init__(self) -> None:
        self.idle = _Idle()
        super().__init__(self.idle)

    def time(self) -> float:
        return self.idle.now

    def stand_still(self, seconds: float) -> None:
        """As a blocking call does: time passes, and nothing is done meanwhile."""
        self.idle.now += seconds


def clockwork(
    test: Callable[..., Coroutine[Any, Any, None]],
) -> Callable[..., None]:
    """Run a test on such a loop; the clocks of `time` go with it."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            with asyncio.Runner(loop_factory=ClockworkLoop) as runner:
                loop, began = runner.get_loop(), time.time()
                opened = loop.time()
                patch.setattr(time, "monotonic", loop.time)
                patch.setattr(time, "time", lambda: began + loop.time() - opened)
                runner.run(test(**arguments))

    return run


def now() -> float:
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until the condition holds, at most for that long by the clock of the loop."""
    deadline = now() + seconds
    while not condition():
        if now() > deadline:
            raise AssertionError(f"did not come about in {seconds:g} s")
        await asyncio.sleep(0.001)


Conduct: TypeAlias = Literal["well", "refuse", "hang", "swallow", "mute"]
"""
How a broker treats who is connected.

``refuse``: messages are not taken. ``hang``: publishing does not come to an end. ``swallow``: everything looks well,
and nothing arrives anywhere. ``mute``: only what the node itself publishes is lost.
"""


class Connection:
    """One link, and what was published on it: in the order of the calls, and what of it was taken."""

    def __init__(self, node: str, after: str | None) -> None:
        self.node = node
        self.after = after
        self.opened = now()
        self.left: float | None = None
        self.offered: list[News] = []
        self.taken: list[News] = []

    @property
    def events(self) -> list[Events]:
        return [one for one in self.offered if isinstance(one, Events)]

    @property
    def beats(self) -> list[Heartbeat]:
        return [one for one in self.offered if isinstance(one, Heartbeat)]

    @property
    def numbers(self) -> list[int]:
        return numbers(self.events)


def numbers(batches: list[Events]) -> list[int]:
    """The numbers of the events in these messages."""
    return [batch.first + place for batch in batches for place in range(len(batch.events))]


class Post(MemoryBroker):
    """Misbehaves as `conduct` says; with `keeps` its links have a position, and nothing is missed between two."""

    def __init__(self, *, keeps: bool = False) -> None:
        super().__init__()
        self.keeps = keeps
        self.conduct: Conduct = "well"
        self.towards: str | None = None  # the node that it misbehaves towards; else all
        self.connections: list[Connection] = []
        self.under_way = self.most_under_way = 0
        self.hold: asyncio.Event | None = None  # not set: messages are taken late

    def conduct_of(self, connection: Connection) -> Conduct:
        return self.conduct if self.towards in (None, connection.node) else "well"

    @contextmanager
    def behaving(self, conduct: Conduct) -> Iterator[None]:
        self.conduct = conduct
        try:
            yield
        finally:
            self.conduct = "well"

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node) as link:
            connection = Connection(node, after)
            self.connections.append(connection)
            link.position = str(len(self.connections)) if self.keeps else None
            publish, put = link.publish, link.inbox.put

            async def misbehaving(payload: bytes) -> None:
                message = decode(payload)
                connection.offered.append(message)
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    if self.hold is not None:
                        await self.hold.wait()
                    conduct = self.conduct_of(connection)
                    if conduct == "refuse":
                        raise BrokerUnavailableError("not taken")
                    if conduct == "hang":
                        await asyncio.sleep(1e9)
                    if conduct in ("swallow", "mute"):
                        await asyncio.sleep(0)
                        return
                    await publish(payload)
                    connection.taken.append(message)
                finally:
                    self.under_way -= 1

            def putting(delivery: Any) -> None:
                if self.conduct_of(connection) != "swallow":
                    put(delivery)

            link.publish = misbehaving  # type: ignore[method-assign]
            link.inbox.put = putting  # type: ignore[method-assign]
            try:
                yield link
            finally:
                connection.left = now()
