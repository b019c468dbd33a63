"""Virtual time, hosts that stand still or die, and clocks that differ."""

from __future__ import annotations

import asyncio
import random
import time

import anyio
import pytest

from .loop import BEGINNING, EPOCH, HOST, Host, LivelockError, SimLoop, simulated


async def _sleeper(seen: list[tuple[str, float]], *pauses: float) -> None:
    host = HOST.get()
    assert host is not None
    for pause in pauses:
        await asyncio.sleep(pause)
        seen.append((host.name, round(asyncio.get_running_loop().time() - BEGINNING, 6)))


def test_time_passes_when_everybody_waits() -> None:
    seen: list[tuple[str, float]] = []
    began = time.perf_counter()
    with simulated(1) as loop:
        one, two = Host("one"), Host("two")
        loop.start(one, _sleeper(seen, 3_600.0, 1.0), "one")
        loop.start(two, _sleeper(seen, 1.5, 3_599.0), "two")
        loop.run_until_complete(asyncio.sleep(10_000.0))
    assert seen == [("two", 1.5), ("one", 3600.0), ("two", 3600.5), ("one", 3601.0)]
    assert time.perf_counter() - began < 5.0


def test_each_host_has_a_wall_clock_of_its_own() -> None:
    seen: dict[str, float] = {}

    async def look(name: str) -> None:
        await asyncio.sleep(1.0)
        seen[name] = time.time() - EPOCH - BEGINNING

    with simulated(1) as loop:
        for host in (Host("right"), Host("behind", offset=-3600.0)):
            loop.start(host, look(host.name), host.name)
        loop.run_until_complete(asyncio.sleep(2.0))
    assert seen == {"right": pytest.approx(1.0), "behind": pytest.approx(-3599.0)}


def test_a_host_that_stands_still_goes_on_where_it_was() -> None:
    seen: list[tuple[str, float]] = []
    with simulated(1) as loop:
        host = Host("still")
        loop.start(host, _sleeper(seen, 1.0, 1.0, 1.0), "still")
        loop.at(loop.now + 1.5, setattr, host, "frozen", True)
        loop.at(loop.now + 60.0, _thaw, loop, host)
        loop.run_until_complete(asyncio.sleep(100.0))
    assert seen == [("still", 1.0), ("still", 60.0), ("still", 61.0)]


@pytest.mark.parametrize("timers_first", [True, False])
def test_what_is_noticed_first_after_standing_still(timers_first: bool) -> None:
    seen: list[str] = []
    with simulated(1) as loop:
        host = Host("still")
        host.frozen = True
        loop.arrive(host, loop.now + 1.0, seen.append, "arrival")
        loop.call_at(loop.now + 0.5, seen.append, "early timer", context=host.context)
        loop.call_at(loop.now + 2.0, seen.append, "late timer", context=host.context)
        loop.at(loop.now + 5.0, lambda: loop.thaw(host, timers_first=timers_first))
        loop.run_until_complete(asyncio.sleep(10.0))
    timers = ["early timer", "late timer"]
    assert seen == ([*timers, "arrival"] if timers_first else ["arrival", *timers])


def test_of_a_dead_host_nothing_is_heard() -> None:
    said: list[str] = []

    async def dies() -> None:
        try:
            await asyncio.sleep(1.0)
            said.append("woke")
        finally:
            said.append("goodbye")

    with simulated(1) as loop:
        host = Host("dead")
        loop.start(host, dies(), "dies")
        loop.at(loop.now + 0.5, setattr, host, "dead", True)
        loop.run_until_complete(asyncio.sleep(10.0))
        assert said == []
    assert said == ["goodbye"]  # when the run was over, and nobody looks any more


def test_a_cancellation_that_is_not_heeded_lets_time_pass() -> None:
    """anyio repeats it in every turn of the loop."""

    async def stubborn() -> float:
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(3):
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    continue
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.0)
        return asyncio.get_running_loop().time()

    with simulated(1) as loop:
        task = loop.spawn(Host("one"), stubborn(), "stubborn")
        loop.run_until_complete(asyncio.sleep(10.0))
        assert task.result() - BEGINNING == pytest.approx(1.0, abs=0.2)


def test_when_all_wait_for_ever_the_run_ends() -> None:
    with simulated(1) as loop, pytest.raises(LivelockError):
        loop.run_until_complete(asyncio.Event().wait())


def test_chance_is_the_seeds() -> None:
    def drawn(seed: int) -> list[float]:
        found: list[float] = []
        with simulated(seed) as loop:
            for name in ("one", "two"):
                host = Host(name)
                host.context.run(lambda: found.extend(random.random() for _ in range(3)))
            assert loop.callbacks == 0
        return found

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 6


def _thaw(loop: SimLoop, host: Host) -> None:
    loop.thaw(host, timers_first=True)
