"""The step in which the broker is taken away while all five are written to."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from typing import Final, Literal

from .instances import Instance, every
from .stage import Stage

__all__ = ["lose_broker"]

Phase = Literal["before", "away", "after"]

WRITES: Final = 20
"""That each instance has to answer before the broker goes, while it is away, and after it has come back."""

REFUSING_SECONDS: Final = 1.5
"""For which it is away at the least: time for more than one attempt to connect again."""

PACE: Final = 0.04
"""Seconds between two writes of one writer: it is not their number that matters."""

CREATE_EVERY: Final = 10

SAID: Final[dict[Phase, str]] = {
    "before": "before that",
    "away": "without the broker",
    "after": "after that",
}


class Writers:
    """One for each instance; each writes to students of its own, and counts the answers."""

    def __init__(self, stage: Stage) -> None:
        self.phase: Phase = "before"
        self.stopped = False
        self.statuses: dict[tuple[Phase, str], Counter[int]] = {}
        self._stage = stage

    async def write(self, instance: Instance) -> None:
        """Create a student, update it a few times, and so on until stopped."""
        mine = 0
        for number in itertools.count():
            if self.stopped:
                return
            phase = self.phase
            body = {"name": f"{instance.name} writes {number}", "city": "Vienna"}
            if number % CREATE_EVERY == 0 or not mine:
                response = await instance.ask("POST", "/students", body)
            else:
                response = await instance.ask("PUT", f"/students/{mine}", body)
            self.statuses.setdefault((phase, instance.name), Counter())[response.status_code] += 1
            if response.is_success:
                mine = self._stage.confirmed(response)
            await asyncio.sleep(PACE)

    async def enough(self) -> bool:
        """Whether each has had its answers in this phase."""
        return all(
            self.statuses.get((self.phase, instance.name), Counter()).total() >= WRITES
            for instance in self._stage.instances
        )

    def answered(self, phase: Phase) -> Counter[int]:
        """How often each status was the answer to writes that began in a phase."""
        counts = [count for (each, _), count in self.statuses.items() if each == phase]
        return sum(counts, Counter[int]())


async def lose_broker(stage: Stage) -> None:
    """Writes go on as if nothing were, before, while and after it is away."""
    writers = Writers(stage)
    async with asyncio.TaskGroup() as tasks:
        for instance in stage.instances:
            tasks.create_task(writers.write(instance))
        try:
            await _away_and_back(stage, writers)
        finally:
            writers.stopped = True
    phases: tuple[Phase, ...] = ("before", "away", "after")
    for phase in phases:
        answers = writers.answered(phase)
        counted = ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
        stage.report.check(
            bool(answers) and answers.keys() <= {200, 201}, f"writes {SAID[phase]}: {counted}"
        )
    await stage.check_all_equal("afterwards")


async def _away_and_back(stage: Stage, writers: Writers) -> None:
    await stage.until(writers.enough)
    stage.report.say(f"  {stage.fault.shown}")
    await stage.fault.take_away()
    writers.phase = "away"
    loop = asyncio.get_running_loop()
    until = loop.time() + REFUSING_SECONDS

    async def noticed() -> bool:
        return await writers.enough() and loop.time() > until and await _connected(stage) == 0

    await stage.until(noticed)
    gone, count = await _connected(stage), len(stage.instances)
    stage.report.check(
        gone == 0, f"the broker is away: {gone} of {count} have a connection, as /info says"
    )
    await stage.fault.bring_back()

    async def back() -> bool:
        return await _connected(stage) == count

    held = await stage.until(back)
    stage.report.check(
        held, f"the broker is back: {await _connected(stage)} of {count} have a connection"
    )
    writers.phase = "after"
    await stage.until(writers.enough)


async def _connected(stage: Stage) -> int:
    infos = await every(stage.instances, lambda each: each.info())
    return sum(info["broker"]["up"] for info in infos)
