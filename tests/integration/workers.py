"""Nodes in processes of their own, as a test sees them: told what to do, killed, frozen, and judged in the end."""

from __future__ import annotations

from asyncio.subprocess import Process
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from .history import Record, Shown
from .orders import Point, Setup
from .piped import PATIENCE, ROOT, Piped, WorkerError, WorkerGoneError, piped, until
from .rows import Rows

__all__ = ["ROOT", "Crew", "Worker", "WorkerError", "WorkerGoneError", "until"]


class Worker(Piped):
    """One of them. `records` is what its reads have returned so far."""

    def __init__(self, setup: Setup, process: Process) -> None:
        super().__init__(setup.name, process)
        self.setup = setup
        self.records: list[Record] = []
        self.left = False

    def seen(self, records: list[Record]) -> None:
        self.records += records

    async def create(self, key: int, *, filler: int = 0) -> Shown:
        return msgspec.convert(await self.ask("create", key=key, filler=filler), Shown)

    async def update(self, key: int) -> Shown:
        return msgspec.convert(await self.ask("update", key=key), Shown)

    async def delete(self, key: int) -> None:
        await self.ask("delete", key=key)

    async def status(self) -> dict[str, Any]:
        status: dict[str, Any] = await self.ask("status")
        return status

    async def stats(self) -> dict[str, int]:
        """The counters of its repository."""
        stats: dict[str, int] = (await self.status())["repositories"]["Row"]["stats"]
        return stats

    async def broker_up(self) -> bool:
        return bool((await self.status())["broker"]["up"])

    async def written(self) -> int:
        """How many writes of its load were acknowledged; fails if one failed that should not."""
        loaded = await self.ask("loaded")
        assert loaded["failed"] == [], f"{self.name}: {loaded}"
        return int(loaded["acknowledged"])

    def write(self, *, writers: int = 2, pause: float = 0.02, filler: int = 0) -> None:
        """Begin to write random rows, until `stop_writing`."""
        self.tell("load", writers=writers, pause=pause, keys=self.setup.keys, filler=filler)

    async def stop_writing(self) -> None:
        await self.ask("stop_load")

    async def leave(self) -> None:
        """Leave the cluster in order, and end."""
        await self.ask("leave")
        self.left = True
        await self.end()

    async def doom(self, point: Point, *, after: int, once: str | None = None) -> None:
        """Let it kill itself there; of those with the same path in `once` only the first does."""
        await self.ask("doom", point=point, after=after, once=once)


class Crew:
    """The workers of one test, on one broker and one table."""

    def __init__(self, rows: Rows, database: str, broker: str, namespace: str, logs: Path) -> None:
        self.rows = rows
        self.broker = broker
        self.namespace = namespace
        self.workers: list[Worker] = []
        self._database = database
        self._logs = logs

    def __iter__(self) -> Iterator[Worker]:
        return iter([worker for worker in self.workers if worker.running and not worker.left])

    async def spawn(
        self,
        *,
        keys: int,
        broker: str | None = None,
        heartbeat: float = 0.3,
        ttl: float = 120.0,
        backlog: int | None = None,
        fatal: Point | None = None,
        fatal_after: int = 0,
        secret: str | None = None,
    ) -> Worker:
        """Start a process; see `Worker.joined` for when its node is there."""
        name = f"n{len(self.workers)}"
        setup = Setup(
            name=name,
            broker=broker or self.broker,
            database=self._database,
            table=self.rows.name,
            namespace=self.namespace,
            keys=keys,
            heartbeat=heartbeat,
            ttl=ttl,
            backlog=backlog,
            fatal=fatal,
            fatal_after=fatal_after,
            secret=secret,
        )
        process = await piped(f"{__package__}.worker", self._logs / f"{name}.log", setup)
        worker = Worker(setup, process)
        self.workers.append(worker)
        return worker

    async def start(self, count: int, *, keys: int, **settings: Any) -> list[Worker]:
        """Start several at once, and wait until all have joined."""
        started = [await self.spawn(keys=keys, **settings) for _ in range(count)]
        for worker in started:
            await worker.joined()
        return started

    async def write(self, **settings: Any) -> None:
        for worker in self:
            worker.write(**settings)

    async def stop_writing(self) -> None:
        for worker in self:
            await worker.stop_writing()

    async def written(self) -> int:
        return sum([await worker.written() for worker in self])

    async def more_writes(self, count: int, workers: Iterable[Worker] | None = None) -> None:
        """Wait until each, or each of these, has written that much more."""
        chosen = self if workers is None else workers
        goals = {worker: await worker.written() + count for worker in chosen}

        async def reached() -> bool:
            return all([await worker.written() >= goal for worker, goal in goals.items()])

        await until(reached, f"{count} more writes of each")

    # -- judgement -------------------------------------------------------------------------------

    async def converged(self, patience: float = PATIENCE) -> None:
        """Wait until every live node holds what the table holds, with nothing left to be done."""
        told = ""

        async def equal() -> bool:
            nonlocal told
            truth = await self.rows.now()
            dumps = {worker.name: await worker.ask("dump") for worker in self}
            told = _differences(truth, dumps)
            return not told

        await until(equal, lambda: told, patience)

    async def all_see_all(self) -> None:
        """Wait until every live node sees all the others that live, and nobody else."""
        others = len(list(self)) - 1

        async def seen() -> bool:
            return all([len((await worker.status())["members"]) == others for worker in self])

        await until(seen, f"every node sees {others} others")

    async def judge(self, patience: float = PATIENCE) -> None:
        """The final state of every node, and what reads have returned on all there ever were."""
        assert list(self), "no node is left to judge"
        await self.converged(patience)
        history = await self.rows.history()
        faults = [
            fault
            for worker in self.workers
            for fault in history.faults(worker.name, list(worker.records))
        ]
        silent = [worker.name for worker in self if not worker.records]
        faults += [f"{name} has shown nothing, which proves nothing" for name in silent]
        if faults:
            raise AssertionError("\n".join(faults))

    async def close(self) -> None:
        for worker in self.workers:
            await worker.kill()

    def log(self, worker: Worker) -> str:
        """What one worker has said on standard error."""
        return (self._logs / f"{worker.name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """What they all have said."""
        return "\n".join(f"--- {worker.name}\n{self.log(worker)}" for worker in self.workers)


def _differences(truth: dict[int, Shown], dumps: dict[str, dict[str, Any]]) -> str:
    """How nodes differ from the table and from each other; empty if they do not."""
    told: list[str] = []
    for name, dump in dumps.items():
        rows = {key: msgspec.convert(row, Shown) for key, row in dump["rows"]}
        wrong = [key for key in truth.keys() | rows.keys() if truth.get(key) != rows.get(key)]
        if wrong:
            some = {key: (truth.get(key), rows.get(key)) for key in sorted(wrong)[:5]}
            told.append(f"{name}: {len(wrong)} rows differ (table, node): {some}")
        if dump["state"] != "ready" or not dump["clean"] or dump["unsent"]:
            told.append(f"{name}: {dump['state']}, clean {dump['clean']}, {dump['unsent']} unsent")
    digests = {name: dump["digest"] for name, dump in dumps.items()}
    if len(set(digests.values())) > 1:
        told.append(f"digests differ: {digests}")
    return "; ".join(told)
