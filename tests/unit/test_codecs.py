"""Entities and keys as bytes: what can be one, canonical bytes, and the name of a shape."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Optional, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imperfect_dollop.codecs import EntityCodec, KeyCodec, content_hash, key_hash, key_reader
from imperfect_dollop.errors import ConfigurationError, InvalidEntityError, ProtocolError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int


T = TypeVar("T")


@dataclasses.dataclass
class Plain:
    id: int
    name: str = ""
    tags: set[int] = dataclasses.field(default_factory=set)
    extra: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    id: uuid.UUID
    when: dt.datetime
    price: decimal.Decimal
    colour: Colour
    at: Point
    parent: Slotted | None = None


@attrs.define
class Attrs:
    id: int
    tags: frozenset[str] = frozenset()


class Struct(msgspec.Struct, frozen=True):
    id: int
    data: bytes = b""
    pairs: dict[int, list[str]] = {}


class Model(pydantic.BaseModel):
    id: int
    when: dt.datetime | None = None
    tags: set[int] = set()
    extra: dict[str, int] = {}


class Strict(pydantic.BaseModel, strict=True, frozen=True):
    id: uuid.UUID
    when: dt.datetime
    price: decimal.Decimal
    colour: Colour
    tags: frozenset[int] = frozenset()


class Aliased(pydantic.BaseModel):
    id: int
    name: str = pydantic.Field(alias="userName")


class Nested(pydantic.BaseModel):
    id: int
    groups: dict[str, set[int]] = {}
    within: list[Model] = []


ID = uuid.UUID(int=7)
WHEN = dt.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=dt.UTC)
PRICE = decimal.Decimal("1.10")

ENTITIES = [
    Plain(1, "ü", {3, 1}, {"b": 1, "a": 2}),
    Slotted(
        ID, WHEN, PRICE, Colour.BLUE, Point(1, 2), Slotted(ID, WHEN, PRICE, Colour.RED, Point(0, 0))
    ),
    Attrs(1, frozenset({"x", "y"})),
    Struct(1, b"\xff\x00", {2: ["x"], 1: []}),
    Model(id=1, when=WHEN, tags={1, 2}, extra={"b": 1, "a": 2}),
    Strict(id=ID, when=WHEN, price=PRICE, colour=Colour.RED, tags=frozenset({4})),
    Aliased(userName="x", id=1),
    Nested(id=1, groups={"a": {1, 2}}, within=[Model(id=2)]),
]


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: type(entity).__name__)
def test_every_kind_of_entity_comes_back_as_it_was(entity: Any) -> None:
    codec = EntityCodec(type(entity))
    content = codec.encode(entity)
    back = codec.decode(content)
    assert back == entity
    assert type(back) is type(entity)
    assert codec.encode(back) == content


# -- canonical bytes -------------------------------------------------------------------------------

# 0, 8, 16 … share a slot in a small set, so it iterates in the order in which they were added.
CLASHING = [0, 8, 16, 24]


@pytest.mark.parametrize(
    "build",
    [
        lambda numbers: Plain(1, tags=set(numbers)),
        lambda numbers: Plain(1, extra={str(number): 1 for number in numbers}),
        lambda numbers: Struct(1, pairs={number: [] for number in numbers}),
        lambda numbers: Model(id=1, extra={str(number): 1 for number in numbers}),
        lambda numbers: Model.model_construct(id=1, tags=set(numbers)),
        lambda numbers: Nested.model_construct(id=1, groups={"x": set(numbers)}),
        lambda numbers: Nested.model_construct(
            id=1, within=[Model.model_construct(id=1, tags=set(numbers))]
        ),
    ],
    ids=[
        "set",
        "dict",
        "Struct",
        "Model dict",
        "Model set",
        "Model dict of sets",
        "Model in Model",
    ],
)
def test_equal_content_is_equal_bytes_whatever_the_order(build: Callable[[list[int]], Any]) -> None:
    one, other = build(CLASHING), build(CLASHING[::-1])
    assert one == other
    codec = EntityCodec(type(one))
    assert codec.encode(one) == codec.encode(other)


def test_other_content_is_other_bytes() -> None:
    codec = EntityCodec(Plain)
    variants = [Plain(1), Plain(2), Plain(1, "x"), Plain(1, tags={1}), Plain(1, extra={"1": 1})]
    assert len({codec.encode(one) for one in variants}) == len(variants)


def test_a_content_hash_is_bound_to_its_key() -> None:
    assert content_hash(key_hash(b"1"), b"x") != content_hash(key_hash(b"2"), b"x")
    assert content_hash(key_hash(b"1"), b"x") != content_hash(key_hash(b"1"), b"y")


# -- what does not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codec", [EntityCodec(type(one)) for one in ENTITIES], ids=lambda codec: codec.entity.__name__
)
@given(st.binary(max_size=40))
def test_bytes_that_are_no_entity_raise_a_protocol_error(
    codec: EntityCodec[Any], content: bytes
) -> None:
    try:
        entity = codec.decode(content)
    except ProtocolError:
        return
    assert isinstance(entity, codec.entity)


@pytest.mark.parametrize(
    "entity",
    [
        Plain(1, name="half \ud83d"),
        Plain(1, name=object()),  # type: ignore[arg-type]
        Plain(1, extra={object(): 1}),  # type: ignore[dict-item]
        Struct(1, pairs={1: [object()]}),  # type: ignore[list-item]
        Model.model_construct(),  # its field has no value
        Model.model_construct(id=object()),
    ],
)
def test_content_without_bytes_is_an_invalid_entity(entity: Any) -> None:
    with pytest.raises(InvalidEntityError):
        EntityCodec(type(entity)).encode(entity)


def test_an_entity_that_contains_itself_is_invalid() -> None:
    @dataclasses.dataclass
    class Knot:
        rest: list[Any]

    knot = Knot([])
    knot.rest.append(knot.rest)
    with pytest.raises(InvalidEntityError):
        EntityCodec(Knot).encode(knot)


class Custom:
    pass


@dataclasses.dataclass
class WithCustom:
    id: int
    deep: dict[str, list[Custom | None]]


@dataclasses.dataclass
class WithUnknown:
    id: NobodyKnows  # type: ignore[name-defined]  # noqa: F821


@dataclasses.dataclass
class WithFunction:
    id: int
    call: Callable[[int], int]


@dataclasses.dataclass
class WithList:
    id: int
    items: Numbered


class Numbered(list[int]):
    pass


@dataclasses.dataclass
class FailedError(Exception):
    id: int


class WithArbitrary(pydantic.BaseModel, arbitrary_types_allowed=True):
    id: Custom


@pytest.mark.parametrize(
    "entity",
    [
        WithCustom,
        WithFunction,
        WithList,
        FailedError,
        WithUnknown,
        WithArbitrary,
    ],
)
def test_a_field_that_cannot_be_rebuilt_is_refused_by_name_at_once(entity: type[Any]) -> None:
    with pytest.raises(ConfigurationError, match=entity.__name__):
        EntityCodec(entity)


@pytest.mark.parametrize("entity", [dict, int, Custom, Colour, Plain(1)])
def test_what_is_no_entity_class_is_refused(entity: Any) -> None:
    with pytest.raises(ConfigurationError):
        EntityCodec(entity)


# -- fingerprints ----------------------------------------------------------------------------------


def shape(name: str, doc: str | None = None, **fields: Any) -> type[Any]:
    made: type[Any] = dataclasses.make_dataclass(name, list(fields.items()))
    made.__doc__ = doc
    return made


def fingerprint(entity: type[Any]) -> str:
    return EntityCodec(entity).fingerprint


def test_a_docstring_does_not_change_the_fingerprint() -> None:
    assert fingerprint(shape("A", "one", x=int)) == fingerprint(shape("A", "two", x=int))
    one = pydantic.create_model("M", __doc__="one", x=(int, pydantic.Field(description="one")))
    two = pydantic.create_model("M", __doc__="two", x=(int, pydantic.Field(description="two")))
    assert fingerprint(one) == fingerprint(two)


@pytest.mark.parametrize(
    "other",
    [
        {"x": int, "y": str},
        {"x": str},
        {"x": float},
        {"y": int},
        {"x": int | None},
        {"x": list[int]},
        {"x": uuid.UUID},
        {},
    ],
)
def test_fields_and_types_change_the_fingerprint(other: dict[str, Any]) -> None:
    assert fingerprint(shape("A", **other)) != fingerprint(shape("A", x=int))


def test_types_that_look_alike_in_a_schema_have_fingerprints_of_their_own() -> None:
    # A list keeps its order and a set is sorted: the same content has other bytes.
    assert fingerprint(shape("A", x=list[int])) != fingerprint(shape("A", x=set[int]))


def test_a_field_that_is_called_like_prose_counts() -> None:
    fields: dict[str, Any] = {"title": str, "description": str}
    assert fingerprint(shape("A", **fields)) != fingerprint(shape("A", title=str))
    assert fingerprint(shape("A", **fields)) != fingerprint(shape("A", title=int, description=str))


def test_the_types_of_nested_classes_count() -> None:
    one = shape("A", inner=list[shape("B", x=int)])  # type: ignore[misc]
    two = shape("A", inner=list[shape("B", x=str)])  # type: ignore[misc]
    assert fingerprint(one) != fingerprint(two)


def struct(*fields: Any, **settings: Any) -> type[Any]:
    made: type[Any] = msgspec.defstruct("E", [("id", int), *fields], **settings)
    return made


def model(**fields: Any) -> type[Any]:
    made: type[Any] = pydantic.create_model("M", id=(int, ...), **fields)
    return made


TWO = (("first", str), ("last", str))


def place(*fields: str) -> Any:
    made: Any = NamedTuple
    return made("P", [(name, int) for name in fields])


def hue(**members: int) -> Any:
    made: Any = enum.IntEnum
    return made("Hue", members)


def listed(inner: Any) -> Any:
    return dict[str, list[inner]]


XY, YX = place("x", "y"), place("y", "x")
RED_IS_ONE, RED_IS_TWO = hue(RED=1, BLUE=2), hue(RED=2, BLUE=1)
LEFT_OUT = msgspec.UNSET


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (struct(*TWO, array_like=True), struct(*TWO[::-1], array_like=True)),
        (
            struct(*TWO),
            struct(*TWO[::-1]),
        ),  # the same content, and other bytes: no digest would agree
        (struct(("x", XY)), struct(("x", YX))),
        (struct(("x", RED_IS_ONE)), struct(("x", RED_IS_TWO))),
        (struct(("x", dict[int, int])), struct(("x", dict[str, int]))),
        (struct(("prefixItems", int)), struct(("prefixItems", str))),
        (model(x=(RED_IS_ONE, ...)), model(x=(RED_IS_TWO, ...))),
        (model(x=(listed(RED_IS_ONE), ...)), model(x=(listed(RED_IS_TWO), ...))),
        (model(x=(XY, ...)), model(x=(YX, ...))),
        (model(x=(dict[int, int], ...)), model(x=(dict[str, int], ...))),
        (model(prefixItems=(int, ...)), model(prefixItems=(str, ...))),
        (model(x=(model(y=(XY, ...)), ...)), model(x=(model(y=(YX, ...)), ...))),
    ],
)
def test_what_reads_the_same_and_means_something_else_has_another_fingerprint(
    one: type[Any], other: type[Any]
) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            struct(*TWO, rename={"first": "a", "last": "b"}),
            struct(*TWO, rename={"first": "b", "last": "a"}),
        ),
        (struct(("x", str, "a")), struct(("x", str, "a"), omit_defaults=True)),
        (
            struct(("x", str, "a"), omit_defaults=True),
            struct(("x", str, "b"), omit_defaults=True),
        ),
        (
            struct(("x", list[int], msgspec.field(default_factory=list)), omit_defaults=True),
            struct(("x", list[int]), omit_defaults=True),
        ),
        (
            struct(("x", int | msgspec.UnsetType, LEFT_OUT)),
            struct(("x", int | msgspec.UnsetType, 5)),
        ),
        (struct(tag="a"), struct(tag="b")),
        (struct(forbid_unknown_fields=True), struct()),
        (struct(("x", str, "a")), struct(("x", str, "b"))),
        (model(x=(int, 1)), model(x=(int, 2))),
        (model(x=(int, pydantic.Field(alias="y"))), model(x=(int, pydantic.Field(alias="z")))),
        (shape("A", x=int | str | None), shape("A", x=None | str | int)),
    ],
)
def test_what_the_bytes_do_not_depend_on_does_not_change_the_fingerprint(
    one: type[Any], other: type[Any]
) -> None:
    assert fingerprint(one) == fingerprint(other)


class Family(pydantic.BaseModel):
    id: int
    children: list[Family] = []


def test_classes_that_refer_to_themselves_have_a_fingerprint() -> None:
    assert fingerprint(Family) == fingerprint(Family)
    assert fingerprint(Slotted) != fingerprint(Family)


@dataclasses.dataclass(frozen=True)
class Page(Generic[T]):
    items: tuple[T, ...]


@dataclasses.dataclass(frozen=True)
class Numbers:
    page: Page[int]


@dataclasses.dataclass(frozen=True)
class Names:
    page: Page[str]


def test_a_field_of_a_generic_class() -> None:
    codec = EntityCodec(Numbers)
    numbers = Numbers(Page((1, 2)))
    assert codec.decode(codec.encode(numbers)) == numbers
    assert fingerprint(Numbers) != fingerprint(
        dataclasses.make_dataclass("Numbers", [("page", Page[str])])
    )


def number_of(order: Order) -> int:
    return order.number


def label_of(order: Order) -> str:
    return order.label


def test_where_key_and_version_are_taken_from_is_part_of_the_fingerprint() -> None:
    said: list[dict[str, Any]] = [
        {"key": "region"},
        {"key": "number"},
        {"key": "number", "version": "number"},
        {"key": ("region", "number")},
        {"key": ("number", "region")},
        {"key": number_of},
        {"key": label_of},
    ]
    assert len({EntityCodec(Order, **how).fingerprint for how in said}) == len(said)
    again = EntityCodec(Order, key="number", version="number")
    assert again.fingerprint == EntityCodec(Order, **said[2]).fingerprint


class Excluding(pydantic.BaseModel):
    id: int
    hidden: str = pydantic.Field("", exclude=True)


class Around(pydantic.BaseModel):
    id: int
    within: dict[str, list[Excluding | None]]


class Secretive(pydantic.BaseModel):
    id: int
    password: pydantic.SecretStr


def test_codec_field_excluded_from_a_model_s_output_travels() -> None:
    around = Around(id=1, within={"a": [Excluding(id=2, hidden="x"), None]})
    codec = EntityCodec(Around)
    assert codec.decode(codec.verify(around)).within["a"][0].hidden == "x"  # type: ignore[union-attr]


def test_codec_secret_field_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Secretive\.password.*siblings"):
        EntityCodec(Secretive)


SHAPE = """
import dataclasses, enum, typing
from imperfect_dollop.codecs import EntityCodec
@dataclasses.dataclass
class Shape:
    kind: typing.Literal["x", "y", "z", "w"]
    colour: enum.Enum("Colour", ["RED", "BLUE", "GREEN"])
    either: int | str | None | list[int]
    tags: frozenset[str] = frozenset({"a", "b", "c", "d"})
codec = EntityCodec(Shape)
print(codec.fingerprint, codec.encode(Shape("x", 1, None, frozenset("abcdefgh"))).hex())
"""


def test_fingerprint_and_bytes_are_the_same_in_every_process() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", SHAPE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


# -- keys ------------------------------------------------------------------------------------------

plain_keys = st.recursive(
    st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.booleans(),
    lambda inner: st.tuples(inner, inner),
    max_leaves=4,
)


@given(plain_keys)
def test_plain_keys_come_back_without_a_declared_type(key: Any) -> None:
    codec: KeyCodec[Any] = KeyCodec()
    assert codec.decode(codec.encode(key)) == key


@pytest.mark.parametrize(
    ("key_type", "key"),
    [
        (int, 5),
        (str, "ü"),
        (uuid.UUID, ID),
        (dt.datetime, WHEN),
        (Colour, Colour.RED),
        (Point, Point(1, 2)),
        (tuple[uuid.UUID, int], (ID, 5)),
        (int | str, "x"),
    ],
)
def test_declared_keys_come_back_as_they_were(key_type: object, key: Any) -> None:
    codec: KeyCodec[Any] = KeyCodec(key_type)
    back = codec.decode(codec.encode(key))
    assert back == key
    assert type(back) is type(key)


@pytest.mark.parametrize(
    "key", [ID, (1, ID), WHEN.date(), 1 + 1j, 2**70, [1], None.__class__, (1, [2])]
)
def test_a_key_that_would_not_come_back_is_refused(key: Any) -> None:
    codec: KeyCodec[Any] = KeyCodec()
    with pytest.raises(InvalidEntityError):
        codec.encode(key)


@pytest.mark.parametrize(
    ("key_type", "one"),
    [
        (int, True),
        (str, True),
        (int | None, True),
        (Optional[bytes], True),  # noqa: UP045
        (None, False),
        (Any, False),
        (float, False),
        (decimal.Decimal, False),
        (tuple[int], False),
        (int | float, False),
        (dict[str, list[int]], False),
    ],
)
def test_of_which_keys_equal_ones_have_the_same_bytes(key_type: object, one: bool) -> None:
    assert KeyCodec(key_type).one_spelling is one


@pytest.mark.parametrize(
    ("key_type", "good", "bad"),
    [
        (None, (1, 2), (1, ID)),
        (float, 1.5, float("nan")),
        (decimal.Decimal, decimal.Decimal(1), decimal.Decimal("NaN")),
        (frozenset[int], frozenset({1}), frozenset({"a"})),
        (Point, Point(1, 2), Point("a", 2)),  # type: ignore[arg-type]
    ],
)
def test_key_codec_after_one_good_key_still_refuses_a_bad_key_of_its_type(
    key_type: object, good: Any, bad: Any
) -> None:
    codec: KeyCodec[Any] = KeyCodec(key_type)
    codec.encode_all([good, good])
    with pytest.raises(InvalidEntityError):
        codec.encode(bad)
    with pytest.raises(InvalidEntityError):
        codec.encode_all([good, bad])


@pytest.mark.parametrize("key_type", [None, int, str, float, uuid.UUID, tuple[int, str], Point])
@given(st.binary(max_size=30))
@example(msgspec.msgpack.encode(float("nan")))
@example(b"\xcd\x00\x01")  # a 1 that takes more bytes than it must
def test_bytes_that_are_no_key_raise_a_protocol_error(key_type: object, content: bytes) -> None:
    codec: KeyCodec[Any] = KeyCodec(key_type)
    try:
        key = codec.decode(content)
    except ProtocolError:
        return
    # What was read can be held and be found again.
    assert {key: 1}[key] == 1
    assert codec.encode(key) == content


@pytest.mark.parametrize("content", [b"\x91" * 5_000, b"\x80", b"\x91\x80"])
def test_deep_or_unhashable_keys_raise_a_protocol_error(content: bytes) -> None:
    codec: KeyCodec[Any] = KeyCodec()
    with pytest.raises(ProtocolError):
        codec.decode(content)


def test_a_type_that_cannot_be_a_key_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        KeyCodec(Plain | Attrs)


# -- reading keys ----------------------------------------------------------------------------------


@dataclasses.dataclass
class Order:
    region: str
    number: int

    @property
    def label(self) -> str:
        return f"{self.region}-{self.number}"


def annotated(order: Order) -> uuid.UUID:
    return uuid.UUID(int=order.number)


ORDER = Order("eu", 7)


@pytest.mark.parametrize(
    ("key", "value", "declared"),
    [
        ("number", 7, int),
        (("region", "number"), ("eu", 7), tuple[str, int]),
        ("label", "eu-7", None),
        (("label", "number"), ("eu-7", 7), None),
        (annotated, uuid.UUID(int=7), uuid.UUID),
        (lambda order: order.number, 7, None),
        (functools.partial(getattr, ORDER), None, None),
    ],
    ids=["name", "names", "property", "with property", "function", "lambda", "partial"],
)
def test_a_key_is_read_and_its_type_known_where_it_is_declared(
    key: Any, value: Any, declared: Any
) -> None:
    read, key_type = key_reader(Order, key)
    assert key_type == declared
    if value is not None:
        assert read(ORDER) == value


@pytest.mark.parametrize("key", ["nmber", ("region", "nmber"), ("number",), (), 5, ("region", 5)])
def test_a_key_that_the_entity_does_not_have_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError):
        key_reader(Order, key)
