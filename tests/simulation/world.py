"""One run of a plan: real nodes with real repositories, on a simulated broker and a simulated source.

Phase one carries out the plan's steps while the judge looks at every moment. Then all faults end, and phase two demands
that everybody agrees with the source, that every call has come to an end, and that nothing is left in a queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import msgspec

from imperfect_dollop.errors import DollopError
from imperfect_dollop.node import Node
from imperfect_dollop.replica import members, snapshot
from imperfect_dollop.replica.chunks import CHUNK_BYTES
from imperfect_dollop.replica.table import Table
from imperfect_dollop.repository import Repository
from imperfect_dollop.session import Session
from imperfect_dollop.stats import State

from .broker import Exchange, SimBroker
from .hostile import STRANGER, forged
from .judge import BrokenPromiseError, Judge
from .loop import Host, LivelockError, SimLoop, draw, simulated, swept
from .plan import Plan, Step
from .source import BEFORE, FORMER, REFUSALS, Database, Row, RowTwo, SimSource, Trouble
from .story import Story

__all__ = ["Process", "Verdict", "run"]

OPERATION: Final[ContextVar[str]] = ContextVar("operation", default="")

CALM: Final = 1.0
"""Heartbeats after the end of faults at which it is first looked whether all agree: the next heartbeat tells of what
was missed."""

MILD: Final = 0.5
"""More heartbeats where nothing was broken but messages were lost."""

JOIN: Final = 1.0
"""Seconds in which a node has come up where nothing keeps it from doing so."""

ROUND_TRIPS: Final = 60
"""Latencies until what was noticed is repaired: a few messages and reads, each of which may take twenty of them."""

PATIENCE: Final = 3.0 + 3.0 + 3.0
"""More heartbeats: three to notice a member that has vanished or a link that is dead, three for a turn to load that
nobody takes, and two for which digests may differ, seen with the next one."""

RECONNECT: Final = 5.0 + 2.0
"""Seconds: the longest pause before the next attempt to connect, and how long that may take."""

TRANSFERS: Final = 2 * 5.0 + 5.0
"""Seconds: two transfers that are cut by silence, and the wait for an own heartbeat before it is concluded that there
is no donor."""

LAG: Final = 30.0
"""Heartbeats that a link may only look alive while messages of others arrive."""

LEAVES: Final = 0.4
"""Share of the runs in which copies are compared by leaves, as where there are many rows."""

CROWDS: Final = 0.15
"""Share of the runs in which few nodes are many, so that their heartbeats come less often the more there are."""

FOREIGN_CALLS: Final = (
    "get",
    "touch",
    "touch",
    "update",
    "delete",
    "refresh",
    "invalidate",
    "clear",
)
"""Calls of the nodes that read another source."""

PASSING: Final = frozenset({"lossy", "twice", "hostile", "sql", "save", "restore", "jump"})
"""Faults that break no link, no node and no call: when they are over, nothing has to be noticed but what was missed."""


@dataclass(frozen=True)
class Verdict:
    """`promise` is ``None`` if none was broken."""

    promise: str | None
    text: str
    at: float
    callbacks: int
    trace: tuple[str, ...]
    healed: float  # seconds after the end of faults until all agreed
    seen: frozenset[str]  # kinds of things that have happened, for whoever asks what runs reach


class Process:
    """A node, its application, and what it has shown."""

    def __init__(
        self,
        host: Host,
        node: Node,
        repository: Repository[int, Any],
        database: Database,
        judge: Judge,
    ) -> None:
        self.host = host
        self.node = node
        self.repository = repository
        self.database = database
        self.judge = judge
        self.open = False
        self.warm = False
        self.leaving = False
        self.walked: dict[int, int] = {}
        self.wrote: dict[int, int] = {}
        self.shown: dict[int, Any] = {}
        self.owed: dict[int, int] = {}  # states that a refresh has promised, of keys in doubt
        self.calls: dict[asyncio.Task[None], str] = {}

    @property
    def session(self) -> Session[int, Any] | None:
        return self.repository._session


class World:
    """Everything of one run."""

    def __init__(self, plan: Plan, loop: SimLoop, story: Story) -> None:
        self.plan = plan
        self.loop = loop
        self.story = story
        self.tell = story.tell
        self.keys = range(1, plan.keys + 1)
        self.exchange = Exchange(plan, loop, self.tell)
        self.exchange.on_taken = self.message
        self.database = Database(plan, loop, self.tell)
        self.database.seed(key for key in self.keys if draw(plan.seed, "seeded", key) < 0.7)
        self.judge = Judge(self.database, self.keys, self.tell)
        self.processes: dict[str, Process] = {}
        self.other_database = Database(plan, loop, self.tell, "other-")
        if plan.foreign:
            self.other_database.seed(
                key for key in self.keys if draw(plan.seed, "other", key) < 0.7
            )
        self.other_judge = Judge(self.other_database, self.keys, self.tell)
        self.foreign: dict[str, Process] = {}  # those that read the other database
        self.offsets = dict(zip(plan.names, plan.skews or (0.0,) * plan.nodes, strict=True))
        self.lives: dict[str, int] = {}
        self.broken: list[BrokenPromiseError] = []  # as seen in a task, which nobody waits for
        self.excuses: list[str] = []  # why only a refresh can find what is wrong
        # Who has vanished is counted for a while beside who comes for it.
        self.beat = members.interval(2 * (plan.nodes + plan.foreign), plan.heartbeat)
        self.began = loop.now
        self.taken: list[bytes] = []  # messages, for whoever repeats them
        self.seen: set[str] = set()

    # -- processes ---------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """A process begins."""
        if name in self.processes:
            return
        life = self.lives[name] = self.lives.get(name, 0) + 1
        host = Host(name, life, self.offsets[name])
        entity = RowTwo if name in self.plan.other_shape else Row
        self._start(host, entity, self.database, self.judge, self.processes)

    def start_foreign(self, name: str) -> None:
        """A process begins that reads another source."""
        host = Host(name, 1, 0.0)
        self._start(host, Row, self.other_database, self.other_judge, self.foreign)

    def _start(
        self,
        host: Host,
        entity: type[Any],
        database: Database,
        judge: Judge,
        processes: dict[str, Process],
    ) -> None:
        plan = self.plan
        source = SimSource(database, entity, OPERATION.get)
        if plan.foreign:
            source.identity = f"{database.name}database"
        repository: Repository[int, Any] = Repository(
            entity,
            source=source,
            version="version" if plan.versioned else None,
            name="rows",
            preload=plan.preload,
            ttl=plan.ttl,
            retry_after=plan.retry_after,
            hard_timeout=plan.hard_timeout,
            missing_ttl=plan.missing_ttl,
            max_entries=plan.max_entries,
            copy=plan.copies,
        )
        node = Node(
            SimBroker(self.exchange),
            repository,
            namespace="simulation",
            name=host.name,
            heartbeat=plan.heartbeat,
            outbox=plan.outbox,
        )
        process = processes[host.machine] = Process(host, node, repository, database, judge)
        judge.begin(process)
        self.tell(host.name, lambda: "starts")
        self.loop.start(host, self._enter(process), f"start of {host.name}")

    async def _enter(self, process: Process) -> None:
        await process.node.__aenter__()
        process.open = True

    def message(self, sender: str, payload: bytes) -> None:
        """The broker has taken a message."""
        if sender != STRANGER:
            self.taken.append(payload)
        if self.story.told:
            self.story.message(sender, payload)

    def kill(self, name: str) -> None:
        """A process ends, as with SIGKILL."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        host = process.host
        self.tell(host.name, lambda: "is killed")
        host.dead = True
        unsent = sum(seat.unsent for seat in process.node._seats)
        silent = self.database.writing.get(host) or unsent or process.calls
        if silent and not self._missed(process):
            self.excuses.append(f"{host.name} was killed before it had said what it wrote")
        for link in self.exchange.links_of(name):
            self.exchange.left(link, "the process has ended")

    def _missed(self, process: Process) -> bool:
        """Whether its siblings, who know of it until now, will notice that it is gone, and look for what it said last.

        On demand that is for whoever reads the row; and who was taken for gone before is not missed once more.
        """
        session = process.session
        others = [other.node._membership for other in self.processes.values() if other.open]
        return (
            self.plan.preload
            and session is not None
            and bool(others)
            and all(
                membership is not None and session.replica.origin in membership.members.alive
                for membership in others
            )
        )

    def leave(self, name: str) -> None:
        """A process ends in order."""
        process = self.processes.get(name)
        if process is not None and process.open and not process.leaving:
            process.leaving = True
            self.tell(process.host.name, lambda: "leaves")
            self.loop.start(process.host, self._exit(name, process), f"end of {name}")

    async def _exit(self, name: str, process: Process) -> None:
        seats = list(process.node._seats)
        mute = self.exchange.path(name).mute
        mute = mute or any(link.mute for link in self.exchange.links_of(name))
        await process.node.__aexit__(None, None, None)
        unsent = sum(seat.unsent for seat in seats)
        silent = unsent or process.calls or mute or self.exchange.path(name).mute
        if silent and not self._missed(process):
            self.excuses.append(f"{process.host.name} left before it had said what it wrote")
        if self.processes.get(name) is process:
            del self.processes[name]
        self.tell(process.host.name, lambda: "has left")
        process.host.dead = True

    # -- steps -------------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        """Carry out one step."""
        self.seen.add(step.what)
        if step.what in CALLS:
            self.call(step)
            return
        self.tell("plan", lambda: str(step)[9:])
        begin, end = _FAULTS[step.what]
        begin(self, step)
        if end is not None:
            self.loop.at(self.loop.now + step.lasts, end, self, step)

    def call(self, step: Step) -> None:
        """The application calls its repository."""
        process = self.processes.get(step.who) or self.foreign.get(step.who)
        if process is None or not process.open or process.leaving:
            return
        context = process.host.context.copy()
        context.run(OPERATION.set, f"{step.who}#{step.number}")
        task = self.loop.create_task(self._call(process, step), context=context)
        process.calls[task] = str(step)
        task.add_done_callback(lambda _: process.calls.pop(task, None), context=context)
        if step.how == "cancelled":
            self.loop.call_at(self.loop.now + step.lasts, task.cancel, context=context)

    async def _call(self, process: Process, step: Step) -> None:
        name = process.host.name
        what = f"{step.what} {step.key}"
        self.tell(name, lambda: f"calls {what}")
        try:
            await CALLS[step.what](self, process, step)
        except DollopError as error:
            text = f"{what}: {type(error).__name__} {str(error)[:80]}"
            self.tell(name, lambda: text)
            place = self.database.refusals.get(OPERATION.get())
            # With a note it says that the row could not be read again.
            if isinstance(error, REFUSALS) and place is not None and not _noted(error):
                self.judge.refused(process, step.key, place)
        except asyncio.CancelledError:
            if step.how != "cancelled":
                self.broken.append(
                    BrokenPromiseError("S7", f"{name}: {what} was cancelled, by nobody")
                )
            self.tell(name, lambda: f"{what}: cancelled")
        except BrokenPromiseError as broken:
            self.broken.append(broken)
        except Exception as error:
            self.broken.append(BrokenPromiseError("S8", f"{name}: {what} raised {error!r}"))

    async def get(self, process: Process, step: Step, **more: Any) -> Any:
        since = process.walked[step.key]
        entity = await process.repository.get(step.key, **more)
        session = process.session
        if entity is None and session is not None and session.replica.cold:
            raise BrokenPromiseError(
                "S4", f"{process.host.name} said that {step.key} is absent while cold"
            )
        process.judge.saw(process, step.key, entity, since=since, how="reads")
        return entity

    async def get_many(self, process: Process, step: Step) -> None:
        since = dict(process.walked)
        found = await process.repository.get_many(self.keys)
        for key in self.keys:
            process.judge.saw(process, key, found.get(key), since=since[key], how="reads")

    async def update(self, process: Process, step: Step) -> None:
        entity = await self.get(process, step)
        if entity is None:
            return
        if step.what == "stale-update":
            entity = msgspec.structs.replace(entity, version=max(0, entity.version - 1))
        mark = FORMER if step.what == "revert" and not self.plan.versioned else "to be written"
        entity = msgspec.structs.replace(entity, mark=mark)
        stored = await process.repository.update(entity)
        self._wrote(process, step.key, stored)

    async def create(self, process: Process, step: Step) -> None:
        entity = process.repository.entity(step.key, 0, "to be written")
        self._wrote(process, step.key, await process.repository.create(entity))

    async def touch(self, process: Process, step: Step) -> None:
        if await self.get(process, step) is None:
            await self.create(process, step)
        else:
            await self.update(process, step)

    async def delete(self, process: Process, step: Step) -> None:
        await process.repository.delete(step.key)
        self._acknowledged(process, step.key)

    def _wrote(self, process: Process, key: int, stored: Any) -> None:
        place = process.database.outcomes.get(OPERATION.get())
        state = None if place is None else process.database.line(key).states[place].record
        if state is None or (state.version, state.mark) != (stored.version, stored.mark):
            raise BrokenPromiseError(
                "S5", f"{process.host.name} was told of {stored}, the source has {state}"
            )
        self._acknowledged(process, key)

    def _acknowledged(self, process: Process, key: int) -> None:
        place = process.database.outcomes.get(OPERATION.get(), BEFORE)
        self.tell(process.host.name, lambda: f"is told that state {place} of key {key} is its own")
        process.judge.acknowledged(process, key, place)

    async def refresh(self, process: Process, step: Step) -> None:
        latest = self._latest(process)
        await process.repository.refresh()
        process.judge.read_again(process, latest)

    async def invalidate(self, process: Process, step: Step) -> None:
        latest = self._latest(process)
        await process.repository.invalidate(step.key)
        process.judge.read_again(process, {step.key: latest[step.key]}, each=True)

    def _latest(self, process: Process) -> dict[int, int]:
        """The state of each key as of now."""
        return {key: len(process.database.line(key).states) - 1 for key in self.keys}

    async def clear(self, process: Process, step: Step) -> None:
        await process.repository.clear()

    # -- running -----------------------------------------------------------------------------------

    def moment(self) -> None:
        """Before time moves on."""
        for process in self.everybody:
            if process.host.stirred:
                process.host.stirred = False
                if process.open:
                    process.judge.look(process)
        if self.broken:
            raise self.broken[0]
        if self.loop.faults:
            raise BrokenPromiseError("S8", self.loop.faults[0])
        if self.story.errors:
            raise BrokenPromiseError("S8", f"an error was logged: {self.story.errors[0]}")

    async def run(self) -> float:
        """All of it; returns the seconds that it took until all agreed."""
        plan, loop = self.plan, self.loop
        for name in plan.names:
            if name not in plan.late:
                self.start(name)
        for name in plan.foreign_names:
            self.start_foreign(name)
        for step in (*plan.steps, *self._foreign_steps()):
            if step.what in CALLS or step.at < plan.seconds:  # no fault begins when they are over
                loop.at(self.began + step.at, self.do, step)
        await asyncio.sleep(plan.seconds)
        self.heal()
        return await self.converge()

    def _foreign_steps(self) -> Iterator[Step]:
        """What the nodes of the other source do: as many calls as the plan has steps, and not less than ten each."""
        plan = self.plan
        number = max((step.number for step in plan.steps), default=0)
        for name in plan.foreign_names:
            for _ in range(max(10, len(plan.steps))):
                number += 1
                what = FOREIGN_CALLS[int(draw(plan.seed, "call", number) * len(FOREIGN_CALLS))]
                at = draw(plan.seed, "at", number) * plan.seconds
                key = 1 + int(draw(plan.seed, "key", number) * plan.keys)
                yield Step(number, at, what, name, key)

    @property
    def everybody(self) -> list[Process]:
        """All processes, those of the other source included."""
        return [*self.processes.values(), *self.foreign.values()]

    def heal(self) -> None:
        """Faults stop."""
        self.tell("world", lambda: "all faults end")
        exchange, database = self.exchange, self.database
        if exchange.away:
            exchange.back()
        exchange.cut_after = None
        exchange.paths.clear()
        for name in self.plan.names:
            exchange.mend(name)
        database.trouble = Trouble()
        database.only.clear()
        for process in list(self.processes.values()):
            if process.host.frozen:
                self.loop.thaw(process.host, timers_first=True)
        if not self.processes:
            self.start(self.plan.names[0])

    @property
    def bound(self) -> float:
        """Seconds until all must agree, after those that are always waited for."""
        plan = self.plan
        faults = [step for step in plan.steps if step.what not in CALLS]
        round_trips = ROUND_TRIPS * (plan.broker_latency + plan.source_latency)
        faults = [step for step in faults if step.what != "start" or step.at > plan.seconds - JOIN]
        if all(step.what in PASSING for step in faults):
            # What is asked for a copy is to be had after a while only, if the question was lost: on its way, or
            # with all else that was waiting where there is room for a few.
            loses = plan.inbox < 10_000 or any(step.what == "lossy" for step in faults)
            asking = TRANSFERS if loses else 0.0
            return MILD * self.beat + round_trips + asking
        longest = max((step.lasts for step in faults if _of_source(step)), default=0.0)
        backoff = min(30.0, 2 * longest + 1.0)
        lag = LAG if any(step.how == "out" for step in faults) else 0.0
        return (
            (PATIENCE + lag) * self.beat
            + round_trips
            + RECONNECT
            + TRANSFERS
            + 2 * plan.hard_timeout
            + backoff
        )

    async def converge(self) -> float:
        """Phase two."""
        # Commits of clients long gone.
        await asyncio.sleep(self.database.busy_until - self.loop.now)
        healed = self.loop.now
        await asyncio.sleep(CALM * self.beat)
        if self.excuses or self.database.unannounced:
            await self._until("L1", self._disagreement)
            await self._refreshed()
        await self._until("L1", self.differences)
        await self._until("S6", self._left)
        for process in self.everybody:
            if process.node.stats.crashes:
                raise BrokenPromiseError("S8", f"{process.host.name} has seen a crash")
        self._cheap()
        return self.loop.now - healed

    def _cheap(self) -> None:
        """What the run may have cost: nothing is repaired where nothing went wrong, and little where little did."""
        every = [one.repository.stats for one in self.processes.values()]
        if any(stats.doubts for stats in every) and not self._one_writer:
            return  # who is in doubt reads again, and does not vouch for its copy meanwhile
        if not (self._undisturbed or self._hardly_disturbed) or self._invalidated_while_joining:
            return
        missed = any(stats.gaps or stats.events_resent for stats in every)
        if self._undisturbed and missed and self.plan.nodes > 2:
            # The one who gives a copy may not have got what a third has sent before the second listened. What is
            # missing then is asked for, puts keys in doubt when it comes late, and nobody vouches meanwhile.
            return
        wrong = ""
        if self.database.full_loads > 1:
            wrong = f"all was loaded {self.database.full_loads} times"
        elif any(stats.comparisons for stats in every):
            wrong = "copies were compared, and whoever sent what was lost has it"
        elif self._undisturbed and sum(one.snapshots_given for one in every) > len(every):
            wrong = "a copy was given that was of no use"
        elif self._undisturbed and missed:
            wrong = "events were missed, though none were lost"
        elif (
            self._undisturbed
            and self._one_writer
            and sum(stats.loads for stats in every) > self._splits_buckets
        ):
            wrong = "rows were read again, though only one node has written"
        if wrong:
            raise BrokenPromiseError("L5", wrong)

    async def _until(self, promise: str, wrong: Callable[[], str | None]) -> None:
        """Until nothing is `wrong`, or the time for it is over."""
        limit = self.loop.now + self.bound
        while True:
            if not self.plan.preload:
                await self._read_all()
            why = wrong()
            if why is None:
                return
            if self.loop.now >= limit:
                raise BrokenPromiseError(promise, why)
            await asyncio.sleep(min(self.plan.heartbeat / 2, limit - self.loop.now))

    async def _refreshed(self) -> None:
        """One node refreshes for all of its shape; on demand everybody for what it holds."""
        everybody = list(self.processes.values())
        shapes = {process.repository.entity: process for process in reversed(everybody)}
        for process in shapes.values() if self.plan.preload else everybody:
            name = process.host.name
            self.tell("world", lambda name=name: f"asks {name} for a refresh")  # type: ignore[misc]
            task = self.loop.spawn(process.host, process.repository.refresh(), "refresh")
            done, _ = await asyncio.wait([task], timeout=self.bound)
            if not done:
                raise BrokenPromiseError("L3", f"a refresh of {name} does not come to an end")
            if (error := task.exception()) is not None:
                raise BrokenPromiseError("L3", f"a refresh of {name} failed: {error!r}")
        await asyncio.sleep(self.beat / 2)

    async def _read_all(self) -> None:
        """On demand nothing is looked for before somebody asks."""
        tasks = [
            self.loop.spawn(process.host, self._call(process, Step(0, 0.0, "get", key=key)), "read")
            for process in self.everybody
            for key in self.keys
            if process.open and not process.leaving
        ]
        await asyncio.wait(tasks, timeout=self.plan.hard_timeout + 1.0)

    def _unready(self) -> str | None:
        for process in self.everybody:
            name = process.host.name
            if not process.open:
                return f"{name} has not come up"
            if process.leaving:
                return f"{name} does not come to its end"
            state, causes = process.repository.state, process.repository.causes
            beside_others = state is State.DEGRADED and causes.keys() == {"identity"}
            if state is not State.READY and not (self.plan.foreign and beside_others):
                return f"{name} is {state}: {causes}"
        return None

    def _disagreement(self) -> str | None:
        """What keeps the nodes from agreeing with each other."""
        why = self._unready()
        for process in self.processes.values():
            self.judge.read_again(process, process.owed)
            if process.owed:
                why = f"{process.host.name} does not read again what was in doubt after a refresh"
        if why is None and self.plan.preload:
            roots = {
                (process.repository.entity, process.session.replica.table.root)
                for process in self.processes.values()
                if process.session is not None
            }
            shapes = {process.repository.entity for process in self.processes.values()}
            if len(roots) > len(shapes):
                why = "the nodes' digests differ"
        return why

    def differences(self) -> str | None:
        """What keeps the nodes from agreeing with the source."""
        why = self._unready()
        if why is not None:
            return why
        for process in self.everybody:
            rows = process.database.rows
            name, session = process.host.name, process.session
            assert session is not None
            table = session.replica.table
            for key in self.keys:
                entity, record = table.live.get(key), rows.get(key)
                shown = None if entity is None else (entity.version, entity.mark)
                if shown is None and not session.replica.whole:
                    continue
                if shown != (None if record is None else (record.version, record.mark)):
                    return f"{name} holds key {key} as {shown}, the source has {record}"
            if session.replica.whole and table.root != self._digest(process):
                return f"{name}'s digest is not that of the source's content"
            if not session.upkeep.clean:
                return f"{name} is not clean: {session.upkeep.repairs.known}"
            if any(seat.unsent for seat in process.node._seats):
                return f"{name} has events that wait for the broker"
            if process.calls:
                return f"{name}: {next(iter(process.calls.values()))} has not come to its end"
            seen = set(process.node.members) - {STRANGER}
            if seen != {other.host.name for other in self.everybody}:
                return f"{name} sees {process.node.members}"
        return None

    def _digest(self, process: Process) -> int:
        session = process.session
        assert session is not None
        table: Table[int, Any] = Table(session.replica.keys, session.replica.rows)
        database = process.database
        for key, record in database.rows.items():
            entity = process.repository.entity(key, record.version, record.mark, database.pad)
            table.put(key, entity, session.replica.table.stamp(key))
        return table.root

    @property
    def _undisturbed(self) -> bool:
        """Whether nothing has gone wrong."""
        return self._calm and all(
            step.what in CALLS or step.what == "start" for step in self.plan.steps
        )

    @property
    def _splits_buckets(self) -> bool:
        """Whether a newcomer may get the rows of one bucket in several chunks, and read a row again for that.

        Such a bucket counts as no newer than its first chunk, so an event that a later chunk contains leaves doubt.
        """
        return bool(self.plan.late) and self.plan.pad > CHUNK_BYTES // 2

    @property
    def _invalidated_while_joining(self) -> bool:
        """Whether a key was invalidated while nodes joined.

        Its node re-reads the key and does not vouch for its copy meanwhile, so whoever takes that copy compares it.
        """
        return any(
            step.what == "invalidate" and (self.plan.late or step.at < JOIN)
            for step in self.plan.steps
        )

    @property
    def _one_writer(self) -> bool:
        """Whether one node has done all that was written, with nothing to keep the source from doing it."""
        plan = self.plan
        writes = [step for step in plan.steps if step.what not in ("start", "get", "get_many")]
        touched = [step.key for step in writes if step.what == "touch"]
        return (
            not plan.checked
            and len({step.who for step in writes}) < 2
            and len(set(touched)) == len(touched)  # one creates a row, and the other finds it there
            and all(step.what in ("touch", "update", "revert") for step in writes)
            and all(step.how != "cancelled" for step in writes)
        )

    @property
    def _hardly_disturbed(self) -> bool:
        """Whether nothing has gone wrong but that a few messages of nodes that had joined were lost, and no answer."""
        plan = self.plan
        return (
            self._calm
            and not plan.late
            and plan.inbox == plan.outbox == 10_000
            and all(
                step.what in CALLS
                or (step.what == "lossy" and step.lasts <= plan.heartbeat / 8 and step.at >= JOIN)
                for step in plan.steps
            )
        )

    @property
    def _calm(self) -> bool:
        plan = self.plan
        return (
            plan.preload
            and plan.ttl is None
            # Or a node may not have been heard of in the time that is given it.
            and plan.broker_latency < 0.01
            and len(plan.other_shape) in (0, plan.nodes)
            and all(step.what not in ("refresh", "clear") for step in plan.steps)
        )

    def _left(self) -> str | None:
        """What is still held for something that should be over."""
        for process in self.everybody:
            session = process.session
            assert session is not None
            window = session.replica.window
            left: dict[str, Sized] = {
                "open loads": window._open,
                "touched keys": window._touched,
                "loads": session.loads._flying,
                "writes": range(session.writer._under_way),
                "callers who wait for a refresh": session.upkeep._asked,
                "callers who wait for the rows": session.filling._waiting,
            }
            for what, held in left.items():
                if held:
                    return f"{process.host.name} still has {len(held)} {what}"
        return None


def _of_source(step: Step) -> bool:
    return step.what.startswith("source") or step.what in (
        "errors",
        "lost-answers",
        "hung",
        "locked",
    )


Begin = Callable[[World, Step], None]

CALLS: Final[dict[str, Callable[..., Any]]] = {
    "get": World.get,
    "fresh": lambda world, process, step: world.get(process, step, max_staleness=0.05),
    "get_many": World.get_many,
    "update": World.update,
    "stale-update": World.update,
    "revert": World.update,
    "create": World.create,
    "touch": World.touch,
    "delete": World.delete,
    "refresh": World.refresh,
    "invalidate": World.invalidate,
    "clear": World.clear,
}


def _path(attribute: str, *, mends: bool = False) -> tuple[Begin, Begin]:
    def begin(world: World, step: Step) -> None:
        setattr(world.exchange.path(step.who), attribute, step.amount or True)

    def end(world: World, step: Step) -> None:
        rest = {"slow": 1.0, "lossy": 0.0, "twice": 0.0, "unsure": 0.0}
        setattr(world.exchange.path(step.who), attribute, rest.get(attribute, False))
        if mends:
            world.exchange.mend(step.who)

    return begin, end


def _cut(world: World, step: Step) -> None:
    path = world.exchange.path(step.who)
    path.cut, path.holds = True, step.how == "holds"
    if step.how == "loses":
        for link in world.exchange.links_of(step.who):
            world.exchange.lose(link, "nothing was heard of it")


def _mend(world: World, step: Step) -> None:
    path = world.exchange.path(step.who)
    path.cut = path.holds = False
    world.exchange.mend(step.who)


def _half_open(world: World, step: Step) -> None:
    for link in world.exchange.links_of(step.who):
        world.exchange.half_open(link, step.how)


def _lose_link(world: World, step: Step) -> None:
    for link in world.exchange.links_of(step.who):
        world.exchange.lose(link, "the connection was reset")


def _trouble(attribute: str, rest: Any) -> tuple[Begin, Begin]:
    def of(world: World, step: Step) -> Any:
        database = world.database
        if not step.who:
            return database.trouble
        return database.only.setdefault(step.who, Trouble())

    def begin(world: World, step: Step) -> None:
        value = True if rest is False else step.amount
        setattr(of(world, step), attribute, value)

    def end(world: World, step: Step) -> None:
        setattr(of(world, step), attribute, rest)

    return begin, end


def _kill(world: World, step: Step) -> None:
    world.kill(step.who)


def _restart(world: World, step: Step) -> None:
    if step.lasts:
        world.start(step.who)


def _start_after_leaving(world: World, step: Step) -> None:
    if not step.lasts:
        return
    process = world.processes.get(step.who)
    if process is not None and process.leaving:
        world.loop.at(world.loop.now + 0.05, _start_after_leaving, world, step)
    else:
        world.start(step.who)


def _freeze(world: World, step: Step) -> None:
    process = world.processes.get(step.who)
    if process is None:
        return
    process.host.frozen = True
    if step.how == "link":
        for link in world.exchange.links_of(step.who):
            world.exchange.lose(link, "nothing was heard of it")


def _thaw(world: World, step: Step) -> None:
    process = world.processes.get(step.who)
    if process is not None and process.host.frozen:
        world.loop.thaw(process.host, timers_first=step.how == "timers")


def _jump(world: World, step: Step) -> None:
    world.offsets[step.who] += step.amount
    process = world.processes.get(step.who)
    if process is not None:
        process.host.offset = world.offsets[step.who]


def _back(world: World, step: Step) -> None:
    lost = int(step.amount) if step.how == "tail" else 0
    world.exchange.back(empty=step.how == "empty", lost=lost)


def _cut_transfers(world: World, step: Step) -> None:
    world.exchange.cut_after = int(step.amount)


def _transfers_back(world: World, step: Step) -> None:
    world.exchange.cut_after = None


def _hostile(world: World, step: Step) -> None:
    payload = forged(step.how, draw(world.plan.seed, "hostile", step.number), world.taken)
    if not world.exchange.away:
        world.exchange.spread(payload, STRANGER)


_FAULTS: Final[dict[str, tuple[Begin, Begin | None]]] = {
    "start": (lambda world, step: world.start(step.who), None),
    "kill": (_kill, _restart),
    "leave": (lambda world, step: world.leave(step.who), _start_after_leaving),
    "freeze": (_freeze, _thaw),
    "jump": (_jump, None),
    "lossy": _path("lossy"),
    "twice": _path("twice"),
    "unsure": _path("unsure"),
    "slow": _path("slow"),
    "mute": _path("mute"),
    "deaf": _path("deaf", mends=True),
    "cut": (_cut, _mend),
    "half-open": (_half_open, None),
    "lose-link": (_lose_link, None),
    "outage": (lambda world, step: world.exchange.outage(), _back),
    "trim": (lambda world, step: world.exchange.trim(int(step.amount)), None),
    "cut-transfers": (_cut_transfers, _transfers_back),
    "hostile": (_hostile, None),
    "source-away": _trouble("away", rest=False),
    "source-hangs": _trouble("hangs", rest=False),
    "source-slow": _trouble("slow", rest=1.0),
    "errors": _trouble("errors", rest=0.0),
    "locked": _trouble("locked", rest=0.0),
    "lost-answers": _trouble("lost_answers", rest=0.0),
    "hung": _trouble("hung", rest=0.0),
    "sql": (lambda world, step: world.database.sql(step.how, step.key), None),
    "save": (lambda world, step: world.database.save(), None),
    "restore": (lambda world, step: world.database.restore(), None),
}


def _noted(error: Exception) -> bool:
    return bool(getattr(error, "__notes__", []))


class _Errors(logging.Handler):
    """What the product logs as an error is one."""

    def __init__(self, story: Story) -> None:
        super().__init__(logging.ERROR)
        self._story = story

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self._story.errors.append(text)


def run(plan: Plan, *, told: bool = False) -> Verdict:
    """Run a plan; with `told` the verdict has a trace, one line for each event."""
    try:
        return _run(plan, told=told)
    finally:
        swept()


def _many_beats(plan: Plan) -> float:
    """Heartbeats a second that are many: more than there are, or so few that nodes which see all wait up to three
    seconds."""
    if draw(plan.seed, "crowd") >= CROWDS or plan.heartbeat != 1.0:
        return members.MANY_BEATS
    return plan.nodes**2 / (1.0 + 2.0 * draw(plan.seed, "beats"))


def _run(plan: Plan, *, told: bool) -> Verdict:
    # In every table that fits in here buckets have few rows.
    many = -1 if draw(plan.seed, "leaves") < LEAVES else snapshot.MANY_ROWS
    with (
        simulated(plan.seed) as loop,
        mock.patch.object(snapshot, "MANY_ROWS", many),
        mock.patch.object(members, "MANY_BEATS", _many_beats(plan)),
    ):
        story = Story(loop, told=told)
        logger = logging.getLogger("imperfect_dollop")
        handler = _Errors(story)
        level, propagate = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.ERROR)
        logger.propagate = False
        broken: BrokenPromiseError | None = None
        healed = 0.0
        world = World(plan, loop, story)
        loop.moment = world.moment
        try:
            healed = loop.run_until_complete(world.run())
        except BrokenPromiseError as failure:
            broken = failure
        except LivelockError as failure:
            broken = BrokenPromiseError("livelock", str(failure))
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
        return Verdict(
            promise=None if broken is None else broken.promise,
            text="" if broken is None else broken.text,
            at=loop.now - world.began,
            callbacks=loop.callbacks,
            trace=tuple(story.lines),
            healed=healed,
            seen=frozenset(world.seen),
        )
