"""Doing the harm that was planned, and undoing it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncEngine

from ..integration.piped import WorkerGoneError
from ..integration.proxy import Proxy
from ..integration.servers import Server
from .fleet import Fleet, Slot
from .plan import Fault, Kind

COMMIT_SECONDS: Final = 10.0
"""For a node to come to a commit, which it is to die at; else it is killed where it is."""


class Harm:
    """Carries out faults. `server` is the broker if it is ours; `engine` leads to the database by no proxy."""

    def __init__(
        self,
        fleet: Fleet,
        server: Server | None,
        engine: AsyncEngine,
        say: Callable[[str], None],
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._engine = engine
        self._say = say
        self._share = asyncio.Semaphore(max(1, int(fleet.settings.nodes * fleet.settings.share)))
        self._all = asyncio.Lock()
        self.done: list[Fault] = []

    async def run(self, faults: list[Fault]) -> None:
        """All of them, each at its time, or later where others took longer than planned; returns when all is well."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                group.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        if fault.node is None:
            async with self._all:
                await self._begin(fault, self._to_all(fault))
        else:
            slot = self._fleet.slots[fault.node]
            async with self._share, slot.turn:
                await self._begin(fault, self._to_one(fault, slot))

    async def _begin(self, fault: Fault, work: Awaitable[None]) -> None:
        self._say(str(fault))
        self.done.append(fault)
        await work

    # -- one node --------------------------------------------------------------------------------

    async def _to_one(self, fault: Fault, slot: Slot) -> None:
        life = slot.life
        match fault.kind:
            case Kind.KILL | Kind.DOOM | Kind.LEAVE:
                life.expected_to_end = True
                await life.ask()  # what it has counted would be gone
                if fault.kind is Kind.DOOM:
                    await self._doom(slot)
                if fault.kind is Kind.LEAVE and life.joined:
                    await self._fleet.leave(life)
                await life.process.kill()
                await asyncio.sleep(fault.seconds)
                await self._fleet.start(slot)
            case Kind.FREEZE:
                with contextlib.suppress(
                    ProcessLookupError
                ):  # it has just ended, which is told later
                    life.process.freeze()
                    try:
                        await asyncio.sleep(fault.seconds)
                    finally:
                        life.process.thaw()
            case Kind.DATABASE_CUT:
                await _cut(fault, slot.database)
            case Kind.DATABASE_SILENT:
                await _half_open(fault, slot.database)
            case Kind.DATABASE_ENDS:
                await self._end_sessions(slot)
            case Kind.CUT:
                await _cut(fault, slot.broker)
            case Kind.HALF_OPEN:
                await _half_open(fault, slot.broker)
            case Kind.STALL:
                slot.broker.stall()
                await asyncio.sleep(fault.seconds)
                slot.broker.resume()
            case Kind.DELAY:
                slot.broker.delay(fault.delay)
                await asyncio.sleep(fault.seconds)
                slot.broker.delay(0)
            case _:
                raise ValueError(f"{fault.kind} is for all")

    async def _doom(self, slot: Slot) -> None:
        try:
            await slot.life.process.ask("doom", COMMIT_SECONDS)
            await slot.life.process.gone(COMMIT_SECONDS)
        except (WorkerGoneError, TimeoutError):
            return  # it was quick, or has nothing to commit

    async def _end_sessions(self, *slots: Slot) -> None:
        ports = [port for slot in slots for port in slot.database.ports_at_server]
        if not ports:
            return
        async with self._engine.connect() as connection:
            if self._engine.dialect.name == "postgresql":
                statement = text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_port IN :ports"
                ).bindparams(bindparam("ports", expanding=True))
                await connection.execute(statement, {"ports": ports})
                return
            found = await connection.execute(
                text("SELECT id, host FROM information_schema.processlist")
            )
            ours = [
                row.id for row in found if int((row.host or ":0").rpartition(":")[2] or 0) in ports
            ]
            for session in ours:
                # One may have ended meanwhile, as the pool of the node sees fit.
                with contextlib.suppress(Exception):
                    await connection.execute(text(f"KILL CONNECTION {int(session)}"))

    # -- all of them -----------------------------------------------------------------------------

    async def _to_all(self, fault: Fault) -> None:
        slots = self._fleet.slots
        match fault.kind:
            case Kind.BROKER_KILL:
                assert self._server is not None
                await self._server.kill()
                await asyncio.sleep(fault.seconds)
                await self._server.start()
            case Kind.BROKER_FREEZE:
                assert self._server is not None
                self._server.freeze()
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    self._server.thaw()
            case Kind.BROKER_AWAY:
                async with self._held(*(slot.broker for slot in slots)):
                    await asyncio.sleep(fault.seconds)
            case Kind.DATABASE_AWAY:
                async with self._held(*(slot.database for slot in slots)):
                    await asyncio.sleep(fault.seconds)
            case Kind.DATABASE_ENDS:
                await self._end_sessions(*slots)
            case _:
                raise ValueError(f"{fault.kind} is for one node")

    @contextlib.asynccontextmanager
    async def _held(self, *proxies: Proxy) -> AsyncIterator[None]:
        """Cut all of these, which other faults may restore one of a little early."""
        async with contextlib.AsyncExitStack() as stack:
            for proxy in proxies:
                await stack.enter_async_context(proxy.outage())
            yield


async def _cut(fault: Fault, proxy: Proxy) -> None:
    async with proxy.outage():
        await asyncio.sleep(fault.seconds)


async def _half_open(fault: Fault, proxy: Proxy) -> None:
    proxy.half_open(*fault.lost)
    await asyncio.sleep(fault.seconds)
    await proxy.restore()
