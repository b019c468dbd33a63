"""The source of truth: a table whose transactions take time, and its whole history.

A write begins, commits and answers at three moments. In between others begin and commit; its answer can be lost, and
its client can be gone. A read sees one moment between its begin and its answer; read in pages, one for each page.
Every state of a row that the table ever had is on record, with the time of its commit and a mark of its own.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from imperfect_dollop.errors import ConflictError, EntityExistsError, EntityNotFoundError

from .loop import HOST, Host, SimLoop, draw
from .plan import Plan

__all__ = [
    "BEFORE",
    "FORMER",
    "REFUSALS",
    "Database",
    "Row",
    "RowTwo",
    "SimSource",
    "State",
    "Trouble",
]

R = TypeVar("R")

FORMER: Final = "the former"
"""The mark of an entity that asks for the row before this one, with the same content as then."""

GIVEN_UP: Final = frozenset(
    {"source-hangs", "source-slow", "hung", "locked", "freeze", "freeze-long", "cut-long"}
)
"""Faults in which a call may take longer than a node waits for it."""

REFUSALS: Final = (ConflictError, EntityExistsError, EntityNotFoundError)
"""What a write raises that is not done."""

BEFORE: Final = -1
"""The state of a key before the source ever had it: absent."""


class Row(msgspec.Struct, frozen=True):
    """An entity; `mark` is the source's, and unique to the commit."""

    id: int
    version: int = 0
    mark: str = ""
    pad: str = ""


class RowTwo(msgspec.Struct, frozen=True):
    """The same in the next version of the application."""

    id: int
    version: int = 0
    mark: str = ""
    pad: str = ""
    colour: str = "blue"


class Record(msgspec.Struct, frozen=True):
    """A row as the table has it."""

    version: int
    mark: str


class State(msgspec.Struct, frozen=True):
    """What a key was from `at` on; `record` is ``None`` for absent."""

    at: float
    record: Record | None
    by: str


@dataclass
class Line:
    """All states of one key, in the order of their commits."""

    states: list[State] = field(default_factory=list)
    places: dict[str, list[int]] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)

    def absent(self, least: int) -> int | None:
        """The first place from `least` on where the key is absent."""
        if least == BEFORE:
            return BEFORE
        index = bisect.bisect_left(self.gone, least)
        return self.gone[index] if index < len(self.gone) else None

    def place(self, mark: str, least: int) -> int | None:
        """The first place of this row from `least` on, else the last before; ``None`` for never."""
        places = self.places.get(mark)
        if places is None:
            return None
        index = bisect.bisect_left(places, least)
        return places[min(index, len(places) - 1)]


class Trouble:
    """What is wrong with the source while a fault lasts. Chances are from 0 to 1."""

    def __init__(self) -> None:
        self.away = False
        self.hangs = False
        self.slow = 1.0
        self.locked = 0.0  # seconds that a write waits before it commits
        self.errors = 0.0
        self.lost_answers = 0.0
        self.hung = 0.0  # chance that a single call never returns


class Database:
    """The table, what is under way in it, and what it ever was."""

    def __init__(
        self,
        plan: Plan,
        loop: SimLoop,
        tell: Callable[[str, Callable[[], str]], None],
        name: str = "",
    ) -> None:
        self.plan = plan
        self.name = name  # begins every mark, so that a row tells which table it is of
        self.loop = loop
        self.tell = tell
        self.trouble = Trouble()
        self.only: dict[str, Trouble] = {}  # by host, where it is not everybody's
        self.rows: dict[int, Record] = {}
        self.lines: dict[int, Line] = {}
        self.commits = 0
        self.busy_until = (
            0.0  # the last moment at which a call that has begun may still do something
        )
        self.unannounced: list[str] = []  # commits that no node can know of
        self.outcomes: dict[str, int] = {}  # by operation: the place that its write made
        # By operation: the place of the key's state when its write was refused.
        self.refusals: dict[str, int] = {}
        self.writing: dict[
            Host, int
        ] = {}  # how many writes of a host were committed, and not answered
        self.calls: dict[tuple[str, str], int] = {}  # reads so far, by host and verb
        self.full_loads = 0
        self.backup: dict[int, Record] = {}
        # Whether nobody gives up a call: then a commit of a client that lives is one that its node can know of.
        self.patient = not any(step.what in GIVEN_UP for step in plan.steps)
        self.pad = "x" * plan.pad

    @contextmanager
    def refusing(self, key: int, operation: str) -> Iterator[None]:
        """Note the state of the key if the block refuses a write of it."""
        try:
            yield
        except REFUSALS:
            self.refusals[operation] = len(self.line(key).states) - 1
            raise

    def line(self, key: int) -> Line:
        return self.lines.setdefault(key, Line())

    def seed(self, keys: Iterable[int]) -> None:
        """Rows that are there before anybody looks."""
        for key in keys:
            self.commits += 1
            self._put(key, Record(1, f"{self.name}s{key}"), "seed")

    # -- commits -----------------------------------------------------------------------------------

    def _put(self, key: int, record: Record | None, by: str) -> int:
        line = self.line(key)
        if record is None:
            self.rows.pop(key, None)
            line.gone.append(len(line.states))
        else:
            self.rows[key] = record
            line.places.setdefault(record.mark, []).append(len(line.states))
        line.states.append(State(self.loop.now, record, by))
        self.tell("source", lambda: f"commits {_shown(key, record)} for {by}")
        return len(line.states) - 1

    def _mark(self) -> str:
        self.commits += 1
        return f"{self.name}c{self.commits}"

    def create(self, key: int, by: str) -> tuple[Record, int]:
        if key in self.rows:
            raise EntityExistsError(f"{key} exists")
        record = Record(1, self._mark())
        return record, self._put(key, record, by)

    def update(
        self, key: int, version: int, by: str, mark: str | None = None
    ) -> tuple[Record, int]:
        """With a `mark` of an earlier row it is that row again."""
        held = self.rows.get(key)
        if held is None:
            raise EntityNotFoundError(f"no {key}")
        if self.plan.checked and held.version != version:
            raise ConflictError(f"{key} has version {held.version}, not {version}")
        record = Record(self._next(held), self._mark() if mark is None else mark)
        return record, self._put(key, record, by)

    def _next(self, held: Record) -> int:
        return held.version + 1 if self.plan.versioned else held.version

    def former(self, key: int) -> str | None:
        """The mark of the row before the one that is there."""
        held = self.rows.get(key)
        for state in reversed(self.line(key).states):
            if state.record is not None and state.record != held:
                return state.record.mark
        return None

    def delete(self, key: int, version: int | None, by: str) -> int:
        held = self.rows.get(key)
        if held is None:
            raise EntityNotFoundError(f"no {key}")
        if self.plan.checked and version is not None and held.version != version:
            raise ConflictError(f"{key} has version {held.version}, not {version}")
        self.commits += 1
        return self._put(key, None, by)

    # -- behind our back ---------------------------------------------------------------------------

    def sql(self, how: str, key: int) -> None:
        """A change that no node makes. `how`: ``update``, ``update-unversioned``, ``delete``, ``insert``."""
        held = self.rows.get(key)
        if how == "delete" and held is not None:
            self.delete(key, None, "SQL")
        elif how == "insert" and held is None:
            self.create(key, "SQL")
        elif how.startswith("update") and held is not None:
            version = self._next(held) if how == "update" else held.version
            self._put(key, Record(version, self._mark()), "SQL")
        else:
            return
        self.unannounced.append(f"SQL {how} of {key}")

    def save(self) -> None:
        """Make a backup."""
        self.backup = dict(self.rows)

    def restore(self) -> None:
        """All is as in the backup."""
        for key in sorted({*self.rows, *self.backup}):
            record = self.backup.get(key)
            if self.rows.get(key) != record:
                self._put(key, record, "restore")
                self.unannounced.append(f"restore of {key}")

    # -- calls -------------------------------------------------------------------------------------

    async def call(self, verb: str, operation: str, work: Callable[[], R], *, write: bool) -> R:
        """One call of a client: begins, does its `work` at one moment, answers."""
        host = HOST.get()
        assert host is not None
        loop, seed = self.loop, self.plan.seed
        if write:
            who = f"{host.name}:{operation}"
        else:
            number = self.calls[host.name, verb] = self.calls.get((host.name, verb), 0) + 1
            who = f"{host.name}:{verb}:{number}"
        trouble = self.only.get(host.machine, self.trouble)
        slow = trouble.slow * self.plan.source_latency
        begins = loop.now + slow * _latency(seed, "begin", who)
        works = begins + slow * _latency(seed, "work", who)
        works += trouble.locked if write else 0.0
        answers = works + slow * _latency(seed, "answer", who)
        # Of a call that nothing can end its node hears only when it has been answered.
        stubborn = self.plan.stubborn and write
        self.busy_until = max(self.busy_until, answers if stubborn else works)
        answer: asyncio.Future[R] = loop.create_future()
        if trouble.hangs or draw(seed, "hung", who) < trouble.hung:
            if write and draw(seed, "hung-commits", who) < 0.5:
                loop.at(works, self._work, host, answer, work, operation, None)
            self.tell(host.name, lambda: f"calls {verb}: it hangs")
            return await answer
        if trouble.away or draw(seed, "error", who) < trouble.errors:
            loop.arrive(host, begins, _fail, answer, ConnectionError("the source is away"))
            return await answer
        lost = draw(seed, "lost", who) < trouble.lost_answers
        loop.at(works, self._work, host, answer, work, operation if write else None, answers)
        if lost:
            gone = ConnectionResetError("the connection was lost")
            loop.arrive(host, answers, _fail, answer, gone)
        if stubborn:
            return await _stubborn(answer)
        return await answer

    def _work(
        self,
        host: Host,
        answer: asyncio.Future[Any],
        work: Callable[[], Any],
        operation: str | None,
        answers: float | None,
    ) -> None:
        """In the database, whatever has become of its client."""
        trouble = self.only.get(host.machine, self.trouble)
        if trouble.away:
            gone = ConnectionError("the source is away")
            if answers is not None:
                self.loop.arrive(host, answers, _fail, answer, gone)
            return
        clientless = host.dead or answer.done()
        if (
            clientless
            and operation is not None
            and draw(self.plan.seed, "rolled back", operation) < 0.5
        ):
            return
        try:
            result = work()
        except Exception as error:
            if answers is not None:
                self.loop.arrive(host, answers, _fail, answer, error)
            return
        if operation is not None:
            if clientless and (host.dead or not self.patient):
                self.unannounced.append(f"{operation}, whose client was gone")
            self.writing[host] = self.writing.get(host, 0) + 1
        if answers is not None:
            self.loop.arrive(host, answers, self._answer, host, answer, result, operation)

    def _answer(
        self, host: Host, answer: asyncio.Future[Any], result: Any, operation: str | None
    ) -> None:
        if operation is not None:
            self.writing[host] -= 1
        if not answer.done():
            answer.set_result(result)


class SimSource:
    """The table as one node's repository sees it, through its class of entities."""

    def __init__(self, database: Database, entity: type[Any], operation: Callable[[], str]) -> None:
        self._database = database
        self._entity = entity
        self._operation = operation
        self.identity: str | None = None

    def _made(self, key: int, record: Record) -> Any:
        return self._entity(key, record.version, record.mark, self._database.pad)

    async def load(self, key: int, /) -> Any | None:
        """See `imperfect_dollop.source.Source.load`."""
        rows = await self.load_many([key])
        return rows[0] if rows else None

    async def load_many(self, keys: Sequence[int], /) -> list[Any]:
        """See `imperfect_dollop.source.Source.load_many`."""
        database = self._database
        keys = list(keys)

        def read() -> list[Any]:
            return [self._made(key, database.rows[key]) for key in keys if key in database.rows]

        return await database.call("load", ",".join(map(str, keys)), read, write=False)

    async def load_all(self) -> AsyncIterator[Iterable[Any]]:
        """See `imperfect_dollop.source.Source.load_all`."""
        database = self._database
        database.full_loads += 1
        if not database.plan.paging:

            def read() -> list[Any]:
                return [self._made(key, record) for key, record in database.rows.items()]

            rows = await database.call("load_all", "", read, write=False)
            for row in rows:
                yield [row]
            return
        last = -1
        while True:

            def page(last: int = last) -> list[Any]:
                keys = sorted(key for key in database.rows if key > last)[:2]
                return [self._made(key, database.rows[key]) for key in keys]

            rows = await database.call("page", str(last), page, write=False)
            if not rows:
                return
            last = rows[-1].id
            yield rows

    async def create(self, entity: Any, /) -> Any:
        """See `imperfect_dollop.source.Source.create`."""
        return await self._write(
            "create", entity.id, lambda by: self._database.create(entity.id, by)
        )

    async def update(self, entity: Any, /) -> Any:
        """See `imperfect_dollop.source.Source.update`."""
        return await self._write(
            "update",
            entity.id,
            lambda by: self._database.update(
                entity.id,
                entity.version,
                by,
                self._database.former(entity.id) if entity.mark == FORMER else None,
            ),
        )

    async def delete(self, key: int, version: int | None, /) -> None:
        """See `imperfect_dollop.source.Source.delete`."""
        database, operation = self._database, self._operation()

        def work() -> None:
            with database.refusing(key, operation):
                database.outcomes[operation] = database.delete(key, version, operation)

        await database.call("delete", operation, work, write=True)

    async def _write(self, verb: str, key: int, commit: Callable[[str], tuple[Record, int]]) -> Any:
        database, operation = self._database, self._operation()

        def work() -> Any:
            with database.refusing(key, operation):
                record, place = commit(operation)
            database.outcomes[operation] = place
            return self._made(key, record)

        return await database.call(verb, operation, work, write=True)


def _latency(*what: object) -> float:
    """Mostly around one, sometimes a tenth, sometimes twenty times as much."""
    chance = draw(*what)
    if chance < 0.08:
        return 20.0 * draw("long", *what)
    return 0.1 + 1.5 * chance


async def _stubborn(answer: asyncio.Future[R]) -> R:
    """As a driver that does not heed its cancellation."""
    while not answer.done():
        try:
            await asyncio.shield(answer)
        except asyncio.CancelledError:
            continue
    return answer.result()


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def _shown(key: int, record: Record | None) -> str:
    return f"{key}: {'absent' if record is None else f'v{record.version} {record.mark}'}"
