"""Web servers in processes of their own, asked over a new connection each time, so that any worker may answer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import httpx

from examples.students.five.processes import LOOPBACK, Port

from .workers import ROOT, until

PATIENCE: Final = 30.0
"""Seconds for several processes to import everything, on a machine that is busy, and for all of them to answer."""


class Site:
    """Web servers with the same content, each on a port of its own and with any number of workers.

    `command` has ``{port}`` where a server is told its port. Who answers says so in the header X-Node, or in the body
    of a probe; who refuses need not.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], logs: Path, *, servers: int
    ) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._ports = [Port() for _ in range(servers)]
        self._logs = [logs / f"server-{number}.log" for number in range(servers)]
        self._processes: list[asyncio.subprocess.Process] = []
        self._asked = 0
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_keepalive_connections=0), timeout=10.0, trust_env=False
        )

    async def __aenter__(self) -> Self:
        for port, path in zip(self._ports, self._logs, strict=True):
            with path.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *(word.format(port=port.number) for word in self._command),
                    env=self._environment,
                    cwd=ROOT,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,  # a group of its own, which is ended as one
                )
            self._processes.append(process)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        for port in self._ports:
            port.close()

    async def ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask one of the servers, each in turn."""
        port = self._ports[self._asked % len(self._ports)]
        self._asked += 1
        return await self._client.request(
            method, f"http://{LOOPBACK}:{port.number}{path}", **content
        )

    async def names(self, count: int) -> set[str]:
        """Wait until so many nodes have answered that they live; their names."""
        names: set[str] = set()

        async def all_have() -> bool:
            assert all(one.returncode is None for one in self._processes), self.log()
            with suppress(httpx.TransportError):  # not yet there
                names.add((await self.ask("GET", "/live")).json()["node"])
            return len(names) >= count

        await until(all_have, lambda: f"{count} nodes answer, not {names}", PATIENCE)
        return names

    async def until_all(
        self, names: set[str], path: str, holds: Callable[[httpx.Response], bool]
    ) -> None:
        """Ask until every one of these nodes has given an answer of which this holds."""
        left = set(names)
        last: dict[str, str] = {}

        async def all_have() -> bool:
            response = await self.ask("GET", path)
            name = response.headers.get("x-node") or response.json().get("node", "somebody")
            last[name] = f"{response.status_code} {response.text}"
            if holds(response):
                assert name in names, f"{name} is a stranger, or has replaced a worker"
                left.discard(name)
            return not left

        await until(
            all_have, lambda: f"all but {left}; the last answers to {path}: {last}", PATIENCE
        )

    async def terminate(self) -> list[int]:
        """End the servers as an init system does; their exit codes."""
        for process in self._processes:
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            return [await process.wait() for process in self._processes]

    def log(self) -> str:
        """What they have said."""
        return "\n".join(path.read_text(errors="replace") for path in self._logs)
