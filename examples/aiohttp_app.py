"""Students over HTTP with aiohttp: every process holds them all, and what is put into one is soon in all.

    python -m examples.aiohttp_app 8080
    python -m examples.aiohttp_app 8081

SCHOOL_BROKER and SCHOOL_DATABASE are URLs, SCHOOL_NAMESPACE a name. Without a broker nothing joins the processes,
without a database it is a file.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateTable

from imperfect_dollop import (
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    LoadTimeoutError,
    Node,
    NotReadyError,
    Repository,
    SourceUnavailableError,
)
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.web.aiohttp import NODE, cleanup_ctx, health, json_response, repository

STUDENTS = Table(
    "students",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", String(50), nullable=False),
    Column("city", String(50), nullable=False),
    Column("version", Integer, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Student:
    id: int
    name: str
    city: str
    version: int = 0


routes = web.RouteTableDef()


@routes.get(r"/students/{key:\d+}")
async def get_student(request: web.Request) -> web.Response:
    key = int(request.match_info["key"])
    student = await repository(request, Student).get(key)
    if student is None:
        raise web.HTTPNotFound(text=f"there is no student {key}")
    return json_response(student)


@routes.put(r"/students/{key:\d+}")
async def put_student(request: web.Request) -> web.Response:
    students = repository(request, Student)
    key = int(request.match_info["key"])
    try:
        wanted = await request.json()
        student = Student(key, wanted["name"], wanted["city"], wanted.get("version", 0))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise web.HTTPUnprocessableEntity(text="a student has name and city") from error
    known = await students.get(key) is not None
    stored = await (students.update(student) if known else students.create(student))
    return json_response(stored)


@web.middleware
async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Somebody was faster, or the database is away."""
    try:
        return await handler(request)
    except (ConflictError, EntityExistsError, EntityNotFoundError) as error:
        raise web.HTTPConflict(text=type(error).__name__) from error
    except InvalidEntityError as error:  # such as a name that is no text
        raise web.HTTPUnprocessableEntity(text=type(error).__name__) from error
    except (NotReadyError, SourceUnavailableError, LoadTimeoutError) as error:
        headers = {"Retry-After": "1"}
        raise web.HTTPServiceUnavailable(text=type(error).__name__, headers=headers) from error


async def name_node(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Node"] = request.config_dict[NODE].name


def create_app() -> web.Application:
    logging.basicConfig(level=logging.INFO)  # else nobody hears what becomes of the node
    engine = create_async_engine(
        os.environ.get("SCHOOL_DATABASE", "sqlite+aiosqlite:///school.sqlite")
    )
    students: Repository[int, Student] = Repository(
        Student, source=SQLAlchemySource(engine, STUDENTS), version="version"
    )
    node = Node(
        os.environ.get("SCHOOL_BROKER", "memory://"),
        students,
        namespace=os.environ.get("SCHOOL_NAMESPACE", "school"),
    )

    async def database(app: web.Application) -> AsyncIterator[None]:
        """What the node needs: there before it opens, and until it has closed."""
        try:
            # Here for brevity. In a service of your own migrations do it: this one does not start while the database is
            # away, and would make an empty table while somebody has the full one elsewhere for a moment.
            async with engine.begin() as connection:
                await connection.execute(CreateTable(STUDENTS, if_not_exists=True))
            yield
        finally:
            await engine.dispose()

    app = web.Application(middlewares=[refuse])
    app.cleanup_ctx.extend([database, cleanup_ctx(node)])
    app.on_response_prepare.append(name_node)
    app.add_routes([*routes, *health(node)])
    return app


if __name__ == "__main__":
    web.run_app(create_app(), host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8080)
