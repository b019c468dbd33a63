"""A node in a FastAPI application, run and asked as a server does it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from imperfect_dollop import BrokerUnavailableError, ConfigurationError, Node, Repository
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.web.fastapi import current_node, health, lifespan, repository

from .asgi import StartFailedError, served
from .school import SchoolSource, Student, others, soon
from .school import repository as repository_of

ADA = Student(1, "Ada", version=1)
BOB = Student(1, "Bob", version=1)


@dataclass(frozen=True, slots=True)
class Course:
    id: int


Students = Annotated[Repository[int, Student], Depends(repository(Student))]
Second = Annotated[Repository[int, Student], Depends(repository(Student, "second"))]
Current = Annotated[Node, Depends(current_node)]

router = APIRouter()


@router.get("/students/{key}")
async def get_student(key: int, students: Students) -> str:
    student = await students.get(key)
    assert student is not None
    return student.name


@router.get("/second/{key}")
async def get_from_second(key: int, students: Second) -> str:
    return students[key].name


@router.get("/node")
async def get_node(node: Current) -> str:
    return node.name


@router.get("/courses")
async def get_courses(courses: Annotated[Any, Depends(repository(Course))]) -> int:
    return len(courses)


@router.websocket("/socket")
async def socket(websocket: WebSocket, node: Current, students: Students) -> None:
    await websocket.accept()
    await websocket.send_text(f"{node.name}: {students[1].name}")
    await websocket.close()


def node_with(student: Student = ADA, *, name: str = "n", repository: str = "Student") -> Node:
    students = repository_of(SchoolSource(student), name=repository)
    return Node("memory://", students, name=name, heartbeat=0.05, offer_wait=0.05)


def create_app(run: Any) -> FastAPI:
    app = FastAPI(lifespan=run)
    app.include_router(router)
    return app


def state_of(node: Node) -> str:
    return str(node.repositories[0].state)


# -- the lifespan ----------------------------------------------------------------------------------


async def test_open_while_the_application_runs() -> None:
    node = node_with()
    async with served(create_app(lifespan(node))) as app:
        assert state_of(node) == "ready"
        assert await app.get("/students/1") == "Ada"
        assert await app.get("/node") == "n"
    assert state_of(node) == "closed"
    assert not others()


async def test_started_again() -> None:
    node = node_with()
    app = create_app(lifespan(node))
    for _ in range(2):
        async with served(app) as running:
            assert await running.get("/students/1") == "Ada"
        assert state_of(node) == "closed"


async def test_the_applications_own_lifespan_runs_within_and_its_state_is_passed_on() -> None:
    node = node_with()
    seen: list[str] = []

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        seen.append(f"{app.title} {state_of(node)}")
        yield {"motto": "festina lente"}
        seen.append(state_of(node))

    app = FastAPI(title="school", lifespan=lifespan(node, own))

    @app.get("/motto")
    async def motto(request: Request) -> str:
        found: str = request.state.motto
        return found

    async with served(app) as running:
        assert running.state == {"motto": "festina lente"}
        assert await running.get("/motto") == "festina lente"
        assert seen == ["school ready"]
    assert seen == ["school ready", "ready"]


async def test_without_state_a_server_needs_to_know_none() -> None:
    app = create_app(lifespan(node_with()))
    async with app.router.lifespan_context(app) as state:
        assert state is None


async def test_around_the_node() -> None:
    node = node_with()
    seen: list[str] = []

    @asynccontextmanager
    async def around(app: FastAPI) -> AsyncIterator[None]:
        seen.append(state_of(node))
        async with lifespan(node)(app):
            yield
        seen.append(state_of(node))

    async with served(create_app(around)) as app:
        assert await app.get("/students/1") == "Ada"
    assert seen == ["closed", "closed"]


async def test_a_starlette_application() -> None:
    node = node_with()

    async def answer(request: Any) -> JSONResponse:
        return JSONResponse((await current_node(request)).repository(Student)[1].name)

    app = Starlette(routes=[Route("/", answer)], lifespan=lifespan(node))
    async with served(app) as running:
        assert await running.get("/") == "Ada"
    assert state_of(node) == "closed"


# -- handlers of on_event --------------------------------------------------------------------------


def heard(events: list[str], name: str) -> Callable[[], Awaitable[None]]:
    async def handler() -> None:
        events.append(name)

    handler.__qualname__ = name
    return handler


@pytest.mark.parametrize("event", ["startup", "shutdown"])
async def test_lifespan_with_ignored_handlers_warns_and_names_them(event: str) -> None:
    events: list[str] = []
    app = create_app(lifespan(node_with()))
    included = APIRouter()
    included.add_event_handler(event, heard(events, "of_router"))
    app.include_router(included)
    app.router.add_event_handler(event, heard(events, "open_cache"))
    app.router.add_event_handler(event, heard(events, "warm_up"))
    message = (
        rf'"{event}"\).*has a lifespan: open_cache, warm_up\. .*lifespan=lifespan\(node, own\)'
    )
    with pytest.warns(RuntimeWarning, match=message) as caught:
        async with served(app):
            pass
    assert len(caught) == 1
    assert events == ["of_router"]  # which FastAPI calls


async def test_lifespan_of_several_nodes_warns_once() -> None:
    one, two = node_with(ADA, name="one"), node_with(BOB, name="two", repository="second")
    app = create_app(lifespan(one, lifespan(two)))
    app.router.add_event_handler("startup", heard([], "warm_up"))
    with pytest.warns(RuntimeWarning, match="warm_up") as caught:
        async with served(app):
            pass
    assert len(caught) == 1


async def test_lifespan_of_an_included_router_ignores_handlers_of_that_router() -> None:
    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield

    included = APIRouter(lifespan=own)
    included.add_event_handler("startup", heard([], "of_router"))
    app = create_app(lifespan(node_with()))
    app.include_router(included)
    with pytest.warns(RuntimeWarning, match="a lifespan: of_router"):
        async with served(app):
            pass


async def test_lifespan_with_handlers_that_are_called_does_not_warn() -> None:
    events: list[str] = []
    inner = APIRouter()
    inner.add_event_handler("startup", heard(events, "inner"))
    outer = APIRouter()
    outer.include_router(inner)
    outer.add_event_handler("startup", heard(events, "outer"))
    app = create_app(lifespan(node_with()))
    app.include_router(outer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with served(app):
            pass
    assert set(events) == {"inner", "outer"}


# -- what goes wrong at the start and at the end ---------------------------------------------------


async def test_a_node_that_cannot_start() -> None:
    broker = MemoryBroker()
    node = Node(broker, repository_of(SchoolSource(ADA)), startup="raise")
    app = create_app(lifespan(node))
    with broker.outage("no power"):
        with pytest.raises(StartFailedError, match=r"no broker: .*no power") as failed:
            async with served(app):
                pass
    assert isinstance(failed.value.__cause__, BrokerUnavailableError)
    assert state_of(node) == "closed"
    assert not others()
    async with served(app) as running:
        assert await running.get("/students/1") == "Ada"


async def test_the_node_is_closed_when_the_applications_own_start_fails() -> None:
    node = node_with()
    fail = True

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        if fail:
            raise LookupError("no blackboard")
        yield

    app = create_app(lifespan(node, own))
    with pytest.raises(StartFailedError, match="no blackboard") as failed:
        async with served(app):
            pass
    assert isinstance(failed.value.__cause__, LookupError)
    assert state_of(node) == "closed"
    assert not others()
    fail = False
    async with served(app) as running:
        assert await running.get("/node") == "n"  # one node, not two


async def test_the_node_is_closed_when_the_applications_own_end_fails() -> None:
    node = node_with()

    @asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise LookupError("lost the key")

    with pytest.raises(LookupError, match="lost the key"):
        async with served(create_app(lifespan(node, own))):
            pass
    assert state_of(node) == "closed"
    assert not others()


async def undecorated(app: FastAPI) -> AsyncIterator[None]:
    yield


async def no_generator(app: FastAPI) -> None: ...


@pytest.mark.parametrize("inner", [undecorated, no_generator, contextlib.nullcontext(), "own"])
def test_what_is_no_lifespan(inner: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"no lifespan: decorate it with .*asynccontext"):
        lifespan(node_with(), inner)


async def test_lifespan_itself_is_no_lifespan() -> None:
    with pytest.raises(
        StartFailedError, match=r"takes a Node, not <fastapi\.applications\.FastAPI"
    ):
        async with served(create_app(lifespan)):
            pass


# -- dependencies ----------------------------------------------------------------------------------


async def test_in_a_websocket_route() -> None:
    async with served(create_app(lifespan(node_with()))) as app:
        messages = await app.websocket("/socket")
    assert [message["type"] for message in messages] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert messages[1]["text"] == "n: Ada"


async def test_several_nodes() -> None:
    one, two = node_with(ADA, name="one"), node_with(BOB, name="two", repository="second")
    async with served(create_app(lifespan(one, lifespan(two)))) as app:
        assert (state_of(one), state_of(two)) == ("ready", "ready")
        assert await app.get("/second/1") == "Bob"
        with pytest.raises(ConfigurationError, match=r"2 repositories of .*'Student', 'second'"):
            await app.get("/students/1")
        with pytest.raises(ConfigurationError, match="runs 2 nodes: one, two"):
            await app.get("/node")
    assert (state_of(one), state_of(two)) == ("closed", "closed")


async def test_a_repository_that_no_node_has() -> None:
    async with served(create_app(lifespan(node_with()))) as app:
        with pytest.raises(
            ConfigurationError, match=r"no repository of .*Course; there is 'Student'"
        ):
            await app.get("/courses")


async def ask(app: Any, path: str) -> Any:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://school"
    ) as client:
        return (await soon(client.get(path))).raise_for_status().json()


@pytest.mark.parametrize("path", ["/node", "/students/1"])
async def test_the_lifespan_was_forgotten(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not given lifespan=lifespan\(node\)"):
        await ask(create_app(None), path)


async def test_a_client_that_runs_no_lifespan() -> None:
    with pytest.raises(ConfigurationError, match=r"httpx\.ASGITransport does not"):
        await ask(create_app(lifespan(node_with())), "/students/1")


async def test_below_another_application() -> None:
    node = node_with()
    below = create_app(lifespan(node))
    above = FastAPI()
    above.mount("/v1", below)
    async with served(above) as app:
        assert state_of(node) == "closed"
        with pytest.raises(ConfigurationError, match="mounted below another application"):
            await app.get("/v1/students/1")


async def test_below_another_application_that_runs_its_lifespan() -> None:
    node = node_with()
    below = create_app(lifespan(node))

    @asynccontextmanager
    async def of_below(app: FastAPI) -> AsyncIterator[None]:
        async with below.router.lifespan_context(below):
            yield

    above = FastAPI(lifespan=of_below)
    above.mount("/v1", below)
    async with served(above) as app:
        assert await app.get("/v1/students/1") == "Ada"
    assert state_of(node) == "closed"


async def test_overridden_in_a_test() -> None:
    app = create_app(lifespan(node_with(ADA)))
    async with repository_of(SchoolSource(BOB)) as another:
        app.dependency_overrides[repository(Student)] = lambda: another
        async with served(app) as running:
            assert await running.get("/students/1") == "Bob"
        assert await ask(app, "/students/1") == "Bob"  # the node is not even needed


def test_what_is_overridden_by_which_key() -> None:
    assert repository(Student) == repository(Student)
    assert len({repository(Student), repository(Student), repository(Student, None)}) == 1
    keys: set[object] = {repository(Student), repository(Course), repository(Student, "second")}
    assert len(keys) == 3


async def test_no_thread_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object, **__: object) -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr("anyio.to_thread.run_sync", no_thread)
    async with served(create_app(lifespan(node_with()))) as app:
        assert await app.get("/students/1") == "Ada"
        assert await app.get("/node") == "n"


# -- probes ----------------------------------------------------------------------------------------


def with_probes(node: Node) -> FastAPI:
    app = create_app(lifespan(node))
    app.include_router(health(node))
    return app


async def test_probes() -> None:
    node = node_with()
    app = with_probes(node)
    async with served(app) as running:
        assert await running.get("/live") == {"live": True, "node": "n"}
        body = await running.get("/ready")
        assert (body["ready"], body["node"]) == (True, "n")
        assert body["repositories"]["Student"]["state"] == "ready"
        assert (await running.client.head("/ready")).status_code == 200
    with pytest.raises(httpx.HTTPStatusError, match="503"):
        await ask(app, "/ready")
    assert await ask(app, "/live") == {"live": True, "node": "n"}
    assert {"/live", "/ready"}.isdisjoint(app.openapi()["paths"])
    assert "/students/{key}" in app.openapi()["paths"]


async def test_probes_of_a_node_that_is_not_ready() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("away")
    node = Node("memory://", repository_of(source), name="n", heartbeat=0.05, offer_wait=0.05)
    async with served(with_probes(node)) as app:
        response = await app.client.get("/ready")
        assert response.status_code == 503
        assert response.json()["ready"] is False
        assert (await app.client.get("/live")).status_code == 200
        source.failure = None
        await soon(node.wait_ready())
        assert (await app.client.get("/ready")).status_code == 200


async def test_probes_of_several_nodes() -> None:
    one, two = node_with(name="one"), node_with(name="two", repository="second")
    app = create_app(lifespan(one, lifespan(two)))
    app.include_router(health(one), prefix="/one")
    app.include_router(health(two), prefix="/two")
    async with served(app) as running:
        assert (await running.get("/one/live"))["node"] == "one"
        assert (await running.get("/two/ready"))["node"] == "two"
