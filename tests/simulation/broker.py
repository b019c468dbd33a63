"""A broker of one of two kinds, and all that can happen on the way to it and back.

``streams``: one order for all, kept for a while, so that a link can go on after the position of an earlier one, unless
what came next was trimmed or the broker has come back empty. ``fanout``: a queue for each link, that goes with it.

It keeps what `imperfect_dollop.testing.BrokerContract` asks of a real one: of each sender the order is kept, a link
that is lost stays lost, what had arrived is read first, an overflow is a gap. Beyond that everything may happen.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

import anyio

from imperfect_dollop.broker import TRANSFER_WINDOW, Delivery, Gap, Message
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.inbox import Inbox
from imperfect_dollop.transfer import checked, cut, nobody, silent_receiver, silent_sender

from .loop import HOST, Host, SimLoop, draw
from .plan import Plan

__all__ = ["Exchange", "Path", "SimBroker"]

CONNECT_SECONDS: Final = 2.0
"""After which an attempt to connect to a broker that does not answer is given up."""

SLOWEST: Final = 1.0
"""Seconds that anything is on its way, at most."""

LONG: Final = 0.05
"""Share of the messages that take up to twenty times as long."""


class Path:
    """The way between one host and the broker, while faults last. Chances are from 0 to 1."""

    def __init__(self) -> None:
        self.cut = False  # nothing passes, nor can a link be made
        self.holds = False  # and what was sent meanwhile comes through afterwards
        self.mute = False  # what the host sends is lost, and looks taken
        self.deaf = False  # what is sent to it is lost
        self.lossy = 0.0  # chance that a single message to it is lost
        self.twice = 0.0  # chance that a message of it comes twice
        self.unsure = 0.0  # chance that a publish fails though it was taken
        self.slow = 1.0


class _Numbered(Message, frozen=True, gc=False):
    """With its place in the stream."""

    number: int


class Exchange:
    """The broker itself, which belongs to no host."""

    def __init__(
        self, plan: Plan, loop: SimLoop, tell: Callable[[str, Callable[[], str]], None]
    ) -> None:
        self.plan = plan
        self.loop = loop
        self.tell = tell
        self.keeps = plan.broker == "streams"
        self.away = False
        self.links: list[SimLink] = []
        self.paths: dict[str, Path] = {}
        self.transfers: dict[str, _Transfer] = {}
        self.cut_after: int | None = None  # chunks of a transfer, while transfers are cut
        self.epoch = 1
        self.first = 1  # the oldest that is kept
        self.log: list[tuple[bytes, str]] = []  # payload and sender, from number `first` on
        self.on_taken: Callable[[str, bytes], None] = lambda sender, payload: None
        self.lost: dict[
            str, float
        ] = {}  # when the last message of a host was lost that nobody was told of
        self._held: dict[str, list[Callable[[], None]]] = {}  # by host: what comes through later
        self._broken: list[SimLink] = []  # links on which something was lost, behind a cut
        self._untold: list[tuple[SimLink, str]] = []  # links that are lost, behind a cut

    @property
    def last(self) -> int:
        """The number of the latest message."""
        return self.first + len(self.log) - 1

    def path(self, host: str) -> Path:
        return self.paths.setdefault(host, Path())

    # -- what happens to it ------------------------------------------------------------------------

    def links_of(self, host: str) -> list[SimLink]:
        return [link for link in self.links if link.host.machine == host]

    def lose(self, link: SimLink, reason: str) -> None:
        """The connection is gone; the host knows as soon as it can be told."""
        if link.gone:
            return
        self.links.remove(link)
        link.gone = True
        self._cut_transfers(link, reason)
        if link.dead:
            return
        if self.path(link.host.machine).cut:
            self._untold.append((link, reason))
        else:
            self.loop.arrive(link.host, self.loop.now, link.lose, reason)

    def left(self, link: SimLink, reason: str) -> None:
        """The host has closed the connection, or has died."""
        if not link.gone:
            self.links.remove(link)
            link.gone = True
            self._cut_transfers(link, reason)

    def _cut_transfers(self, link: SimLink, reason: str) -> None:
        for address, transfer in list(self.transfers.items()):
            if link in (transfer.receiver, transfer.sender):
                transfer.cut(reason)
                if link is transfer.receiver:
                    del self.transfers[address]

    def outage(self) -> None:
        self.away = True
        for link in list(self.links):
            self.lose(link, "the broker is away")

    def back(self, *, empty: bool = False, lost: int = 0) -> None:
        """Up again: as it was, without its latest messages, or without any."""
        self.away = False
        if empty:
            self.epoch += 1
            self.first, self.log = 1, []
        elif lost and self.log:
            del self.log[-lost:]
            self.epoch += 1  # what tells an entry from another one of the same number

    def trim(self, keep: int) -> None:
        """Forget all but the latest messages."""
        gone = max(0, len(self.log) - keep)
        del self.log[:gone]
        self.first += gone

    def half_open(self, link: SimLink, how: str) -> None:
        """The connection only looks alive. `how`: nothing gets ``out``, nothing gets ``in``, or neither."""
        if how == "out":
            link.mute = True
        elif how == "in":
            link.deaf = True
        else:
            link.dead = True
            self._cut_transfers(link, "the connection is dead")

    def mend(self, host: str) -> None:
        """The way is open again: what was held comes through, who was not told is told."""
        for coming in self._held.pop(host, []):
            coming()
        for link, reason in [one for one in self._untold if one[0].host.machine == host]:
            self._untold.remove((link, reason))
            self.loop.arrive(link.host, self.loop.now, link.lose, reason)
        for link in self.links_of(host):
            if link in self._broken:
                self._broken.remove(link)
                self.lose(link, "the connection was reset")
            self._go_on(link)

    # -- messages ----------------------------------------------------------------------------------

    def take(self, link: SimLink, payload: bytes, taken: asyncio.Future[None]) -> None:
        """A message has come to the broker."""
        host = link.host
        path = self.path(host.machine)
        if link.gone or link.dead or self.away:
            return  # the sender finds out when its link is lost, or its patience ends
        if path.cut:
            if path.holds:
                self._hold(host.machine, functools.partial(self.take, link, payload, taken))
            elif link not in self._broken:
                self._broken.append(link)  # TCP loses nothing in the middle of a connection
            return
        answer = self.loop.now + link.latency("answer")
        if path.mute or link.mute:
            self.tell("broker", lambda: f"loses what {host.name} publishes")
            self.lost[host.name] = self.loop.now
            self.loop.arrive(host, answer, _taken, taken)
            return
        link.taken += 1
        self.spread(payload, host.name)
        if draw(self.plan.seed, "twice", link.name, link.taken) < path.twice:
            self.spread(payload, host.name)
        if draw(self.plan.seed, "unsure", link.name, link.taken) < path.unsure:
            self.loop.at(answer, self.lose, link, "the connection was reset")
            return
        self.loop.arrive(host, answer, _taken, taken)

    def _hold(self, host: str, coming: Callable[[], None]) -> None:
        self._held.setdefault(host, []).append(coming)

    def spread(self, payload: bytes, sender: str) -> None:
        """Everybody gets it. `sender` is no host where it comes from outside."""
        self.on_taken(sender, payload)
        if self.keeps:
            self.log.append((payload, sender))
            if len(self.log) > self.plan.backlog:
                self.trim(self.plan.backlog)
        for link in self.links:
            self._send(link, payload, sender, self.last)

    def _send(self, link: SimLink, payload: bytes, sender: str, number: int) -> None:
        path, who = self.path(link.host.machine), link.host.machine
        if link.dead or link.behind:
            return
        link.received += 1
        if path.cut and path.holds and not self.keeps:
            self._hold(who, functools.partial(self._send, link, payload, sender, number))
            return
        if path.cut or path.deaf or link.deaf:
            link.behind = self.keeps
            self.lost[sender] = self.loop.now
            return
        if not self.keeps and draw(self.plan.seed, "lost", link.name, link.received) < path.lossy:
            self.tell("broker", lambda: f"loses a message of {sender} to {who}")
            self.lost[sender] = self.loop.now
            return
        lane = "" if self.keeps else sender
        when = max(
            link.lanes.get(lane, 0.0), self.loop.now + min(SLOWEST, path.slow * link.latency("way"))
        )
        link.lanes[lane] = when
        self.loop.arrive(link.host, when, link.put, _Numbered(payload, number))

    def _go_on(self, link: SimLink) -> None:
        """After a while in which nothing came through, a reader of a stream reads on where it was."""
        path = self.path(link.host.machine)
        if not link.behind or link.dead or link.deaf or path.cut or path.deaf:
            return
        link.behind = False
        when = max(self.loop.now, link.lanes.get("", 0.0)) + link.latency("way")
        link.lanes[""] = when
        if link.arrived < self.first - 1:
            link.arrived = self.first - 1
            gap = Gap("what came next was trimmed")
            self.loop.arrive(link.host, when, link.inbox.put, gap)
        start = link.arrived + 1 - self.first
        for number, (payload, _) in enumerate(self.log[start:], link.arrived + 1):
            self.loop.arrive(link.host, when, link.put, _Numbered(payload, number))

    # -- links -------------------------------------------------------------------------------------

    def connected(self, link: SimLink, after: str | None) -> None:
        """A link begins: with a gap, unless it can go on where an earlier one was."""
        self.links.append(link)
        link.epoch = self.epoch
        link.reached = link.arrived = self.last
        if after is None:
            return
        if self.keeps:
            epoch, _, number = after.partition("-")
            if int(epoch) == self.epoch and self.first - 1 <= int(number) <= self.last:
                link.reached = link.arrived = int(number)
                link.behind = True
                self._go_on(link)
                return
        link.inbox.put(Gap("what came next is not there"))


class SimBroker:
    """The broker as one host sees it; see `imperfect_dollop.broker.Broker`."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._links = 0

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[SimLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        exchange = self._exchange
        host = HOST.get()
        assert host is not None
        self._links += 1
        link = SimLink(exchange, host, self._links)
        await asyncio.sleep(link.latency("connect"))
        if exchange.path(host.machine).cut:
            await asyncio.sleep(CONNECT_SECONDS)
            raise BrokerUnavailableError("it does not answer")
        if exchange.away:
            raise BrokerUnavailableError("the connection was refused")
        exchange.connected(link, after)
        try:
            yield link
        finally:
            link.inbox.end()
            link.fail("the link was left")
            exchange.left(link, "the link was left")

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker.aclose`."""


class SimLink:
    """See `imperfect_dollop.broker.Link`."""

    def __init__(self, exchange: Exchange, host: Host, number: int) -> None:
        self.host = host
        self.inbox = Inbox("the broker", exchange.plan.inbox)
        self.gone = False  # lost, or left
        self.dead = self.deaf = self.mute = False  # half-open, and which way it is not
        self.behind = False  # of a stream: does not read on before the way is open again
        self.taken = 0  # messages that the broker has taken
        self.received = 0  # messages on their way here
        self.lanes: dict[
            str, float
        ] = {}  # when the last message arrives, by sender where that matters
        self.epoch = 0
        self.arrived = 0  # the number of the last message in the inbox
        self.reached = 0  # and of the last that the reader has got
        self.name = f"{host.name}/{number}"
        self._exchange = exchange
        self._draws: dict[str, int] = {}
        self._leaves = 0.0  # when the last message reaches the broker
        self._under_way: dict[asyncio.Future[None], None] = {}

    def latency(self, what: str) -> float:
        plan = self._exchange.plan
        number = self._draws[what] = self._draws.get(what, 0) + 1
        chance = draw(plan.seed, self.name, what, number)
        if chance < LONG:
            return plan.broker_latency * 20.0 * chance / LONG
        return plan.broker_latency * (0.1 + 1.5 * chance)

    def _pause(self, what: str) -> float:
        path = self._exchange.path(self.host.machine)
        return min(SLOWEST, path.slow * self.latency(what))

    @property
    def position(self) -> str | None:
        """See `imperfect_dollop.broker.Link.position`."""
        return f"{self.epoch}-{self.reached}" if self._exchange.keeps else None

    @property
    def waiting(self) -> int:
        """See `imperfect_dollop.broker.Link.waiting`."""
        return self.inbox.waiting

    def put(self, message: _Numbered) -> None:
        """A message has come to the host."""
        exchange = self._exchange
        path = exchange.path(self.host.machine)
        if self.gone or self.dead:
            return
        if path.cut or path.deaf or self.deaf:  # it was on its way
            self.behind = exchange.keeps
            return
        if exchange.keeps:
            if message.number != self.arrived + 1:
                return  # what came before it did not, and both will be read again
            self.arrived = message.number
        self.inbox.put(message)

    def lose(self, reason: str) -> None:
        self.inbox.lose(reason)
        self.fail(reason)

    def fail(self, reason: str) -> None:
        """Whoever waits for an answer learns that there will be none."""
        under_way, self._under_way = self._under_way, {}
        for taken in under_way:
            if not taken.done():
                taken.set_exception(BrokerUnavailableError(reason))

    async def publish(self, payload: bytes) -> None:
        """See `imperfect_dollop.broker.Link.publish`."""
        exchange = self._exchange
        self.inbox.check()
        taken: asyncio.Future[None] = exchange.loop.create_future()
        path = exchange.path(self.host.machine)
        loop = exchange.loop
        self._leaves = max(
            self._leaves, loop.now + min(SLOWEST, path.slow * self.latency("publish"))
        )
        loop.at(self._leaves, exchange.take, self, bytes(payload), taken)
        self._under_way[taken] = None
        try:
            await taken
        finally:
            self._under_way.pop(taken, None)

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        async with aclosing(self.inbox.deliveries()) as deliveries:
            async for delivery in deliveries:
                if isinstance(delivery, _Numbered):
                    self.reached = max(self.reached, delivery.number)
                yield delivery

    # -- transfers ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        exchange = self._exchange
        self.inbox.check()
        await asyncio.sleep(self._pause("open"))
        self.inbox.check()
        if address in exchange.transfers:
            raise BrokerUnavailableError(f"the transfer {address!r} is open already")
        transfer = _Transfer(exchange, address, self)
        if not self.dead:
            exchange.transfers[address] = transfer
        try:
            yield transfer.chunks(timeout)
        finally:
            if exchange.transfers.get(address) is transfer:
                del exchange.transfers[address]
            transfer.cut("the receiver has gone")

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[_Sender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        exchange = self._exchange
        self.inbox.check()
        await asyncio.sleep(self._pause("find"))
        self.inbox.check()
        transfer = exchange.transfers.get(address)
        if transfer is None or self.dead or transfer.sender is not None:
            raise nobody(address)
        transfer.sender = self
        try:
            yield _Sender(transfer, timeout)
            transfer.push(None)
        except BaseException:
            transfer.cut("the sender has gone")
            raise


class _Transfer:
    """One bulk transfer: at most a window of chunks is under way."""

    def __init__(self, exchange: Exchange, address: str, receiver: SimLink) -> None:
        self.exchange = exchange
        self.address = address
        self.receiver = receiver
        self.sender: SimLink | None = None
        self.broken: str | None = None
        self._arrived: deque[bytes | None] = deque()
        self._sent = 0
        self._read = 0
        self._last = 0.0
        self._news = asyncio.Event()  # for the receiver
        self._credit = asyncio.Event()  # for the sender

    def cut(self, reason: str) -> None:
        if self.broken is None:
            self.broken = reason
        loop = self.exchange.loop
        loop.arrive(self.receiver.host, loop.now, self._news.set)
        if self.sender is not None:
            loop.arrive(self.sender.host, loop.now, self._credit.set)

    def push(self, chunk: bytes | None) -> None:
        sender = self.sender
        assert sender is not None
        loop = self.exchange.loop
        self._sent += 1
        after = self.exchange.cut_after
        if after is not None and self._sent > after:
            self.cut("a fault of the broker")
            return
        slow = self.exchange.path(sender.host.machine).slow
        self._last = max(self._last, loop.now + slow * sender.latency("chunk"))
        loop.arrive(self.receiver.host, self._last, self._arrive, chunk)

    def _arrive(self, chunk: bytes | None) -> None:
        exchange, sender = self.exchange, self.sender
        assert sender is not None
        hosts = (sender.host.machine, self.receiver.host.machine)
        if any(exchange.path(host).cut for host in hosts):
            self.broken = self.broken or "the connection is dead"  # which nobody is told of
            return
        if self.broken is None:
            self._arrived.append(chunk)
            self._news.set()

    async def chunks(self, timeout: float) -> AsyncIterator[bytes]:
        while True:
            try:
                with anyio.fail_after(timeout):
                    while not self._arrived:
                        if self.broken is not None:
                            raise cut(self.address, self.broken)
                        self._news.clear()
                        await self._news.wait()
            except TimeoutError as error:
                raise silent_sender(self.address, timeout) from error
            chunk = self._arrived.popleft()
            if chunk is None:
                return
            self._read += 1
            sender, loop = self.sender, self.exchange.loop
            if sender is not None:
                when = loop.now + self.receiver.latency("credit")
                loop.arrive(sender.host, when, self._credit.set)
            yield chunk

    @property
    def spent(self) -> bool:
        return self._sent - self._read >= TRANSFER_WINDOW

    async def credit(self, timeout: float) -> None:
        try:
            with anyio.fail_after(timeout):
                while self.spent and self.broken is None:
                    self._credit.clear()
                    await self._credit.wait()
        except TimeoutError as error:
            raise silent_receiver(self.address, timeout) from error
        if self.broken is not None:
            raise cut(self.address, self.broken)


class _Sender:
    def __init__(self, transfer: _Transfer, timeout: float) -> None:
        self._transfer = transfer
        self._timeout = timeout

    async def send(self, chunk: bytes) -> None:
        chunk = checked(chunk)
        await self._transfer.credit(self._timeout)
        self._transfer.push(chunk)


def _taken(taken: asyncio.Future[None]) -> None:
    if not taken.done():
        taken.set_result(None)
