"""The nodes of the demo, all together."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import anyio

from ..brokers import from_url
from .database import Database, Student
from .member import LocalMember, Member, Setup
from .options import Options
from .remote import RemoteMember

__all__ = ["Cluster", "every"]

T = TypeVar("T")


async def every(
    members: Iterable[Member], ask: Callable[[Member], Coroutine[Any, Any, T]]
) -> list[T]:
    """Ask all of these at the same time; their answers, in the same order."""
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(ask(member)) for member in members]
    return [task.result() for task in asked]


class Cluster:
    """The members that are there now. Leaving it stops them all."""

    def __init__(self, options: Options, database: Database) -> None:
        self.members: list[Member] = []
        self._gone: list[Member] = []
        self._broker = options.broker
        self._namespace = (
            f"demo-{secrets.token_hex(4)}"  # another demo on the same broker is not met
        )
        self._make: Callable[[Setup], Member] = RemoteMember if options.apart else LocalMember
        self._setup = functools.partial(
            Setup,
            broker=options.broker,
            namespace=self._namespace,
            database=database.url,
            table=database.table,
            log=options.log,
        )

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._end(self.members, lambda member: member.leave())

    async def probe(self) -> None:
        """Connect to the broker once. Raises `DollopError` if that cannot be done."""
        broker = from_url(self._broker)
        async with contextlib.aclosing(broker), broker.connect(self._namespace, "probe"):
            pass

    async def start(self, names: Iterable[str]) -> list[Member]:
        """New members, started at the same time."""
        new = [self._make(self._setup(name=name)) for name in names]
        self.members = sorted([*self.members, *new], key=lambda member: member.name)
        await every(new, lambda member: member.open())
        await every(new, lambda member: member.start())
        return new

    async def crash(self, members: Iterable[Member]) -> None:
        """They end without a goodbye, as far as that is possible."""
        await self._end(members, lambda member: member.crash())

    async def _end(
        self, members: Iterable[Member], end: Callable[[Member], Coroutine[Any, Any, None]]
    ) -> None:
        members = list(members)
        self._gone += members
        self.members = [member for member in self.members if member not in members]
        await every(members, end)

    async def look(self) -> None:
        """Renew the figures of all."""
        await every(self.members, lambda member: member.look())

    async def shown(self, key: int, wanted: Student | None, patience: float) -> list[float]:
        """When each of those that show this row was seen to, see `Member.shows`."""
        moments = await every(self.members, lambda member: member.shows(key, wanted, patience))
        return [moment for moment in moments if moment is not None]

    async def differing(
        self, wanted: Mapping[int, Student], patience: float = 0.0
    ) -> dict[str, list[int]]:
        """Which members do not hold just these rows, and in which keys, see `Member.differs`."""
        keys = await every(self.members, lambda member: member.differs(wanted, patience))
        return {member.name: off for member, off in zip(self.members, keys, strict=True) if off}

    async def whole_reads(self) -> int:
        """Reads of the whole table by all members that there ever were."""
        await self.look()
        return sum(member.figures.whole_reads for member in (*self._gone, *self.members))

    @property
    def counted(self) -> dict[str, int]:
        """Counters of the repositories, summed over all members that there ever were."""
        total: Counter[str] = Counter()
        for member in (*self._gone, *self.members):
            for name in ("writes", "snapshots", "full_loads", "applied", "doubts", "gaps"):
                total[name] += getattr(member.figures.stats, name)
        return dict(total)
