"""Rows arrive as they left: classes that a generator builds, and rows of them, through the codec and through nodes."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import hashlib
import importlib.machinery
import itertools
import sys
import uuid
import zoneinfo
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
import typing_extensions
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from imperfect_dollop import FunctionSource, InvalidEntityError, Repository
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import ConfigurationError, ProtocolError
from tests.unit.arrivals import arrivals, repository
from tests.unit.classes import entity_classes, state_of

namespaces = itertools.count()


def memory() -> tuple[str, str]:
    return "memory://", f"fidelity-{next(namespaces)}"


GENERATED = settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@GENERATED
@given(st.data())
def test_codec_generated_class_copies_are_exact_or_class_is_refused(data: st.DataObject) -> None:
    entity, rows = data.draw(entity_classes())
    try:
        codec: EntityCodec[Any] = EntityCodec(entity)
    except ConfigurationError as error:
        event(f"refused: {str(error)[:40]}")
        return
    row = data.draw(rows)
    before = state_of(row)
    content = codec.verify(row)
    copy = codec.decode(content)
    assert state_of(copy) == before
    assert state_of(row) == before
    assert codec.encode(copy) == content
    assert [state_of(one) for one in codec.decode_all([content])] == [before]


@settings(GENERATED, max_examples=12)
@given(st.data())
def test_node_generated_class_sibling_shows_exact_rows(data: st.DataObject) -> None:
    entity, rows = data.draw(entity_classes())
    row = data.draw(rows)
    try:
        EntityCodec(entity)
    except ConfigurationError:
        return
    shown, reads = asyncio.run(arrivals(*memory(), row))
    assert [state_of(one) for one in shown] == [state_of(row)] * 2
    assert reads == []


# -- situations from the field, and their kin -------------------------------------------------------


class Discount(pydantic.BaseModel):
    kind: str


class Percent(Discount):
    percent: int


class Product(pydantic.BaseModel):
    id: int
    discount: Discount


class Thumb(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_bytes="base64")
    id: int
    data: bytes


class Limit(pydantic.BaseModel):
    id: int
    most: float
    rate: float | None = 1.0


class Account(pydantic.BaseModel):
    id: int
    email: str
    rate: decimal.Decimal

    @pydantic.field_serializer("email")
    def hide(self, value: str) -> str:
        return value[0] + "***@" + value.split("@")[1]

    @pydantic.field_serializer("rate")
    def two_places(self, value: decimal.Decimal) -> str:
        return f"{value:.2f}"


class User(pydantic.BaseModel):
    id: int
    password: str

    @pydantic.field_validator("password")
    @classmethod
    def hashed(cls, value: str) -> str:
        return hashlib.sha256(value.encode()).hexdigest()[:12]


class Open(pydantic.BaseModel, extra="allow"):
    id: int
    name: str = pydantic.Field("x", alias="userName")
    _note: list[int] = pydantic.PrivateAttr(default_factory=list)


class Linked(pydantic.BaseModel):
    id: int
    site: pydantic.HttpUrl
    when: dt.datetime
    size: pydantic.ByteSize


class Numbers(pydantic.RootModel[dict[str, tuple[int, ...]]]):
    @property
    def id(self) -> int:
        return len(self.root)


@dataclasses.dataclass
class Line:
    id: int
    cents: int

    def __post_init__(self) -> None:
        self.cents = round(self.cents * 1.2)


@dataclasses.dataclass(frozen=True)
class Address:
    city: str


@dataclasses.dataclass(frozen=True, slots=True)
class Abroad(Address):
    country: str


@dataclasses.dataclass(frozen=True)
class Customer:
    id: int
    address: Address
    others: tuple[Address, ...] = ()
    by_kind: dict[str, Address] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Lesson:
    id: int
    begins: dt.datetime
    at: dt.time | None = None


class Status(enum.Enum):
    OPEN = "open"


@dataclasses.dataclass(frozen=True)
class Loose:
    id: int
    anything: Any
    number: float = 0.0
    text: str = ""
    status: Status = Status.OPEN


@dataclasses.dataclass
class Complete:
    id: int

    def __post_init__(self) -> None:
        self.label = f"number {self.id}"


@attrs.frozen(slots=False)
class Shouting:
    id: int
    name: str

    @functools.cached_property
    def shout(self) -> str:
        return self.name.upper()


def loudly(text: str) -> str:
    return text.upper()


@attrs.frozen
class Guarded:
    id: int
    _token: str = attrs.field(converter=loudly)
    twice: int = attrs.Factory(lambda self: self.id * 2, takes_self=True)


class Priced(msgspec.Struct, frozen=True):
    id: int
    cents: int = 0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "cents", self.cents + 1)


@dataclasses.dataclass(frozen=True)
class Groups:
    id: int
    sets: frozenset[frozenset[str]]
    models: list[Product]


class OrderLine(typing_extensions.TypedDict, total=False):
    price: typing_extensions.Required[decimal.Decimal]
    count: int


Forest = typing_extensions.TypeAliasType("Forest", "dict[str, Forest] | list[Forest] | None")


class Document(pydantic.BaseModel):
    id: int
    body: pydantic.JsonValue
    lines: list[OrderLine] = []


@dataclasses.dataclass(frozen=True)
class Woods:
    id: int
    trees: Forest


class Noted(str):
    __slots__ = ("note",)
    note: str


@dataclasses.dataclass
class Remark:
    id: int
    text: Noted
    counts: collections.Counter[str]


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
PERCENT = Percent(kind="p", percent=30)


def opened() -> Open:
    row = Open.model_validate({"id": 1, "userName": "Ada", "more": {1, 2}})
    row._note.append(3)
    return row


ROWS = [
    Product(id=1, discount=PERCENT),
    Thumb(id=1, data=b"\xff\xaaU"),
    Limit(id=1, most=float("inf"), rate=float("nan")),
    Account(id=1, email="ada@example.org", rate=decimal.Decimal("1.2345")),
    User(id=1, password="secret"),
    opened(),
    Linked.model_validate(
        {"id": 1, "site": "https://a.b", "when": "2024-01-01T00:00:00+02:00", "size": "1kb"}
    ),
    Numbers({"a": (1, 2)}),
    Line(1, 100),
    Customer(1, Abroad("Paris", "FR"), (Address("Rome"), Abroad("Oslo", "NO"))),
    Customer(1, Address("Rome"), by_kind={"home": Abroad("Oslo", "NO")}),
    Lesson(1, dt.datetime(2024, 7, 1, 0, 30, tzinfo=BERLIN), dt.time(1, 2, fold=1)),
    Lesson(1, dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)),
    Lesson(1, dt.datetime(2024, 10, 27, 2, 30, fold=1)),
    Loose(
        1, [decimal.Decimal("1.10"), dt.datetime(2024, 1, 1, tzinfo=BERLIN), (1, 2), Status.OPEN]
    ),
    Loose(1, {1: "a", (2, 3): {"b"}, None: b"c"}),
    Loose(1, 2**70, number=1, text=uuid.UUID(int=7)),  # type: ignore[arg-type]
    Loose(1, None, number=decimal.Decimal("1.50")),  # type: ignore[arg-type]
    Loose(1, True, number=True),
    Complete(1),
    Shouting(1, "ada"),
    Guarded(1, "x"),
    Priced(1, 5),
    Groups(1, frozenset({frozenset("ab"), frozenset("c")}), [Product(id=2, discount=PERCENT)]),
    Document(
        id=1, body={"a": [1, None, 2.5, {"b": True}]}, lines=[{"price": decimal.Decimal("1.50")}]
    ),
    Woods(1, {"oak": [None, {"leaf": None}], "elm": None}),
    Remark(1, Noted("a"), collections.Counter("aab")),
]


def named(row: object) -> str:
    return type(row).__name__


@pytest.mark.parametrize("row", ROWS, ids=named)
async def test_sibling_row_that_was_copied_or_written_is_equal_at_every_depth(row: Any) -> None:
    shown, reads = await arrivals(*memory(), row)
    assert [state_of(one) for one in shown] == [state_of(row)] * 2
    assert reads == []


def test_codec_attribute_that_is_no_field_travels() -> None:
    codec = EntityCodec(Complete)
    assert codec.decode(codec.verify(Complete(3))).label == "number 3"


def test_codec_cached_property_is_no_change() -> None:
    codec, row = EntityCodec(Shouting), Shouting(1, "ada")
    before = codec.encode(row)
    assert row.shout == "ADA"
    assert codec.encode(row) == before


@pytest.mark.parametrize("slots", [True, False])
def test_codec_copy_of_an_attrs_object_that_caches_its_hash_has_that_hash(slots: bool) -> None:
    cls = attrs.frozen(cache_hash=True, slots=slots)(
        type("Hashed", (), {"__annotations__": {"id": int}})
    )
    row = cls(1)
    assert hash(row) == hash(cls(1))
    codec: EntityCodec[Any] = EntityCodec(cls)
    assert hash(codec.decode(codec.verify(row))) == hash(row)


def test_codec_copy_of_a_counter_has_no_attributes_of_its_own() -> None:
    codec = EntityCodec(Remark)
    copy = codec.decode(codec.verify(Remark(1, Noted("a"), collections.Counter("a"))))
    assert vars(copy.counts) == {}


@pytest.mark.parametrize(("started", "imported"), [(None, "__mp_main__"), ("app.main", "app.main")])
def test_codec_derived_class_of_the_started_module_is_known_where_the_module_is_imported(
    monkeypatch: pytest.MonkeyPatch, started: str | None, imported: str
) -> None:
    def module(name: str) -> tuple[type[Any], type[Any]]:
        base = dataclasses.make_dataclass("Base", [("x", int)], namespace={"__module__": name})
        derived = dataclasses.make_dataclass(
            "Derived", [("y", int)], bases=(base,), namespace={"__module__": name}
        )
        row = dataclasses.make_dataclass(
            "Row", [("id", int), ("base", base)], namespace={"__module__": name}
        )
        return row, derived

    spec = None if started is None else importlib.machinery.ModuleSpec(started, None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    (here, derived), (there, derived_there) = module("__main__"), module(imported)
    content = EntityCodec(here).verify(here(1, derived(2, 3)))
    copy = EntityCodec(there).decode(content)
    assert type(copy.base) is derived_there
    assert (copy.base.x, copy.base.y) == (2, 3)


def noted(text: str) -> Noted:
    made = Noted(text)
    made.note = "n"
    return made


def test_codec_change_in_any_part_changes_the_bytes() -> None:
    codec = EntityCodec(Guarded)
    assert codec.encode(Guarded(1, "x")) != codec.encode(Guarded(1, "y"))
    models = EntityCodec(Open)
    row, changed = opened(), opened()
    changed._note.append(4)
    assert models.encode(row) != models.encode(changed)


@dataclasses.dataclass(frozen=True)
class Stranger:
    id: int


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Loose(1, Stranger(1)), r"Loose\.anything is Stranger.*no field declares"),
        (Loose(1, object()), r"Loose\.anything"),
        (Remark(1, noted("a"), collections.Counter()), r"Remark\.text.*attributes beside its str"),
        (Loose(1, "half \ud83d"), r"Loose\.anything"),
        (Loose(1, None, text="half \ud83d"), r"Loose\.text"),
        (
            Loose(1, dt.datetime(2024, 1, 1, tzinfo=type("Own", (dt.tzinfo,), {})())),
            r"Loose\.anything.*time zone",
        ),
    ],
    ids=["class", "object", "slot of text", "surrogate", "surrogate in text", "zone"],
)
async def test_repository_value_that_cannot_travel_is_refused_before_the_source_is_called(
    row: Any, message: str
) -> None:
    table: dict[Any, Any] = {}
    async with repository(type(row), table, []) as rows:
        with pytest.raises(InvalidEntityError, match=message):
            await rows.create(row)
        assert table == {}
        assert rows.state == "ready"


class Unequal(msgspec.Struct, eq=False):
    """Equal to what has been given the same mark, which is no field."""

    id: int
    mark: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unequal) and MARKS.get(id(self)) == MARKS.get(id(other))

    __hash__ = None  # type: ignore[assignment]


MARKS: dict[int, int] = {}


def test_codec_verify_refuses_a_row_that_its_own_eq_tells_from_its_copies() -> None:
    row = Unequal(1)
    MARKS[id(row)] = 1
    with pytest.raises(InvalidEntityError, match="__eq__"):
        EntityCodec(Unequal).verify(row)


@pytest.mark.parametrize(
    "form",
    [
        [1, msgspec.msgpack.Ext(0, msgspec.msgpack.encode("text"))],  # needs no escape
        [1, msgspec.msgpack.Ext(6, msgspec.msgpack.encode(["timedelta", [0, 90_000, 0]]))],
        [1, msgspec.msgpack.Ext(6, msgspec.msgpack.encode(["Decimal", ["1"]]))],
        [1, msgspec.msgpack.Ext(7, msgspec.msgpack.encode(["builtins:object", "", []]))],
        [1, msgspec.msgpack.Ext(8, msgspec.msgpack.encode(["os:system", "x"]))],
        [1, msgspec.msgpack.Ext(99, b"")],
        [1, msgspec.msgpack.Ext(3, b"\xc1")],
        [1],
        [1, 2, 3],
        {"id": 1, "when": None},
        None,
    ],
)
def test_codec_bytes_that_no_row_has_raise_protocol_error(form: Any) -> None:
    @dataclasses.dataclass
    class Free:
        id: int
        value: Any

    with pytest.raises(ProtocolError):
        EntityCodec(Free).decode(msgspec.msgpack.encode(form))


async def test_repository_refresh_sees_a_change_in_every_part_of_a_row() -> None:
    table: dict[Any, Any] = {1: Guarded(1, "x")}

    async def load_all() -> list[Any]:
        return list(table.values())

    source: FunctionSource[Any, Any] = FunctionSource(load_all=load_all)
    async with Repository(Guarded, source=source, read_only=True) as rows:
        table[1] = attrs.evolve(table[1], token="y")
        await rows.refresh()
        assert rows[1]._token == "Y"
