"""A school for the tests of repositories and nodes: its students, a source of them that obeys, and ways to wait."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Generic, TypeVar

from imperfect_dollop import Node, Repository
from imperfect_dollop.broker import Broker
from imperfect_dollop.errors import ConflictError, EntityExistsError, EntityNotFoundError

T = TypeVar("T")

NEW: Any = None
"""The key of a student who is to get one from the source."""

DEADLINE = 4.0
"""Seconds after which what has not happened will not happen."""

STUBBORN_SECONDS = 5.0
"""How long a stubborn gate swallows cancellations: longer than a test waits, but it does end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Student:
    id: int
    name: str
    city: str = "Paris"
    version: int = 0


class Gate:
    """Stops calls of a source until it is opened. `entered` counts those that have come to it."""

    def __init__(self) -> None:
        self.entered = 0
        self.stubborn = False  # swallow cancellations, as a driver in a thread does
        self._open = asyncio.Event()

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.entered += 1
        loop = asyncio.get_running_loop()
        until = loop.time() + STUBBORN_SECONDS
        while not self._open.is_set():
            try:
                await self._open.wait()
            except asyncio.CancelledError:
                if not self.stubborn or loop.time() > until:
                    raise
                # As one that waits for a thread: it hears nothing for a while, then goes on.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.001)


class SchoolSource:
    """Rows in a dict. It counts, can be held at a gate, can fail, and keeps versions as a database does."""

    def __init__(self, *students: Student, versioned: bool = True) -> None:
        self.rows = {student.id: student for student in students}
        self.versioned = versioned
        self.calls: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.gates: dict[str, Gate] = {}
        self.chunk = 1_000
        self.last_id = max(self.rows, default=0)

    def hold(self, *verbs: str, stubborn: bool = False) -> Gate:
        """Hold calls of these verbs at a gate, from now on and until it is opened."""
        gate = Gate()
        gate.stubborn = stubborn
        for verb in verbs:
            self.gates[verb] = gate
        return gate

    def put(self, *students: Student) -> None:
        """Change rows behind everybody's back."""
        self.rows.update({student.id: student for student in students})

    async def _called(self, verb: str) -> None:
        self.calls[verb] += 1
        await asyncio.sleep(0)
        gate = self.gates.get(verb)
        if gate is not None:
            await gate.pass_through()
        if self.failure is not None:
            raise self.failure

    async def load(self, key: int, /) -> Student | None:
        await self._called("load")
        return self.rows.get(key)

    async def load_many(self, keys: Sequence[int], /) -> Iterable[Student]:
        await self._called("load_many")
        return [self.rows[key] for key in keys if key in self.rows]

    async def load_all(self) -> AsyncIterator[Iterable[Student]]:
        rows = list(self.rows.values())
        await self._called("load_all")
        for start in range(0, len(rows), self.chunk):
            yield rows[start : start + self.chunk]
            await asyncio.sleep(0)

    async def create(self, entity: Student, /) -> Student:
        await self._called("create")
        key: int | None = (
            entity.id
        )  # None, which the class does not allow for, when it is to be made
        if key is None:
            self.last_id += 1
            key = self.last_id
        if key in self.rows:
            raise EntityExistsError(key)
        stored = dataclasses.replace(entity, id=key, version=1 if self.versioned else 0)
        self.rows[key] = stored
        await asyncio.sleep(0)  # committed, and the answer is under way
        return stored

    async def update(self, entity: Student, /) -> Student:
        await self._called("update")
        self._compare(entity.id, entity.version)
        stored = dataclasses.replace(entity, version=entity.version + self.versioned)
        self.rows[entity.id] = stored
        await asyncio.sleep(0)
        return stored

    async def delete(self, key: int, version: int | None, /) -> None:
        await self._called("delete")
        self._compare(key, version)
        del self.rows[key]
        await asyncio.sleep(0)

    def _compare(self, key: int, version: int | None) -> None:
        if key not in self.rows:
            raise EntityNotFoundError(key)
        if self.versioned and version is not None and version != self.rows[key].version:
            raise ConflictError(key)


def students(count: int) -> list[Student]:
    return [Student(number, f"student {number}", version=1) for number in range(1, count + 1)]


def repository(source: Any, **settings: Any) -> Repository[int, Student]:
    """A repository that gives up and tries again quickly."""
    given: dict[str, Any] = {"version": "version", "retry_after": 0.02, "ttl": None, **settings}
    return Repository(Student, source=source, **given)


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until the condition holds; fails when it does not within `DEADLINE` seconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + DEADLINE
    while not condition():
        if loop.time() > until:
            raise AssertionError(f"did not come about in {DEADLINE:g} s: {what or condition}")
        await asyncio.sleep(0.001)


async def soon(call: Awaitable[T]) -> T:
    """The call's result, which must not take longer than `DEADLINE` seconds."""
    deadline = asyncio.timeout(DEADLINE)
    try:
        async with deadline:
            return await call
    except TimeoutError as error:
        if deadline.expired():
            raise AssertionError(f"no answer in {DEADLINE:g} s") from error
        raise


async def settled(turns: int = 50) -> None:
    """Give the event loop enough turns for everything that does not wait for anything."""
    for _ in range(turns):
        await asyncio.sleep(0)


def others() -> set[asyncio.Task[Any]]:
    """The tasks that run besides this one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


@contextlib.contextmanager
def no_complaints() -> Iterator[None]:
    """Fails when the event loop is left with an exception that nobody has retrieved."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert not complaints


class Member:
    """A node and its one repository."""

    def __init__(self, node: Node, repository: Repository[int, Student]) -> None:
        self.node = node
        self.repository = repository

    @property
    def content(self) -> dict[int, Student] | None:
        """What it holds; ``None`` while it is not ready."""
        session = self.repository._session
        if session is None or session.replica.cold:
            return None
        return dict(self.repository.items())


def member(
    broker: str | Broker, source: Any, *, node: dict[str, Any] | None = None, **settings: Any
) -> Member:
    """A node with short times that is not open yet."""
    students = repository(source, **settings)
    given: dict[str, Any] = {"heartbeat": 0.05, "offer_wait": 0.05, "shutdown_timeout": 1.0}
    return Member(Node(broker, students, **{**given, **(node or {})}), students)


@contextlib.asynccontextmanager
async def cluster(*members: Member) -> AsyncIterator[Sequence[Member]]:
    """Enter all nodes at once; leave them one after the other."""
    async with contextlib.AsyncExitStack() as stack:
        results = await asyncio.gather(
            *(one.node.__aenter__() for one in members), return_exceptions=True
        )
        for one, result in zip(members, results, strict=True):
            if not isinstance(result, BaseException):
                stack.push_async_exit(one.node.__aexit__)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        yield members


async def until_all_hold(members: Iterable[Member], source: SchoolSource) -> None:
    """Wait until every node holds exactly what the source has."""
    members = list(members)
    await eventually(
        lambda: all(one.content == source.rows for one in members),
        "every node holds what the source has",
    )


class CancelAt(Generic[T]):
    """Runs a coroutine and cancels it at its n-th suspension, counted from 0.

    ``early``: while it waits. ``late``: when what it waits for is there, just before it goes on. `suspensions` counts
    how often it was suspended.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], at: int, *, late: bool = False) -> None:
        self.suspensions = 0
        self._coroutine = coroutine
        self._at = at
        self._late = late

    @property
    def hit(self) -> bool:
        """Whether the coroutine came to that suspension."""
        return self.suspensions > self._at

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._coroutine.__await__()
        raised: BaseException | None = None
        while True:
            try:
                waited = steps.send(None) if raised is None else steps.throw(raised)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if self.suspensions == self._at:
                if waited is None or not self._late:
                    task.cancel()
                else:
                    # Called before the task's own callback, so the result is there, and lost.
                    waited.add_done_callback(lambda _: task.cancel())
            self.suspensions += 1
            raised = None
            try:
                yield waited
            except BaseException as error:  # passed on to the coroutine
                raised = error


async def cancelled_at(coroutine: Coroutine[Any, Any, T], at: int, *, late: bool = False) -> bool:
    """Run a coroutine in a task of its own; False if it ended before its n-th suspension."""
    steps = CancelAt(coroutine, at, late=late)

    async def run() -> T:
        return await steps

    task = asyncio.create_task(run())
    await asyncio.wait([task], timeout=DEADLINE)
    assert task.done(), f"hangs when it is cancelled at suspension {at}"
    if not steps.hit:
        task.result()
        return False
    if not task.cancelled():
        error = task.exception()
        if error is not None:
            raise error
    return True
