"""What type checkers must make of the public surface: checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, assert_type

from aiohttp.web import Application, Request
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from imperfect_dollop import FunctionSource, Info, Node, Repository, State, Stats
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.web import aiohttp, fastapi


@dataclass(frozen=True, slots=True)
class Student:
    id: int
    name: str


async def load(key: int) -> Student | None:
    return Student(key, "Ada")


async def load_all() -> list[Student]:
    return []


async def reads() -> None:
    source = FunctionSource(load=load, load_all=load_all, identity="school")
    assert_type(source, FunctionSource[int, Student])
    students = Repository(Student, source=source, read_only=True)
    assert_type(students, Repository[int, Student])
    async with Node("memory://", students, secret=["the first", b"another"]) as node:
        assert_type(node, Node)
        assert_type(node.repository(Student), Repository[Any, Student])
        assert_type(await students.get(1), Student | None)
        assert_type(await students.get_many([1]), dict[int, Student])
        assert_type(await students.get_all(), Sequence[Student])
        assert_type(students.peek(1), Student | None)
        assert_type(students.identity, str | None)
        assert_type(students[1], Student)
        assert_type(students.state, State)
        assert_type(students.stats, Stats)
        assert_type(students.info(), Info)
        assert_type(await students.create(Student(1, "Ada")), Student)
    async with students as opened:
        assert_type(opened, Repository[int, Student])


async def composite() -> None:
    def key(student: Student) -> tuple[int, str]:
        return student.id, student.name

    source: FunctionSource[tuple[int, str], Student] = FunctionSource(load_all=load_all)
    students = Repository(Student, source=source, key=key, read_only=True)
    assert_type(students, Repository[tuple[int, str], Student])


def bound(engine: AsyncEngine, row: type[object]) -> None:
    students: Repository[int, Student] = Repository(Student, source=SQLAlchemySource(engine, row))
    assert_type(students.peek(1), Student | None)


@asynccontextmanager
async def own(app: FastAPI) -> AsyncIterator[dict[str, int]]:
    yield {"answer": 42}


async def in_fastapi(one: Node, two: Node, connection: HTTPConnection) -> None:
    FastAPI(lifespan=fastapi.lifespan(one))
    FastAPI(lifespan=fastapi.lifespan(one, own))
    FastAPI(lifespan=fastapi.lifespan(one, fastapi.lifespan(two, own)))
    Starlette(lifespan=fastapi.lifespan(one, fastapi.lifespan(two)))
    assert_type(await fastapi.repository(Student)(connection), Repository[Any, Student])
    assert_type(await fastapi.current_node(connection), Node)


def in_aiohttp(node: Node, app: Application, request: Request) -> None:
    app.cleanup_ctx.append(aiohttp.cleanup_ctx(node))
    app.add_routes(aiohttp.health(node))
    assert_type(app[aiohttp.NODE], Node)
    assert_type(aiohttp.repository(request, Student), Repository[Any, Student])
