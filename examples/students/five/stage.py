"""What the steps of the check work on, and what they have in common."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Final

import httpx

from .brokers import Fault
from .compare import differences
from .databases import StudentsTable
from .instances import Instance, every
from .report import Report

__all__ = ["Stage"]

PATIENCE: Final = 30.0
"""Seconds for a state to come about before its check has failed."""

PAUSE: Final = 0.1


@dataclasses.dataclass
class Stage:
    """The five, what is behind them, and what they should hold."""

    instances: list[Instance]
    fault: Fault
    table: StudentsTable
    report: Report
    expected: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """What was written, as the instances have confirmed it."""

    def confirmed(self, response: httpx.Response) -> int:
        """Note what a successful create or update has made; returns its id."""
        student: dict[str, Any] = response.json()
        self.expected[student["id"]] = student
        return int(student["id"])

    async def held(self) -> dict[str, dict[int, dict[str, Any]]]:
        """What each instance answers."""
        answers = await every(self.instances, lambda instance: instance.students())
        return {each.name: answer for each, answer in zip(self.instances, answers, strict=True)}

    async def check_all_equal(self, when: str) -> None:
        """That soon all instances answer with what was written."""
        off: list[str] = []

        async def equal() -> bool:
            off[:] = differences(self.expected, await self.held())
            return not off

        held = await self.until(equal)
        detail = f"; {'; '.join(off)}" if off else ""
        equal_ones = len(self.instances) - len(off)
        self.report.check(
            held,
            f"{when}: {equal_ones} of {len(self.instances)} answer GET /students with the"
            f" {len(self.expected):,} as written{detail}",
        )

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> bool:
        """Look until it is so, or patience is at its end; whether it is so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE
        while True:
            if await condition():
                return True
            if loop.time() > until:
                return False
            await asyncio.sleep(PAUSE)
