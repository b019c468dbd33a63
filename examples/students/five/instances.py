"""The instances: processes with uvicorn, and what they answer."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from .processes import LOOPBACK, Port, Process

__all__ = ["NAMES", "Instance", "Metrics", "every", "five_instances"]

NAMES: Final = ("one", "two", "three", "four", "five")

ROOT: Final = Path(__file__).parents[3]
"""Where the package ``examples`` is."""

START_SECONDS: Final = 60.0
"""For an instance to be ready."""

ANSWER_SECONDS: Final = 35.0
"""For an answer: a little more than the library gives a database."""

T = TypeVar("T")

SAMPLE: Final = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


class Metrics:
    """What ``/metrics`` says."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [
            (name, frozenset(re.findall(r'(\w+)="([^"]*)"', labels)), float(value))
            for name, labels, value in SAMPLE.findall(text)
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels. Raises `KeyError` if there are none."""
        wanted = labels.items()
        found = [value for each, has, value in self._samples if each == name and wanted <= has]
        if not found:
            raise KeyError(f"/metrics has no {name} with {labels}")
        return sum(found)


class Instance:
    """One of the five. `written` counts the writes that it has answered with success since it was started."""

    def __init__(self, name: str, settings: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.written = 0
        self._port = Port()
        self.address = f"http://{LOOPBACK}:{self._port.number}"
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("STUDENTS_")
        }
        app = ("examples.students.app:create_app", "--factory", "--host", LOOPBACK)
        self.process = Process(
            f"instance {name}",
            (
                sys.executable,
                "-m",
                "uvicorn",
                *app,
                "--port",
                str(self._port.number),
                "--no-access-log",
            ),
            {**inherited, **settings, "STUDENTS_NODE": name, "PYTHONUNBUFFERED": "1"},
            log=folder / f"{name}.log",
            folder=ROOT,
        )
        self._client = httpx.AsyncClient(
            base_url=self.address, timeout=ANSWER_SECONDS, trust_env=False
        )

    async def start(self) -> None:
        """Start it, and return when it is ready. Raises `ProcessError`."""
        self.written = 0
        await self.process.start()
        await self.process.until(self._ready, START_SECONDS)

    async def _ready(self) -> bool:
        try:
            return await self.status("GET", "/ready") == 200
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        """End it for good."""
        try:
            await self.process.stop()
        finally:
            self._port.close()
            await self._client.aclose()

    async def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Its answer. Raises `httpx.TransportError` without one."""
        response = await self._client.request(method, path, json=body)
        self.written += method != "GET" and response.is_success
        return response

    async def status(self, method: str, path: str, body: object = None) -> int:
        """The status of its answer."""
        return (await self.ask(method, path, body)).status_code

    async def students(self) -> dict[int, dict[str, Any]]:
        """All students, by id. Raises `httpx.HTTPStatusError` for anything but 200."""
        answer = (await self.ask("GET", "/students")).raise_for_status()
        return {student["id"]: student for student in answer.json()}

    async def info(self) -> dict[str, Any]:
        """The node's status."""
        answer: dict[str, Any] = (await self.ask("GET", "/info")).raise_for_status().json()
        return answer

    async def metrics(self) -> Metrics:
        """Its figures."""
        return Metrics((await self.ask("GET", "/metrics")).raise_for_status().text)


async def every(
    instances: list[Instance], ask: Callable[[Instance], Coroutine[Any, Any, T]]
) -> list[T]:
    """Ask all at the same time; their answers in the same order. Raises what the first to fail raises."""
    try:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(ask(instance)) for instance in instances]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in asked]


@asynccontextmanager
async def five_instances(
    settings: Mapping[str, str], folder: Path
) -> AsyncIterator[list[Instance]]:
    """All five, ready; ended when the block is left, however that comes about. Raises `ProcessError`."""
    instances = [Instance(name, settings, folder) for name in NAMES]
    try:
        await every(instances, lambda instance: instance.start())
        yield instances
    finally:
        await asyncio.gather(*(instance.close() for instance in instances))
