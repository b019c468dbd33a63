"""The nodes of a run, each a process at a time, with ways to the broker and to the database that can fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..integration.piped import Piped, WorkerError, WorkerGoneError, piped
from ..integration.proxy import Proxy
from .memory import Memory, resident
from .settings import Member, Settings

ANSWER_SECONDS: Final = 10.0
"""For a process to say how it is; one that is frozen does not."""

END_SECONDS: Final = 60.0
"""For a node to leave, or to finish its writes: a hung call of the source takes 30."""

COUNTED: Final = ("gaps", "repairs", "loads", "full_loads", "snapshots", "doubts", "rejected")
"""Of `Stats`, those that are told, summed over both repositories."""


@dataclass
class Life:
    """One process. What it has said of itself is as of its last answer."""

    name: str
    process: Piped
    records: dict[str, Path]
    """By repository."""
    log: Path
    began: float = field(default_factory=time.monotonic)
    memory: Memory = field(default_factory=Memory)
    report: dict[str, Any] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)
    """The largest seen of what is bounded."""
    joined: bool = False
    wrong: list[str] = field(default_factory=list)
    """What it must not have done."""
    expected_to_end: bool = False

    async def wait_joined(self) -> None:
        """Until its node has been entered, however long that takes, or it has ended."""
        try:
            await self.process.joined(None)
        except WorkerError as error:
            self.wrong.append(f"did not join: {error}")
        except WorkerGoneError:
            return
        self.joined = True

    def sample(self) -> None:
        """Note its memory."""
        size = resident(self.process.pid) if self.process.running else None
        if size is not None:
            self.memory.add(time.monotonic() - self.began, size)

    async def ask(self) -> dict[str, Any] | None:
        """Its report, kept; ``None`` where none comes."""
        try:
            report = await self.process.ask("report", ANSWER_SECONDS)
        except (WorkerGoneError, TimeoutError):
            return None
        self.report = report
        self.memory.kept = sum(report["kept"].values()) // 1024
        for what, size in {
            "inbox": report["node"]["inbox"],
            "unsent": sum(report["node"]["unsent"].values()),
            "members": report["node"]["members"],
            **{f"bytes {what}": size for what, size in report["kept"].items()},
            **{
                f"{what} of {name}": repository[part][figure]
                for name, repository in report["status"].get("repositories", {}).items()
                for what, part, figure in (
                    ("rows", "info", "entities"),
                    ("quarantined", "stats", "quarantined"),
                )
            },
        }.items():
            self.most[what] = max(self.most.get(what, 0), size)
        return self.report

    def counted(self) -> dict[str, int]:
        """Its counters."""
        found = dict.fromkeys(("reads", "writes", "conflicts", *COUNTED), 0)
        for name in ("reads", "writes", "conflicts"):
            found[name] = self.report.get("counts", {}).get(name, 0)
        for repository in self.report.get("status", {}).get("repositories", {}).values():
            for name in COUNTED:
                found[name] += repository["stats"][name]
        return found


class Slot:
    """A place in the fleet: one process after another, and the ways that they take."""

    def __init__(self, number: int, broker: Proxy, database: Proxy) -> None:
        self.number = number
        self.broker = broker
        self.database = database
        self.lives: list[Life] = []
        self.turn = asyncio.Lock()
        """Of those who do it harm."""

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def life(self) -> Life:
        """The process that there is now, or was last."""
        return self.lives[-1]


class Fleet:
    """All of them."""

    def __init__(
        self,
        settings: Settings,
        slots: list[Slot],
        *,
        broker: str,
        database: str,
        tables: tuple[str, str],
        namespace: str,
        folder: Path,
    ) -> None:
        self.settings = settings
        self.slots = slots
        self._broker = broker
        self._database = database
        self._tables = tables
        self._namespace = namespace
        self._folder = folder
        self._joining: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Life]:
        """Those that run."""
        return iter([slot.life for slot in self.slots if slot.lives and slot.life.process.running])

    @property
    def lives(self) -> list[Life]:
        """All that there ever were."""
        return [life for slot in self.slots for life in slot.lives]

    async def start_all(self) -> None:
        """One process for each place, all at once."""
        for slot in self.slots:
            await self.start(slot)

    async def start(self, slot: Slot) -> Life:
        """A new process for a place, which joins when it can."""
        settings = self.settings
        name = f"{slot.name}.{len(slot.lives)}"
        whole, lookup = self._tables
        records = self._folder / f"{name}.records"
        setup = Member(
            name=name,
            broker=slot.broker.url(self._broker),
            database=slot.database.url(self._database),
            whole=whole,
            lookup=lookup,
            namespace=self._namespace,
            records=str(records),
            seed=settings.seed,
            keys=settings.keys,
            held=settings.held,
            ttl=settings.ttl,
            pause=settings.pause,
        )
        log = self._folder / f"{name}.log"
        process = Piped(name, await piped(settings.member, log, setup))
        paths = {each: Path(f"{records}.{each}") for each in ("whole", "lookup")}
        life = Life(name, process, paths, log)
        slot.lives.append(life)
        joining = asyncio.create_task(life.wait_joined())
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)
        return life

    async def leave(self, life: Life) -> None:
        """In order, or with force where that takes too long, which is wrong."""
        life.expected_to_end = True
        try:
            await life.process.ask("leave", END_SECONDS)
            await life.process.end()
        except (WorkerGoneError, WorkerError, TimeoutError) as error:
            life.wrong.append(f"did not leave: {error!r}")
            await life.process.kill()

    def sample(self) -> None:
        """Note the memory of all."""
        for life in self:
            life.sample()

    async def ask(self) -> None:
        """Have all say how they are."""
        await asyncio.gather(*(life.ask() for life in self))

    def ended_by_themselves(self) -> list[str]:
        """Processes that have ended and should not have."""
        return [
            f"{life.name} has ended by itself, see {life.log}"
            for life in self.lives
            if not life.process.running and not life.expected_to_end
        ]

    async def close(self) -> None:
        """End all that runs, with force."""
        for life in self.lives:
            life.expected_to_end = True
            await life.process.kill()
        for joining in list(self._joining):
            joining.cancel()


@asynccontextmanager
async def fleet_of(
    settings: Settings,
    *,
    broker: str,
    database: str,
    tables: tuple[str, str],
    namespace: str,
    folder: Path,
) -> AsyncIterator[Fleet]:
    """Processes that all work on these tables, once they are started; gone when the block is left."""
    async with AsyncExitStack() as stack:
        slots = [
            Slot(
                number,
                await stack.enter_async_context(Proxy.before(broker)),
                await stack.enter_async_context(Proxy.before(database)),
            )
            for number in range(settings.nodes)
        ]
        fleet = Fleet(
            settings,
            slots,
            broker=broker,
            database=database,
            tables=tables,
            namespace=namespace,
            folder=folder,
        )
        stack.push_async_callback(fleet.close)
        yield fleet
