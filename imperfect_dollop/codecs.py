"""Entities and keys as bytes: what siblings exchange and what digests are made of.

Everything is msgpack decoded into *declared* types - there is no pickle anywhere - and the bytes are
canonical: equal content gives equal bytes on every node, whatever order a dict or a set was filled in.
A `fingerprint` names the shape of an entity; nodes exchange rows only where it is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
import xxhash

from .errors import ConfigurationError, InvalidEntityError, ProtocolError
from .shape import shape_of_annotation, shape_of_schema, shape_of_type

__all__ = [
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

WIRE_VERSION: Final = 1
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

    __slots__ = ("_decode", "_encode", "_encode_known", "entity", "fingerprint")

    def __init__(
        self,
        entity: type[V],
        *,
        key: str | tuple[str, ...] | Callable[[V], Any] | None = None,
        version: str | None = None,
    ) -> None:
        if not isinstance(entity, type):
            raise _no_entity(entity)
        self.entity: type[V] = entity
        self._encode: Callable[[V], bytes]
        self._encode_known: Callable[[V], bytes]  # the same, of content that is as it was declared
        self._decode: Callable[[bytes], V]
        if hasattr(entity, "__pydantic_validator__") and hasattr(entity, "model_dump"):
            self._encode, self._decode, shape = _pydantic(entity)
            self._encode_known = self._encode
        else:
            self._encode, self._encode_known, self._decode, shape = _native(entity)
        meaning = [WIRE_VERSION, shape, _meaning(entity, key), version]
        self.fingerprint: str = xxhash.xxh3_64_hexdigest(
            msgspec.json.encode(meaning, order="sorted")
        )

    def encode(self, entity: V) -> bytes:
        """Canonical bytes. Raises `InvalidEntityError` for content that has no bytes."""
        try:
            content = self._encode(entity)
            if len(content) > MAX_CONTENT:
                raise ValueError(f"{len(content):,} bytes, and {MAX_CONTENT:,} are the limit")
            return content
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidEntityError(
                f"{self.entity.__name__} cannot be turned into bytes: {error}; siblings could not"
                " be sent this entity"
            ) from error

    def verify(self, entity: V) -> bytes:
        """Canonical bytes of an entity, once they are known to give an equal entity back.

        Raises `InvalidEntityError`, which names what differs, for an entity that a sibling would hold differently.
        """
        content = self.encode(entity)
        try:
            copy = self.decode(content)
        except ProtocolError as error:
            raise InvalidEntityError(
                f"{in_short(entity)} cannot be rebuilt from its bytes: {error}"
            ) from error
        if copy != entity or self.encode(copy) != content:
            raise InvalidEntityError(f"a copy of {in_short(entity)} would be {in_short(copy)}")
        return content

    def encode_all(self, entities: Iterable[V]) -> Iterator[bytes]:
        """As `encode`, of one after the other, and quicker. Raises whatever is wrong with one of them.

        Also for content that is not as it was declared, of which `encode` may know better.
        """
        return map(self._encode_known, entities)

    def decode_all(self, contents: Sequence[bytes]) -> list[V]:
        """As `decode`, of all of them."""
        with contextlib.suppress(Exception):  # which is said of the one that it is about, below
            if max(map(len, contents), default=0) <= MAX_CONTENT:
                return list(map(self._decode, contents))
        return [self.decode(content) for content in contents]

    def decode(self, content: bytes) -> V:
        """The entity in `content`. Raises `ProtocolError` unless it fits the declared fields."""
        try:
            if len(content) > MAX_CONTENT:
                raise ValueError(f"{len(content):,} of them, and {MAX_CONTENT:,} are the limit")
            return self._decode(content)
        except Exception as error:  # whatever a validator of the entity's own raises
            raise ProtocolError(f"bytes that are no {self.entity.__name__}: {error}") from error


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_unordered = msgspec.msgpack.Encoder()

_AS_THEY_ARE: Final = (bytes, bytearray, dt.datetime)
"""What msgpack has a form of its own for."""


_SETS: Final = (msgspec.inspect.SetType, msgspec.inspect.FrozenSetType)

_UNORDERED: Final = (
    msgspec.inspect.AnyType,
    *_SETS,
    msgspec.inspect.RawType,
)


def _canonical(value: object) -> bytes:
    """Msgpack bytes that depend on nothing but the content."""
    try:
        return _encoder.encode(value)
    except TypeError:
        # It can order dicts only if all their keys are strings.
        plain = msgspec.to_builtins(value, order="deterministic", builtin_types=_AS_THEY_ARE)
        return _unordered.encode(_ordered(plain))


def _ordered(plain: object) -> object:
    if isinstance(plain, dict):
        return {key: _ordered(plain[key]) for key in sorted(plain, key=_unordered.encode)}
    if isinstance(plain, list):
        return [_ordered(item) for item in plain]
    return plain


def _native(
    entity: type[V],
) -> tuple[Callable[[V], bytes], Callable[[V], bytes], Callable[[bytes], V], object]:
    struct = issubclass(entity, msgspec.Struct)
    if not (struct or dataclasses.is_dataclass(entity) or hasattr(entity, "__attrs_attrs__")):
        raise _no_entity(entity)
    try:
        info = msgspec.inspect.type_info(entity)
        ordered = True
        for place, found in _types(info, entity.__name__):
            ordered = ordered and _has_order(found)
            if isinstance(found, msgspec.inspect.CustomType):
                raise ConfigurationError(
                    f"{place} is a {found.cls.__name__}, which cannot be rebuilt from bytes:"
                    " use a built-in type, a dataclass, an attrs class or a Struct"
                )
            if isinstance(found, _SETS) and any(
                isinstance(below, _SETS) for _, below in _types(found.item_type, place)
            ):
                raise ConfigurationError(
                    f"{place} is a set of sets, which have no order of their own, so that equal ones could look"
                    " different: use sorted tuples inside"
                )
        decode = msgspec.msgpack.Decoder(entity).decode
        msgspec.json.schema(entity)  # refuses what could only be encoded
        shape = shape_of_type(info, _canonical)
    except (TypeError, NameError) as error:
        raise ConfigurationError(f"{entity.__name__}: {error}") from error
    # What has no order has to be tried, which takes as long again as a small row.
    known = _encoder.encode if ordered else _canonical
    return _canonical, known, decode, [entity.__name__, shape]


def _has_order(found: msgspec.inspect.Type) -> bool:
    """Whether a value of this type is no set, and no dict with other keys than strings."""
    if isinstance(found, msgspec.inspect.DictType):
        return isinstance(found.key_type, msgspec.inspect.StrType)
    return not isinstance(found, _UNORDERED)


def _no_entity(entity: object) -> ConfigurationError:
    return ConfigurationError(
        f"{entity!r} cannot be an entity: declare a dataclass, an attrs class, a msgspec.Struct or a"
        " pydantic model"
    )


def _pydantic(entity: type[Any]) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any], object]:
    # JSON mode in between: the only form that pydantic promises to read back, also for strict models.
    validate = entity.__pydantic_validator__.validate_json
    try:
        schema = entity.model_json_schema(by_alias=False)
        shape = [shape_of_schema(schema), shape_of_annotation(entity)]
    except Exception as error:  # pydantic's own errors; the package is not ours to import
        raise ConfigurationError(f"{entity.__name__}: {error}") from error
    said = msgspec.json.encode(schema)
    if b'"writeOnly":true' in said:
        raise ConfigurationError(
            f"{entity.__name__} has a secret (SecretStr, SecretBytes), which siblings would be sent as asterisks: use"
            " str or bytes"
        )
    has_sets = b'"uniqueItems":true' in said

    def encode(model: Any) -> bytes:
        said = model.model_dump(mode="json", round_trip=True, by_alias=False)
        if has_sets:
            said = _sets_in_order(model.model_dump(round_trip=True, by_alias=False), said)
        return _encoder.encode(said)

    def decode(content: bytes) -> Any:
        said = msgspec.json.encode(msgspec.msgpack.decode(content))
        return validate(said, by_alias=False, by_name=True)

    return encode, decode, shape


def _sets_in_order(python: object, said: Any) -> Any:
    """What pydantic said in JSON mode, its sets in an order of their own; `python` tells which they are."""
    if isinstance(python, (set, frozenset)):
        return sorted(said, key=_encoder.encode)
    if isinstance(python, dict) and isinstance(said, dict):
        pairs = zip(python.values(), said.items(), strict=True)
        return {name: _sets_in_order(held, value) for held, (name, value) in pairs}
    if isinstance(python, (list, tuple)) and isinstance(said, list):
        return [_sets_in_order(*pair) for pair in zip(python, said, strict=True)]
    return said


def _types(
    node: msgspec.inspect.Type, place: str, seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, msgspec.inspect.Type]]:
    """`node` and every type below it, each with the path of fields that leads there."""
    yield place, node
    if id(node) in seen:  # a class that refers to itself
        return
    seen |= {id(node)}
    for name in getattr(node, "__struct_fields__", ()):
        child = getattr(node, name)
        for item in child if isinstance(child, tuple) else (child,):
            if isinstance(item, msgspec.inspect.Field):
                yield from _types(item.type, f"{place}.{item.name}", seen)
            elif isinstance(item, msgspec.inspect.Type):
                yield from _types(item, place, seen)


class KeyCodec(Generic[K]):
    """Keys of one repository to and from bytes.

    `key_type` is the declared type of the key where one is known. Without it only keys that msgpack
    gives back as they were (``int``, ``str``, ``bytes``, ``bool``, ``float``, tuples of these)
    pass; for any other type the key function's return annotation is needed.
    """

    __slots__ = ("_decode", "_last", "_proven", "one_spelling")

    def __init__(self, key_type: object = None) -> None:
        self._proven: set[type] = set()
        kind = _without_none(key_type)
        # Whether keys that are equal have the same bytes always.
        self.one_spelling: bool = any(kind is plain for plain in _UNCHANGING)
        # The same key is asked for several times in a row, by whatever is to be done for a write or an event.
        self._last: tuple[object, bytes] = object(), b""
        if key_type in (None, Any, object) or isinstance(key_type, TypeVar):
            self._decode: Callable[[bytes], Any] = _plain_key
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
                if type(key) is not tuple:  # one tuple proves nothing about the next
                    self._proven.add(type(key))
            if type(key) in _UNCHANGING:
                self._last = key, encoded
        except (*_UNREADABLE, OverflowError) as error:
            raise InvalidEntityError(f"{in_short(key)} cannot be a key here: {error}") from error
        return encoded

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
    return [None if callable(key) else key, shape_of_annotation(key_reader(entity, key)[1])]
