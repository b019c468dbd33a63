"""The write path: source first, then this replica, then the siblings.

A write that has begun is carried through in a task of its own, whatever becomes of the caller: cancelled between
the source's commit and the event to the siblings, it would leave them wrong. Writes of one key go one after
the other, so that each is built on the state the one before has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from .errors import (
    ClosedError,
    ConflictError,
    DollopError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
)
from .replica.effects import Effect
from .replica.messages import Event, Kind
from .replica.replica import Replica
from .sourcing import Reader, source_read
from .stats import Stats
from .supervisor import Supervisor
from .upkeep import Upkeep

__all__ = ["Writer"]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

logger: Final = logging.getLogger(__name__)

MAX_REREADS: Final = 20
"""Of a key that rivals write at the same time, before a writer no longer waits for a quiet moment."""


class Writer(Generic[K, V]):
    """Creates, updates and deletes. `held(key)` is called when the replica shows a write."""

    def __init__(
        self,
        replica: Replica[K, V],
        reader: Reader[K, V],
        upkeep: Upkeep[K, V],
        stats: Stats,
        *,
        supervisor: Supervisor,
        versioned: bool,
        publish: Callable[[Event], None],
        held: Callable[[K], None],
        keep: Callable[[V], V],
    ) -> None:
        self._replica = replica
        self._reader = reader
        self._upkeep = upkeep
        self._stats = stats
        self._supervisor = supervisor
        self._versioned = versioned
        self._publish = publish
        self._held = held
        self._keep = keep
        self._locks: weakref.WeakValueDictionary[K, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False
        self._under_way: set[asyncio.Future[Any]] = set()

    async def create(self, entity: V) -> V:
        """Insert; the source may give the key."""
        key: K | None = self._reader.key_of(entity, "create() was given")
        call = self._reader.source.create
        return await self._carry_through(lambda: self._put(Kind.CREATE, key, entity, call))

    async def update(self, entity: V) -> V:
        """Replace."""
        key = self._reader.complete(entity, "update() was given")
        call = self._reader.source.update
        return await self._carry_through(lambda: self._put(Kind.UPDATE, key, entity, call))

    async def delete(self, key: K) -> None:
        """Delete, of a versioned repository the version that is held here."""
        self._replica.keys.encode(key)
        await self._carry_through(lambda: self._delete(key))

    async def drained(self) -> None:
        """Begin no more writes, and wait until none is under way."""
        self._closed = True
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _carry_through(self, work: Callable[[], Awaitable[R]]) -> R:
        """Run `work` in the background and wait for it; only the waiting can be cancelled."""
        if self._closed:
            raise ClosedError(f"{self._reader.name} is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        outcome: asyncio.Future[R] = loop.create_future()
        self._supervisor.spawn(self._work, work, outcome, done, name=f"write {self._reader.name}")
        self._under_way.add(done)
        done.add_done_callback(self._under_way.discard)
        return await outcome

    async def _work(
        self,
        work: Callable[[], Awaitable[R]],
        outcome: asyncio.Future[R],
        done: asyncio.Future[None],
    ) -> None:
        error: Exception = ClosedError(f"{self._reader.name}: closed during a write")
        try:
            result = await work()
            if not outcome.done():
                outcome.set_result(result)
        except DollopError as failure:
            error = failure
            if outcome.done():  # the caller was cancelled, so nobody else will hear of it
                logger.warning("a write whose caller has gone failed: %s", failure)
        except Exception as failure:
            error = failure
            raise
        finally:
            if not outcome.done():
                outcome.set_exception(error)
            done.set_result(None)

    async def _put(
        self, kind: Kind, key: K | None, entity: V, call: Callable[[V], Awaitable[V]]
    ) -> V:
        what = kind.name.lower()
        async with self._in_turn(key):
            await self._warm()
            write = self._replica.begin_write(key)
            try:
                # What cannot be sent to siblings must not be committed either.
                self._replica.rows.encode(entity)
                if key is not None:
                    self._replica.keys.encode(key)
                stored = await self._called(what, key, lambda: call(entity))
                stored_key = self._check_stored(stored, key, what)
                stored = self._keep(stored)
                event, effects = self._replica.wrote(write, kind, stored_key, stored, time.time())
            finally:
                self._replica.end_write(write)
            self._shown(stored_key, event)
        await self._settle(stored_key, effects)
        return stored

    async def _delete(self, key: K) -> None:
        async with self._in_turn(key):
            await self._warm()
            version = await self._version(key)
            write = self._replica.begin_write(key)
            delete = self._reader.source.delete
            try:
                await self._called("delete", key, lambda: delete(key, version))
                event, effects = self._replica.wrote(write, Kind.DELETE, key, None, time.time())
            finally:
                self._replica.end_write(write)
            self._shown(key, event)
        await self._settle(key, effects)

    async def _warm(self) -> None:
        """Everything may have been dropped since the caller asked, or while it waited for its turn."""
        if self._replica.whole:
            await self._upkeep.filling.warm()

    async def _version(self, key: K) -> int | None:
        """The version to delete: what is held here, else what the source has now."""
        if not self._versioned:
            return None
        held = self._replica.table.live.get(key)
        if held is None:
            if not self._reader.by_key:
                return None
            try:
                with source_read(self._stats):
                    held = (await self._reader.load_many([key])).get(key)
            except DollopError as error:
                if not isinstance(error, InvalidEntityError):
                    self._upkeep.health.failed(error)
                raise
            self._upkeep.health.answered()
            if held is None:
                raise EntityNotFoundError(f"{self._reader.name} has no row with the key {key!r}")
        return self._reader.version_of(held)

    async def _called(self, what: str, key: K | None, call: Callable[[], Awaitable[R]]) -> R:
        """Call the source; after any failure what it holds for the key is not known."""
        try:
            about = f"{what} of {'a new row' if key is None else f'key {key!r}'}"
            result = await self._reader.write(about, call, lambda: self._unknown(key, what))
        except (ConflictError, EntityExistsError, EntityNotFoundError) as error:
            self._stats.conflicts += isinstance(error, ConflictError)
            if key is not None:
                self._upkeep.take(self._replica.refused(key))
            raise
        except InvalidEntityError:
            self._doubt(key)
            raise
        except DollopError as error:
            self._upkeep.health.failed(error)
            self._unknown(key, what)
            raise
        self._upkeep.health.answered()
        self._stats.writes += 1
        return result

    def _check_stored(self, stored: V, key: K | None, what: str) -> K:
        """The key under which the source has committed the row."""
        stored_key: K | None = None
        try:
            stored_key = self._reader.sound(stored, f"{what}() of the source returned")
            if key is not None and stored_key != key:
                raise InvalidEntityError(
                    f"{self._reader.name}: {what}() of the source was given the key {key!r} and"
                    f" returned a row with the key {stored_key!r}"
                )
        except InvalidEntityError:
            # Committed, and this is all we know: here as elsewhere it has to be read again.
            known = [some for some in (key, stored_key) if some is not None]
            for some in known:
                self._publish(self._replica.announce(Kind.REREAD, some, time.time()))
                self._doubt(some)
            if not known:
                self._unknown(None, what)
            raise
        return stored_key

    def _shown(self, key: K, event: Event) -> None:
        self._held(key)
        self._publish(event)

    def _doubt(self, key: K | None) -> None:
        if key is not None:
            self._upkeep.take(self._replica.unsure(key))

    def _unknown(self, key: K | None, what: str) -> None:
        """Whether the source has done it is not known."""
        if key is None:
            self._upkeep.resync(
                f"a {what} may have been committed, under what key is not known", siblings=False
            )
        else:
            self._doubt(key)
            if key not in self._replica.table.live and not self._replica.whole:
                # Nothing is read again here, where the row is not held; siblings may hold it.
                self._publish(self._replica.announce(Kind.REREAD, key, time.time()))

    async def _settle(self, key: K, effects: list[Effect]) -> None:
        """A rival's event came in between: let the source say what is there before returning."""
        if effects:
            try:
                for _ in range(MAX_REREADS):
                    await self._upkeep.reread([key])
                    if not self._upkeep.in_doubt(key):
                        return
                    # Events that are older than the write have overtaken it, and are what is shown.
            except DollopError as error:
                self._upkeep.take(effects)  # which tries again
                # What is shown may be older than the write, which nobody may be told is done.
                error.add_note(
                    f"The write of key {key!r} was committed; it is shown when the source answers again."
                )
                raise

    def _in_turn(self, key: K | None) -> contextlib.AbstractAsyncContextManager[object]:
        if key is None:
            return contextlib.nullcontext()
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock
