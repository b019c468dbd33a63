"""Calls of a source, with a deadline, with errors of our own tree, and with answers that are checked.

Whatever a source does - raise, hang, return the wrong thing - ends here as one `DollopError` that says which
repository and key it was about, with the original as its cause.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import operator
import traceback
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel

from .clock import monotonic
from .codecs import MAX_CONTENT, EntityCodec, KeyCodec, in_short
from .errors import (
    ClosedError,
    DollopError,
    InvalidEntityError,
    LoadTimeoutError,
    SourceUnavailableError,
)
from .source import Source, UnreadableRow, verbs
from .stats import Stats

__all__ = ["Call", "Found", "Reader", "source_read"]

logger: Final = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

MAX_VERSION: Final = 2**63
"""Above every version: it is a signed integer in a database, and on the wire."""

MAX_FAULTS: Final = 10_000
"""Rows of one load that may be quarantined."""

FEW_FAULTS: Final = 10
"""Up to here the share of bad rows does not matter. A load with more bad rows than that, and than good ones, fails: the
class, the key or the query is wrong then, and not the rows."""

ALL_VERIFIED: Final = 4_096
"""Rows of a load each of which is verified; see `EntityCodec.verify`."""

SAMPLE: Final = 64
"""Of the rows beyond `ALL_VERIFIED` one of so many is verified; all are encoded."""

MOST_MISTAKES: Final = 100
"""Errors of the application's code that are logged."""

SLICE: Final = 200
"""Rows that are checked in one go."""

CLOSE_SECONDS: Final = 5.0
"""For a loader's own clean-up, which is not cancelled with it."""


@contextlib.contextmanager
def source_read(stats: Stats, *, whole: bool = False) -> Iterator[None]:
    """Count and time a read of the source in `stats`: of keys, or of the `whole` set."""
    if whole:
        stats.full_loads += 1
    else:
        stats.loads += 1
    began = monotonic()
    try:
        yield
    except DollopError:
        stats.load_failures += 1
        raise
    finally:
        elapsed = monotonic() - began
        if whole:
            stats.full_load_seconds += elapsed
        else:
            stats.load_seconds += elapsed


class Found(Generic[K, V]):
    """What a read has found: rows by key, and what is wrong with the others."""

    __slots__ = ("_keyless", "faults", "rows")

    def __init__(self) -> None:
        self.rows: dict[K, V] = {}
        # Why a row cannot be held, by its key; ``None`` is the key of a row whose key is not known.
        self.faults: dict[K | None, str] = {}
        self._keyless: list[str] = []

    @property
    def bad(self) -> int:
        """How many rows cannot be held."""
        return len(self.faults) + max(0, len(self._keyless) - 1)

    def add_fault(self, key: K | None, reason: str) -> None:
        """A row cannot be held."""
        if key is not None:
            self.rows.pop(key, None)
            self.faults[key] = reason
            return
        self._keyless.append(reason)
        others = f" (and {len(self._keyless) - 1} more rows)" if len(self._keyless) > 1 else ""
        self.faults[None] = f"a row without a usable key: {self._keyless[0]}{others}"


class Reader(Generic[K, V]):
    """The source of one repository. `timeout` is the seconds for which a call may make no progress."""

    def __init__(
        self,
        name: str,
        source: Source[K, V],
        keys: KeyCodec[K],
        rows: EntityCodec[V],
        *,
        key_of: Callable[[V], K],
        version: str | None,
        timeout: float | None,
    ) -> None:
        self.name = name
        self.source = source
        self._able = verbs(source)
        self.keys: KeyCodec[K] = keys
        self.rows: EntityCodec[V] = rows
        self._entity = rows.entity
        self._key_of = key_of
        self._version = version
        self._versions: Callable[[V], Any] | None = (
            None if version is None else operator.attrgetter(version)
        )
        self._timeout = timeout
        self._abandoned: set[asyncio.Future[Any]] = set()  # the loop itself holds tasks weakly
        self._mistakes: set[tuple[type, str, int | None]] = set()  # that were logged

    @property
    def by_key(self) -> bool:
        """Whether single rows can be read."""
        return bool(self._able & {"load", "load_many"})

    # -- entities --------------------------------------------------------------------------------

    def key_of(self, entity: V, whence: str) -> K:
        """The entity's key. Raises `InvalidEntityError` unless it is an entity with a usable key."""
        if type(entity) is not self._entity:
            kind = "None" if entity is None else f"a {type(entity).__name__}"
            raise InvalidEntityError(
                f"{self.name}: {whence} {kind} where a {self._entity.__name__} is due"
            )
        try:
            key = self._key_of(entity)
        except Exception as error:
            raise InvalidEntityError(
                f"{self.name}: {whence} {in_short(entity)}, whose key cannot be read: {error!r}"
            ) from error
        try:
            hash(key)
        except TypeError as error:
            raise InvalidEntityError(
                f"{self.name}: {whence} {in_short(entity)}, whose key {in_short(key)} is not hashable"
            ) from error
        return key

    def version_of(self, entity: V) -> int:
        """The entity's version; 0 where the repository has none."""
        if self._version is None:
            return 0
        version = getattr(entity, self._version, None)
        if type(version) is not int or not 0 <= version < MAX_VERSION:
            raise InvalidEntityError(
                f"{self.name}: {in_short(entity)} has the {self._version} {version!r}; a version is an"
                " int from 0 to 2**63 - 1 that the source raises with every update"
            )
        return version

    def complete(self, entity: V, whence: str) -> K:
        """The key of an entity that has one, and a version if there are versions."""
        key = self.key_of(entity, whence)
        if key is None:
            raise InvalidEntityError(f"{self.name}: {whence} {in_short(entity)}, which has no key")
        self.version_of(entity)
        return key

    def identify(self, entities: list[V]) -> tuple[list[K], list[int]]:
        """The keys and versions of entities that were read from bytes. Raises as `complete`."""
        identified = self._identify_all(entities)
        if identified is not None:
            return identified
        keys = [self.complete(entity, "a sibling sent") for entity in entities]
        return keys, list(map(self.version_of, entities))

    def _identify_all(self, entities: list[V]) -> tuple[list[K], list[int]] | None:
        """The keys and versions of entities; ``None`` if something is wrong with one of them."""
        read = self._versions
        # The code of the application may raise anything. The caller then checks the rows one by one.
        with contextlib.suppress(Exception):
            keys = list(map(self._key_of, entities))
            versions = [0] * len(keys) if read is None else list(map(read, entities))
            if (
                None not in set(keys)
                and {*map(type, entities)} <= {self._entity}
                and {*map(type, versions)} <= {int}
                and min(versions, default=0) >= 0
                and max(versions, default=0) < MAX_VERSION
            ):
                return keys, versions
        return None

    # -- reads -----------------------------------------------------------------------------------

    async def load_many(self, keys: Sequence[K]) -> Found[K, V]:
        """The rows that exist of these keys, and what is wrong with those that cannot be held."""
        about = (
            f"load of key {in_short(keys[0])}" if len(keys) == 1 else f"load of {len(keys)} keys"
        )
        asked = set(keys)

        async def work(progress: Callable[[], None]) -> Found[K, V]:
            found: Found[K, V] = Found()
            for some in self._slices(await self._rows(keys), f"the {about} returned"):
                self._collect(some, found, f"the {about} returned")
            if None in found.faults and len(keys) == 1:
                # It cannot be another row's.
                found.add_fault(keys[0], found.faults.pop(None))
            return found

        found = await self._bounded(about, work)
        if None in found.faults:
            await self._find_owners(keys, found)
        for key in (*found.rows, *found.faults):
            if key is not None and key not in asked:
                raise InvalidEntityError(
                    f"{self.name}: the {about} returned a row with the key {key!r}"
                )
        return found

    async def _find_owners(self, keys: Sequence[K], found: Found[K, V]) -> None:
        """Read the keys without a row one by one: a row whose key cannot be read may be the row of any of them."""
        del found.faults[None]
        for key in dict.fromkeys(keys):
            if key not in found.rows and key not in found.faults:
                single = await self.load_many([key])
                found.rows |= single.rows
                found.faults |= single.faults

    async def _rows(self, keys: Sequence[K]) -> Iterable[V | UnreadableRow]:
        if "load" not in self._able or (len(keys) > 1 and "load_many" in self._able):
            return await self.source.load_many(keys)
        rows = [await self.source.load(key) for key in keys]
        return [row for row in rows if row is not None]

    async def load_all(self) -> Found[K, V]:
        """Every row by key, and the faults of the rows that cannot be held.

        Raises `InvalidEntityError` if more than `MAX_FAULTS` rows cannot be held, or if most rows cannot.
        """

        async def work(progress: Callable[[], None]) -> Found[K, V]:
            found: Found[K, V] = Found()
            chunks = aiter(self.source.load_all())
            try:
                async for chunk in chunks:
                    for some in self._slices(chunk, "load_all returned"):
                        self._collect(some, found, "load_all returned")
                        progress()
                        await anyio.lowlevel.checkpoint()
            finally:
                await _close(chunks)
            return self._mostly_good(found, "load_all returned")

        return await self._bounded("load of all rows", work)

    async def rows_of(self, fallback: Callable[[], AsyncIterable[V]]) -> Found[K, V]:
        """As `load_all`, from an application's own fallback that yields entities one by one."""

        async def work(progress: Callable[[], None]) -> Found[K, V]:
            found: Found[K, V] = Found()
            entities = aiter(fallback())
            try:
                async for entity in entities:
                    self._collect([entity], found, "a bootstrap function yielded")
                    progress()
            finally:
                await _close(entities)
            return self._mostly_good(found, "a bootstrap function yielded")

        return await self._bounded("load by a bootstrap function", work)

    def _mostly_good(self, found: Found[K, V], whence: str) -> Found[K, V]:
        bad, good = found.bad, len(found.rows)
        if bad > MAX_FAULTS or (bad > FEW_FAULTS and bad > good):
            some = "; ".join(
                f"key {in_short(key)}: {reason}" for key, reason in [*found.faults.items()][:3]
            )
            raise InvalidEntityError(
                f"{self.name}: {whence} {bad:,} rows that cannot be held, and {good:,} others: check the class,"
                f" `key` and the query. The first bad rows: {some}"
            )
        return found

    def _slices(self, chunk: object, whence: str) -> Iterator[list[Any]]:
        """The rows of a chunk, a few at a time, so that the event loop gets its turn between two checks.

        Raises `InvalidEntityError` for what is no collection of rows.
        """
        if not isinstance(chunk, Iterable) or isinstance(chunk, (str, bytes)):
            raise InvalidEntityError(
                f"{self.name}: {whence} {in_short(chunk)} where rows, in a list or another iterable, are due"
            )
        rows = iter(chunk)
        while some := list(itertools.islice(rows, SLICE)):
            yield some

    def _collect(self, entities: list[Any], found: Found[K, V], whence: str) -> None:
        """Add rows that were read to what was found. Raises `InvalidEntityError` for what is no row at all."""
        if not self._add_all(entities, found):
            for entity in entities:
                self._add(entity, found, whence)

    def _add_all(self, entities: list[Any], found: Found[K, V]) -> bool:
        """Add rows together, which is quicker. False, and nothing is added, if one of them is bad."""
        identified = self._identify_all(entities)
        if identified is None:
            return False
        keys, _ = identified
        new = dict(zip(keys, entities, strict=True))
        if len(new) != len(keys) or not all(
            known.keys().isdisjoint(new) for known in (found.rows, found.faults)
        ):
            return False
        count = len(found.rows)
        verified = entities if count < ALL_VERIFIED else entities[-count % SAMPLE :: SAMPLE]
        # `_add` meets the same error again, at the row that causes the error.
        with contextlib.suppress(Exception):
            self.keys.encode_all(keys)
            for entity in verified:
                self.rows.verify(entity)
            if verified is not entities:
                lengths = map(len, self.rows.encode_all(entities))
                if max(lengths, default=0) > MAX_CONTENT:
                    return False
            found.rows.update(new)
            return True
        return False

    def _add(self, entity: V | UnreadableRow, found: Found[K, V], whence: str) -> None:
        if isinstance(entity, UnreadableRow):
            found.add_fault(self._usable(entity.key), entity.reason)
            return
        if not isinstance(entity, self._entity):
            self.key_of(entity, whence)  # which raises: the loader is wrong, and not a row
        key: K | None = None
        count = len(found.rows)
        try:
            key = self.complete(entity, whence)
            self.keys.encode(key)
            if count < ALL_VERIFIED or count % SAMPLE == 0:
                self.rows.verify(entity)
            else:
                self.rows.encode(entity)
        except InvalidEntityError as error:
            if key is None:  # or only its version is wrong, or it is of a derived class
                with contextlib.suppress(Exception):  # of the application's code
                    key = self._key_of(entity)
            found.add_fault(self._usable(key), str(error).removeprefix(f"{self.name}: {whence} "))
            return
        if key in found.rows or key in found.faults:
            found.add_fault(key, "the source returned two rows with this key")
        else:
            found.rows[key] = entity

    def _usable(self, key: Any) -> K | None:
        """A key that a row can be quarantined by; ``None`` for anything else."""
        if key is not None:
            with contextlib.suppress(InvalidEntityError, TypeError):
                hash(key)
                self.keys.encode(key)
                return cast("K", key)
        return None

    # -- writes ----------------------------------------------------------------------------------

    def write(
        self, what: str, call: Callable[[], Awaitable[R]], late: Callable[[], None]
    ) -> Call[R]:
        """Begin a create, update or delete. After an error its outcome may be unknown.

        `late` is called if it ends after it was given up.
        """
        return self._begin(what, lambda progress: call(), late)

    # -- in between ------------------------------------------------------------------------------

    def _begin(
        self,
        what: str,
        work: Callable[[Callable[[], None]], Awaitable[R]],
        late: Callable[[], None] = lambda: None,
    ) -> Call[R]:
        return Call(self.name, what, work, self._timeout, late, self._abandoned, self._mistake)

    def _mistake(self, about: str, error: BaseException) -> None:
        """Log an error of the application's code with its traceback: each place and kind once."""
        frames = traceback.extract_tb(error.__traceback__)
        place = (
            type(error),
            frames[-1].filename if frames else "",
            frames[-1].lineno if frames else 0,
        )
        if place in self._mistakes or len(self._mistakes) >= MOST_MISTAKES:
            return
        self._mistakes.add(place)
        logger.error(
            "%s failed by an error of the application's code, which is logged once: %r",
            about,
            error,
            exc_info=error,
        )

    async def _bounded(self, what: str, work: Callable[[Callable[[], None]], Awaitable[R]]) -> R:
        """Do `work`, which calls what it is handed whenever there is progress. Ends with its caller."""
        call = self._begin(what, work)
        try:
            await call.ended()
        except asyncio.CancelledError:
            await call.close(ClosedError(f"{call.about} was cancelled"))
            raise
        return call.result()


_MISTAKES: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)


def is_mistake(error: BaseException) -> bool:
    """Whether an error is one of the application's code rather than of its database, network or disk.

    Such is an error that Python itself raises where code is wrong, and one of a validator of pydantic or msgspec. What
    a driver raises has a class of the driver's own.
    """
    origin = type(error).__module__.partition(".")[0]
    return isinstance(error, _MISTAKES) and origin in ("builtins", "pydantic_core", "msgspec")


class Call(Generic[R]):
    """A call of a source that is under way, until it has ended or is given up.

    Without progress for `timeout` seconds it is cancelled and given up. It has a task of its own, so that this holds
    even for a source that swallows its cancellation; such a task is the one kind that may outlive its node. Only
    one may wait for it at a time, and may be cancelled without ending the call.
    """

    def __init__(
        self,
        name: str,
        what: str,
        work: Callable[[Callable[[], None]], Awaitable[R]],
        timeout: float | None,
        late: Callable[[], None],
        abandoned: set[asyncio.Future[Any]],
        mistake: Callable[[str, BaseException], None],
    ) -> None:
        self.about: str = f"{name}: the {what}"
        self._name = name
        self._what = what
        self._timeout = timeout
        self._late = late
        self._abandoned = abandoned
        self._mistake = mistake
        self._loop = loop = asyncio.get_running_loop()
        self._error: DollopError | None = None  # why it was given up
        self._waiter: asyncio.Future[None] | None = None
        self._last = loop.time()  # when there was progress
        self._timer: asyncio.Handle | None = None
        if timeout is not None:
            self._timer = loop.call_later(timeout, self._look)
        self._task: asyncio.Task[R] = loop.create_task(self._run(work))

    async def _run(self, work: Callable[[Callable[[], None]], Awaitable[R]]) -> R:
        try:
            return await work(self._progress)
        finally:
            if self._error is None:
                self._over()  # now, and not in a callback: whoever waits goes on a turn of the loop earlier

    def _progress(self) -> None:
        self._last = self._loop.time()

    async def ended(self) -> None:
        """Wait until it has ended, or was given up."""
        if self._error is None and not self._task.done():
            self._waiter = self._loop.create_future()
            await self._waiter

    def give_up(self, error: DollopError) -> None:
        """Its outcome is this error; what it does from now on is known to nobody, but that it ends."""
        if self._error is None and not self._task.done():
            self._error = error
            self._abandoned.add(self._task)
            self._task.add_done_callback(self._ended_late)
            self._task.cancel()
        self._over()

    async def close(self, error: DollopError) -> None:
        """Give it up, and let it clean up for a while."""
        self.give_up(error)
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await asyncio.wait([self._task])
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # nobody asks for its result any more

    def result(self) -> R:
        """What it has returned. Raises what it has raised, as a `DollopError`, or why it was given up."""
        if self._error is not None:
            raise self._error
        try:
            return self._task.result()
        except DollopError as error:
            if str(error).startswith(self._name):
                raise
            named = type(error)(f"{self._name}: {error}")
            named.__dict__.update(error.__dict__)  # such as the reason of a ConflictError
            raise named from error.__cause__
        except BaseException as error:
            if is_mistake(error):
                self._mistake(self.about, error)
                raise SourceUnavailableError(
                    f"{self.about} failed by an error of the application's code: {error!r}; the log has its traceback"
                ) from error
            # Cancelled from within, not by us; or what is no `Exception`, as of a panic in Rust. It ended a task of its
            # own, and need not end ours.
            raise SourceUnavailableError(f"{self.about} failed: {error!r}") from error

    def _look(self) -> None:
        """The time may be over. What has just arrived is looked at first: this process may have stood still."""
        if not self._look_later():
            self._timer = self._loop.call_soon(self._time_out)

    def _look_later(self) -> bool:
        """Whether it has come further, so that there is time left."""
        assert self._timeout is not None
        left = self._last + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        return left > 0

    def _time_out(self) -> None:
        if not self._look_later():
            no_progress = f"the source made no progress in the {self._what} for {self._timeout:g} s"
            self.give_up(LoadTimeoutError(f"{self._name}: {no_progress}"))

    def _ended_late(self, task: asyncio.Task[R]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        self._late()

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _close(iterator: AsyncIterator[object]) -> None:
    """End an async generator now, so that its connection does not wait for the garbage collector."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await aclose()
