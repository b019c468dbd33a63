"""Calls of a source, with a deadline, with errors of our own tree, and with answers that are checked.

Whatever a source does - raise, hang, return the wrong thing - ends here as one `DollopError` that says which
repository and key it was about, with the original as its cause.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from .codecs import EntityCodec, KeyCodec
from .errors import (
    DollopError,
    InvalidEntityError,
    LoadTimeoutError,
    SourceUnavailableError,
)
from .source import Source

__all__ = ["Reader"]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

_END: Final = object()


CLOSE_SECONDS: Final = 5.0
"""For a loader's own clean-up, which is not cancelled with it."""


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
        self.keys: KeyCodec[K] = keys
        self.rows: EntityCodec[V] = rows
        self._entity = rows.entity
        self._key_of = key_of
        self._version = version
        self._timeout = timeout

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
                f"{self.name}: {whence} {_text(entity)}, whose key cannot be read: {error!r}"
            ) from error
        try:
            hash(key)
        except TypeError as error:
            raise InvalidEntityError(
                f"{self.name}: {whence} {_text(entity)}, whose key {key!r} is not hashable"
            ) from error
        return key

    def version_of(self, entity: V) -> int:
        """The entity's version; 0 where the repository has none."""
        if self._version is None:
            return 0
        version = getattr(entity, self._version, None)
        if type(version) is not int or not 0 <= version < 2**63:
            raise InvalidEntityError(
                f"{self.name}: {_text(entity)} has the {self._version} {version!r}; a version is an"
                " int from 0 to 2**63 - 1 that the source raises with every update"
            )
        return version

    def complete(self, entity: V, whence: str) -> K:
        """The key of an entity that has one, and a version if there are versions."""
        key = self.key_of(entity, whence)
        if key is None:
            raise InvalidEntityError(f"{self.name}: {whence} {_text(entity)}, which has no key")
        self.version_of(entity)
        return key

    def sound(self, entity: V, whence: str) -> K:
        """The key of an entity that can be held here and sent to siblings."""
        key = self.complete(entity, whence)
        try:
            self.keys.encode(key)
            self.rows.encode(entity)
        except InvalidEntityError as error:
            raise InvalidEntityError(f"{self.name}: {whence} {_text(entity)}: {error}") from error
        return key

    # -- reads -----------------------------------------------------------------------------------

    async def load_many(self, keys: Sequence[K]) -> dict[K, V]:
        """The rows that exist of these keys."""
        about = f"key {keys[0]!r}" if len(keys) == 1 else f"{len(keys)} keys"
        with self._deadline(f"load of {about}"):
            return await self._load_many(keys, about)

    async def _load_many(self, keys: Sequence[K], about: str) -> dict[K, V]:
        source = self.source
        async with self._translated(f"load of {about}"):
            rows: Iterable[V]
            if len(keys) == 1 and callable(getattr(source, "load", None)):
                row = await source.load(keys[0])
                rows = () if row is None else (row,)
            elif callable(getattr(source, "load_many", None)):
                rows = await source.load_many(keys)
            else:
                one_by_one = [await source.load(key) for key in keys]
                rows = [row for row in one_by_one if row is not None]
            found: dict[K, V] = {}
            self._collect(rows, found, f"the load of {about} returned")
        asked = set(keys)
        for key in found:
            if key not in asked:
                raise InvalidEntityError(
                    f"{self.name}: the load of {about} returned a row with the key {key!r}"
                )
        return found

    async def load_all(self) -> dict[K, V]:
        """Every row by key. Nothing is half done: all of them, or an error."""
        rows: dict[K, V] = {}
        async with self._translated("load of all rows"):
            chunks = aiter(self.source.load_all())
            try:
                while True:
                    chunk: object = _END
                    with self._deadline("load of all rows"):
                        chunk = await anext(chunks, _END)
                    if chunk is _END:
                        return rows
                    self._collect(chunk, rows, "load_all returned")
                    await anyio.lowlevel.checkpoint()
            finally:
                await _close(chunks)

    async def rows_of(self, fallback: Callable[[], AsyncIterable[V]]) -> dict[K, V]:
        """As `load_all`, from an application's own fallback that yields entities one by one."""
        rows: dict[K, V] = {}
        async with self._translated("load by a bootstrap function"):
            iterator = aiter(fallback())
            try:
                async for entity in iterator:
                    self._collect((entity,), rows, "a bootstrap function yielded")
            finally:
                await _close(iterator)
        return rows

    def _collect(self, chunk: object, rows: dict[K, V], whence: str) -> None:
        if not isinstance(chunk, Iterable) or isinstance(chunk, (str, bytes)):
            raise InvalidEntityError(
                f"{self.name}: {whence} {_text(chunk)} where rows, in a list or another iterable, are due"
            )
        for entity in chunk:
            key = self.sound(entity, whence)
            if key in rows:
                raise InvalidEntityError(
                    f"{self.name}: {whence} two rows with the key {key!r}; keys must be unique:"
                    " check `key` and the query"
                )
            rows[key] = entity

    # -- writes ----------------------------------------------------------------------------------

    async def write(self, what: str, call: Callable[[], Awaitable[R]]) -> R:
        """A create, update or delete. After an error its outcome may be unknown."""
        async with self._translated(what):
            with self._deadline(what):
                return await call()

    # -- in between ------------------------------------------------------------------------------

    @contextmanager
    def _deadline(self, what: str) -> Iterator[None]:
        with anyio.move_on_after(self._timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise LoadTimeoutError(
                f"{self.name}: the source made no progress in the {what} for {self._timeout} s"
            )

    @asynccontextmanager
    async def _translated(self, what: str) -> AsyncIterator[None]:
        try:
            yield
        except DollopError:
            raise
        except Exception as error:
            raise SourceUnavailableError(f"{self.name}: the {what} failed: {error!r}") from error


async def _close(iterator: AsyncIterator[object]) -> None:
    """End an async generator now, so that its connection does not wait for the garbage collector."""
    aclose = getattr(iterator, "aclose", None)
    if aclose is not None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await aclose()


def _text(value: object) -> str:
    """`repr`, also of an object that is only half made."""
    try:
        return repr(value)
    except Exception as error:
        return f"a {type(value).__name__} (its repr raises {error!r})"
