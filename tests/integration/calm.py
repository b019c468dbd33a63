"""How long the event loop is kept by one callback: in processor time of its thread, without the garbage collector.

asyncio says so itself (`loop.slow_callback_duration`), but only in its debug mode: there everything takes three times
as long, and what it measures is the time on the wall, in which other processes had their turn as well.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

__all__ = ["SLOW", "Step", "Steps", "measured"]

SLOW: Final = 0.010
"""Seconds that nothing of ours should take in one go, on a machine like that of our figures."""


class Step(NamedTuple):
    """One callback, or what a task did from one await to the next."""

    seconds: float
    name: str


class Steps:
    """What the callbacks of a loop took, from one `taken` to the next."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """One more."""
        self._steps.append(step)

    def taken(self) -> tuple[float, Step, int]:
        """Seconds of all of them, the longest, and how many took longer than `SLOW`; then begin anew."""
        steps, self._steps = self._steps, []
        seconds = [step.seconds for step in steps]
        return sum(seconds), max(steps), sum(each > SLOW for each in seconds)


@contextmanager
def measured() -> Iterator[Steps]:
    """Every callback of this thread's loops meanwhile, but for the steps of the task that asks."""
    asking = asyncio.current_task()
    steps = Steps()
    run = asyncio.Handle._run
    began = collected = 0.0

    def collector(phase: str, _: dict[str, int]) -> None:
        nonlocal began, collected
        if phase == "start":
            began = time.thread_time()
        else:
            collected += time.thread_time() - began

    def run_measured(self: Any) -> None:
        callback = self._callback  # which is gone afterwards, if it was cancelled
        owner = getattr(callback, "__self__", None)
        start, before = time.thread_time(), collected
        run(self)
        if owner is not asking:
            name = owner.get_name() if isinstance(owner, asyncio.Task) else type(callback).__name__
            steps.add(Step(time.thread_time() - start - (collected - before), name))

    asyncio.Handle._run = run_measured  # type: ignore[method-assign]
    gc.callbacks.append(collector)
    try:
        yield steps
    finally:
        gc.callbacks.remove(collector)
        asyncio.Handle._run = run  # type: ignore[method-assign]
