"""What a link over Redis does when its connection hangs, breaks or is left; the connection is a stand-in."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from imperfect_dollop.broker import Message
from imperfect_dollop.brokers.redis import link as link_module
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
        assert [len(calls) for calls in wire.calls] == [3]
        wire.answers.put_nowait([])
        await soon(asyncio.gather(*first))
        await settled()
        assert not any(one.done() for one in later)
        assert [command[0] for command in wire.calls[1]] == ["EXPIRE"]
        wire.answers.put_nowait([])
        await settled()
        assert [command[-1] for command in wire.calls[2]] == [b"3", b"4", b"5"]
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


async def test_no_more_than_a_megabyte_goes_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WRITE_BYTES", 100)
    wire = Wire()
    link = link_on(wire)
    link._renewed = float("inf")
    async with hosted(link.run_publishing):
        sizes = [40, 40, 40, 1_000, 1, 1]
        publishing = [asyncio.create_task(link.publish(bytes(size))) for size in sizes]
        for _ in range(3):
            await settled()
            wire.answers.put_nowait([])
        await soon(asyncio.gather(*publishing))
        assert [[len(one[-1]) for one in call] for call in wire.calls] == [
            [40, 40, 40],
            [1_000],
            [1, 1],
        ]


async def test_what_a_slow_way_cannot_carry_at_once_is_read_in_small_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "READ_BYTES", 1_000)
    wire = Wire()
    link = link_on(Wire(), wire)
    await link.begin("1-0/")
    deliveries = link.deliveries()
    asked: list[int] = []
    for number, size in enumerate([1, 1, 1, 1, 1, 1, 1, 1, 300, 2_000, 1], 1):
        entry = [f"{number}-0".encode(), [b"p", bytes(size)]]
        wire.answers.put_nowait([{b"stream": [entry]}, [entry]])
        while not isinstance(await soon(anext(deliveries)), Message):
            pass
        asked.append(wire.calls[-1][0][2])
    assert asked == [1, 2, 4, 8, 16, 32, 64, 64, 64, 3, 1]
    await deliveries.aclose()


@pytest.mark.parametrize("credit", [b"many", b"", b"\xff", b"1.5"])
async def test_a_credit_that_is_none_cuts_the_transfer(credit: bytes) -> None:
    wire: Any = Wire()
    sender = Sender(Transfer(server(), "school", "place", 1.0), wire)
    wire.answers.put_nowait([{b"credit": [(b"1-1", [b"c", credit])]}])
    with pytest.raises(BrokerUnavailableError, match="place"):
        await soon(sender.begin())
