"""A node in an aiohttp application, asked over a socket of the loopback interface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import attrs
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import BaseModel, field_serializer

from imperfect_dollop import ConfigurationError, Node
from imperfect_dollop.web.aiohttp import NODE, cleanup_ctx, health, json_response, repository

from .school import SchoolSource, Student, others, soon
from .school import repository as repository_of

ADA = Student(1, "Ada", version=1)
BOB = Student(1, "Bob", version=1)


@dataclass(frozen=True, slots=True)
class Course:
    id: int


async def get_student(request: web.Request) -> web.Response:
    students = repository(request, Student)
    student = await students.get(int(request.match_info["key"]))
    return web.json_response(None if student is None else student.name)


async def get_node(request: web.Request) -> web.Response:
    return web.json_response(request.config_dict[NODE].name)


async def get_complaint(request: web.Request) -> web.Response:
    """What a handler runs into, as text: the test server would say "500"."""
    try:
        repository(request, Course if "courses" in request.path else Student)
    except ConfigurationError as error:
        return web.json_response(str(error))
    return web.json_response(None)


def node_with(student: Student = ADA, *, name: str = "n") -> Node:
    students = repository_of(SchoolSource(student))
    # Each in a namespace of its own: siblings would hold the same.
    return Node("memory://", students, name=name, namespace=name, heartbeat=0.05, offer_wait=0.05)


def create_app(*nodes: Node) -> web.Application:
    app = web.Application()
    app.router.add_get("/students/{key}", get_student)
    app.router.add_get("/node", get_node)
    app.router.add_get("/complaint", get_complaint)
    app.router.add_get("/complaint/courses", get_complaint)
    for node in nodes:
        app.cleanup_ctx.append(cleanup_ctx(node))
    return app


def state_of(node: Node) -> str:
    return str(node.repositories[0].state)


class Client:
    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.client = client

    async def status(self, path: str) -> int:
        async with self.client.get(path) as response:
            return response.status

    async def get(self, path: str) -> Any:
        async with self.client.get(path, raise_for_status=True) as response:
            return await response.json()


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[Client]:
    client = TestClient(TestServer(app))
    try:
        await soon(client.start_server())
        yield Client(client)
    finally:
        await soon(client.close())


async def test_open_while_the_application_runs() -> None:
    node = node_with()
    async with served(create_app(node)) as client:
        assert state_of(node) == "ready"
        assert await client.get("/students/1") == "Ada"
        assert await client.get("/students/2") is None
        assert await client.get("/node") == "n"
    assert state_of(node) == "closed"
    assert not others()


async def test_entered_in_one_task_and_left_in_another() -> None:
    node = node_with()
    runner = web.AppRunner(create_app(node))
    await soon(asyncio.create_task(runner.setup()))
    assert state_of(node) == "ready"
    await soon(asyncio.create_task(runner.cleanup()))
    assert state_of(node) == "closed"
    assert not others()


async def test_what_comes_before_it_is_there_before_it_and_after_it() -> None:
    node = node_with()
    seen: list[str] = []

    async def around(app: web.Application) -> AsyncIterator[None]:
        seen.append(state_of(node))
        yield
        seen.append(state_of(node))

    async def within(app: web.Application) -> AsyncIterator[None]:
        seen.append(f"{state_of(app[NODE])} within")
        yield
        seen.append(f"{state_of(app[NODE])} within")

    app = web.Application()
    app.cleanup_ctx.extend([around, cleanup_ctx(node), within])
    async with served(app):
        assert seen == ["closed", "ready within"]
    assert seen == ["closed", "ready within", "ready within", "closed"]


async def test_sub_applications_use_the_node_around_them_or_their_own() -> None:
    outer, inner = node_with(ADA, name="outer"), node_with(BOB, name="inner")
    app = create_app(outer)
    app.add_subapp("/v1", create_app())
    app.add_subapp("/v2", create_app(inner))
    async with served(app) as client:
        assert await client.get("/students/1") == "Ada"
        assert await client.get("/v1/students/1") == "Ada"
        assert await client.get("/v1/node") == "outer"
        assert await client.get("/v2/students/1") == "Bob"
        assert await client.get("/v2/node") == "inner"
    assert (state_of(outer), state_of(inner)) == ("closed", "closed")


# -- what goes wrong -------------------------------------------------------------------------------


async def test_the_node_is_closed_when_a_later_start_fails() -> None:
    node = node_with()

    async def fails(app: web.Application) -> AsyncIterator[None]:
        assert state_of(node) == "ready"
        raise LookupError("no blackboard")
        yield

    app = create_app(node)
    app.cleanup_ctx.append(fails)
    with pytest.raises(LookupError, match="no blackboard"):
        async with served(app):
            pass
    assert state_of(node) == "closed"
    assert not others()


async def test_two_nodes_in_one_application() -> None:
    one, two = node_with(name="one"), node_with(name="two")
    with pytest.raises(ConfigurationError, match=r"has <Node one .*give <Node two .* to a sub-app"):
        async with served(create_app(one, two)):
            pass
    assert (state_of(one), state_of(two)) == ("closed", "closed")
    assert not others()


async def test_cleanup_ctx_was_forgotten() -> None:
    async with served(create_app()) as client:
        assert "append cleanup_ctx(node) to its cleanup_ctx" in await client.get("/complaint")


async def test_a_repository_that_the_node_has_not() -> None:
    async with served(create_app(node_with())) as client:
        assert await client.get("/complaint") is None
        complaint = await client.get("/complaint/courses")
        assert "no repository of" in complaint
        assert "Course; there is 'Student'" in complaint


@pytest.mark.parametrize("no_node", [web.Application, "n"])
def test_what_is_no_node(no_node: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a Node"):
        cleanup_ctx(no_node)


# -- rows as JSON ----------------------------------------------------------------------------------


def test_json_response_serialises_rows_of_every_kind() -> None:
    @attrs.define
    class Room:
        number: int

    class Desk(msgspec.Struct):
        made: date

    class Pupil(BaseModel):
        born: date
        secret: str

        @field_serializer("secret")
        def mask(self, secret: str) -> str:
            return "***"

    rows = [Course(1), Room(2), Desk(date(2026, 1, 2)), Pupil(born=date(1815, 12, 10), secret="x")]
    response = json_response(rows, status=201)
    assert response.status == 201
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == [
        {"id": 1},
        {"number": 2},
        {"made": "2026-01-02"},
        {"born": "1815-12-10", "secret": "***"},
    ]


def test_json_response_of_an_unknown_type_raises() -> None:
    with pytest.raises(TypeError, match="cannot serialise a complex: 1j"):
        json_response({"number": 1j})


# -- probes ----------------------------------------------------------------------------------------


async def test_probes() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("away")
    node = Node("memory://", repository_of(source), name="n", heartbeat=0.05, offer_wait=0.05)
    app = create_app(node)
    app.add_routes(health(node))
    async with served(app) as client:
        assert await client.get("/live") == {"live": True, "node": "n"}
        assert await client.status("/ready") == 503
        source.failure = None
        await soon(node.wait_ready())
        body = await client.get("/ready")
        assert (body["ready"], body["node"]) == (True, "n")
        assert body["repositories"]["Student"]["state"] == "ready"
        async with client.client.head("/ready") as response:
            assert response.status == 200
