"""Rows of every kind of class as answers of FastAPI routes, and in its OpenAPI document."""

# No `from __future__ import annotations`: FastAPI reads the annotations of routes inside of functions.

import enum
import json
import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

import attrs
import httpx
import msgspec
import pytest
from fastapi import Body, Depends, FastAPI
from fastapi.exceptions import ResponseValidationError
from pydantic import BaseModel, TypeAdapter, field_serializer
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import ConfigurationError, FunctionSource, Node, Repository
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.web.fastapi import lifespan, repository, response_type

from .asgi import served
from .school import soon

T = TypeVar("T")


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@attrs.define
class Room:
    number: int
    floor: int = 0
    _key: str = "secret"


@dataclass(frozen=True)
class Slot:
    start: datetime
    token: bytes = b"\xff\xfb"


class Pupil(msgspec.Struct, frozen=True):
    """Somebody who learns."""

    id: Annotated[int, msgspec.Meta(ge=1, description="Given by the school.")]
    name: str
    level: Level = Level.LOW
    born: date | None = None
    seen: datetime | None = None
    calls: list[datetime] = []
    starts: time | None = None
    lasts: timedelta = timedelta(minutes=45)
    fee: Decimal = Decimal("1.50")
    grade: float = 1.0
    code: uuid.UUID = uuid.UUID(int=7)
    photo: bytes = b""
    room: Room | None = None
    slot: Slot | None = None
    friends: "tuple[Pupil, ...]" = ()
    by_year: dict[int, str] = {}


class Page(msgspec.Struct, Generic[T]):
    items: list[T]
    next: "Page[T] | None" = None


response_type(Page)
response_type(Pupil)

ADA = Pupil(
    1,
    "Ada",
    Level.HIGH,
    born=date(1815, 12, 10),
    seen=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    calls=[datetime(2026, 1, 2)],
    starts=time(8, 15),
    grade=math.nan,
    photo=b"\xff\xfb",
    room=Room(12),
    slot=Slot(datetime(2026, 1, 2, 8)),
    friends=(Pupil(2, "Bob"),),
    by_year={1830: "maths"},
)


async def answer(app: FastAPI, path: str, **content: Any) -> Any:
    """The status and the body of an answer; an error of the application is raised."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://school") as client:
        method = "POST" if content else "GET"
        response = await soon(client.request(method, path, **content))
        return response.status_code, response.json()


def returning(value: Any, of: Any = None, **options: Any) -> FastAPI:
    """An application with one route, which returns this value."""
    app = FastAPI()

    @app.get("/", response_model=of, **options)
    async def get() -> Any:
        return value

    return app


async def schemas(app: FastAPI) -> dict[str, Any]:
    """The components of the OpenAPI document, as a client gets it."""
    status, document = await answer(app, "/openapi.json")
    assert status == 200
    found: dict[str, Any] = document["components"]["schemas"]
    return found


def as_msgspec(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


# -- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "of"),
    [
        (ADA, Pupil),
        (ADA, Pupil | None),
        (None, Pupil | None),
        ([ADA, ADA], list[Pupil]),
        ({"ada": ADA}, dict[str, Pupil]),
        (Page([ADA], Page([])), Page[Pupil]),
        (Room(12), Room),
        (Room(12), Pupil | Room),
        (ADA, Room | Pupil),
        (ADA, Any),
        ({"ada": [ADA], "room": Room(12)}, dict[str, Any]),
        (ADA, None),
        ([ADA], None),
        (Room(12), None),
        (Page([ADA]), None),
    ],
    ids=str,
)
async def test_route_returning_rows_answers_with_the_json_of_msgspec(value: Any, of: Any) -> None:
    assert await answer(returning(value, of), "/") == (200, as_msgspec(value))


async def test_route_without_annotation_serialises_rows_inside_of_other_answers() -> None:
    app = returning({"pupil": ADA, "rooms": (Room(1), Room(2))})
    expected = {"pupil": as_msgspec(ADA), "rooms": [as_msgspec(Room(1)), as_msgspec(Room(2))]}
    assert await answer(app, "/") == (200, expected)


async def test_struct_inside_of_a_pydantic_model_is_serialised_and_described() -> None:
    class Report(BaseModel):
        pupil: Pupil
        others: list[Pupil] = []

    app = returning(Report(pupil=ADA, others=[ADA]), Report)
    expected = {"pupil": as_msgspec(ADA), "others": [as_msgspec(ADA)]}
    assert await answer(app, "/") == (200, expected)
    found = await schemas(app)
    assert found["Report"]["properties"]["pupil"] == {"$ref": "#/components/schemas/Pupil"}


async def test_struct_inside_of_a_pydantic_model_stays_an_object_in_a_python_dump() -> None:
    class Report(BaseModel):
        pupil: Pupil
        anything: Any = None

    assert Report(pupil=ADA, anything=ADA).model_dump() == {"pupil": ADA, "anything": ADA}


async def test_pydantic_entity_is_serialised_by_its_own_serializers() -> None:
    class Account(BaseModel):
        id: int
        iban: str

        @field_serializer("iban")
        def mask(self, iban: str) -> str:
            return "***" + iban[-2:]

    repository(Account)
    for of in (Account, None):
        app = returning(Account(id=1, iban="DE42"), of)
        assert await answer(app, "/") == (200, {"id": 1, "iban": "***42"})


async def test_derived_class_is_answered_with_the_fields_of_the_response_model() -> None:
    class Known(msgspec.Struct, tag=True):
        id: int

    class Hidden(Known):
        password: str = "secret"

    response_type(Known)
    app = returning(Hidden(1), Known)
    assert await answer(app, "/") == (200, {"type": "Hidden", "id": 1})


async def test_renamed_fields_are_answered_under_their_names_in_json() -> None:
    class Course(msgspec.Struct, rename="camel"):
        course_id: int
        short_name: str = "x"

    response_type(Course)
    course = Course(1)
    assert await answer(returning(course, Course), "/") == (200, {"courseId": 1, "shortName": "x"})
    app = returning(course, Course, response_model_by_alias=False)
    assert await answer(app, "/") == (200, {"course_id": 1, "short_name": "x"})
    app = returning(course, Course, response_model_exclude_defaults=True)
    assert await answer(app, "/") == (200, {"courseId": 1})
    app = returning(course, Course, response_model_exclude={"courseId"})
    assert await answer(app, "/") == (200, {"shortName": "x"})


async def test_excluding_none_leaves_out_fields_without_a_value() -> None:
    app = returning(Pupil(1, "Ada"), Pupil, response_model_exclude_none=True)
    _, body = await answer(app, "/")
    assert {"born", "seen", "starts", "room", "slot"}.isdisjoint(body)
    assert body["name"] == "Ada"


async def test_array_like_struct_is_answered_as_an_array() -> None:
    class Point(msgspec.Struct, array_like=True):
        x: int
        y: int

    response_type(Point)
    assert await answer(returning(Point(1, 2), Point), "/") == (200, [1, 2])


async def test_another_class_than_the_response_model_is_refused() -> None:
    with pytest.raises(ResponseValidationError, match="Expected Pupil, got Page"):
        await answer(returning(Page([]), Pupil), "/")


async def test_dict_of_another_shape_than_the_response_model_is_refused() -> None:
    assert (await answer(returning({"id": 1, "name": "Ada"}, Pupil), "/"))[1]["name"] == "Ada"
    with pytest.raises(ResponseValidationError, match=r"Expected `str`, got `int` - at `\$\.name`"):
        await answer(returning({"id": 1, "name": 2}, Pupil), "/")


# -- requests --------------------------------------------------------------------------------------


async def test_struct_as_a_request_body_is_read_and_checked() -> None:
    app = FastAPI()

    @app.post("/")
    async def post(pupil: Annotated[Pupil, Body()]) -> Pupil:
        assert isinstance(pupil, Pupil)
        return pupil

    assert await answer(app, "/", json=as_msgspec(Pupil(1, "Ada"))) == (
        200,
        as_msgspec(Pupil(1, "Ada")),
    )
    for body, reason in (
        ({"id": 0, "name": "Ada"}, "Expected `int` >= 1 - at `$.id`"),
        ({"id": 1}, "Object missing required field `name`"),
        ([1], "Expected `object`, got `array`"),
    ):
        status, problem = await answer(app, "/", json=body)
        assert status == 422
        assert problem["detail"][0]["msg"] == reason
    found = await schemas(app)
    assert found["Pupil-Input"]["required"] == ["id", "name"]
    assert "level" in found["Pupil-Output"]["required"]


# -- the OpenAPI document --------------------------------------------------------------------------


async def test_openapi_describes_the_fields_of_a_struct() -> None:
    found = await schemas(returning(ADA, Pupil))
    pupil = found["Pupil"]
    properties = pupil["properties"]
    assert pupil["title"] == "Pupil"
    assert pupil["description"] == "Somebody who learns."
    assert pupil["required"] == list(Pupil.__struct_fields__)
    assert properties["id"]["description"] == "Given by the school."
    assert properties["id"]["minimum"] == 1
    assert properties["level"]["$ref"] == "#/components/schemas/Level"
    assert sorted(found["Level"]["enum"]) == ["high", "low"]
    for name, form in (("born", "date"), ("seen", "date-time"), ("starts", "time")):
        assert {"type": "string", "format": form} in properties[name]["anyOf"]
    assert properties["calls"]["items"] == {"type": "string", "format": "date-time"}
    assert (properties["fee"]["format"], properties["code"]["format"]) == ("decimal", "uuid")
    assert properties["photo"]["contentEncoding"] == "base64"
    assert properties["friends"]["items"] == {"$ref": "#/components/schemas/Pupil"}
    assert list(found["Room"]["properties"]) == ["number", "floor"]
    assert found["Room"]["required"] == ["number", "floor"]
    assert found["Slot"]["properties"]["start"]["format"] == "date-time"


async def test_openapi_names_a_generic_struct_by_its_arguments() -> None:
    app = FastAPI()
    app.add_api_route("/pupils", lambda: None, response_model=Page[Pupil])
    app.add_api_route("/rooms", lambda: None, response_model=Page[Room])
    found = await schemas(app)
    assert found["Page_Pupil_"]["properties"]["items"]["items"] == {
        "$ref": "#/components/schemas/Pupil"
    }
    assert found["Page_Room_"]["properties"]["items"]["items"] == {
        "$ref": "#/components/schemas/Room"
    }


async def test_openapi_links_the_tags_of_a_union_to_its_structs() -> None:
    class Cat(msgspec.Struct, tag=True):
        lives: int

    class Dog(msgspec.Struct, tag=True):
        bones: int

    class Pet(msgspec.Struct, omit_defaults=True):
        animal: Cat | Dog
        name: str | msgspec.UnsetType = msgspec.UNSET
        age: int = 0

    response_type(Pet)
    found = await schemas(returning(Pet(Cat(9)), Pet))
    assert found["Pet"]["properties"]["animal"]["discriminator"]["mapping"] == {
        "Cat": "#/components/schemas/Cat",
        "Dog": "#/components/schemas/Dog",
    }
    assert found["Pet"]["required"] == ["animal"]
    assert found["Cat"]["properties"]["type"]["enum"] == ["Cat"]


async def test_openapi_links_a_pydantic_model_in_a_field() -> None:
    class Address(BaseModel):
        city: str

    class House(msgspec.Struct):
        address: Address

    response_type(House)
    app = returning(House(Address(city="Paris")), House)
    assert await answer(app, "/") == (200, {"address": {"city": "Paris"}})
    found = await schemas(app)
    assert found["House"]["properties"]["address"] == {"$ref": "#/components/schemas/Address"}
    assert found["Address"]["properties"]["city"]["type"] == "string"


async def test_openapi_names_the_fields_of_a_struct_that_msgspec_cannot_describe() -> None:
    class Loose(msgspec.Struct):
        id: int
        either: str | Decimal

    response_type(Loose)
    app = returning(Loose(1, Decimal("1.5")), Loose)
    assert await answer(app, "/") == (200, {"id": 1, "either": "1.5"})
    assert list((await schemas(app))["Loose"]["properties"]) == ["id", "either"]


async def test_openapi_tells_two_classes_of_one_name_apart() -> None:
    def make(field: str) -> Any:
        return response_type(msgspec.defstruct("Twin", [(field, int)]))

    one, two = make("a"), make("b")
    app = FastAPI()
    app.add_api_route("/one", lambda: None, response_model=one)
    app.add_api_route("/two", lambda: None, response_model=two)
    found = [list(each["properties"]) for each in (await schemas(app)).values()]
    assert sorted(found) == [["a"], ["b"]]


# -- what prepares a class -------------------------------------------------------------------------


async def test_lifespan_prepares_the_entities_of_its_repositories_and_of_their_fields() -> None:
    class Desk(msgspec.Struct, frozen=True):
        legs: int

    class Office(msgspec.Struct, frozen=True):
        id: int
        desk: Desk

    async def load_all() -> list[Office]:
        return [Office(1, Desk(4))]

    offices: Repository[int, Office] = Repository(
        Office, source=FunctionSource(load_all=load_all), read_only=True
    )
    app = FastAPI(lifespan=lifespan(Node("memory://", offices)))

    @app.get("/typed")
    async def typed() -> Office:
        return offices[1]

    @app.get("/desk")
    async def desk() -> Desk:
        return offices[1].desk

    @app.get("/untyped")
    async def untyped(held: Annotated[Any, Depends(repository(Office))]) -> Any:
        return list(held.values())

    async with served(app) as running:
        assert await running.get("/typed") == {"id": 1, "desk": {"legs": 4}}
        assert await running.get("/desk") == {"legs": 4}
        assert await running.get("/untyped") == [{"id": 1, "desk": {"legs": 4}}]


async def test_repository_prepares_the_entity_that_a_source_has_made_of_its_columns() -> None:
    table = Table(
        "web_pupils",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", String(20), nullable=False),
        Column("seen", DateTime),
    )
    engine = create_async_engine("sqlite+aiosqlite://")
    entity: Any = SQLAlchemySource(engine, table).entity
    repository(entity)
    app = returning(entity(id=1, name="Ada", seen=None), entity)
    assert await answer(app, "/") == (200, {"id": 1, "name": "Ada", "seen": None})
    (described,) = (await schemas(app)).values()
    assert {"type": "string", "format": "date-time"} in described["properties"]["seen"]["anyOf"]
    await engine.dispose()


def test_class_with_a_schema_of_its_own_keeps_it() -> None:
    class Own(msgspec.Struct):
        id: int

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            return handler(int)

    assert response_type(Own) is Own
    adapter: TypeAdapter[Any] = TypeAdapter(Own)
    assert adapter.validate_python(7) == 7


def test_other_classes_are_left_as_they_are() -> None:
    @dataclass
    class Plain:
        room: Room

    response_type(Plain)
    assert not hasattr(Plain, "__get_pydantic_core_schema__")
    assert not hasattr(msgspec.Struct, "__get_pydantic_core_schema__")
    assert TypeAdapter(Plain).dump_python(Plain(Room(1)), mode="json") == {
        "room": {"number": 1, "floor": 0}
    }


def test_response_type_given_an_instance_raises() -> None:
    with pytest.raises(ConfigurationError, match="takes a class, not Page"):
        response_type(Page([]))  # type: ignore[type-var]
