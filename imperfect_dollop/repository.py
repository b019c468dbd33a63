"""What an application calls: reads from this process's memory, writes through to the source.

A repository holds the whole set (`preload=True`) or what was asked for (`preload=False`). It runs in a
`Node`, which keeps it in step with its siblings, or alone (``async with repository:``) as a cache
of this process.
"""

from __future__ import annotations

import copy as copying
import inspect
import math
import secrets
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from types import MappingProxyType, TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import anyio

from .codecs import EntityCodec, KeyCodec, in_short, key_reader
from .config import MAX_SECONDS, is_number
from .errors import (
    ClosedError,
    ConfigurationError,
    DollopError,
    EntityNotFoundError,
    InvalidEntityError,
    NotReadyError,
    ReadOnlyError,
    TooStaleError,
)
from .filling import Place
from .loop_binding import LoopBinding
from .replica.identity import is_identity
from .replica.messages import MAX_NAME, Kind, is_name
from .replica.stamp import seconds
from .session import Options, Session
from .siblings import Siblings
from .source import Source, verbs
from .sourcing import Reader
from .stats import Info, State, Stats
from .supervisor import Supervisor

__all__ = ["Repository"]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")

DRAIN_SECONDS: Final = 10.0
"""How long closing waits for writes that are under way."""

DEFAULT_JITTER: Final = 0.1
"""Of `ttl`: spreads the refreshes of nodes that were started together."""


class Repository(Generic[K, V]):
    """The rows of one kind, in this process.

    Parameters
    ----------
    entity:
        their class: a dataclass, attrs class, `msgspec.Struct` or pydantic v2 model. Reads return the stored
        objects themselves, so frozen classes are recommended.
    source:
        where they live.
    key:
        the attribute that is the key, a tuple of attributes, or a function of the entity.
    version:
        the attribute with the source's version of the row, an int; enables conflict detection.
    name:
        name on the wire, in logs and figures; by default the class's name.
    preload:
        hold the whole set. ``False``: load by key on demand.
    ttl:
        seconds after which data is refreshed, in the background while the old is served; ``None`` or infinity for
        never.
    jitter:
        seconds by which refreshes are spread, by coming earlier; by default a tenth of `ttl`.
    retry_after:
        seconds before a source that failed is asked again in the background; doubles up to 30.
    hard_timeout:
        seconds without progress after which a call of the source is given up; ``None`` for never.
    missing_ttl:
        seconds for which an absent key is remembered (on demand).
    max_entries:
        most rows held, the least recently used, to the second, go first (on demand); ``None`` for no bound.
    bootstrap:
        where a cold node looks, in order: ``"sibling"``, ``"source"``, or an async function of the
        repository that yields entities.
    read_only:
        writes raise `ReadOnlyError`.
    copy:
        reads hand out deep copies.

    Raises `ConfigurationError` for settings that contradict each other or ask for what the source lacks.
    """

    def __init__(
        self,
        entity: type[V],
        *,
        source: Source[K, V],
        key: str | tuple[str, ...] | Callable[[V], K] = "id",
        version: str | None = None,
        name: str | None = None,
        preload: bool = True,
        ttl: float | None = 120.0,
        jitter: float | None = None,
        retry_after: float = 1.0,
        hard_timeout: float | None = 30.0,
        missing_ttl: float = 5.0,
        max_entries: int | None = None,
        bootstrap: Sequence[Place] = ("sibling", "source"),
        read_only: bool = False,
        copy: bool = False,
    ) -> None:
        self._rows: EntityCodec[V] = EntityCodec(entity, key=key, version=version)
        self.entity: type[V] = entity
        self.name: str = entity.__name__ if name is None else name
        if not is_name(self.name):
            raise ConfigurationError(f"name={name!r}: a name has 1 to {MAX_NAME} characters")
        key_of, key_type = key_reader(entity, key)
        self._keys: KeyCodec[K] = KeyCodec(key_type)
        if version is not None and not (
            isinstance(version, str) and (hasattr(entity, version) or version in _fields(entity))
        ):
            raise ConfigurationError(
                f"{self.name}: version={version!r} is no attribute of {entity.__name__}"
            )
        if isinstance(source, type) or not verbs(source):
            raise ConfigurationError(
                f"{self.name}: {source!r} is no source; pass e.g. SQLAlchemySource(engine, Model) or"
                " FunctionSource(load_all=...)"
            )
        if inspect.iscoroutinefunction(getattr(source, "load_all", None)):
            raise ConfigurationError(
                f"{self.name}: load_all of {source!r} must be an async generator that yields chunks,"
                " not a coroutine"
            )
        bind: Callable[..., Source[K, V]] | None = getattr(source, "bind", None)
        if bind is not None:
            source = bind(entity, key=key, version=version)
        able = verbs(source)
        _check_source(self.name, able, preload=preload, read_only=read_only)
        self.identity: str | None = getattr(source, "identity", None)
        """Where the rows are, in words: nodes whose identities differ exchange nothing. ``None``: not known."""
        if self.identity is not None and not is_identity(self.identity):
            raise ConfigurationError(
                f"{self.name}: identity={self.identity!r} of the source must be a text of at least one character"
            )
        ttl, hard_timeout = _seconds_or_never(ttl), _seconds_or_never(hard_timeout)
        if isinstance(bootstrap, str) or not isinstance(bootstrap, Sequence):
            raise ConfigurationError(
                f'{self.name}: bootstrap={bootstrap!r} must be a list or tuple, such as ("sibling", "source")'
            )
        self._options = Options(
            preload=preload,
            versioned=version is not None,
            ttl=ttl,
            jitter=_default_jitter(ttl) if jitter is None else jitter,
            retry_after=retry_after,
            hard_timeout=hard_timeout,
            missing_ttl=missing_ttl,
            max_entries=max_entries,
            bootstrap=tuple(bootstrap),
            can_reread=bool(able & {"load", "load_many"}),
        )
        fault = self._options.fault()
        if fault is not None:
            raise ConfigurationError(f"{self.name}: {fault}")
        self._reader: Reader[K, V] = Reader(
            self.name,
            source,
            self._keys,
            self._rows,
            key_of=key_of,
            version=version,
            timeout=hard_timeout,
        )
        self._read_only = read_only
        self._copy = copy
        self._alone: Supervisor | None = None
        self._session: Session[K, V] | None = None
        self._binding: LoopBinding | None = None
        self._last_stats = Stats()
        # Rows that may be answered with nothing else to consider. Of a whole set all of them, or none, as when they
        # are older than ttl, which is to be counted; on demand see `Ages`.
        self._hot: dict[K, V] = {}
        self._hits = 0

    def __repr__(self) -> str:
        return f"<Repository {self.name} {self.state}>"

    # -- lifecycle -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Use it alone, with no node. Returns when data is there or the first load has failed."""
        if self._session is not None or self._alone is not None:
            raise ConfigurationError(f"{self.name} is open already; a repository has one owner")
        supervisor = Supervisor(
            f"repository {self.name}", closing=self._drain, closed=self._end_alone
        )
        self._alone = supervisor
        try:
            await supervisor.start()
            session = self.attach(supervisor, secrets.token_hex(8), None)
            session.start()
            await session.started()
        except BaseException:
            await supervisor.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Carry through the writes under way, end everything else."""
        if self._alone is not None:
            if self._binding is not None:
                self._binding.check()
            await self._alone.stop()

    async def _drain(self) -> None:
        if self._session is not None:
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._session.drain()

    async def _end_alone(self) -> None:
        self._alone = None
        self.detach()

    def attach(
        self,
        supervisor: Supervisor,
        origin: str,
        siblings: Siblings | None,
        *,
        node: str | None = None,
        away: Callable[[], str | None] = lambda: None,
    ) -> Session[K, V]:
        """For a `Node`: begin a session whose background work runs in `supervisor`.

        `away` says why the broker is, while it is. Raises `ConfigurationError` if the repository is open already.
        """
        if self._session is not None:
            raise ConfigurationError(f"{self.name} is open already; a repository has one owner")
        session: Session[K, V] = Session(
            self._reader,
            self._options,
            owner=self,
            keep=self._out,
            supervisor=supervisor,
            origin=origin,
            siblings=siblings,
            node=node,
            away=away,
            identity=self.identity,
        )
        self._binding = LoopBinding(f"repository {self.name}", self._forked)
        self._session = session
        self._hits = 0
        if self._options.preload:
            session.upkeep.on_warm = self._heat
            session.upkeep.on_stale = session.upkeep.on_cold = self._cool
        elif not self._copy:
            self._hot = session.ages.hot
        return session

    def detach(self) -> None:
        """For a `Node`: end the session."""
        session, self._session = self._session, None
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.left()
        self._cool()
        if session is not None:
            self._last_stats = self._counted(session)
            session.close()

    def _forked(self) -> object:
        """Close in a forked child without sending anything; return the objects that belong to the parent."""
        inherited = self._session, self._alone, self._hot
        self._session = self._alone = None
        self._cool()
        return inherited

    def _heat(self) -> None:
        if not self._copy and self._session is not None:
            self._hot = self._session.replica.table.live

    def _cool(self) -> None:
        self._hot = {}

    # -- reads that may wait ---------------------------------------------------------------------

    async def get(self, key: K, *, max_staleness: float | None = None) -> V | None:
        """The row with this key, or ``None`` if there is none.

        Waits only for what is not in memory: before the first complete load, and for a key that is
        loaded on demand. With `max_staleness` (seconds) older data is read again first, and
        `TooStaleError` raised if that fails. Other errors: `NotReadyError`, `ClosedError`,
        `SourceUnavailableError`, `LoadTimeoutError`, and `InvalidEntityError` for an unhashable key or one of
        another type. A key of the right type that no row can have, such as ``2**70``, is absent.
        """
        if max_staleness is None:
            try:
                entity = self._hot[key]
            except KeyError:
                pass
            except TypeError as error:
                raise self._unhashable(key) from error
            else:
                self._hits += 1
                return entity
        else:
            self._check_hashable(key)
        session = self._open()
        if self._options.preload:
            await session.filling.warm()
            if max_staleness is not None and self._keys.can_exist(key):
                await self._not_older(session, key, max_staleness)
                await session.filling.warm()  # everything may have been dropped meanwhile
            row = session.replica.table.live.get(key)
            if row is None:
                row = self._absent(session, key, any_age=max_staleness is None)
            self._count(session, hits=row is not None, misses=row is None)
            return self._out(row)
        row = await self._get_on_demand(session, key, max_staleness)
        if row is None and session.replica.table.quarantined:
            row = self._absent(session, key, any_age=max_staleness is None)
        return self._out(row)

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The rows that exist of these keys; absent ones are left out. Errors as `get`, of any of the keys."""
        session = self._open()
        wanted = list(keys)
        self._check_hashable(*wanted)
        if self._options.preload:
            await session.filling.warm()
            live = session.replica.table.live
            found = {key: entity for key in wanted if (entity := live.get(key)) is not None}
            if len(found) < len(wanted):
                for key in wanted:
                    if key not in found and (held := self._absent(session, key)) is not None:
                        found[key] = held
            self._count(session, hits=len(found), misses=len(wanted) - len(found))
            return {key: self._out(entity) for key, entity in found.items()}
        rows: dict[K, V | None] = {}
        for key in wanted:
            known, entity = self._known(session, key)
            if known:
                rows[key] = entity
        absent = [key for key in dict.fromkeys(wanted) if key not in rows]
        impossible = [key for key in absent if not self._keys.can_exist(key)]
        if impossible:
            rows.update(dict.fromkeys(impossible))
            absent = [key for key in absent if key not in rows]
        if absent:
            session.stats.misses += len(absent)
            rows.update(await session.loads.join_many(absent))
        if session.replica.table.quarantined:
            rows |= {key: self._absent(session, key) for key, row in rows.items() if row is None}
        return {key: self._out(entity) for key in wanted if (entity := rows[key]) is not None}

    async def get_all(self) -> Sequence[V]:
        """Every row. Only where the whole set is held; errors as `get`."""
        session = self._open()
        self._need_whole("get_all()")
        await session.filling.warm()
        self._count(session, hits=1)
        return [self._out(entity) for entity in session.replica.table.live.values()]

    # -- reads that never wait -------------------------------------------------------------------

    def peek(self, key: K) -> V | None:
        """What is in memory for the key now, or ``None``. Raises `NotReadyError` before there is anything."""
        try:
            return self._hot[key]
        except KeyError:
            row = self._live().get(key)
            if row is None:
                row = self._absent(self._open(), key)
            return self._out(row)
        except TypeError as error:
            raise self._unhashable(key) from error

    def __getitem__(self, key: K) -> V:
        entity = self.peek(key)
        if entity is None:
            raise EntityNotFoundError(f"{self.name} has no row with the key {key!r} in memory")
        return entity

    def __contains__(self, key: K) -> bool:
        self._check_hashable(key)
        if key in self._live():
            return True
        self._keys.can_exist(key)
        return False

    def __len__(self) -> int:
        return len(self._live())

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys())

    def __bool__(self) -> bool:
        return True

    def keys(self) -> KeysView[K]:
        """The keys in memory: a live view, as a dict's."""
        return MappingProxyType(self._live()).keys()

    def values(self) -> ValuesView[V]:
        """The rows in memory: a live view, as a dict's; with ``copy=True`` a copy of every row as of now."""
        return self._handed_out().values()

    def items(self) -> ItemsView[K, V]:
        """Keys and rows in memory: a live view, as a dict's; with ``copy=True`` a copy as of now."""
        return self._handed_out().items()

    # -- writes ----------------------------------------------------------------------------------

    async def create(self, entity: V) -> V:
        """Insert a row; returns it as stored, with what the source has generated.

        Like all writes it returns once the source has committed and this process shows the row, or a newer one;
        siblings follow, and a broker that is away does not fail it. Once begun it is carried through, even if the
        caller is cancelled; while it waits for another write of its row it has not begun.

        Raises `EntityExistsError`, `ConflictError`, `SourceUnavailableError`, `LoadTimeoutError`,
        `ReadOnlyError`, `InvalidEntityError`, `NotReadyError`, `ClosedError`.

        After `EntityExistsError`, `ConflictError`, `EntityNotFoundError` and `InvalidEntityError` nothing was written,
        and `get` of the key returns what the source has: the row is read again before the error is raised.

        If other nodes write the same row at the same time, the row is read again before the write returns. If that read
        fails, or takes longer than `hard_timeout`, its error is raised with a note (``error.__notes__``) that the write
        was committed. The row is then read again in the background. After any other `SourceUnavailableError`,
        `LoadTimeoutError` or `ClosedError` the write may have been committed.
        """
        return self._out(await (await self._writable()).writer.create(entity))

    async def update(self, entity: V) -> V:
        """Replace the row with the entity's key; returns it as stored, with its new version.

        Raises `EntityNotFoundError`, `ConflictError` if the source has another version than the entity's, and
        otherwise as `create`. If the row that this process holds for the key was changed in place,
        `InvalidEntityError` is raised before the source is called, and the row is read again: an entity made from
        such a row would carry the change to the source.
        """
        return self._out(await (await self._writable()).writer.update(entity))

    async def delete(self, key: K) -> None:
        """Delete a row: of a versioned repository only in the version that is held here.

        Raises as `update`.
        """
        session = await self._writable()
        self._check_hashable(key)
        await session.writer.delete(key)

    # -- upkeep ----------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Read the source again, beginning now, and tell the siblings what differs.

        Of an on-demand repository the rows that are held. Raises as `get`.
        """
        session = self._open()
        if self._options.preload:
            await session.filling.warm()
            await session.upkeep.refresh()
        elif held := list(session.replica.table.live):
            await session.loads.join_many(held, anew=True)

    async def invalidate(self, *keys: K) -> None:
        """These rows may have changed behind our back: on every node they are read again.

        Where the whole set is held they are read here, now, and differences are published; on demand every
        node drops them. Raises as `get`.
        """
        session = self._open()
        self._check_hashable(*keys)
        possible = [key for key in keys if self._keys.can_exist(key)]
        if self._options.preload:
            await session.filling.warm()
            await session.upkeep.invalidate(possible)
            return
        for key in possible:
            session.replica.forget(key)
            session.publish(session.replica.announce(Kind.FORGET, key, time.time()))

    async def clear(self) -> None:
        """Every node drops what it holds; where the whole set is held, it is loaded anew.

        Reads wait meanwhile. Raises `ClosedError`.
        """
        session = self._open()
        session.publish(session.replica.announce(Kind.CLEAR, None, time.time()))
        session.upkeep.take(session.replica.cleared())

    # -- state -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What can be promised to a reader now."""
        session = self._session
        return State.CLOSED if session is None else session.state

    @property
    def causes(self) -> dict[str, str]:
        """What keeps it from being simply ready, in words, by the kind of it. Empty when all is well.

        ``"source"``: the source fails; ``"broker"``: the broker is away; ``"events"``: something was missed, and is
        being looked for; ``"identity"``: a node of the namespace reads another source, and nothing is exchanged with
        it; ``"rows"``: rows are quarantined, see `quarantined`. The words may quote a driver, so they are for logs
        rather than for the public.
        """
        session = self._session
        return {} if session is None else session.causes()

    @property
    def quarantined(self) -> Mapping[K | None, str]:
        """Keys whose row the source has and this node cannot hold, each with the reason: as of now.

        A row is quarantined that the source cannot make an entity of, that cannot travel to siblings, that is too
        large, or whose version is none. ``None`` stands for rows whose key cannot be read. Reads of a quarantined key
        give the last good row that this node has held, and raise `InvalidEntityError` if there was none. A good row
        under the key, whether read, written or heard of, ends the quarantine.
        """
        session = self._session
        return MappingProxyType({} if session is None else dict(session.replica.table.quarantined))

    @property
    def stats(self) -> Stats:
        """Counters since the repository was opened: a copy."""
        session = self._session
        return self._last_stats if session is None else self._counted(session)

    def info(self) -> Info:
        """How much there is and how fresh it is."""
        session = self._session
        return Info(0, None, None, None, None) if session is None else session.info()

    # -- within ----------------------------------------------------------------------------------

    async def _get_on_demand(
        self, session: Session[K, V], key: K, max_staleness: float | None
    ) -> V | None:
        known, entity = self._known(session, key, max_staleness)
        if known:
            return entity
        session.stats.misses += 1
        if not self._keys.can_exist(key):
            return None
        try:
            return await session.loads.join(key)
        except DollopError as error:
            if max_staleness is not None and session.ages.age(key) is not None:
                raise TooStaleError(
                    f"{self.name}: key {key!r} is older than {max_staleness:g} s and could not be"
                    f" read again: {error}"
                ) from error
            raise

    def _known(
        self, session: Session[K, V], key: K, max_staleness: float | None = None
    ) -> tuple[bool, V | None]:
        """Whether memory answers for a key, and its answer; begins a refresh of what is stale."""
        entity = session.replica.table.live.get(key)
        ages = session.ages
        if entity is None:
            known = max_staleness is None and ages.missing(key)
            session.stats.hits += known
            return known, None
        fresh = ages.fresh(key)
        if max_staleness is not None:
            age = ages.age(key)
            if age is None or age > max_staleness:
                return False, None
        elif not fresh:
            session.stats.stale_served += 1
            if key not in session.loads and session.upkeep.health.may_try:
                session.loads.start((key,))
        session.stats.hits += 1
        return True, entity

    async def _not_older(self, session: Session[K, V], key: K, max_staleness: float) -> None:
        """Read a row of the whole set again if it is older than that."""
        age = session.upkeep.age.seconds
        written = session.replica.known_since(key)
        if written and (elapsed := time.time() - seconds(written)) >= 0:  # else a clock was set
            age = elapsed if age is None else min(age, elapsed)
        if age is not None and age <= max_staleness:
            return
        try:
            if self._options.can_reread:
                await session.loads.join(key)
            else:
                await session.upkeep.refresh()
        except ClosedError:
            raise
        except DollopError as error:
            raise TooStaleError(
                f"{self.name}: key {key!r} may be older than {max_staleness:g} s and could not be"
                f" read again: {error}"
            ) from error

    def _count(self, session: Session[K, V], *, hits: int, misses: int = 0) -> None:
        """Reads of the whole set."""
        session.stats.hits += hits
        session.stats.misses += misses
        if session.upkeep.age.stale:
            session.stats.stale_served += hits

    def _counted(self, session: Session[K, V]) -> Stats:
        return session.counted(self._hits)

    def _open(self) -> Session[K, V]:
        session, binding = self._session, self._binding
        if binding is not None:
            binding.check()
        if session is None or session.closed:
            raise ClosedError(
                f"{self.name} is not open: use it inside `async with Node(...)`, or alone with"
                " `async with repository`"
            )
        return session

    def _live(self) -> dict[K, V]:
        session = self._open()
        if session.replica.cold:
            if not session.filling.trying:
                raise session.filling.not_ready()
            raise NotReadyError(
                f"{self.name}: the first complete load has not ended; await get(), or"
                " node.wait_ready()"
            )
        return session.replica.table.live

    async def _writable(self) -> Session[K, V]:
        session = self._open()
        if self._read_only:
            raise ReadOnlyError(f"{self.name} was declared read_only=True")
        if self._options.preload:
            await session.filling.warm()
        return self._open()

    def _need_whole(self, what: str) -> None:
        if not self._options.preload:
            raise ConfigurationError(f"{self.name}: {what} needs preload=True")

    def _out(self, entity: R) -> R:
        """What crosses the line between the caller and what is kept (``None`` stays so)."""
        return copying.deepcopy(entity) if self._copy else entity

    def _handed_out(self) -> MappingProxyType[K, V]:
        live = self._live()
        if self._copy:
            live = {key: self._out(entity) for key, entity in live.items()}
        return MappingProxyType(live)

    def _absent(self, session: Session[K, V], key: K, *, any_age: bool = True) -> V | None:
        """What to answer for a key with no row in memory: ``None``, or the last good row of a quarantined key.

        That row may be of `any_age`. Raises `InvalidEntityError` for a key of another type, and for a quarantined key
        without such a row.
        """
        table = session.replica.table
        if not self._keys.can_exist(key) or key not in table.quarantined:
            return None
        last_good = table.last_good.get(key) if any_age else None
        if last_good is None:
            raise InvalidEntityError(
                f"{self.name}: the row with the key {key!r} is quarantined: {table.quarantined[key]}. Correct the"
                " row in the source; the next read of the row, as by invalidate(), ends the quarantine"
            )
        return last_good

    def _check_hashable(self, *keys: K) -> None:
        for key in keys:
            try:
                hash(key)
            except TypeError as error:
                raise self._unhashable(key) from error

    def _unhashable(self, key: object) -> InvalidEntityError:
        return InvalidEntityError(
            f"{self.name}: {in_short(key)} cannot be a key, it is not hashable"
        )


def _default_jitter(ttl: object) -> float:
    return min(DEFAULT_JITTER * ttl, MAX_SECONDS) if is_number(ttl) and ttl > 0 else 0.0


def _seconds_or_never(seconds: float | None) -> float | None:
    """Infinity is another word for never."""
    return None if seconds == math.inf else seconds


def _fields(entity: type) -> dict[str, Any]:
    return {name: None for base in entity.__mro__ for name in getattr(base, "__annotations__", ())}


def _check_source(name: str, able: frozenset[str], *, preload: bool, read_only: bool) -> None:
    """Raises `ConfigurationError` unless the source can do what will be asked of it."""
    if preload and "load_all" not in able:
        raise ConfigurationError(
            f"{name}: the source has no load_all, which preload=True needs; give it one, or load by"
            " key with preload=False"
        )
    if not preload and not able & {"load", "load_many"}:
        raise ConfigurationError(
            f"{name}: the source has neither load nor load_many, which preload=False needs"
        )
    lacking = [verb for verb in ("create", "update", "delete") if verb not in able]
    if lacking and not read_only:
        raise ConfigurationError(
            f"{name}: the source has no {', '.join(lacking)}; give it all three, or declare the"
            " repository read_only=True"
        )
