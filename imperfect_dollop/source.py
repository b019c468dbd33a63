"""The source of truth, as the library sees it, and the simplest way to be one.

A `Source` has six verbs. One that cannot do them all says which it can in an attribute ``verbs``, and
a repository checks when it is built that its source has those that it needs.

What a source owes:

* a read that begins after a write has returned sees that write (point it at the primary, not at a
  replica that lags);
* a write that returns has been committed;
* a write that raises `ConflictError`, `EntityNotFoundError`, `EntityExistsError` or `InvalidEntityError` has certainly
  not been committed; a write that raises anything else may have been;
* absent is ``None`` (`Source.load`) or left out (`Source.load_many`), never an exception;
* whoever stops reading `Source.load_all` early closes it, if it is an async generator.

A source that can make its rows into any class, or has to agree with the repository on key and version, has
a seventh method ``bind(entity, *, key, version)``: it returns the source that the repository will use, or
raises `ConfigurationError`. `key` and `version` are what the repository was given.

A source may have an attribute ``identity``: a text that is the same on every node that reads the same rows, and another
one where the rows are others. Nodes whose identities differ exchange nothing. ``None``, or no attribute, says that the
identity is not known: the node then exchanges rows with every node of the namespace. No password belongs in it.
"""

from __future__ import annotations

import dataclasses
import functools
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

__all__ = [
    "SOURCE_VERBS",
    "FunctionSource",
    "RemovedRow",
    "Source",
    "UnreadableRow",
    "is_synchronous",
    "verbs",
]

K = TypeVar("K")
V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])
K_contra = TypeVar("K_contra", contravariant=True)

SOURCE_VERBS: Final = ("load", "load_many", "load_all", "create", "update", "delete")

CHUNK_ROWS: Final = 1_000
"""Rows handed on at a time where a source has them all at once: under a millisecond of work."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that the source has and cannot make an entity of.

    A source returns or yields one in place of the entity, from `Source.load`, `Source.load_many` and
    `Source.load_all`, so that one bad row does not fail the whole read. The repository quarantines the key.
    """

    key: Any
    """The key of the row, or ``None`` where the key cannot be read either."""
    reason: str
    """What is wrong with the row. The text depends on nothing but the row: no memory address, no time."""


@dataclasses.dataclass(frozen=True, slots=True)
class RemovedRow:
    """A row that an update has stored and that is no longer one of the source's rows.

    `Source.update` returns one in place of the entity, as where a column marks the row as deleted and the source
    leaves such rows out. For the repository the update is a delete.
    """

    entity: Any
    """The row as stored, which is what the repository's `update` returns."""


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
        """Replace; returns the row as stored, with its new version, or a `RemovedRow`."""
        ...

    async def delete(self, key: K_contra, version: int | None, /) -> None:
        """Delete. A `version` that is not ``None`` must still be the row's, else `ConflictError`."""
        ...


def verbs(source: object) -> frozenset[str]:
    """The names in `SOURCE_VERBS` that `source` has."""
    able: frozenset[str] = getattr(source, "verbs", frozenset(SOURCE_VERBS))
    return frozenset(
        verb
        for verb in able
        if callable(getattr(source, verb, None))
        # What a class has only inherited from the protocol does nothing.
        and getattr(type(source), verb, None) is not getattr(Source, verb)
    )


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
    identity:
        a name for where the rows are, the same on every node that reads the same rows: nodes whose identities differ
        exchange nothing. ``None`` exchanges rows with every node of the namespace.
    """

    verbs: frozenset[str]
    """The names of the verbs that were given, or follow from those that were."""
    identity: str | None
    """As given."""

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
        identity: str | None = None,
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
            if function is not None and is_synchronous(function):
                raise ConfigurationError(
                    f"FunctionSource({name}=...) takes an async function, and {_named(function)} is declared with"
                    " def. Declare it with async def, run blocking work by asyncio.to_thread(); a function that returns"
                    " an awaitable says so in its return annotation"
                )
        able = {name for name, function in given.items() if function is not None}
        if not able:
            raise ConfigurationError("FunctionSource() without any function can do nothing")
        if able & {"load", "load_many"}:
            able |= {"load", "load_many"}
        self.verbs = frozenset(able)
        self.identity = identity
        self._load = load
        self._load_many = load_many
        self._load_all = load_all
        self._create = create
        self._update = update
        self._delete = delete
        self._delete_takes_version = delete is not None and _takes_two(delete)

    def __repr__(self) -> str:
        return f"FunctionSource({', '.join(sorted(self.verbs))})"

    async def load(self, key: K, /) -> V | None:
        """See `Source.load`."""
        if self._load is not None:
            found_one: V | None = await _awaitable(self._load(key), self._load)
            return found_one
        load_many = _given(self._load_many, "load")
        found: list[V] = list(_rows(await _awaitable(load_many([key]), load_many), load_many))
        if len(found) > 1:
            raise InvalidEntityError(f"load_many([{key!r}]) returned {len(found)} rows for one key")
        return found[0] if found else None

    async def load_many(self, keys: Sequence[K], /) -> Iterable[V]:
        """See `Source.load_many`."""
        if self._load_many is not None:
            load_many = self._load_many
            return _rows(await _awaitable(load_many(keys), load_many), load_many)
        load = _given(self._load, "load_many")
        found = [await _awaitable(load(key), load) for key in keys]
        return [entity for entity in found if entity is not None]

    async def load_all(self) -> AsyncIterator[Iterable[V]]:
        """See `Source.load_all`."""
        load_all = _given(self._load_all, "load_all")
        result: object = load_all()
        if not isinstance(result, AsyncIterable):
            rows = list(_rows(await _awaitable(result, load_all), load_all))
            for start in range(0, len(rows), CHUNK_ROWS):
                yield rows[start : start + CHUNK_ROWS]
            return
        single: list[V] = []
        iterator: AsyncIterator[Any] = aiter(result)
        try:
            async for item in iterator:
                if isinstance(item, (list, tuple)) and not hasattr(
                    item, "_fields"
                ):  # a named tuple
                    yield cast("Iterable[V]", item)
                    continue
                single.append(cast("V", item))
                if len(single) >= CHUNK_ROWS:
                    yield single
                    single = []
        finally:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()
        if single:
            yield single

    async def create(self, entity: V, /) -> V:
        """See `Source.create`."""
        create = _given(self._create, "create")
        stored = await _awaitable(create(entity), create)
        return entity if stored is None else stored

    async def update(self, entity: V, /) -> V:
        """See `Source.update`."""
        update = _given(self._update, "update")
        stored = await _awaitable(update(entity), update)
        return entity if stored is None else stored

    async def delete(self, key: K, version: int | None = None, /) -> None:
        """See `Source.delete`."""
        delete: Callable[..., Awaitable[object]] = _given(self._delete, "delete")
        deleted = delete(key, version) if self._delete_takes_version else delete(key)
        await _awaitable(deleted, delete)


def _given(function: F | None, verb: str) -> F:
    if function is None:
        raise ConfigurationError(f"this FunctionSource was given no {verb}")
    return function


def _rows(rows: object, function: object) -> Iterable[Any]:
    """The entities in what a loader returned."""
    if isinstance(rows, Mapping):
        return rows.values()
    if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes)):
        return rows
    raise InvalidEntityError(
        f"{_named(function)}() returned {type(rows).__name__} where an iterable of entities (or a mapping of"
        " key to entity) is due; return an empty list when there are none"
    )


def _named(function: object) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def _awaitable(result: Any, function: object) -> Any:
    """What an application's function has returned. Raises `InvalidEntityError` where nothing can be awaited."""
    if inspect.isawaitable(result):
        return result
    raise InvalidEntityError(
        f"{_named(function)}() returned {type(result).__name__} where an awaitable is due: it must be an async function"
    )


_ASYNCHRONOUS: Final = ("Awaitable", "Coroutine", "Future", "Task", "AsyncIter", "AsyncGenerator")
"""What the return annotation of a plain function names that returns something to await or to iterate over."""


def is_synchronous(function: object) -> bool:
    """Whether a function is certainly not async.

    Such is a plain ``def`` that does not wrap an async function, and whose return annotation names nothing to await. A
    lambda has no annotation, and an object that can be called may do anything: both are tried.
    """
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(cast("Callable[..., Any]", function))
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return False
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return False
    if getattr(function, "__name__", "") == "<lambda>":
        return False
    returns = str(getattr(function, "__annotations__", {}).get("return", ""))
    return not any(word in returns for word in _ASYNCHRONOUS)


def _takes_two(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(object(), object())
    except (TypeError, ValueError):  # ValueError: a builtin without a signature
        return False
    return True
