"""The tests that every `Broker` passes: derive from `BrokerContract` to run them on your own.

::

    class TestMyBroker(BrokerContract):
        @pytest.fixture
        async def broker(self) -> AsyncIterator[MyBroker]:
            async with open_my_broker() as broker:
                yield broker

        @asynccontextmanager
        async def outage(self, broker: MyBroker) -> AsyncIterator[None]:
            my_server.stop()
            yield
            my_server.start()

The tests are async methods; they run under pytest-asyncio in its ``auto`` mode. Every test uses a namespace of its
own, so that they can share a server. Without `BrokerContract.outage` and the fixture `narrow` the tests that need them
are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, ClassVar, Final, TypeVar

import pytest

from ..broker import TRANSFER_WINDOW, Broker, Delivery, Gap, Link, Message
from ..errors import BrokerUnavailableError
from .taps import Tap, accounted, give_all, opened

__all__ = ["BrokerContract"]

T = TypeVar("T")

AHEAD: Final = 2 * TRANSFER_WINDOW + 2
"""Chunks by which a sender may be ahead of its reader: "about" a window, as either end may hold a few."""

ENDLESS: Final = 10_000
"""Chunks that nobody gets rid of unless something is wrong."""


class BrokerContract:
    """What a `Broker` owes, as tests. Override the fixture `broker` and whatever else differs.

    Attributes
    ----------
    patience:
        Seconds after which something that has not happened will not happen.
    silence:
        Seconds of silence, or without credit, after which the transfers of the tests count as cut. Some tests wait
        for it.
    narrow_limit:
        How many messages a link of the broker `narrow` keeps for a slow reader.
    strange_position:
        A `Link.position` of a link that never was.
    """

    patience: ClassVar[float] = 20.0
    silence: ClassVar[float] = 0.3
    narrow_limit: ClassVar[int] = 0
    strange_position: ClassVar[str] = "1-1"

    @pytest.fixture
    def broker(self) -> Broker:
        """A broker that is up. Async generator fixtures do as well."""
        raise NotImplementedError("a BrokerContract needs a fixture `broker`; see its module")

    @pytest.fixture
    def narrow(self) -> Broker:
        """A broker whose links keep no more than `narrow_limit` messages for a slow reader."""
        pytest.skip("this broker cannot be made to overflow")

    def outage(self, broker: Any) -> AbstractAsyncContextManager[None]:
        """Make the broker unreachable for all links while the block runs, then bring it back."""
        pytest.skip(f"no outage of {type(broker).__name__} can be made")

    @pytest.fixture
    def namespace(self) -> str:
        """A namespace that nobody else uses."""
        return f"contract-{secrets.token_hex(8)}"

    @asynccontextmanager
    async def open_links(self, broker: Broker, *namespaces: str) -> AsyncIterator[list[Tap]]:
        """A link in each of these namespaces, with what it delivers being read."""
        links: list[AbstractAsyncContextManager[Link]] = []
        taps: list[Tap] = []
        try:
            for namespace in namespaces:
                link = broker.connect(namespace, secrets.token_hex(8))
                tap = Tap(await link.__aenter__(), self.patience)
                links.append(link)
                taps.append(await tap.__aenter__())
            yield taps
        finally:
            for tap in taps:
                await tap.__aexit__()
            for link in reversed(links):
                await link.__aexit__(None, None, None)

    # -- fan-out -----------------------------------------------------------------------------------

    async def test_a_message_reaches_every_link_and_its_sender(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace, namespace) as taps:
            await taps[1].link.publish(b"hello")
            for tap in taps:
                await tap.until_message(b"hello")
                assert tap.messages == [b"hello"]

    async def test_messages_of_a_sender_keep_their_order(
        self, broker: Broker, namespace: str
    ) -> None:
        sent = [b"%d" % number for number in range(300)]
        async with self.open_links(broker, namespace, namespace) as taps:
            for payload in sent:
                await taps[0].link.publish(payload)
            for tap in taps:
                await tap.until_message(sent[-1])
                assert tap.messages == sent

    async def test_each_of_two_senders_keeps_its_order(
        self, broker: Broker, namespace: str
    ) -> None:
        sent = {name: [b"%s%d" % (name, number) for number in range(100)] for name in (b"a", b"b")}

        async def publish(link: Link, payloads: Sequence[bytes]) -> None:
            for payload in payloads:
                await link.publish(payload)
                await asyncio.sleep(0)

        async with self.open_links(broker, namespace, namespace, namespace) as taps:
            await asyncio.gather(
                publish(taps[0].link, sent[b"a"]), publish(taps[1].link, sent[b"b"])
            )
            for tap in taps:
                await tap.until(lambda got: len(got) == 200)
                for name, payloads in sent.items():
                    assert [one for one in tap.messages if one.startswith(name)] == payloads

    async def test_namespaces_do_not_see_each_other(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace, f"{namespace}-2") as (one, other):
            await one.link.publish(b"for one")
            await other.link.publish(b"for the other")
            await one.until_message(b"for one")
            await other.until_message(b"for the other")
            await one.link.publish(b"end")
            await other.link.publish(b"end")
            await one.until_message(b"end")
            await other.until_message(b"end")
            assert one.messages == [b"for one", b"end"]
            assert other.messages == [b"for the other", b"end"]

    async def test_a_late_link_sees_nothing_of_before(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace) as (early,):
            for number in range(20):
                await early.link.publish(b"before %d" % number)
            await early.until_message(b"before 19")
            async with self.open_links(broker, namespace) as (late,):
                await early.link.publish(b"after")
                await late.until_message(b"after")
                assert late.messages == [b"after"]

    async def test_nothing_is_missed_from_the_moment_of_connecting(
        self, broker: Broker, namespace: str
    ) -> None:
        async with broker.connect(namespace, "reader") as link:
            await link.publish(b"published before anybody has begun to read")
            async with Tap(link, self.patience) as tap:
                await tap.until_message(b"published before anybody has begun to read")

    async def test_what_waits_for_a_reader_is_counted(self, broker: Broker, namespace: str) -> None:
        async with broker.connect(namespace, "reader") as link, asyncio.timeout(self.patience):
            for number in range(10):
                await link.publish(b"%d" % number)
            left = 10
            async with aclosing(link.deliveries()) as deliveries:
                async for delivery in deliveries:
                    left -= isinstance(delivery, Message)
                    assert 0 <= link.waiting <= left
                    if not left:
                        break
            assert link.waiting == 0

    @pytest.mark.parametrize("size", [1, 100, 64 << 10, 1 << 20])
    async def test_payloads_arrive_to_the_byte(
        self, broker: Broker, namespace: str, size: int
    ) -> None:
        payload = secrets.token_bytes(size)
        async with self.open_links(broker, namespace, namespace) as (sender, reader):
            await sender.link.publish(payload)
            await reader.until(lambda got: len(got) == 1)
            assert reader.messages == [payload]

    async def test_payloads_of_all_byte_values(self, broker: Broker, namespace: str) -> None:
        payloads = [bytes([value]) for value in range(256)]
        async with self.open_links(broker, namespace) as (tap,):
            for payload in payloads:
                await tap.link.publish(payload)
            await tap.until(lambda got: len(got) == 256)
            assert tap.messages == payloads

    # -- readers that do not keep up ---------------------------------------------------------------

    async def test_a_slow_reader_is_told_of_a_gap(self, narrow: Broker, namespace: str) -> None:
        count = 3 * self.narrow_limit + 5
        async with (
            narrow.connect(namespace, "slow") as slow,
            narrow.connect(namespace, "sender") as sender,
        ):
            for number in range(count):
                await sender.publish(b"%d" % number)
            async with Tap(slow, self.patience) as tap:
                await tap.until_message(b"%d" % (count - 1))
                accounted(tap.deliveries, [b"%d" % number for number in range(count)])
                assert any(isinstance(delivery, Gap) for delivery in tap.deliveries)
                assert len(tap.messages) <= self.narrow_limit + 1

    async def test_a_slow_reader_goes_on_after_a_gap(self, narrow: Broker, namespace: str) -> None:
        async with narrow.connect(namespace, "slow") as slow:
            for number in range(3 * self.narrow_limit):
                await slow.publish(b"%d" % number)
            async with Tap(slow, self.patience) as tap:
                await tap.until_message(b"%d" % (3 * self.narrow_limit - 1))
                before = len(tap.deliveries)
                await slow.publish(b"after")
                await tap.until_message(b"after")
                assert tap.deliveries[before:] == [Message(b"after")]

    # -- outages -----------------------------------------------------------------------------------

    async def test_in_an_outage_links_are_lost_and_publishing_fails(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace) as taps, self.outage(broker):
            for tap in taps:
                await self.lost(tap)
                with pytest.raises(BrokerUnavailableError):
                    await self.soon(tap.link.publish(b"lost"))

    async def test_a_link_that_was_lost_stays_lost(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace) as (tap,):
            async with self.outage(broker):
                await self.lost(tap)
            await self.until_connected(broker, namespace)
            with pytest.raises(BrokerUnavailableError):
                await self.soon(tap.link.publish(b"lost"))

    async def test_what_had_arrived_is_read_before_the_link_is_lost(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace) as (tap,):
            sent = [b"%d" % number for number in range(10)]
            for payload in sent:
                await tap.link.publish(payload)
            await tap.until_message(sent[-1])
            async with self.outage(broker):
                await self.lost(tap)
            assert tap.messages == sent

    async def test_in_an_outage_nobody_can_connect(self, broker: Broker, namespace: str) -> None:
        async with self.outage(broker):
            with pytest.raises(BrokerUnavailableError):
                await self.soon(opened(broker.connect(namespace, "early")))
        await self.until_connected(broker, namespace)

    @pytest.mark.parametrize("outages", [1, 3])
    async def test_after_an_outage_nothing_is_missed_without_a_gap(
        self, broker: Broker, namespace: str, outages: int
    ) -> None:
        """One node goes on after its last link, while another one publishes."""
        taken: list[bytes] = []
        deliveries: list[Delivery] = []
        position: str | None = None
        for number in range(outages + 1):
            async with self.open_links(broker, namespace) as (sender,):
                if number:  # missed, or kept by the broker
                    taken.append(b"between %d" % number)
                    await sender.link.publish(taken[-1])
                async with broker.connect(namespace, "reader", after=position) as link:
                    tap = Tap(link, self.patience)
                    if number and position is None:
                        tap.deliveries.append(Gap("nobody has promised anything"))
                    async with tap:
                        taken.extend(b"%d of %d" % (one, number) for one in range(10))
                        for payload in taken[-10:]:
                            await sender.link.publish(payload)
                        await tap.until_message(taken[-1])
                        if number < outages:
                            async with self.outage(broker):
                                await self.lost(tap)
                                await self.lost(sender)
                    deliveries += tap.deliveries
                    position = link.position
            await self.until_connected(broker, f"{namespace}-other")
        accounted(deliveries, taken)

    async def test_a_position_that_nobody_knows_is_a_gap(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace) as (other,):
            await other.link.publish(b"before")
            async with (
                broker.connect(namespace, "reader", after=self.strange_position) as link,
                Tap(link, self.patience) as tap,
            ):
                await other.link.publish(b"after")
                await tap.until_message(b"after")
                assert isinstance(tap.deliveries[0], Gap)

    async def test_leaving_a_link_that_is_lost(self, broker: Broker, namespace: str) -> None:
        connecting = broker.connect(namespace, "node")
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(connecting)
            async with self.outage(broker):
                await self.soon(stack.aclose())

    async def test_an_outage_cuts_transfers(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):

            async def give() -> None:
                async with giver.link.send_transfer("place", timeout=self.silence) as transfer:
                    for _ in range(ENDLESS):
                        await transfer.send(b"chunk")

            async def take(began: asyncio.Event) -> None:
                async with taker.link.receive_transfer("place", timeout=self.silence) as chunks:
                    giving = asyncio.create_task(give())
                    try:
                        async for _ in chunks:
                            began.set()
                            await asyncio.sleep(0)
                    finally:
                        with pytest.raises(BrokerUnavailableError):
                            await self.soon(giving)

            began = asyncio.Event()
            taking = asyncio.create_task(take(began))
            await self.soon(began.wait())
            async with self.outage(broker):
                with pytest.raises(BrokerUnavailableError):
                    await self.soon(taking)

    # -- closing -----------------------------------------------------------------------------------

    async def test_leaving_ends_the_deliveries(self, broker: Broker, namespace: str) -> None:
        async with broker.connect(namespace, "reader") as link:
            tap = Tap(link, self.patience)
            await tap.__aenter__()
            await link.publish(b"last")
            await tap.until_message(b"last")
        await self.soon(tap.ended())
        assert tap.messages == [b"last"]

    async def test_a_link_that_was_left_publishes_nothing(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace) as (tap,):
            async with broker.connect(namespace, "gone") as gone:
                pass
            with pytest.raises(BrokerUnavailableError):
                await self.soon(gone.publish(b"from nowhere"))
            await tap.link.publish(b"end")
            await tap.until_message(b"end")
            assert tap.messages == [b"end"]

    async def test_leaving_with_an_exception_lets_it_through(
        self, broker: Broker, namespace: str
    ) -> None:
        with pytest.raises(ZeroDivisionError):
            async with broker.connect(namespace, "failing"):
                raise ZeroDivisionError
        await self.until_connected(broker, namespace)

    async def test_nothing_runs_on_after_leaving(self, broker: Broker, namespace: str) -> None:
        async def session() -> None:
            async with self.open_links(broker, namespace, namespace) as (giver, taker):
                await giver.link.publish(b"hello")
                await taker.until_message(b"hello")
                assert await self.transferred(giver.link, taker.link, [b"a", b"b"]) == [b"a", b"b"]

        await session()  # what a broker keeps for all its links may be opened with the first
        before = asyncio.all_tasks()
        for _ in range(3):
            await session()
        async with asyncio.timeout(self.patience):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110 - there is no event for that
                await asyncio.sleep(0)

    async def test_closing_twice(self, broker: Broker) -> None:
        await broker.aclose()
        await broker.aclose()

    # -- callers that are cancelled ----------------------------------------------------------------

    async def test_a_cancelled_publish_leaves_the_link_usable(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace) as (sender, reader):
            for turns in range(20):
                task = asyncio.create_task(sender.link.publish(b"perhaps %d" % turns))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await self.soon(task)
                await self.soon(sender.link.publish(b"surely %d" % turns))
                await reader.until_message(b"surely %d" % turns)
            numbers = [int(payload.split()[-1]) for payload in reader.messages]
            assert numbers == sorted(numbers)
            surely = [payload for payload in reader.messages if payload.startswith(b"surely")]
            assert surely == [b"surely %d" % turns for turns in range(20)]

    async def test_a_cancelled_reader_leaves_the_link_usable(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace) as (other,):
            for turns in range(6):
                async with broker.connect(namespace, f"half {turns}") as link:
                    async with Tap(link, self.patience):
                        for _ in range(turns):
                            await asyncio.sleep(0)
                    # Nobody reads any more, which must not be felt by anything else.
                    await self.soon(link.publish(b"%d" % turns))
                    await other.until_message(b"%d" % turns)
                    assert await self.transferred(other.link, link, [b"a", b"b"]) == [b"a", b"b"]

    async def test_a_cancelled_transfer_can_be_made_again(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):

            async def take(address: str, began: asyncio.Event) -> None:
                async with taker.link.receive_transfer(address, timeout=self.patience) as chunks:
                    began.set()
                    async for _ in chunks:
                        pass

            for number in range(3):
                began = asyncio.Event()
                taking = asyncio.create_task(take("place", began))
                await self.soon(began.wait())
                taking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await self.soon(taking)
                sent = [b"%d" % number, b"end"]
                assert await self.transferred(giver.link, taker.link, sent) == sent

    # -- transfers ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [1, 1_000, 64 << 10])
    async def test_chunks_arrive_in_order_and_to_the_byte(
        self, broker: Broker, namespace: str, size: int
    ) -> None:
        sent = [secrets.token_bytes(size) for _ in range(10 * TRANSFER_WINDOW + 1)]
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            assert await self.transferred(giver.link, taker.link, sent) == sent
            assert giver.messages == taker.messages == []

    async def test_a_large_chunk(self, broker: Broker, namespace: str) -> None:
        sent = [secrets.token_bytes(1 << 20), b"\x00", secrets.token_bytes(1 << 20)]
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            assert await self.transferred(giver.link, taker.link, sent) == sent

    async def test_a_transfer_without_chunks(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            assert await self.transferred(giver.link, taker.link, []) == []

    async def test_a_link_can_send_to_itself(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace) as (tap,):
            assert await self.transferred(tap.link, tap.link, [b"a", b"b"]) == [b"a", b"b"]

    async def test_a_sender_waits_for_its_reader(self, broker: Broker, namespace: str) -> None:
        total = 8 * TRANSFER_WINDOW
        sent = 0

        async def give(link: Link) -> None:
            nonlocal sent
            async with link.send_transfer("place", timeout=self.patience) as transfer:
                for number in range(total):
                    await transfer.send(b"%d" % number)
                    sent += 1

        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            async with taker.link.receive_transfer("place", timeout=self.patience) as chunks:
                giving = asyncio.create_task(give(giver.link))
                read = 0
                async for chunk in chunks:
                    assert chunk == b"%d" % read
                    read += 1
                    for _ in range(20):  # as far as the sender gets by itself
                        await asyncio.sleep(0)
                    assert sent <= read + AHEAD
            await self.soon(giving)
            assert read == sent == total

    async def test_a_sender_gives_up_a_reader_that_does_not_read(
        self, broker: Broker, namespace: str
    ) -> None:
        async with (
            self.open_links(broker, namespace, namespace) as (giver, taker),
            taker.link.receive_transfer("place", timeout=self.patience),
        ):
            sent = 0
            with pytest.raises(BrokerUnavailableError):  # noqa: PT012 - entering and leaving may raise, too
                async with giver.link.send_transfer("place", timeout=self.silence) as transfer:
                    for _ in range(ENDLESS):
                        await self.soon(transfer.send(b"chunk"))
                        sent += 1
            assert 1 <= sent <= AHEAD

    async def test_a_reader_gives_up_a_sender_that_is_silent(
        self, broker: Broker, namespace: str
    ) -> None:
        async with (
            self.open_links(broker, namespace, namespace) as (giver, taker),
            taker.link.receive_transfer("place", timeout=self.silence) as chunks,
            giver.link.send_transfer("place", timeout=self.patience) as transfer,
        ):
            await transfer.send(b"first")
            assert await self.soon(anext(chunks)) == b"first"
            with pytest.raises(BrokerUnavailableError):
                await self.soon(anext(chunks))

    async def test_a_reader_gives_up_a_sender_that_never_comes(
        self, broker: Broker, namespace: str
    ) -> None:
        async with (
            self.open_links(broker, namespace) as (taker,),
            taker.link.receive_transfer("place", timeout=self.silence) as chunks,
        ):
            with pytest.raises(BrokerUnavailableError):
                await self.soon(anext(chunks))

    async def test_nobody_at_the_address(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace) as (giver,):
            with pytest.raises(BrokerUnavailableError):
                await self.soon(give_all(giver.link, "nobody", [b"chunk"], self.silence))

    async def test_an_address_of_another_namespace(self, broker: Broker, namespace: str) -> None:
        async with (
            self.open_links(broker, namespace, f"{namespace}-2") as (giver, taker),
            taker.link.receive_transfer("place", timeout=self.patience),
        ):
            with pytest.raises(BrokerUnavailableError):
                await self.soon(give_all(giver.link, "place", [b"chunk"], self.silence))

    async def test_an_address_that_was_left(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            assert await self.transferred(giver.link, taker.link, [b"a"]) == [b"a"]
            with pytest.raises(BrokerUnavailableError):
                await self.soon(give_all(giver.link, "place", [b"chunk"], self.silence))
            assert await self.transferred(giver.link, taker.link, [b"b"]) == [b"b"]

    async def test_a_sender_that_fails_cuts_the_transfer(
        self, broker: Broker, namespace: str
    ) -> None:
        async def give(link: Link) -> None:
            async with link.send_transfer("place", timeout=self.patience) as transfer:
                await transfer.send(b"first")
                raise ZeroDivisionError

        async with (
            self.open_links(broker, namespace, namespace) as (giver, taker),
            taker.link.receive_transfer("place", timeout=self.patience / 2) as chunks,
        ):
            with pytest.raises(ZeroDivisionError):
                await self.soon(give(giver.link))
            received: list[bytes] = []
            with pytest.raises(BrokerUnavailableError):  # noqa: PT012 - entering and leaving may raise, too
                async with asyncio.timeout(self.patience):
                    async for chunk in chunks:
                        received.append(chunk)  # noqa: PERF401 - what came before the cut
            assert received in ([], [b"first"])

    async def test_a_cancelled_sender_cuts_the_transfer(
        self, broker: Broker, namespace: str
    ) -> None:
        async def give(link: Link) -> None:
            async with link.send_transfer("place", timeout=self.patience) as transfer:
                await transfer.send(b"first")
                await asyncio.Event().wait()

        async with (
            self.open_links(broker, namespace, namespace) as (giver, taker),
            taker.link.receive_transfer("place", timeout=self.patience / 2) as chunks,
        ):
            giving = asyncio.create_task(give(giver.link))
            assert await self.soon(anext(chunks)) == b"first"
            giving.cancel()
            with pytest.raises(BrokerUnavailableError):
                await self.soon(anext(chunks))
            with pytest.raises(asyncio.CancelledError):
                await giving

    async def test_a_reader_that_leaves_cuts_the_transfer(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            async with taker.link.receive_transfer("place", timeout=self.patience) as chunks:
                endless = [b"chunk"] * ENDLESS
                giving = asyncio.create_task(
                    give_all(giver.link, "place", endless, self.patience / 2)
                )
                assert await self.soon(anext(chunks)) == b"chunk"
            with pytest.raises(BrokerUnavailableError):
                await self.soon(giving)

    async def test_transfers_at_once_do_not_mix(self, broker: Broker, namespace: str) -> None:
        async with self.open_links(broker, namespace, namespace, namespace) as (giver, one, other):
            sent = {
                place: [b"%s %d" % (place.encode(), number) for number in range(50)]
                for place in ("a", "b", "c")
            }
            takers = {"a": one.link, "b": other.link, "c": one.link}
            received = await asyncio.gather(
                *(self.transferred(giver.link, takers[place], sent[place], place) for place in sent)
            )
            assert received == list(sent.values())

    async def test_messages_pass_while_a_transfer_is_under_way(
        self, broker: Broker, namespace: str
    ) -> None:
        async with self.open_links(broker, namespace, namespace) as (giver, taker):
            async with taker.link.receive_transfer("place", timeout=self.patience) as chunks:
                sent = [b"%d" % number for number in range(4 * TRANSFER_WINDOW)]
                giving = asyncio.create_task(give_all(giver.link, "place", sent, self.patience))
                assert await self.soon(anext(chunks)) == sent[0]
                await self.soon(giver.link.publish(b"to all"))  # the sender waits for credit now
                await self.soon(taker.link.publish(b"to all"))
                await taker.until(lambda got: len(got) == 2)
                assert [chunk async for chunk in chunks] == sent[1:]
            await self.soon(giving)

    # -- how the tests wait ------------------------------------------------------------------------

    async def soon(self, call: Awaitable[T]) -> T:
        """The call's result, within `patience`; else an error that is not a broker's."""
        deadline = asyncio.timeout(self.patience)
        try:
            async with deadline:
                return await call
        except TimeoutError as error:
            if deadline.expired():
                raise AssertionError(f"nothing happened in {self.patience:g} s") from error
            raise

    async def transferred(
        self, giver: Link, taker: Link, chunks: Sequence[bytes], address: str = "place"
    ) -> list[bytes]:
        """Transfer these chunks; returns what has arrived."""
        async with taker.receive_transfer(address, timeout=self.patience) as arriving:
            giving = asyncio.create_task(give_all(giver, address, chunks, self.patience))
            try:
                async with asyncio.timeout(self.patience):
                    arrived = [chunk async for chunk in arriving]
            except BaseException:
                giving.cancel()
                await asyncio.wait([giving])
                raise
            await self.soon(giving)
        return arrived

    async def lost(self, tap: Tap) -> None:
        """Wait until a link's deliveries say that it is lost."""
        with pytest.raises(BrokerUnavailableError):
            await self.soon(tap.ended())

    async def until_connected(self, broker: Broker, namespace: str) -> None:
        """Wait until a link can be opened and delivers."""
        async with asyncio.timeout(self.patience):
            while True:
                with suppress(BrokerUnavailableError):
                    async with self.open_links(broker, namespace) as (tap,):
                        await tap.link.publish(b"hello")
                        await tap.until_message(b"hello")
                        return
                await asyncio.sleep(0.01)
