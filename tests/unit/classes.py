"""Strategies that build entity classes, and rows of them: every kind of class, and fields of every kind of type."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import itertools
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar, Union

import attrs
import msgspec
import pydantic
from hypothesis import reject
from hypothesis import strategies as st

__all__ = ["Typed", "entity_classes", "state_of"]


class Typed(NamedTuple):
    """A declared type, and the values that a field of it may have."""

    annotation: Any
    values: st.SearchStrategy[Any]


T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796  # another name of the same member
    PAIR = (1, 2)


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Access(enum.IntFlag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    label: str


class Serial(int):
    """A class of the application's that is a number."""


class Email(str):
    """A class of the application's that is text."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Address:
    city: str


@dataclasses.dataclass(frozen=True)
class Abroad(Address):
    country: Any = None


@dataclasses.dataclass(frozen=True, slots=True)
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Net:
    """Its ``__post_init__`` changes the value each time."""

    cents: int
    doubled: int = dataclasses.field(init=False, default=0)

    def __post_init__(self) -> None:
        self.cents = self.cents * 2 + 1
        self.doubled = self.cents * 2


class Priced(msgspec.Struct, frozen=True):
    cents: float

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "cents", self.cents + 1)


def one_more(value: int) -> int:
    return value + 1


@attrs.define
class Secretly:
    _token: str
    shown: int = attrs.field(default=1, converter=one_more)


class Masked(pydantic.BaseModel):
    mail: str
    seen: dt.datetime | None = None
    _count: int = pydantic.PrivateAttr(default=0)

    @pydantic.field_serializer("mail")
    def hide(self, value: str) -> str:
        return value[:1] + "***"

    @pydantic.field_validator("mail")
    @classmethod
    def longer(cls, value: str) -> str:
        return value + "!"


ZONES: Final = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.builds(
        dt.timezone, st.integers(-86399, 86399).map(lambda seconds: dt.timedelta(seconds=seconds))
    ),
    st.just(dt.timezone(dt.timedelta(hours=2), "Summer")),
    st.sampled_from(["Europe/Berlin", "America/New_York", "UTC"]).map(zoneinfo.ZoneInfo),
)

TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
WHOLE: Final = st.one_of(st.integers(-5, 5), st.integers(-(2**80), 2**80), st.integers())
MOMENTS: Final = st.builds(
    lambda when, fold, zone: when.replace(fold=fold, tzinfo=zone),
    st.datetimes(),
    st.sampled_from([0, 1]),
    ZONES,
)
TIMES: Final = st.builds(
    lambda when, fold, zone: when.replace(
        fold=fold, tzinfo=None if isinstance(zone, zoneinfo.ZoneInfo) else zone
    ),
    st.times(),
    st.sampled_from([0, 1]),
    ZONES,
)

_PLAIN: Final = (
    Typed(int, WHOLE),
    Typed(bool, st.booleans()),
    Typed(float, st.floats()),
    Typed(str, TEXT),
    Typed(bytes, st.binary(max_size=5)),
    Typed(decimal.Decimal, st.decimals(allow_nan=False)),
    Typed(fractions.Fraction, st.fractions()),
    Typed(complex, st.complex_numbers()),
    Typed(uuid.UUID, st.uuids()),
    Typed(dt.date, st.dates()),
    Typed(dt.datetime, MOMENTS),
    Typed(dt.time, TIMES),
    Typed(dt.timedelta, st.timedeltas()),
    Typed(ipaddress.IPv4Address, st.ip_addresses(v=4)),
    Typed(pathlib.Path, TEXT.map(lambda text: pathlib.Path(text.replace("\0", "")))),
)
"""Types that say by themselves what they are, so that their values can be below ``Any``."""

SCALARS: Final = st.sampled_from(
    [
        *_PLAIN,
        Typed(Colour, st.sampled_from(Colour)),
        Typed(Size, st.sampled_from(Size)),
        Typed(Access, st.sampled_from([Access(0), Access.READ, Access.READ | Access.WRITE])),
        Typed(Point, st.builds(Point, WHOLE, TEXT)),
        Typed(Email, TEXT.map(Email)),
        Typed(Serial, WHOLE.map(Serial)),
    ]
)
"""Types whose values can be keys of a dict and items of a set."""

RECORDS: Final = st.sampled_from(
    [
        Typed(Address, st.one_of(st.builds(Address, TEXT), st.builds(Abroad, TEXT, WHOLE))),
        Typed(Net, st.builds(Net, st.integers(-9, 9))),
        Typed(Priced, st.builds(Priced, st.floats(allow_nan=False))),
        Typed(Secretly, st.builds(Secretly, TEXT, st.integers(-9, 9))),
        Typed(Masked, st.builds(lambda text: Masked(mail=text), TEXT)),
        Typed(Masked, st.builds(lambda text: Masked(mail=text, seen=None), TEXT)),
    ]
)


def _lists(item: Typed) -> Typed:
    return Typed(list[item.annotation], st.lists(item.values, max_size=3))  # type: ignore[name-defined]


def _tuples(item: Typed) -> Typed:
    values = st.lists(item.values, max_size=3).map(tuple)
    return Typed(tuple[item.annotation, ...], values)  # type: ignore[name-defined]


def _pairs(one: Typed, other: Typed) -> Typed:
    values = st.tuples(one.values, other.values)
    return Typed(tuple[one.annotation, other.annotation], values)  # type: ignore[name-defined]


def _sets(item: Typed) -> Typed:
    return Typed(set[item.annotation], st.sets(item.values, max_size=3))  # type: ignore[name-defined]


def _frozen(item: Typed) -> Typed:
    values = st.frozensets(item.values, max_size=3)
    return Typed(frozenset[item.annotation], values)  # type: ignore[name-defined]


def _dicts(key: Typed, value: Typed) -> Typed:
    values = st.dictionaries(key.values, value.values, max_size=3)
    return Typed(dict[key.annotation, value.annotation], values)  # type: ignore[name-defined]


def _optional(item: Typed) -> Typed:
    return Typed(Union[item.annotation, None], st.none() | item.values)  # noqa: UP007


def _either(one: Typed, other: Typed) -> Typed:
    return Typed(Union[one.annotation, other.annotation], one.values | other.values)  # noqa: UP007


def _boxes(item: Typed) -> Typed:
    return Typed(Box[item.annotation], st.builds(Box, item.values))  # type: ignore[name-defined]


def _anything(item: Typed) -> Typed:
    return Typed(Any, item.values)


def _ordered(key: Typed, value: Typed) -> Typed:
    values = st.dictionaries(key.values, value.values, max_size=3).map(collections.OrderedDict)
    annotation = collections.OrderedDict[key.annotation, value.annotation]  # type: ignore[name-defined]
    return Typed(annotation, values)


TYPES: Final = st.recursive(
    SCALARS | RECORDS,
    lambda inner: st.one_of(
        st.builds(_lists, inner),
        st.builds(_tuples, inner),
        st.builds(_pairs, inner, inner),
        st.builds(_sets, SCALARS),
        st.builds(_frozen, SCALARS),
        st.builds(_dicts, SCALARS, inner),
        st.builds(_ordered, SCALARS, inner),
        st.builds(_optional, inner),
        st.builds(_either, inner, inner),
        st.builds(_boxes, inner),
        st.builds(_anything, st.sampled_from(_PLAIN)),
    ),
    max_leaves=4,
)

_numbers = itertools.count()

_OPTIONS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("dataclass", {}),
    ("dataclass", {"frozen": True}),
    ("dataclass", {"frozen": True, "slots": True}),
    ("dataclass", {"kw_only": True}),
    ("dataclass", {"eq": False}),
    ("attrs", {"slots": True}),
    ("attrs", {"slots": False, "frozen": True}),
    ("attrs", {"private": True}),
    ("struct", {}),
    ("struct", {"frozen": True, "gc": False}),
    ("struct", {"kw_only": True, "rename": "camel"}),
    ("struct", {"array_like": True, "tag": True}),
    ("struct", {"omit_defaults": True}),
    ("pydantic", {}),
    ("pydantic", {"frozen": True}),
    ("pydantic", {"aliased": True}),
    ("pydantic", {"extra": "allow"}),
]

KINDS: Final = st.sampled_from(_OPTIONS)


@st.composite
def entity_classes(draw: st.DrawFn) -> tuple[type[Any], st.SearchStrategy[Any]]:
    """An entity class whose first field is an int named ``id``, and a strategy for its rows."""
    kind, options = draw(KINDS)
    names = draw(st.lists(st.sampled_from(["a", "b", "kind", "x1"]), unique=True, max_size=3))
    fields = {"id": Typed(int, st.integers(0, 9)), **{name: draw(TYPES) for name in names}}
    build = _MAKERS[kind](f"Row{next(_numbers)}", fields, dict(options))
    cls: type[Any] = build[0]
    make: Callable[[dict[str, Any]], Any] = build[1]
    values = st.fixed_dictionaries({name: typed.values for name, typed in fields.items()})
    return cls, values.map(make)


def _dataclass(name: str, fields: dict[str, Typed], options: dict[str, Any]) -> Any:
    made = dataclasses.make_dataclass(
        name, [(field, typed.annotation) for field, typed in fields.items()], **options
    )
    return made, lambda values: made(**values)


def _attrs(name: str, fields: dict[str, Typed], options: dict[str, Any]) -> Any:
    private = "_" if options.pop("private", False) else ""
    attributes = {
        (private if field != "id" else "") + field: attrs.field(type=typed.annotation)
        for field, typed in fields.items()
    }
    made = attrs.make_class(name, attributes, **options)
    return made, lambda values: made(**values)


def _struct(name: str, fields: dict[str, Typed], options: dict[str, Any]) -> Any:
    made = msgspec.defstruct(
        name, [(field, typed.annotation) for field, typed in fields.items()], **options
    )
    return made, lambda values: made(**values)


def _model(name: str, fields: dict[str, Typed], options: dict[str, Any]) -> Any:
    aliased = options.pop("aliased", False)
    extra = options.get("extra") == "allow"
    declared: dict[str, Any] = {
        field: (
            typed.annotation,
            pydantic.Field(alias=field.upper() if aliased and field != "id" else None),
        )
        for field, typed in fields.items()
    }
    config: Any = {"arbitrary_types_allowed": True, **options}
    try:
        made = pydantic.create_model(name, __config__=config, **declared)
    except pydantic.PydanticUserError:  # some options exclude each other
        reject()

    def make(values: dict[str, Any]) -> Any:
        given = {
            (field.upper() if aliased and field != "id" else field): value
            for field, value in values.items()
        }
        try:
            return made(**given, **({"more": (1, {2})} if extra else {}))
        except pydantic.ValidationError:
            reject()

    return made, make


_MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "dataclass": _dataclass,
    "attrs": _attrs,
    "struct": _struct,
    "pydantic": _model,
}


def state_of(value: Any) -> Any:
    """All that a value is, type by type, as plain tuples: two values are the same if and only if these are equal."""
    kind = type(value)
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else (value, math.copysign(1, value))
    if isinstance(value, complex):
        return kind, state_of(value.real), state_of(value.imag)
    if isinstance(value, decimal.Decimal):
        return kind, str(value)
    if isinstance(value, (dt.datetime, dt.time)):
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, repr(value.tzinfo)
    if isinstance(value, enum.Enum):
        return kind, repr(value)
    if isinstance(value, (set, frozenset)):
        return kind, sorted(map(repr, map(state_of, value)))
    if isinstance(value, collections.OrderedDict):
        return kind, [(state_of(key), state_of(item)) for key, item in value.items()]
    if isinstance(value, dict):
        return kind, sorted(repr((state_of(key), state_of(item))) for key, item in value.items())
    if isinstance(value, (list, tuple, collections.deque)):
        return kind, list(map(state_of, value))
    if isinstance(value, pydantic.BaseModel):
        return (
            kind,
            state_of(value.__dict__),
            state_of(value.__pydantic_fields_set__),
            state_of(value.__pydantic_extra__),
            state_of(value.__pydantic_private__),
        )
    if isinstance(value, msgspec.Struct):
        return kind, [state_of(getattr(value, name)) for name in kind.__struct_fields__]
    if attrs.has(kind):
        return kind, [state_of(getattr(value, field.name)) for field in attrs.fields(kind)]
    if dataclasses.is_dataclass(value):
        return kind, [state_of(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return kind, repr(value)
