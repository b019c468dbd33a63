"""The way to the broker fails: for a moment, for long, for all or for one, and in silence."""

from __future__ import annotations

import asyncio

import pytest

from .proxy import Direction, Proxy
from .workers import Crew, Worker, until

KEYS = 300

HEARTBEAT = 1.0


async def one_behind(crew: Crew, proxy: Proxy, *, heartbeat: float = 0.3) -> list[Worker]:
    """Three nodes, the first of which has a way to the broker that can fail."""
    behind = await crew.spawn(keys=KEYS, broker=proxy.url(crew.broker), heartbeat=heartbeat)
    others = [await crew.spawn(keys=KEYS, heartbeat=heartbeat) for _ in range(2)]
    for worker in (behind, *others):
        await worker.joined()
    return [behind, *others]


@pytest.mark.parametrize("who", ["one", "all"])
async def test_cut_for_200_ms(crew: Crew, proxy: Proxy, who: str) -> None:
    await crew.rows.seed(KEYS)
    if who == "one":
        await one_behind(crew, proxy)
    else:
        await crew.start(3, keys=KEYS, broker=proxy.url(crew.broker))
    await crew.write()
    for _ in range(3):
        await crew.more_writes(15)
        await proxy.cut()
        await asyncio.sleep(0.2)
        await proxy.restore()
    await crew.more_writes(15)
    await crew.stop_writing()
    await crew.judge()


async def test_cut_for_10_s(crew: Crew, proxy: Proxy) -> None:
    await crew.rows.seed(KEYS)
    behind, *_ = await one_behind(crew, proxy)
    await crew.write()
    await crew.more_writes(15)
    await proxy.cut()
    away = asyncio.create_task(asyncio.sleep(10))
    await until(lambda: _down(behind), "the node says that its broker is away")
    assert (await behind.status())["repositories"]["Row"]["state"] == "degraded"
    await crew.more_writes(30)
    await away
    await proxy.restore()
    await until(behind.broker_up, "the node is connected again", 30)
    await crew.more_writes(15)
    await crew.stop_writing()
    await crew.judge()


@pytest.mark.parametrize("lost", [("up", "down"), ("up",), ("down",)], ids=["both", "up", "down"])
async def test_a_half_open_link_is_noticed_within_three_heartbeats(
    crew: Crew, proxy: Proxy, lost: tuple[Direction, ...]
) -> None:
    await crew.rows.seed(KEYS)
    behind, *others = await one_behind(crew, proxy, heartbeat=HEARTBEAT)
    for worker in others:
        worker.write()
    proxy.half_open(*lost)
    # Three from the first that does not come back; one until that is sent, one for a busy machine.
    await until(lambda: _down(behind), "the node says that its broker is away", 5 * HEARTBEAT)
    await proxy.restore()
    await until(behind.broker_up, "the node is connected again", 30)
    for worker in others:
        await worker.stop_writing()
    await crew.judge()


async def test_stalled_for_a_moment(crew: Crew, proxy: Proxy) -> None:
    await crew.rows.seed(KEYS)
    await one_behind(crew, proxy, heartbeat=HEARTBEAT)
    await crew.write()
    await crew.more_writes(15)
    proxy.stall()
    await crew.more_writes(15)
    proxy.resume()
    await crew.more_writes(15)
    await crew.stop_writing()
    await crew.judge()


async def _down(worker: Worker) -> bool:
    return not await worker.broker_up()
