"""What a link over Redis does when its connection hangs, breaks or is left; the connection is a stand-in."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from imperfect_dollop.brokers.redis.link import RedisLink
from imperfect_dollop.brokers.redis.server import Server
from imperfect_dollop.brokers.redis.transfer import Sender, Transfer
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.hosted import hosted

from .school import others, settled, soon


class Wire:
    """Answers when it is told to, in the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: asyncio.Queue[list[Any] | BaseException] = asyncio.Queue()

    async def call(self, *commands: Any, wait: float = 0.0) -> list[Any]:
        self.calls.append(commands)
        answer = await self.answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def link_on(writing: Wire, reading: Wire | None = None) -> Any:
    make: Any = RedisLink
    return make(server(), reading or Wire(), writing, "school", "node", backlog=100)


def server() -> Server:
    return Server("redis://localhost", prefix="dollop", timeout=1.0, options={})


async def test_what_is_published_at_once_goes_in_one_go_and_the_rest_after_it() -> None:
    wire = Wire()
    link = link_on(wire)
    async with hosted(link.run_publishing):
        first = [asyncio.create_task(link.publish(b"%d" % number)) for number in range(3)]
        await settled()
        later = [asyncio.create_task(link.publish(b"%d" % number)) for number in range(3, 6)]
        await settled()
        assert [len(calls) for calls in wire.calls] == [3 + 1]  # and the expiry
        wire.answers.put_nowait([])
        await soon(asyncio.gather(*first))
        await settled()
        assert not any(one.done() for one in later)
        assert [command[-1] for command in wire.calls[1]] == [b"3", b"4", b"5"]
        wire.answers.put_nowait([])
        await soon(asyncio.gather(*later))


async def test_who_publishes_while_the_link_breaks_is_told() -> None:
    wire = Wire()
    link = link_on(wire)
    async with hosted(link.run_publishing):
        publishing = [asyncio.create_task(link.publish(b"under way"))]
        await settled()
        publishing.append(asyncio.create_task(link.publish(b"waits")))
        await settled()
        wire.answers.put_nowait(BrokerUnavailableError("broken pipe"))
        for one in publishing:
            with pytest.raises(BrokerUnavailableError, match="broken pipe"):
                await soon(one)
        with pytest.raises(BrokerUnavailableError, match="broken pipe"):
            await link.publish(b"late")


@pytest.mark.parametrize("cancel", [False, True])
async def test_who_publishes_while_the_link_is_left_is_told(cancel: bool) -> None:
    wire = Wire()
    link = link_on(wire)
    publishing: list[asyncio.Task[None]] = []
    with anyio.CancelScope() as scope:
        async with hosted(link.run_publishing):
            publishing.append(asyncio.create_task(link.publish(b"under way")))
            await settled()
            publishing.append(asyncio.create_task(link.publish(b"waits")))
            await settled()
            try:
                if cancel:  # the task that publishes may end before this block does
                    scope.cancel()
                    await settled()
            finally:
                link.end()
    for one in publishing:
        with pytest.raises(BrokerUnavailableError):
            await soon(one)
    assert not others()


async def test_a_bug_in_publishing_hangs_nobody() -> None:
    wire = Wire()
    link = link_on(wire)

    async def publish() -> None:
        async with hosted(link.run_publishing):
            await asyncio.shield(publishing)

    publishing = asyncio.create_task(link.publish(b"under way"))
    running = asyncio.create_task(publish())
    await settled()
    wire.answers.put_nowait(ZeroDivisionError("a bug"))
    with pytest.raises(BrokerUnavailableError):
        await soon(publishing)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await soon(running)


async def test_a_caller_that_has_gone_disturbs_nobody() -> None:
    wire = Wire()
    link = link_on(wire)
    async with hosted(link.run_publishing):
        gone, stays = (asyncio.create_task(link.publish(payload)) for payload in (b"a", b"b"))
        await settled()
        gone.cancel()
        await asyncio.wait([gone])
        wire.answers.put_nowait([])
        await soon(stays)


@pytest.mark.parametrize("credit", [b"many", b"", b"\xff", b"1.5"])
async def test_a_credit_that_is_none_cuts_the_transfer(credit: bytes) -> None:
    wire: Any = Wire()
    sender = Sender(Transfer(server(), "school", "place", 1.0), wire)
    wire.answers.put_nowait([{b"credit": [(b"1-1", [b"c", credit])]}])
    with pytest.raises(BrokerUnavailableError, match="place"):
        await soon(sender.begin())
