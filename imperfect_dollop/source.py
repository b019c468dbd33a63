"""The source of truth, as the library sees it, and the simplest way to be one.

A `Source` has six verbs. A repository checks when it is built that its source has those that it
needs; one that is missing, or is ``None``, is a verb the source does not have.

What a source owes:

* a read that begins after a write has returned sees that write (point it at the primary, not at a
  replica that lags);
* a write that returns has been committed; one that raises may or may not have been;
* absent is ``None`` (`Source.load`) or left out (`Source.load_many`), never an exception.
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, cast

from .errors import ConfigurationError, InvalidEntityError

__all__ = ["SOURCE_VERBS", "FunctionSource", "Source", "verbs"]

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)

SOURCE_VERBS: Final = ("load", "load_many", "load_all", "create", "update", "delete")

CHUNK_ROWS: Final = 1_000
"""Rows handed on at a time where a source has them all at once: under a millisecond of work."""


class Source(Protocol[K_contra, V]):
    """Where the rows live. Every verb may raise; see the module's text for what it owes.

    Raise `ConflictError`, `EntityNotFoundError`, `EntityExistsError` or `InvalidEntityError` where
    they apply; any other exception reaches the caller as the cause of a `SourceUnavailableError`.
    """

    async def load(self, key: K_contra, /) -> V | None:
        """The row with this key, or ``None``."""
        ...

    async def load_many(self, keys: Sequence[K_contra], /) -> Iterable[V]:
        """The rows that exist of these keys, in any order."""
        ...

    def load_all(self) -> AsyncIterator[Iterable[V]]:
        """Every row once, in chunks, as of one moment (one statement, one snapshot)."""
        ...

    async def create(self, entity: V, /) -> V:
        """Insert; returns the row as stored, with what the source has generated."""
        ...

    async def update(self, entity: V, /) -> V:
        """Replace; returns the row as stored, with its new version."""
        ...

    async def delete(self, key: K_contra, version: int | None, /) -> None:
        """Delete. A `version` that is not ``None`` must still be the row's, else `ConflictError`."""
        ...


def verbs(source: object) -> frozenset[str]:
    """The names in `SOURCE_VERBS` that `source` has."""
    return frozenset(verb for verb in SOURCE_VERBS if callable(getattr(source, verb, None)))


Rows: TypeAlias = "Iterable[V] | Mapping[Any, V]"
LoadAll: TypeAlias = (
    "Callable[[], AsyncIterable[V | Iterable[V]]] | Callable[[], Awaitable[Rows[V]]]"
)


class FunctionSource(Generic[K, V]):
    """A `Source` made of plain async functions; leave out what yours cannot do.

    Parameters
    ----------
    load:
        ``async (key) -> entity | None``.
    load_many:
        ``async (keys) -> iterable of entities``, or a mapping of key to entity. Without it, keys
        are loaded one after the other with `load`; with it and without `load`, one key is a list
        of one.
    load_all:
        ``async () -> iterable of entities`` (or a mapping), or an async generator that yields
        entities or chunks (lists or tuples) of them.
    create, update:
        ``async (entity) -> entity`` as stored. One that returns ``None`` says that it stored the
        entity exactly as given; it may do so only where nothing is generated (no key, no version).
    delete:
        ``async (key) -> None``, or ``async (key, version)``: then the version that this process
        holds is handed over (``None`` if it holds none), to be compared in the source.
    """

    load: Callable[[K], Awaitable[V | None]] | None
    load_many: Callable[[Sequence[K]], Awaitable[Iterable[V]]] | None
    load_all: Callable[[], AsyncIterator[Iterable[V]]] | None
    create: Callable[[V], Awaitable[V]] | None
    update: Callable[[V], Awaitable[V]] | None
    delete: Callable[[K, int | None], Awaitable[None]] | None

    def __init__(
        self,
        *,
        load: Callable[[K], Awaitable[V | None]] | None = None,
        load_many: Callable[[Sequence[K]], Awaitable[Rows[V]]] | None = None,
        load_all: LoadAll[V] | None = None,
        create: Callable[[V], Awaitable[V | None]] | None = None,
        update: Callable[[V], Awaitable[V | None]] | None = None,
        delete: Callable[[K], Awaitable[object]]
        | Callable[[K, int | None], Awaitable[object]]
        | None = None,
    ) -> None:
        given = {
            "load": load,
            "load_many": load_many,
            "load_all": load_all,
            "create": create,
            "update": update,
            "delete": delete,
        }
        for name, function in given.items():
            if function is not None and not callable(function):
                raise ConfigurationError(
                    f"FunctionSource({name}=...) takes an async function, not {function!r}"
                )
        if all(function is None for function in given.values()):
            raise ConfigurationError("FunctionSource() without any function can do nothing")
        self.load = load or (_one_of_many(load_many) if load_many else None)
        self.load_many = _rows_of(load_many) if load_many else (_one_by_one(load) if load else None)
        self.load_all = _chunks_of(load_all) if load_all else None
        self.create = _as_stored(create) if create else None
        self.update = _as_stored(update) if update else None
        self.delete = _with_version(delete) if delete else None

    def __repr__(self) -> str:
        return f"FunctionSource({', '.join(sorted(verbs(self)))})"


def _rows(rows: object, function: object) -> Iterable[Any]:
    """The entities in what a loader returned."""
    if isinstance(rows, Mapping):
        return rows.values()
    if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes)):
        return rows
    name = getattr(function, "__qualname__", repr(function))
    raise InvalidEntityError(
        f"{name}() returned {type(rows).__name__} where an iterable of entities (or a mapping of"
        " key to entity) is due; return an empty list when there are none"
    )


def _rows_of(
    load_many: Callable[[Sequence[K]], Awaitable[Rows[V]]],
) -> Callable[[Sequence[K]], Awaitable[Iterable[V]]]:
    async def rows(keys: Sequence[K], /) -> Iterable[V]:
        return _rows(await load_many(keys), load_many)

    return rows


def _one_of_many(
    load_many: Callable[[Sequence[K]], Awaitable[Rows[V]]],
) -> Callable[[K], Awaitable[V | None]]:
    async def one(key: K, /) -> V | None:
        found: list[V] = list(_rows(await load_many([key]), load_many))
        if len(found) > 1:
            raise InvalidEntityError(f"load_many([{key!r}]) returned {len(found)} rows for one key")
        return found[0] if found else None

    return one


def _one_by_one(
    load: Callable[[K], Awaitable[V | None]],
) -> Callable[[Sequence[K]], Awaitable[Iterable[V]]]:
    async def rows(keys: Sequence[K], /) -> Iterable[V]:
        found = [await load(key) for key in keys]
        return [entity for entity in found if entity is not None]

    return rows


def _chunks_of(load_all: LoadAll[V]) -> Callable[[], AsyncIterator[Iterable[V]]]:
    async def chunks() -> AsyncIterator[Iterable[V]]:
        result: object = load_all()
        if isinstance(result, AsyncIterable):
            single: list[V] = []
            async for item in result:
                if isinstance(item, (list, tuple)) and not hasattr(item, "_fields"):
                    yield cast("Iterable[V]", item)
                    continue
                single.append(cast("V", item))
                if len(single) >= CHUNK_ROWS:
                    yield single
                    single = []
            if single:
                yield single
            return
        if not inspect.isawaitable(result):
            raise InvalidEntityError(
                f"load_all() returned {type(result).__name__}: it must be an async function or an"
                " async generator"
            )
        rows = list(_rows(await result, load_all))
        for start in range(0, len(rows), CHUNK_ROWS):
            yield rows[start : start + CHUNK_ROWS]

    return chunks


def _as_stored(write: Callable[[V], Awaitable[V | None]]) -> Callable[[V], Awaitable[V]]:
    async def stored(entity: V, /) -> V:
        result = await write(entity)
        return entity if result is None else result

    return stored


def _with_version(delete: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[None]]:
    try:
        inspect.signature(delete).bind(object(), object())
        takes_version = True
    except TypeError:
        takes_version = False
    except ValueError:  # a builtin without a signature
        takes_version = False

    async def deleted(key: object, version: int | None, /) -> None:
        await (delete(key, version) if takes_version else delete(key))

    return deleted
