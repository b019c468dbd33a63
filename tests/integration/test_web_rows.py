"""Rows as answers of FastAPI's routes, asked of a server over a socket."""

# No `from __future__ import annotations`: FastAPI reads the annotations of routes inside of functions.

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import attrs
import httpx
import msgspec
import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateTable

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.web.fastapi import lifespan, repository

from .workers import until

PUPILS = Table(
    "pupils",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(20), nullable=False),
    Column("seen", DateTime),
    Column("photo", LargeBinary),
)


@attrs.frozen
class Room:
    id: int
    seats: tuple[int, ...] = ()


async def load_rooms() -> list[Room]:
    return [Room(1, (2, 3))]


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of uvicorn, which serves the application on a port that the system chooses."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    )
    running = asyncio.create_task(server.serve())

    async def started() -> bool:
        if running.done():
            running.result()
            raise AssertionError("the server has ended")
        return server.started

    try:
        await until(started, "the server to listen")
        port = server.servers[0].sockets[0].getsockname()[1]
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await running


def create_app(engine: AsyncEngine) -> FastAPI:
    source = SQLAlchemySource(engine, PUPILS)
    entity: Any = source.entity
    pupils: Repository[int, Any] = Repository(entity, source=source)
    rooms: Repository[int, Room] = Repository(
        Room, source=FunctionSource(load_all=load_rooms), read_only=True
    )
    app = FastAPI(lifespan=lifespan(Node("memory://", pupils, rooms)))

    @app.get("/pupils/{key}")
    async def get_pupil(
        key: int, held: Annotated[Repository[int, Any], Depends(repository(entity))]
    ) -> entity:
        return await held.get(key)

    @app.get("/pupils", response_model=list[entity])
    async def get_pupils() -> Any:
        return await pupils.get_all()

    @app.get("/rooms/{key}")
    async def get_room(key: int) -> Room | None:
        return await rooms.get(key)

    @app.get("/everything", response_model=None)
    async def get_everything() -> dict[str, Any]:
        return {"pupils": list(pupils.values()), "rooms": list(rooms.values())}

    return app


async def test_server_answers_rows_as_msgspec_does_and_describes_them() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with engine.begin() as connection:
        await connection.execute(CreateTable(PUPILS))
        row = {"id": 7, "name": "Ada", "seen": datetime(2026, 1, 2, 3), "photo": b"\xff\xfb"}
        await connection.execute(PUPILS.insert().values(row))
    ada = json.loads(msgspec.json.encode(row))
    room = {"id": 1, "seats": [2, 3]}
    async with serving(create_app(engine)) as client:
        for path, expected in (
            ("/pupils/7", ada),
            ("/pupils", [ada]),
            ("/rooms/1", room),
            ("/rooms/2", None),
            ("/everything", {"pupils": [ada], "rooms": [room]}),
        ):
            response = await client.get(path)
            assert (response.status_code, response.json()) == (200, expected), path
        document = (await client.get("/openapi.json")).raise_for_status().json()
    await engine.dispose()
    pupil = document["components"]["schemas"]["pupils"]
    assert pupil["required"] == ["id", "name", "seen", "photo"]
    assert {"type": "string", "format": "date-time"} in pupil["properties"]["seen"]["anyOf"]
    body = document["paths"]["/pupils/{key}"]["get"]["responses"]["200"]["content"]
    assert body["application/json"]["schema"] == {"$ref": "#/components/schemas/pupils"}
    assert document["components"]["schemas"]["Room"]["properties"]["id"] == {"type": "integer"}
