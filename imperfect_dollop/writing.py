"""The write path: source first, then this replica, then the siblings.

Once the source is called a write is carried through, whatever becomes of the caller: cancelled between the source's
commit and the event to the siblings, it would leave them wrong. When its caller is cancelled, a task of ours takes its
place. Writes of one key go one after the other, so that each is built on the state the one before has left.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Generic, NamedTuple, NoReturn, TypeVar

import anyio

from .codecs import in_short
from .errors import (
    ClosedError,
    ConflictError,
    DollopError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    LoadTimeoutError,
)
from .flight import Flights
from .replica.effects import Reread
from .replica.messages import Event, Kind
from .replica.replica import Replica, Write
from .source import RemovedRow
from .sourcing import Call, Reader, source_read
from .stats import Stats
from .supervisor import Supervisor
from .upkeep import Upkeep

__all__ = ["Writer"]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
S = TypeVar("S")

logger: Final = logging.getLogger(__name__)

REFUSALS: Final = (ConflictError, EntityExistsError, EntityNotFoundError, InvalidEntityError)
"""Errors by which a source says that it has stored nothing of a write. Any other error leaves the outcome unknown."""


class _Done(NamedTuple, Generic[K, R]):
    """What a write has come to."""

    key: K
    result: R
    event: Event


class Writer(Generic[K, V]):
    """Creates, updates and deletes.

    `held(key)` is called when the replica shows a write; `outdate(key)` when the source has answered one, so that reads
    of the key that are under way may be older; `altered(keys)` when rows were found changed in place. `timeout` bounds
    the seconds for which a write waits to be shown.
    """

    def __init__(
        self,
        replica: Replica[K, V],
        reader: Reader[K, V],
        upkeep: Upkeep[K, V],
        stats: Stats,
        *,
        supervisor: Supervisor,
        versioned: bool,
        timeout: float | None,
        publish: Callable[[Event], None],
        held: Callable[[K], None],
        outdate: Callable[[K], None],
        altered: Callable[[Iterable[K]], None],
        keep: Callable[[V], V],
    ) -> None:
        self._replica = replica
        self._reader = reader
        self._upkeep = upkeep
        self._stats = stats
        self._supervisor = supervisor
        self._versioned = versioned
        self._timeout = timeout
        self._publish = publish
        self._held = held
        self._outdate = outdate
        self._altered = altered
        self._keep = keep
        self._locks: weakref.WeakValueDictionary[K, asyncio.Lock] = weakref.WeakValueDictionary()
        self._closed = False  # no more begin
        self._ended = False  # and none is waited for
        self._under_way = 0
        self._one_less = asyncio.Event()
        self._calls: set[Call[Any]] = set()  # that have begun
        self._rereads: Flights[K, None] = Flights(
            supervisor.spawn, self._reread, describe=lambda keys: f"{reader.name}, key {keys[0]!r}"
        )

    async def create(self, entity: V) -> V:
        """Insert; the source may give the key."""
        key: K | None = self._reader.key_of(entity, "create() was given")
        return await self._put(Kind.CREATE, key, entity, self._reader.source.create)

    async def update(self, entity: V) -> V:
        """Replace."""
        key = self._reader.complete(entity, "update() was given")
        self._check_possible(key)
        return await self._put(Kind.UPDATE, key, entity, self._reader.source.update)

    async def delete(self, key: K) -> None:
        """Delete, of a versioned repository the version that is held here."""
        self._check_possible(key)
        delete = self._reader.source.delete

        async def begin() -> Call[None]:
            version = await self._version(key)
            return self._call("delete", key, lambda: delete(key, version))

        def end(call: Call[None], write: Write) -> _Done[K, None]:
            self._result("delete", key, call, write)
            event, _ = self._replica.wrote(write, Kind.DELETE, key, None, time.time())
            return _Done(key, None, event)

        await self._write(key, begin, end)

    def _check_possible(self, key: K) -> None:
        if not self._replica.keys.can_exist(key):
            raise EntityNotFoundError(
                f"{self._reader.name} has no row with the key {in_short(key)}, as no row can have it"
            )

    async def _put(
        self, kind: Kind, key: K | None, entity: V, call: Callable[[V], Awaitable[V]]
    ) -> V:
        what = kind.name.lower()
        content = b""

        async def begin() -> Call[V]:
            # What siblings would hold differently must not be committed.
            nonlocal content
            content = self._verify(entity, f"{what}() was given")
            if key is not None:
                self._replica.keys.encode(key)
                table = self._replica.table
                if kind is Kind.UPDATE and key in table.live and not table.intact(key):
                    await self._refuse_altered(key)
            return self._call(what, key, lambda: call(entity))

        def end(call: Call[V], write: Write) -> _Done[K, V]:
            stored = self._result(what, key, call, write)
            if isinstance(stored, RemovedRow) and kind is Kind.UPDATE and key is not None:
                event, _ = self._replica.wrote(write, Kind.DELETE, key, None, time.time())
                return _Done(key, stored.entity, event)
            stored_key, stored_content = self._check_stored(stored, key, what, content)
            try:
                kept = self._keep(stored)
                known = stored_content if kept is stored else None
                stored = kept
                event, _ = self._replica.wrote(write, kind, stored_key, kept, time.time(), known)
            except Exception:  # of a function of the application's
                self._lost_sight_of(stored_key)
                raise
            return _Done(stored_key, stored, event)

        return await self._write(key, begin, end)

    async def drained(self) -> None:
        """Begin no more writes, and wait until none is under way. Those for which nobody waits longer are given up."""
        self._closed = True
        try:
            while self._under_way:
                self._one_less = asyncio.Event()
                await self._one_less.wait()
        finally:
            calls = list(self._calls)
            self.close()
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as closing:
                    for call in calls:
                        closing.start_soon(call.close, self._too_late())

    def close(self) -> None:
        """No write begins any more, and those that are under way are given up."""
        self._closed = self._ended = True
        for call in self._calls:
            call.give_up(self._too_late())

    # -- one write -------------------------------------------------------------------------------

    async def _write(
        self,
        key: K | None,
        begin: Callable[[], Awaitable[Call[S]]],
        end: Callable[[Call[S], Write], _Done[K, R]],
    ) -> R:
        """Call the source when it is this write's turn, and show what it has done.

        Until the source is called nothing has begun, and all ends with the caller. From then on it is carried through.
        """
        if self._closed:
            raise ClosedError(f"{self._reader.name} is closed")
        turn, in_turn = self._turn(key), False
        write: Write | None = None
        self._under_way += 1
        try:
            in_turn = await turn.acquire()
            if self._ended:
                raise self._too_late()
            await self._warm()
            write = self._replica.begin_write(key)
            call = await begin()
        except BaseException:
            self._over(turn if in_turn else None, write)
            raise
        self._calls.add(call)

        def finish() -> _Done[K, R]:
            self._calls.discard(call)
            if key is not None:
                self._outdate(key)
            try:
                done = end(call, write)
                self._held(done.key)
                self._publish(done.event)
                return done
            finally:
                self._over(turn, write)

        try:
            await call.ended()
        except BaseException:  # the caller was cancelled, or thrown away
            self._carry_on(call, key, write, finish)
            raise
        return await self._end(key, write, finish)

    async def _end(self, key: K | None, write: Write, finish: Callable[[], _Done[K, R]]) -> R:
        """Finish a write that the source has answered, and wait until this node shows nothing older than the answer."""
        try:
            done = finish()
        except DollopError as error:
            if key is not None and not self._replica.shows(key, write.answered):
                try:
                    await self._in_background(lambda: self._show(key, write))
                except DollopError as failure:
                    error.add_note(
                        f"Nothing was written. Key {key!r} could not be read again, so this node may show an older"
                        f" row: {failure}"
                    )
            raise
        if not self._replica.shows(done.key, write.answered):
            await self._in_background(lambda: self._show_written(done.key, write))
        return done.result

    def _carry_on(
        self,
        call: Call[S],
        key: K | None,
        write: Write,
        finish: Callable[[], _Done[K, R]],
    ) -> None:
        """In the place of a caller that has gone: else the siblings were wrong."""

        def drop() -> None:
            call.give_up(self._too_late())
            try:
                finish()
            except DollopError:
                pass  # as was to be expected
            except Exception:
                logger.exception("a write whose caller has gone failed")

        async def carry_on() -> None:
            try:
                await call.ended()
            except asyncio.CancelledError:
                drop()
                raise
            try:
                await self._end(key, write, finish)
            except DollopError as failure:
                logger.warning("a write whose caller has gone failed: %s", failure)

        if self._ended:
            drop()
            return
        try:
            self._supervisor.spawn(carry_on, name=f"write {self._reader.name}")
        except RuntimeError:  # it has just stopped
            drop()

    def _over(self, turn: asyncio.Lock | None, write: Write | None) -> None:
        if write is not None:
            self._replica.end_write(write)
        if turn is not None:
            turn.release()
        self._less()

    def _less(self) -> None:
        self._under_way -= 1
        self._one_less.set()

    def _too_late(self) -> ClosedError:
        return ClosedError(f"{self._reader.name}: closed during a write")

    async def _in_background(self, work: Callable[[], Awaitable[R]]) -> R:
        """Run `work` in a task of its own, that ends with the session, and wait for it.

        Only the waiting can be cancelled.
        """
        if self._ended:
            raise self._too_late()
        outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._under_way += 1

        async def run() -> None:
            error: Exception = self._too_late()
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
                self._less()
                if not outcome.done():
                    outcome.set_exception(error)

        try:
            self._supervisor.spawn(run, name=f"write {self._reader.name}")
        except RuntimeError as error:  # it has just stopped
            self._less()
            raise self._too_late() from error
        return await outcome

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
            held = await self._in_background(lambda: self._read(key))
            if held is None:
                raise EntityNotFoundError(f"{self._reader.name} has no row with the key {key!r}")
        return self._reader.version_of(held)

    async def _read(self, key: K) -> V | None:
        try:
            with source_read(self._stats):
                read = await self._reader.load_many([key])
        except DollopError as error:
            if not isinstance(error, InvalidEntityError):
                self._upkeep.health.failed(error)
            raise
        self._upkeep.health.answered()
        if key in read.faults:
            raise InvalidEntityError(
                f"{self._reader.name}: the row with the key {key!r} cannot be read, so its version is not known:"
                f" {read.faults[key]}"
            )
        return read.rows.get(key)

    def _call(self, what: str, key: K | None, call: Callable[[], Awaitable[S]]) -> Call[S]:
        if self._ended:
            raise self._too_late()
        about = f"{what} of {'a new row' if key is None else f'key {key!r}'}"
        return self._reader.write(about, call, lambda: self._unknown(key, what))

    def _result(self, what: str, key: K | None, call: Call[S], write: Write) -> S:
        """What the source says; after any failure what it holds for the key is not known."""
        try:
            result = call.result()
        except REFUSALS as error:
            self._stats.conflicts += isinstance(error, ConflictError)
            if key is not None:
                effects = self._replica.refused(write, key, time.time())
                if self._replica.shows(key, write.answered):
                    self._upkeep.take(effects)
            raise
        except DollopError as error:
            self._upkeep.health.failed(error)
            self._unknown(key, what)
            raise
        self._upkeep.health.answered()
        self._stats.writes += 1
        return result

    def _verify(self, entity: V, whence: str) -> bytes:
        """The canonical bytes of an entity, which siblings can hold as it is. Raises `InvalidEntityError` else."""
        try:
            return self._replica.rows.verify(entity)
        except InvalidEntityError as error:
            raise InvalidEntityError(
                f"{self._reader.name}: {whence} {in_short(entity)}: {error}"
            ) from error

    async def _refuse_altered(self, key: K) -> NoReturn:
        """Refuse an update of a key whose row was changed in place here, and read the row again.

        An entity made from such a row would carry the change to the database, without anybody having asked for that.
        """
        error = InvalidEntityError(
            f"{self._reader.name}: update() of key {key!r} was refused before the source was called: the row that this"
            " node holds for the key was changed in place, and the entity may contain that change. Read the row again,"
            " and change a copy of the row and of the lists and dicts in it; with copy=True reads hand out copies"
        )
        try:
            await self._in_background(lambda: self._upkeep.reread([key]))
        except DollopError as failure:
            error.add_note(f"Key {key!r} could not be read again: {failure}")
        self._altered([key])
        raise error

    def _check_stored(self, stored: V, key: K | None, what: str, given: bytes) -> tuple[K, bytes]:
        """The key under which the source has committed the row, and the row's bytes; `given`: those it was given."""
        stored_key: K | None = None
        whence = f"{what}() of the source returned"
        try:
            stored_key = self._reader.complete(stored, whence)
            self._replica.keys.encode(stored_key)
            content = self._content(stored, given, whence)
            if key is not None and stored_key != key:
                raise InvalidEntityError(
                    f"{self._reader.name}: {what}() of the source was given the key {key!r} and"
                    f" returned a row with the key {stored_key!r}"
                )
        except InvalidEntityError:
            known = [some for some in (key, stored_key) if some is not None]
            for some in known:
                self._lost_sight_of(some)
            if not known:
                self._unknown(None, what)
            raise
        return stored_key, content

    def _content(self, stored: V, given: bytes, whence: str) -> bytes:
        """The bytes of what the source has returned, verified unless they are those of what it was given."""
        try:
            if self._replica.rows.encode(stored) == given:
                return given
        except InvalidEntityError:
            pass  # which `verify` tells with the entity
        return self._verify(stored, whence)

    def _lost_sight_of(self, key: K) -> None:
        """Committed, and this is all we know: here as elsewhere it has to be read again."""
        self._publish(self._replica.announce(Kind.REREAD, key, time.time()))
        self._doubt(key)

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

    async def _show_written(self, key: K, write: Write) -> None:
        """Rivals have overtaken a write: read the row, so that the caller is not told of a write that is not shown."""
        try:
            await self._show(key, write)
        except DollopError as error:
            error.add_note(
                f"The write of key {key!r} was committed; it is shown when the source answers again."
            )
            raise

    async def _show(self, key: K, write: Write) -> None:
        """Read a key until this node shows what the source had after a write, or something newer."""
        try:
            with anyio.move_on_after(self._timeout):
                while not self._replica.shows(key, write.answered):
                    await self._rereads.join(key)
                self._held(key)
                return
            raise LoadTimeoutError(
                f"{self._reader.name}: key {key!r} could not be read again after a write within"
                f" {self._timeout:g} s"
            )
        except DollopError:
            self._upkeep.take([Reread((key,))])  # in the background, until it succeeds
            raise
        finally:
            self._replica.no_longer_awaited(key, write.answered)

    async def _reread(self, keys: tuple[K, ...]) -> dict[K, None]:
        await self._upkeep.reread(keys)
        return {}

    def _turn(self, key: K | None) -> asyncio.Lock:
        if key is None:
            return asyncio.Lock()
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock
