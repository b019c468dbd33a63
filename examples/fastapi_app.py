"""Students over HTTP with FastAPI: every worker holds them all, and what is put into one is soon in all.

    uvicorn examples.fastapi_app:create_app --factory --workers 4

SCHOOL_BROKER and SCHOOL_DATABASE are URLs, SCHOOL_NAMESPACE a name. Without a broker nothing joins the workers, without
a database it is a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
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
from imperfect_dollop.web.fastapi import current_node, health, lifespan, repository

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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A student as a client sends it, with the version that it has seen."""

    name: str
    city: str
    version: int = 0


Students = Annotated[Repository[int, Student], Depends(repository(Student))]
router = APIRouter()


@router.get("/students/{key}")
async def get_student(key: int, students: Students) -> Student:
    student = await students.get(key)
    if student is None:
        raise HTTPException(404, f"there is no student {key}")
    return student


@router.put("/students/{key}")
async def put_student(key: int, wanted: Wanted, students: Students) -> Student:
    student = Student(key, wanted.name, wanted.city, wanted.version)
    if await students.get(key) is None:
        return await students.create(student)
    return await students.update(student)


async def name_node(response: Response, node: Annotated[Node, Depends(current_node)]) -> None:
    response.headers["X-Node"] = node.name


async def too_late(request: Request, error: Exception) -> Response:
    """Somebody was faster."""
    return JSONResponse({"detail": type(error).__name__}, 409)


async def impossible(request: Request, error: Exception) -> Response:
    """No student, or no key."""
    return JSONResponse({"detail": type(error).__name__}, 422)


async def later(request: Request, error: Exception) -> Response:
    """The database is away, or nothing is loaded yet."""
    return JSONResponse({"detail": type(error).__name__}, 503, {"Retry-After": "1"})


def create_app() -> FastAPI:
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

    @asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[None]:
        """What the node needs: there before it opens, and until it has closed."""
        try:
            # Here for brevity. In a service of your own migrations do it: this one does not start while the database is
            # away, and would make an empty table while somebody has the full one elsewhere for a moment.
            async with engine.begin() as connection:
                await connection.execute(CreateTable(STUDENTS, if_not_exists=True))
            async with lifespan(node)(app):
                yield
        finally:
            await engine.dispose()

    app = FastAPI(title="School", lifespan=around)
    for faster in (ConflictError, EntityExistsError, EntityNotFoundError):
        app.add_exception_handler(faster, too_late)
    app.add_exception_handler(InvalidEntityError, impossible)
    for away in (NotReadyError, SourceUnavailableError, LoadTimeoutError):
        app.add_exception_handler(away, later)
    app.include_router(router, dependencies=[Depends(name_node)])
    app.include_router(health(node))
    return app
