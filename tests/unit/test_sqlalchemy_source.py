"""SQLAlchemySource on SQLite: what a table and an entity may be, and what an error becomes."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool

from imperfect_dollop import Node, Repository
from imperfect_dollop.errors import (
    ConfigurationError,
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    SourceUnavailableError,
)
from imperfect_dollop.source import UnreadableRow
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.sources.sqlalchemy.source import CHUNK_ROWS, KEY_PARAMETERS

metadata = MetaData()


class Base(DeclarativeBase):
    metadata = metadata


class StudentRow(Base):
    __tablename__ = "students"

    id: Mapped[int] = mapped_column("student_no", primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    city: Mapped[str | None]
    version: Mapped[int] = mapped_column("row_version", default=0)


class Color(enum.Enum):
    RED = 1
    BLUE = 2


grades = Table(
    "grades",
    metadata,
    Column("student", ForeignKey("students.student_no"), primary_key=True),
    Column("course", String(20), primary_key=True),
    Column("points", Integer, CheckConstraint("points >= 0"), nullable=False),
)

things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", DateTime),
    Column("color", Enum(Color)),
    Column("data", JSON),
    Column("label", String(20), server_default="none", nullable=False),
    Column("twice", Integer, Computed("id * 2")),
    Column("touched", Integer, server_default="0", onupdate=7),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Student:
    id: int | None
    name: str
    city: str | None = None
    version: int = 0


@attrs.frozen
class AttrsStudent:
    id: int | None
    name: str
    city: str | None = None
    version: int = 0


class StructStudent(msgspec.Struct, frozen=True):
    id: int | None
    name: str
    city: str | None = None
    version: int = 0


class PydanticStudent(pydantic.BaseModel):
    id: int | None
    name: str
    city: str | None = None
    version: int = 0


async def threads_end() -> None:
    """Wait for aiosqlite's threads. One that is told to stop as its connection was not to be had,
    or not waited for, still answers to the loop, which must not be closed by then."""
    async with asyncio.timeout(10):
        while any("_connection_worker" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.001)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db")
    event.listen(
        engine.sync_engine,
        "connect",
        lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"),
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield engine
    await engine.dispose()
    await threads_end()


@pytest.fixture
def students(engine: AsyncEngine) -> SQLAlchemySource[Student]:
    return SQLAlchemySource(engine, StudentRow, entity=Student, version_column=StudentRow.version)


@asynccontextmanager
async def statements(engine: AsyncEngine) -> AsyncIterator[list[str]]:
    """The first word of every statement, and where a transaction begins."""
    seen: list[str] = []

    def executed(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement.split(maxsplit=1)[0])

    def begun(_c: Any) -> None:
        seen.append("BEGIN")

    event.listen(engine.sync_engine, "before_cursor_execute", executed)
    event.listen(engine.sync_engine, "begin", begun)
    yield seen
    event.remove(engine.sync_engine, "before_cursor_execute", executed)
    event.remove(engine.sync_engine, "begin", begun)


async def count(engine: AsyncEngine, table: Table) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


# -- what may be handed to the constructor -----------------------------------------------------


class Teacher(Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "teacher"}  # noqa: RUF012


class Rector(Teacher):
    __mapper_args__ = {"polymorphic_identity": "rector"}  # noqa: RUF012


@dataclasses.dataclass
class NoKey:
    name: str


@dataclasses.dataclass
class NoVersion:
    id: int
    name: str


@dataclasses.dataclass(frozen=True)
class Shoes(Student):
    shoe_size: int = 40


class Plain:
    pass


loose = Table(
    "loose",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("maybe", Integer),
    Column("text", String, nullable=False),
)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (Plain, {}, "neither a mapped class nor a Table"),
        (Rector, {}, "pass the Table"),
        (Table("keyless", MetaData(), Column("a", Integer)), {}, "no primary key"),
        (StudentRow, {"entity": Plain}, "no dataclass"),
        (StudentRow, {"entity": NoKey}, "lacks id"),
        (StudentRow, {"entity": NoVersion, "version_column": "version"}, "lacks version"),
        (StudentRow, {"entity": Shoes}, "without a column: shoe_size"),
        (StudentRow, {"version_column": "row_version"}, "not one of the columns: id, name"),
        (StudentRow, {"version_column": loose.c.maybe}, "not one of the columns"),
        (StudentRow, {"version_column": "id"}, "outside of the primary key"),
        (loose, {"version_column": "text"}, "must be an integer"),
        (loose, {"version_column": "maybe"}, "NOT NULL"),
        (StudentRow, {"where": StudentRow.city is None}, "no SQL expression"),
        (StudentRow, {"where": object()}, "no SQL expression"),
    ],
)
async def test_misconfigured(
    engine: AsyncEngine, table: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SQLAlchemySource(engine, table, **options)


def test_an_engine_that_is_not_async() -> None:
    engine: Any = create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="create_async_engine"):
        SQLAlchemySource(engine, StudentRow)


async def test_sqlite_in_memory_where_all_tasks_share_a_connection() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    source = SQLAlchemySource(engine, StudentRow, entity=Student)
    other = SQLAlchemySource(engine, StudentRow, entity=Student)
    await asyncio.gather(
        *(source.create(Student(n, f"n{n}")) for n in range(20)),
        *(other.load(n) for n in range(20)),
    )
    assert len(await other.load_many(range(20))) == 20
    await engine.dispose()


@pytest.mark.parametrize(
    "version_column", ["version", StudentRow.version, StudentRow.__table__.c.row_version]
)
async def test_the_version_column_by_name_attribute_or_column(
    engine: AsyncEngine, version_column: Any
) -> None:
    assert SQLAlchemySource(engine, StudentRow, version_column=version_column).version == "version"


async def test_what_a_source_tells_of_itself(engine: AsyncEngine) -> None:
    source = SQLAlchemySource(engine, StudentRow, entity=Student)
    assert (source.entity, source.key, source.version) == (Student, "id", None)
    assert SQLAlchemySource(engine, grades).key == ("student", "course")
    assert repr(source) == "SQLAlchemySource('students', entity=Student)"


# -- entities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Student, AttrsStudent, StructStudent, PydanticStudent])
async def test_kinds_of_entities(engine: AsyncEngine, kind: Any) -> None:
    source = SQLAlchemySource(engine, StudentRow, entity=kind, version_column="version")
    stored = await source.create(kind(id=7, name="Ada", city="Rome"))
    assert stored == kind(id=7, name="Ada", city="Rome", version=0)
    assert await source.load(7) == stored
    assert (await source.update(stored)).version == 1


async def test_arguments_that_are_named_otherwise_than_their_attributes(
    engine: AsyncEngine,
) -> None:
    private = Table(
        "private", MetaData(), Column("id", Integer, primary_key=True), Column("_n", Integer)
    )

    @attrs.frozen
    class Private:
        id: int
        _n: int

    class Aliased(pydantic.BaseModel):
        id: int = pydantic.Field(alias="ID")
        name: str

    async with engine.begin() as connection:
        await connection.run_sync(private.create)
    assert await SQLAlchemySource(engine, private, entity=Private).create(Private(1, 2)) == Private(
        1, 2
    )
    source = SQLAlchemySource(engine, StudentRow, entity=Aliased)
    assert (await source.create(Aliased(ID=3, name="Ada"))).id == 3


class ByChoice(pydantic.BaseModel):
    id: int
    name: str = pydantic.Field(
        validation_alias=pydantic.AliasChoices(pydantic.AliasPath("names", 0), "full_name", "label")
    )
    city: str | None = pydantic.Field(default=None, validation_alias=pydantic.AliasPath("town"))


class ByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    id: int
    name: str = pydantic.Field(validation_alias=pydantic.AliasPath("names", 0))


class OnlyByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(validate_by_name=True, validate_by_alias=False)

    id: int
    name: str = pydantic.Field(alias="full_name")


class Generated(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper)

    id: int
    name: str


@pydantic.dataclasses.dataclass
class AliasedDataclass:
    id: int
    name: str = pydantic.Field(validation_alias="full_name")


@attrs.frozen
class AliasedAttrs:
    id: int
    name: str = attrs.field(alias="full_name")


@pytest.mark.parametrize(
    "entity", [ByChoice, ByName, OnlyByName, Generated, AliasedDataclass, AliasedAttrs]
)
async def test_row_of_a_class_whose_arguments_have_aliases_sets_the_right_fields(
    engine: AsyncEngine, entity: Any
) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(StudentRow), {"id": 1, "name": "Ada", "city": "Rome"})
    source: SQLAlchemySource[Any] = SQLAlchemySource(engine, StudentRow, entity=entity)
    (row,) = await source.load_many([1])
    assert (type(row), row.id, row.name) == (entity, 1, "Ada")
    assert getattr(row, "city", "Rome") == "Rome"
    assert await source.update(row) == row


async def test_class_whose_field_no_single_argument_sets_is_refused(engine: AsyncEngine) -> None:
    class ByPath(pydantic.BaseModel):
        id: int
        name: str = pydantic.Field(validation_alias=pydantic.AliasPath("names", 0))

    with pytest.raises(ConfigurationError, match="validate_by_name=True"):
        SQLAlchemySource(engine, StudentRow, entity=ByPath)


async def test_struct_of_columns_that_are_no_identifiers_reads_and_writes_them(
    engine: AsyncEngine,
) -> None:
    items = Table(
        "order items",
        MetaData(),
        Column("key no", Integer, primary_key=True),
        Column("class", String),
        Column("total amount", Integer),
        Column("total-amount", Integer),
        Column("total_amount", Integer),
        Column("2nd", Integer),
        Column("_x", String),
        Column("metadata", String),
        Column("größe", Integer),
        Column("row version", Integer, nullable=False),
    )
    async with engine.begin() as connection:
        await connection.run_sync(items.create)
    source = SQLAlchemySource(engine, items, version_column="row version")
    assert (source.key, source.version) == ("key_no", "row_version")
    names = [field.name for field in msgspec.structs.fields(source.entity)]
    assert names == [
        "key_no",
        "class",
        "total_amount_",
        "total_amount__",
        "total_amount",
        "_2nd",
        "_x",
        "metadata",
        "größe",
        "row_version",
    ]
    values = {"class": "a", "total_amount_": 1, "total_amount__": 2, "total_amount": 3, "_2nd": 4}
    stored = await source.create(source.entity(key_no=7, **values, _x="x", metadata="m", größe=5))
    updated = await source.update(msgspec.structs.replace(stored, **{"class": "b", "_2nd": 5}))
    assert await source.load(7) == updated
    async with engine.connect() as connection:
        assert (await connection.execute(select(items))).all() == [
            (7, "b", 1, 2, 3, 5, "x", "m", 5, 1)
        ]


async def test_an_entity_of_fewer_columns_leaves_the_others_alone(engine: AsyncEngine) -> None:
    whole = SQLAlchemySource(engine, StudentRow, entity=Student)
    part = SQLAlchemySource(engine, StudentRow, entity=NoVersion)
    await whole.create(Student(1, "Ada", "Rome", 5))
    assert await part.load(1) == NoVersion(1, "Ada")
    await part.update(NoVersion(1, "Bob"))
    assert await whole.load(1) == Student(1, "Bob", "Rome", 5)


async def test_an_entity_of_nothing_but_the_key(engine: AsyncEngine) -> None:
    @dataclasses.dataclass
    class Only:
        id: int

    async with engine.begin() as connection:
        await connection.execute(insert(StudentRow), {"id": 1, "name": "Ada"})
    source = SQLAlchemySource(engine, StudentRow, entity=Only)
    assert await source.load(1) == await source.update(Only(1)) == Only(1)
    with pytest.raises(EntityNotFoundError):
        await source.update(Only(2))


async def test_a_struct_made_of_the_columns(engine: AsyncEngine) -> None:
    source = SQLAlchemySource(engine, StudentRow, version_column="version")
    made = source.entity
    assert made.__name__ == "StudentRow"
    types = {field.name: field.type for field in msgspec.structs.fields(made)}
    assert types == {"id": int | None, "name": str, "city": str | None, "version": int | None}
    stored = await source.create(made(name="Ada"))
    assert stored == made(id=1, name="Ada", city=None, version=0)
    with pytest.raises(AttributeError, match="immutable"):
        stored.name = "Bob"


async def test_a_struct_for_every_type_of_column(engine: AsyncEngine) -> None:
    source = SQLAlchemySource(engine, things)
    made = source.entity
    types = {field.name: field.type for field in msgspec.structs.fields(made)}
    assert types["at"] == dt.datetime | None
    assert types["color"] == Color | None
    assert types["data"] == Any | None
    when = dt.datetime(2024, 2, 29, 12)
    stored = await source.create(made(at=when, color=Color.RED, data={"a": [1]}))
    assert stored == made(
        id=1, at=when, color=Color.RED, data={"a": [1]}, label="none", twice=2, touched=None
    )
    assert await source.load(1) == stored


async def test_a_version_that_the_table_does_not_start_is_stored_as_zero(
    engine: AsyncEngine,
) -> None:
    counted = Table(
        "counted",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("n", Integer, nullable=False),
    )
    async with engine.begin() as connection:
        await connection.run_sync(counted.create)
    source = SQLAlchemySource(engine, counted, version_column="n")
    assert (await source.create(source.entity())).n == 0
    assert (await source.create(source.entity(n=None))).n == 0
    assert (await source.create(source.entity(n=4))).n == 4


async def test_a_row_that_the_entity_does_not_take(engine: AsyncEngine) -> None:
    class Loud(pydantic.BaseModel):
        id: int
        name: str = pydantic.Field(pattern="^[A-Z]+$")

    async with engine.begin() as connection:
        await connection.execute(insert(StudentRow), {"name": "quiet"})
    source = SQLAlchemySource(engine, StudentRow, entity=Loud)
    reason = "Loud() raised ValidationError: 1 validation error for Loud name String should match"
    (row,) = await source.load_many([1])
    assert isinstance(row, UnreadableRow)
    assert row.key == 1
    assert row.reason.startswith(reason)


async def test_an_entity_of_another_class(students: SQLAlchemySource[Student]) -> None:
    stranger: Any = {"id": 1, "name": "Ada"}
    for verb in (students.create, students.update):
        with pytest.raises(InvalidEntityError, match="does not store a dict"):
            await verb(stranger)


# -- keys ------------------------------------------------------------------------------------------


async def test_a_generated_key(students: SQLAlchemySource[Student]) -> None:
    first = await students.create(Student(None, "Ada"))
    second = await students.create(Student(None, "Bob"))
    assert (first.id, second.id) == (1, 2)
    assert await students.load(2) == second


async def test_composite_keys(engine: AsyncEngine, students: SQLAlchemySource[Student]) -> None:
    await students.create(Student(1, "Ada"))
    source = SQLAlchemySource(engine, grades)
    grade = source.entity
    for course in ("art", "law", "sea"):
        await source.create(grade(student=1, course=course, points=3))
    assert await source.load((1, "art")) == grade(student=1, course="art", points=3)
    assert await source.load((1, "zoo")) is None
    found = await source.load_many([(1, "sea"), (2, "art"), (1, "art"), (1, "sea")])
    assert sorted(row.course for row in found) == ["art", "sea"]
    with pytest.raises(EntityExistsError, match=r"\(1, 'art'\)"):
        await source.create(grade(student=1, course="art", points=3))
    assert (await source.update(grade(student=1, course="law", points=9))).points == 9
    await source.delete((1, "law"), None)
    assert await count(engine, grades) == 2


@pytest.mark.parametrize("key", [(1,), (1, "art", 2), 1, "ab", [1, "art"], (1, None)])
async def test_a_key_of_the_wrong_shape(engine: AsyncEngine, key: Any) -> None:
    source = SQLAlchemySource(engine, grades)
    for call in (source.load(key), source.load_many([key]), source.delete(key)):
        with pytest.raises(InvalidEntityError, match="no key of 'grades'"):
            await call


@pytest.mark.parametrize("key", [(1,), None])
async def test_a_key_of_the_wrong_shape_where_one_value_is_due(
    students: SQLAlchemySource[Student], key: Any
) -> None:
    for call in (students.load(key), students.load_many([key]), students.delete(key)):
        with pytest.raises(InvalidEntityError, match="no key of 'students'"):
            await call


async def test_an_update_without_a_key(students: SQLAlchemySource[Student]) -> None:
    with pytest.raises(InvalidEntityError, match="no key"):
        await students.update(Student(None, "Ada"))


# -- statements ------------------------------------------------------------------------------------


async def test_a_write_begins_with_itself(
    engine: AsyncEngine, students: SQLAlchemySource[Student]
) -> None:
    async with statements(engine) as seen:
        stored = await students.create(Student(1, "Ada"))
        await students.update(stored)
        await students.delete(1, 1)
    assert seen == ["BEGIN", "INSERT", "SELECT", "BEGIN", "UPDATE", "SELECT", "BEGIN", "DELETE"]


async def test_load_many_keeps_to_the_limit_of_parameters(
    engine: AsyncEngine, students: SQLAlchemySource[Student]
) -> None:
    async with statements(engine) as seen:
        await students.load_many(range(2 * KEY_PARAMETERS + 1))
    assert seen == ["BEGIN", "SELECT", "SELECT", "SELECT"]
    async with statements(engine) as seen:
        await SQLAlchemySource(engine, grades).load_many(
            [(n, "art") for n in range(KEY_PARAMETERS)]
        )
    assert seen == ["BEGIN", "SELECT", "SELECT"]


async def test_load_all_is_one_statement_that_is_streamed(
    engine: AsyncEngine, students: SQLAlchemySource[Student]
) -> None:
    rows = 2 * CHUNK_ROWS + 1
    async with engine.begin() as connection:
        await connection.execute(insert(StudentRow), [{"name": f"n{n}"} for n in range(rows)])
    async with statements(engine) as seen:
        fetched = [len(chunk) async for chunk in students.load_all()]
    assert fetched == [CHUNK_ROWS, CHUNK_ROWS, 1]
    assert seen == ["BEGIN", "SELECT"]


async def test_the_engine_stays_open(
    engine: AsyncEngine, students: SQLAlchemySource[Student]
) -> None:
    await students.create(Student(1, "Ada"))
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    assert engine.pool.checkedout() == 0
    async with engine.connect() as connection:
        assert (await connection.execute(select(StudentRow.name))).scalar_one() == "Ada"


async def test_an_update_leaves_computed_and_onupdate_columns_to_the_database(
    engine: AsyncEngine,
) -> None:
    source = SQLAlchemySource(engine, things)
    stored = await source.create(source.entity(label="a", touched=1))
    assert (stored.twice, stored.touched) == (2, 1)
    updated = await source.update(msgspec.structs.replace(stored, label="b"))
    assert (updated.label, updated.twice, updated.touched) == ("b", 2, 7)


# -- versions --------------------------------------------------------------------------------------


async def test_versions_count_by_one(students: SQLAlchemySource[Student]) -> None:
    stored = await students.create(Student(1, "Ada", version=41))
    assert stored.version == 41
    assert (await students.update(stored)).version == 42


async def test_a_conflict_tells_both_versions(students: SQLAlchemySource[Student]) -> None:
    stale = await students.create(Student(1, "Ada"))
    await students.update(stale)
    said = "'students' 1: version is 1 in the database and 0 here; load the row again"
    with pytest.raises(ConflictError, match=said):
        await students.update(stale)
    with pytest.raises(ConflictError, match=said):
        await students.delete(1, 0)


async def test_an_update_without_its_version(students: SQLAlchemySource[Student]) -> None:
    unknown: Any = None
    with pytest.raises(InvalidEntityError, match="version is None"):
        await students.update(Student(1, "Ada", version=unknown))


async def test_a_version_that_cannot_be_compared(engine: AsyncEngine) -> None:
    source = SQLAlchemySource(engine, StudentRow, entity=Student)
    await source.create(Student(1, "Ada"))
    with pytest.raises(ConfigurationError, match="version_column"):
        await source.delete(1, 0)
    await source.delete(1, None)


# -- where -----------------------------------------------------------------------------------------


@pytest.fixture
async def romans(engine: AsyncEngine) -> SQLAlchemySource[Student]:
    async with engine.begin() as connection:
        await connection.execute(
            insert(StudentRow),
            [{"id": 1, "name": "Ada", "city": "Rome"}, {"id": 2, "name": "Bob", "city": "Oslo"}],
        )
    return SQLAlchemySource(
        engine,
        StudentRow,
        entity=Student,
        version_column="version",
        where=StudentRow.city == "Rome",
    )


async def test_rows_outside_of_where_are_not_read(romans: SQLAlchemySource[Student]) -> None:
    ada = Student(1, "Ada", "Rome")
    assert await romans.load(1) == ada
    assert await romans.load(2) is None
    assert await romans.load_many([1, 2]) == [ada]
    assert [chunk async for chunk in romans.load_all()] == [[ada]]


async def test_rows_outside_of_where_are_not_written(
    engine: AsyncEngine, romans: SQLAlchemySource[Student]
) -> None:
    for call in (
        romans.update(Student(2, "Bob", "Rome")),
        romans.update(Student(2, "Bob", "Rome", version=9)),
        romans.delete(2, None),
        romans.delete(2, 9),
    ):
        with pytest.raises(EntityNotFoundError, match="'students' 2"):
            await call
    everyone = SQLAlchemySource(engine, StudentRow, entity=Student)
    assert await everyone.load(2) == Student(2, "Bob", "Oslo")


async def test_a_key_outside_of_where_exists_all_the_same(
    romans: SQLAlchemySource[Student],
) -> None:
    with pytest.raises(EntityExistsError):
        await romans.create(Student(2, "Eve", "Rome"))


async def test_a_write_that_leads_out_of_where_is_undone(
    engine: AsyncEngine, romans: SQLAlchemySource[Student]
) -> None:
    with pytest.raises(InvalidEntityError, match="outside of the source's where="):
        await romans.create(Student(3, "Eve", "Oslo"))
    strict = SQLAlchemySource(
        engine,
        StudentRow,
        entity=Student,
        version_column="version",
        where=StudentRow.city == "Rome",
        check_where=True,
    )
    with pytest.raises(InvalidEntityError, match="outside of the source's where="):
        await strict.update(Student(1, "Ada", "Oslo"))
    everyone = SQLAlchemySource(engine, StudentRow, entity=Student)
    assert await everyone.load(3) is None
    assert await everyone.load(1) == Student(1, "Ada", "Rome")
    assert (await romans.update(Student(1, "Eve", "Rome"))).name == "Eve"


# -- errors ----------------------------------------------------------------------------------------


async def test_a_unique_constraint(students: SQLAlchemySource[Student]) -> None:
    await students.create(Student(1, "Ada"))
    bob = await students.create(Student(2, "Bob"))
    for call in (
        students.create(Student(3, "Ada")),
        students.create(Student(None, "Ada")),
        students.update(dataclasses.replace(bob, name="Ada")),
    ):
        with pytest.raises(ConflictError, match=r"a constraint of the database.*UNIQUE"):
            await call


async def test_a_key_that_exists_says_which(students: SQLAlchemySource[Student]) -> None:
    await students.create(Student(1, "Ada"))
    with pytest.raises(EntityExistsError, match="create 'students' 1") as caught:
        await students.create(Student(1, "Bob"))
    assert "UNIQUE" in str(caught.value.__cause__)


async def test_other_constraints(engine: AsyncEngine, students: SQLAlchemySource[Student]) -> None:
    await students.create(Student(1, "Ada"))
    source = SQLAlchemySource(engine, grades)
    grade = source.entity
    stored = await source.create(grade(student=1, course="art", points=3))
    nothing: Any = None
    for call in (
        source.create(grade(student=9, course="art", points=3)),
        source.create(grade(student=1, course="law", points=-1)),
        source.create(grade(student=1, course=None, points=1)),
        source.update(msgspec.structs.replace(stored, points=-1)),
        students.create(Student(5, nothing)),
        students.delete(1),
    ):
        with pytest.raises(ConflictError, match="a constraint of the database"):
            await call
    assert await source.load((1, "art")) == stored


@pytest.mark.parametrize("values", [{"at": "noon"}, {"touched": 2**70}, {"label": ["a"]}])
async def test_a_value_that_its_column_cannot_hold(
    engine: AsyncEngine, values: dict[str, Any]
) -> None:
    source = SQLAlchemySource(engine, things)
    stored = await source.create(source.entity(id=1))
    with pytest.raises(InvalidEntityError, match=r"create 'things' 2: a value") as caught:
        await source.create(source.entity(id=2, **values))
    assert caught.value.__cause__ is not None
    if "touched" not in values:  # the table's onupdate has the word there
        with pytest.raises(InvalidEntityError, match=r"update 'things' 1: a value"):
            await source.update(msgspec.structs.replace(stored, **values))
    assert await count(engine, things) == 1


async def test_a_stored_value_that_its_column_does_not_know(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(things), {"id": 1})
        await connection.exec_driver_sql("UPDATE things SET color = 'PINK'")
    row = await SQLAlchemySource(engine, things).load(1)
    assert isinstance(row, UnreadableRow)
    assert (row.key, "PINK" in row.reason) == (1, True)


async def test_create_whose_stored_value_the_type_cannot_read_is_undone(
    engine: AsyncEngine,
) -> None:
    source = SQLAlchemySource(engine, things)
    with pytest.raises(InvalidEntityError, match="would make no things: column 'color'"):
        await source.create(source.entity(id=2, color="RED!"))
    assert await count(engine, things) == 0


async def test_a_key_that_its_column_cannot_hold(students: SQLAlchemySource[Student]) -> None:
    ada = await students.create(Student(1, "Ada"))
    assert await students.load(2**70) is None
    assert await students.load_many([2**70, 1, -(2**70)]) == [ada]
    for call in (students.delete(2**70), students.update(Student(2**70, "Bob"))):
        with pytest.raises(EntityNotFoundError, match="cannot hold this key"):
            await call
    with pytest.raises(InvalidEntityError, match="a value"):
        await students.create(Student(2**70, "Bob"))
    assert await students.load_many([1]) == [ada]


@pytest.mark.parametrize("key", ["1", 1.5, True, b"1", dt.date(2024, 1, 1)])
async def test_a_key_of_another_type_than_its_column(
    students: SQLAlchemySource[Student], key: Any
) -> None:
    for call in (
        students.load(key),
        students.load_many([1, key]),
        students.delete(key),
        students.create(Student(key, "Ada")),
        students.update(Student(key, "Ada")),
    ):
        with pytest.raises(InvalidEntityError, match="no key of 'students': id is an int, not a"):
            await call


async def test_a_table_that_is_not_there(engine: AsyncEngine) -> None:
    source = SQLAlchemySource(engine, loose)

    async def read_all() -> None:
        async for _ in source.load_all():
            pass

    row = source.entity(id=1, text="a")
    for call in (
        source.load(1),
        source.load_many([1]),
        read_all(),
        source.create(row),
        source.update(row),
        source.delete(1),
    ):
        with pytest.raises(SourceUnavailableError, match=r"'loose'.*no such table") as caught:
            await call
        assert isinstance(caught.value.__cause__, OperationalError)


async def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db")
    source = SQLAlchemySource(engine, StudentRow)
    with pytest.raises(
        SourceUnavailableError, match=r"load 'students' 1: the file cannot be opened"
    ):
        await source.load(1)
    await engine.dispose()
    await threads_end()


async def test_no_connection_within_the_pools_time(tmp_path: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/rows.db", pool_size=1, max_overflow=0, pool_timeout=0.05
    )
    source = SQLAlchemySource(engine, StudentRow)
    async with engine.connect():
        with pytest.raises(SourceUnavailableError) as caught:
            await source.load(1)
    assert isinstance(caught.value.__cause__, PoolTimeoutError)
    await engine.dispose()


async def test_a_write_that_waits_too_long_for_another(tmp_path: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path}/rows.db", connect_args={"timeout": 0.05}
    )
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    source = SQLAlchemySource(engine, StudentRow, entity=Student)
    await source.create(Student(1, "Ada"))
    async with engine.begin() as connection:
        await connection.execute(update(StudentRow).values(city="Rome"))
        with pytest.raises(SourceUnavailableError, match="locked"):
            await source.update(Student(1, "Bob"))
    assert await source.load(1) == Student(1, "Ada", "Rome")
    await engine.dispose()


async def test_an_error_of_connecting_is_not_taken_for_a_bad_value(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(_: AsyncEngine) -> None:
        raise ValueError("certificate verify failed")  # ssl's is a ValueError too

    source = SQLAlchemySource(engine, StudentRow)
    monkeypatch.setattr(AsyncEngine, "begin", begin)
    with pytest.raises(SourceUnavailableError, match="certificate verify failed"):
        await source.load(1)


async def test_write_whose_commit_fails_with_no_word_of_the_database_has_an_unknown_outcome(
    engine: AsyncEngine, students: SQLAlchemySource[Student]
) -> None:
    def fail(_: Any) -> None:
        raise ValueError("no word of the database")

    event.listen(engine.sync_engine, "commit", fail)
    with pytest.raises(SourceUnavailableError, match="no word of the database"):
        await students.create(Student(1, "Ada"))
    event.remove(engine.sync_engine, "commit", fail)


async def test_a_cancellation_passes(students: SQLAlchemySource[Student]) -> None:
    task = asyncio.create_task(students.load(1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# -- as a repository binds it ----------------------------------------------------------------------


async def test_a_repository_hands_its_class_and_version_to_the_source(engine: AsyncEngine) -> None:
    students = Repository(
        Student, source=SQLAlchemySource(engine, StudentRow), version="version", read_only=False
    )
    async with students:
        ada = await students.create(Student(1, "Ada"))
        assert type(ada) is Student
        await students.update(dataclasses.replace(ada, name="Ada L."))
        with pytest.raises(ConflictError):
            await students.update(dataclasses.replace(ada, name="Eve"))
        assert students[1] == Student(1, "Ada L.", version=ada.version + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"entity": Student}, "are asked of it; give both the same class"),
        ({"key": "name"}, "pass key='id'"),
        ({"version": "id"}, "version_column='id' must be"),
    ],
)
async def test_a_repository_that_contradicts_its_source(
    engine: AsyncEngine, settings: dict[str, Any], message: str
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Pupil:
        id: int
        name: str
        version: int = 0

    source = SQLAlchemySource(engine, StudentRow, entity=settings.pop("entity", None))
    with pytest.raises(ConfigurationError, match=message):
        Repository(Pupil, source=source, **settings)


async def test_update_that_moves_a_row_out_of_where_deletes_it_on_every_node(
    romans: SQLAlchemySource[Student],
) -> None:
    def repository() -> Repository[Any, Student]:
        return Repository(Student, source=romans, version="version", name="romans")

    here, there = repository(), repository()
    async with Node("memory://moves", here), Node("memory://moves", there) as node:
        await node.wait_ready()
        assert there.peek(1) == Student(1, "Ada", "Rome")
        moved = await here.update(Student(1, "Ada", "Oslo"))
        assert moved == Student(1, "Ada", "Oslo", version=1)
        async with asyncio.timeout(10):
            while there.peek(1) is not None:
                await asyncio.sleep(0.001)
        assert dict(here.items()) == dict(there.items()) == {}
        assert (here.stats.full_loads, there.stats.full_loads) == (1, 0)
        with pytest.raises(EntityNotFoundError):
            await there.update(Student(1, "Ada", "Rome", version=1))
