"""Entities and keys as bytes: what siblings exchange and what digests are made of.

Everything is msgpack decoded into *declared* types - there is no pickle anywhere - and the bytes are
canonical: equal content gives equal bytes on every node, whatever order a dict or a set was filled in.
A `fingerprint` names the shape of an entity; nodes exchange rows only where it is the same.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import operator
import types
import typing
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, Union, cast

import msgspec
import xxhash

from .errors import ConfigurationError, InvalidEntityError, ProtocolError
from .serialization.classes import fields_of, kind_of
from .serialization.equality import difference
from .serialization.plans import Planner, encoded
from .serialization.scalars import Unfit

__all__ = [
    "MAX_CONTENT",
    "EntityCodec",
    "KeyCodec",
    "content_hash",
    "content_hashes",
    "in_short",
    "key_hash",
    "key_reader",
]

K = TypeVar("K")
V = TypeVar("V")

MAX_CONTENT: Final = 4 << 20
"""Bytes of one entity: with half of what a message may have, every chunk of a snapshot fits."""

MAX_KEY: Final = 8 << 10
"""Bytes of one key: above what databases put into an index (3,072 in MariaDB, 2,700 in PostgreSQL)."""

MOST_SHOWN: Final = 300
"""Characters of a row, or of a key, in an error or in the log."""

WIRE_VERSION: Final = 2
"""Part of every fingerprint: raised when the bytes of an unchanged entity change."""

key_hash: Final = xxhash.xxh3_64_intdigest
"""64-bit hash of a key's bytes; the same in every process, unlike `hash`."""


_KEPT: Final = 2**60 - 1
"""Bits of a row's hash. There is one for every row, and CPython's ints of up to 60 bits take 16 bytes less than longer
ones."""


def content_hash(of_key: int, content: bytes) -> int:
    """60-bit hash of one row, bound to its key by the `key_hash` of that."""
    return xxhash.xxh3_64_intdigest(content, of_key) & _KEPT


def content_hashes(of_keys: Iterable[int], contents: Iterable[bytes]) -> list[int]:
    """As `content_hash`, of all of them."""
    return [hashed & _KEPT for hashed in map(xxhash.xxh3_64_intdigest, contents, of_keys)]


class EntityCodec(Generic[V]):
    """One entity class to and from bytes: a dataclass, attrs class, Struct or pydantic model.

    `key` and `version` say where an entity has these, and are part of the fingerprint: a stamp, and an event
    without content, mean something only to who takes them from the same place.

    Raises `ConfigurationError` for a class of another kind, and for a field whose type cannot be
    rebuilt from bytes.
    """

    __slots__ = ("_dump", "_load", "_load_plainly", "_planner", "entity", "fingerprint")

    def __init__(
        self,
        entity: type[V],
        *,
        key: str | tuple[str, ...] | Callable[[V], Any] | None = None,
        version: str | None = None,
    ) -> None:
        if not isinstance(entity, type) or kind_of(entity) in (None, "tuple"):
            raise _no_entity(entity)
        self.entity: type[V] = entity
        planner = Planner()
        try:
            plan = planner.plan(entity, entity.__name__)
        except Unfit as error:
            raise ConfigurationError(f"{entity.__name__}: {error}") from error
        self._planner = planner
        self._dump: Callable[[V], Any] = plan.dump
        self._load: Callable[[Any], V] = plan.load
        self._load_plainly = _plain_loader(entity, planner)
        meaning = [WIRE_VERSION, plan.shape, _meaning(entity, key), version]
        self.fingerprint: str = xxhash.xxh3_64_hexdigest(
            msgspec.json.encode(meaning, order="sorted")
        )

    def encode(self, entity: V) -> bytes:
        """Canonical bytes. Raises `InvalidEntityError`, which names the field, for content that has no bytes."""
        try:
            content = encoded(self._dump(entity))
        # A property or a descriptor of the application may raise anything.
        except Exception as error:
            raise InvalidEntityError(
                f"{self._fault(entity, error)}; siblings could not be sent this {self.entity.__name__}"
            ) from error
        if len(content) > MAX_CONTENT:
            raise InvalidEntityError(
                f"this {self.entity.__name__} cannot be turned into bytes: there are {len(content):,} of them, and"
                f" {MAX_CONTENT:,} are the limit"
            )
        return content

    def _fault(self, entity: V, error: Exception) -> str:
        """Which field has no bytes, and why."""
        name = self.entity.__name__
        if type(entity) is not self.entity:
            return f"a {type(entity).__name__} is no {name}"
        for field in fields_of(self.entity):
            try:
                value = getattr(entity, field.name)
            except Exception:
                return f"{name}.{field.name} has no value"
            try:
                encoded(self._planner.plan(field.annotation, field.name).dump_one(value))
            except Exception as fault:
                return f"{name}.{field.name} is {in_short(value)}, which cannot be turned into bytes: {_why(fault)}"
        return f"this {name} cannot be turned into bytes: {_why(error)}"

    def verify(self, entity: V) -> bytes:
        """Canonical bytes of an entity, once they are known to give an equal entity back.

        Raises `InvalidEntityError`, which names what differs, for an entity that a sibling would hold differently.
        """
        content = self.encode(entity)
        try:
            copy = self.decode(content)
            fault = difference(entity, copy, self.entity.__name__)
            # Copies that differ among themselves, as by a NaN, show nothing by differing from the original.
            if fault is None and copy != entity and copy == self.decode(content):
                fault = "by its own __eq__ it differs from an object with the same fields"
        except Exception as error:
            fault = f"cannot be rebuilt: {_why(error)}"
        if fault is not None:
            raise InvalidEntityError(
                f"a copy of {in_short(entity)} would not be equal to it: {fault}"
            )
        return content

    def encode_all(self, entities: Iterable[V]) -> Iterator[bytes]:
        """As `encode`, of one after the other, and quicker.

        Raises the error of the first entity that has no bytes. Only `encode` takes ints beyond 64 bits.
        """
        return map(_encoder.encode, map(self._dump, entities))

    def decode_all(self, contents: Sequence[bytes]) -> list[V]:
        """As `decode`, of all of them, and quicker."""
        with contextlib.suppress(Exception):  # which is said of the one that it is about, below
            if max(map(len, contents), default=0) <= MAX_CONTENT:
                if self._load_plainly is not None:
                    with contextlib.suppress(msgspec.MsgspecError):  # a value of another type
                        return self._load_plainly(contents)
                entities = list(map(self._load, map(_decode, contents)))
                if list(self.encode_all(entities)) == contents:
                    return entities
        return [self.decode(content) for content in contents]

    def decode(self, content: bytes) -> V:
        """The entity in `content`. Raises `ProtocolError` unless these are the canonical bytes of one."""
        try:
            if len(content) > MAX_CONTENT:
                raise ValueError(f"{len(content):,} of them, and {MAX_CONTENT:,} are the limit")
            entity = self._load(_decode(content))
            if type(entity) is not self.entity or encoded(self._dump(entity)) != content:
                raise ValueError("not the canonical bytes of an entity")
            return entity
        except Exception as error:  # also of code of the application's, such as a property
            raise ProtocolError(
                f"bytes that are no {self.entity.__name__}: {_why(error)}"
            ) from error


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decode: Final = msgspec.msgpack.Decoder().decode


def _why(error: Exception) -> str:
    """An error in a few words."""
    return (
        str(error) if isinstance(error, (Unfit, ValueError)) else f"{type(error).__name__}: {error}"
    )


def _plain_loader(entity: type[V], planner: Planner) -> Callable[[Sequence[bytes]], list[V]] | None:
    """What makes entities of many contents at once; ``None`` unless they are Structs of values that msgpack has."""
    if not issubclass(entity, msgspec.Struct) or hasattr(entity, "__post_init__"):
        return None
    fields = fields_of(entity)
    plans = [planner.plan(field.annotation, field.name) for field in fields]
    positional = len(entity.__match_args__) == len(fields)
    if not fields or not positional or not all(plan.native for plan in plans):
        return None
    kinds = tuple(Union[tuple(plan.plain)] for plan in plans)  # noqa: UP007  # computed
    try:
        decode = msgspec.msgpack.Decoder(types.GenericAlias(tuple, kinds)).decode
    except TypeError:  # a union that msgspec cannot tell apart
        return None

    def load(contents: Sequence[bytes]) -> list[V]:
        rows: list[Any] = list(map(decode, contents))
        if list(map(_encoder.encode, rows)) != contents:
            raise ValueError("bytes that are not canonical")
        return list(itertools.starmap(entity, rows))

    return load


def _no_entity(entity: object) -> ConfigurationError:
    return ConfigurationError(
        f"{entity!r} cannot be an entity: declare a dataclass, an attrs class, a msgspec.Struct or a"
        " pydantic model"
    )


class KeyCodec(Generic[K]):
    """Keys of one repository to and from bytes.

    `key_type` is the declared type of the key where one is known. Without it only keys that msgpack
    gives back as they were (``int``, ``str``, ``bytes``, ``bool``, ``float``, tuples of these)
    pass; for any other type the key function's return annotation is needed.
    """

    __slots__ = ("_decode", "_kind", "_last", "_proven", "one_spelling")

    def __init__(self, key_type: object = None) -> None:
        self._proven: set[type] = set()
        kind = _without_none(key_type)
        self._kind: Any = kind  # `_PLAIN` where the type is not declared
        # Whether keys that are equal have the same bytes always.
        self.one_spelling: bool = any(kind is plain for plain in _UNCHANGING)
        # The same key is asked for several times in a row, by whatever is to be done for a write or an event.
        self._last: tuple[object, bytes] = object(), b""
        if key_type in (None, Any, object) or isinstance(key_type, TypeVar):
            self._decode: Callable[[bytes], Any] = _plain_key
            self._kind = _PLAIN
            return
        try:
            self._decode = msgspec.msgpack.Decoder(key_type).decode
        except TypeError as error:
            raise ConfigurationError(f"{key_type!r} cannot be a key: {error}") from error

    def encode(self, key: K) -> bytes:
        """Canonical bytes. Raises `InvalidEntityError` for a key that could not be read back."""
        last, encoded = self._last
        if key is last:
            return encoded
        try:
            encoded = _encoder.encode(key)
            if len(encoded) > MAX_KEY:
                raise ValueError(f"{len(encoded):,} bytes, and {MAX_KEY:,} are the limit")
            if type(key) not in self._proven:
                if self._decode(encoded) != key:
                    raise TypeError("annotate the key, or the key function's return type")
                if type(key) in _UNIFORM:
                    self._proven.add(type(key))
            if type(key) in _UNCHANGING:
                self._last = key, encoded
        except (*_UNREADABLE, OverflowError) as error:
            raise InvalidEntityError(f"{in_short(key)} cannot be a key here: {error}") from error
        return encoded

    def can_exist(self, key: K) -> bool:
        """Whether a row can have this key. Raises `InvalidEntityError` for a key of another type.

        A value of the right type may still be none that a row can have: an integer beyond 64 bits, text that is no
        valid Unicode, more bytes than the limit.
        """
        if key is None:
            raise InvalidEntityError("None is no key: a row has none until the source gives one")
        try:
            self.encode(key)
        except InvalidEntityError:
            try:
                msgspec.convert(key, self._kind)
            except _UNREADABLE:
                pass
            else:
                return False
            raise
        return True

    def encode_all(self, keys: Sequence[K]) -> list[bytes]:
        """As `encode`, of all of them."""
        if self._proven.issuperset(map(type, keys)):
            with contextlib.suppress(*_UNREADABLE, OverflowError):
                encoded = list(map(_encoder.encode, keys))
                if max(map(len, encoded), default=0) <= MAX_KEY:
                    return encoded
        return [self.encode(key) for key in keys]

    def decode(self, content: bytes) -> K:
        """The key in `content`. Raises `ProtocolError` unless it is one."""
        try:
            if len(content) > MAX_KEY:
                raise ValueError(f"{len(content):,} of them, and {MAX_KEY:,} are the limit")
            key = self._decode(content)
            hash(key)
            # Two spellings of one key would be two rows to whoever hashes bytes; NaN equals nothing.
            if _encoder.encode(key) != content or self._decode(content) != key:
                raise ValueError("not the canonical bytes of a key")
        except _UNREADABLE as error:
            raise ProtocolError(f"bytes that are no key: {error}") from error
        return cast("K", key)


_PLAIN: Final = int | str | bytes | float | bool | tuple[Any, ...]
"""The types of keys whose type is not declared."""

_UNIFORM: Final = frozenset({int, bool, str, bytes, uuid.UUID, dt.date})
"""Types of which one value proves that every other can be read back. One tuple, or one float, proves nothing."""

_UNCHANGING: Final = frozenset({int, str, bytes})
"""Types of which the same object has the same bytes always."""


def _without_none(key_type: object) -> object:
    """The type of a key that is ``None`` until the source gives one."""
    if typing.get_origin(key_type) not in (typing.Union, types.UnionType):
        return key_type
    kinds = [kind for kind in typing.get_args(key_type) if kind is not types.NoneType]
    return kinds[0] if len(kinds) == 1 else key_type


def in_short(value: object) -> str:
    """`repr`, also of an object that is only half made; its beginning, where a row or a key is large."""
    try:
        text = repr(value)
    except Exception as error:
        return f"a {type(value).__name__} (its repr raises {error!r})"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


_UNREADABLE: Final = (TypeError, ValueError, RecursionError, msgspec.MsgspecError)


def _tuple_of(members: tuple[object, ...]) -> object:
    return types.GenericAlias(tuple, members)


def _plain_key(content: bytes) -> object:
    return _as_tuples(msgspec.msgpack.decode(content))


def _as_tuples(value: object) -> object:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def key_reader(
    entity: type[V], key: str | tuple[str, ...] | Callable[[V], K]
) -> tuple[Callable[[V], K], object]:
    """How to read an entity's key, and the key's declared type (``None`` where unknown).

    Raises `ConfigurationError` for an attribute that the entity does not declare.
    """
    if isinstance(key, (str, tuple)):
        names = (key,) if isinstance(key, str) else key
        try:
            hints = typing.get_type_hints(entity)
        except (NameError, TypeError):  # forward references to what is not importable
            hints = {}
        fields = hints or getattr(entity, "__annotations__", {})
        for name in names:
            if not isinstance(name, str) or (name not in fields and not hasattr(entity, name)):
                raise ConfigurationError(
                    f"key={key!r}: {entity.__name__} has no attribute {name!r}; it declares"
                    f" {', '.join(fields) or 'none'}. Name the attribute that holds the key, a"
                    " tuple of such names, or pass a function of the entity"
                )
        declared = tuple(hints.get(name) for name in names)
        known = None not in declared
        if isinstance(key, str):
            return operator.attrgetter(key), declared[0]
        if len(names) < 2:
            raise ConfigurationError(f"key={key!r}: a composite key has at least two attributes")
        read = cast("Callable[[V], K]", operator.attrgetter(*key))
        return read, (_tuple_of(declared) if known else None)
    if callable(key):
        try:
            return key, typing.get_type_hints(key).get("return")
        except (NameError, TypeError):
            return key, None
    raise ConfigurationError(f"key={key!r} is neither an attribute name nor a function")


def _meaning(entity: type[Any], key: str | tuple[str, ...] | Callable[[Any], Any] | None) -> object:
    """Where a key is taken from, as far as another process can compare it: of a function that is the key's type."""
    if key is None:
        return None
    declared = key_reader(entity, key)[1]
    try:
        shape = None if declared is None else Planner().plan(declared, "key")
    except Unfit:  # which the codec of keys says
        shape = None
    return [None if callable(key) else key, None if shape is None else shape.shape]
