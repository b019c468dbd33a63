"""A node in a FastAPI application: open while the application runs, its repositories as dependencies.

`lifespan` and `current_node` do for a Starlette application, too.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of dependencies, and those of an object that
# is called it cannot resolve from text.

import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from ..errors import ConfigurationError
from ..lookup import repository_of
from ..node import Node
from ..repository import Repository
from . import health as probes
from .response_types import response_type

__all__ = ["RepositoryOf", "current_node", "health", "lifespan", "repository", "response_type"]

V = TypeVar("V")
App = TypeVar("App", bound=Starlette)

NODES: Final = "imperfect_dollop_nodes"
"""The attribute of an application's state that holds the nodes that are open, the outermost first."""

MISSING: Final = (
    "no node runs in this application. Either it was not given lifespan=lifespan(node); or what called it ran no"
    " lifespan, as httpx.ASGITransport does not; or it is mounted below another application: Starlette runs the"
    " lifespan of the outermost one only, which then has to run this one's"
)


@overload
def lifespan(node: Node) -> Callable[[Starlette], AbstractAsyncContextManager[Any]]: ...


@overload
def lifespan(
    node: Node, inner: Callable[[App], AbstractAsyncContextManager[Any]]
) -> Callable[[App], AbstractAsyncContextManager[Any]]: ...


def lifespan(
    node: Node, inner: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None
) -> Callable[[Any], AbstractAsyncContextManager[Any]]:
    """A lifespan for ``FastAPI(lifespan=...)`` that opens the node and closes it again.

    `inner` is the application's own lifespan, or another one of these: it runs while the node is open, and what it
    yields is passed on. If it fails, the node is closed, and the application does not start. So it does not if entering
    the node raises; see `Node`'s ``startup`` for when it does. The classes of the node's repositories can be response
    models from here on: see `response_type`. Handlers of ``on_event`` that FastAPI ignores are named in a warning.

    Raises `ConfigurationError` for what is no node or no lifespan.
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"lifespan(node) takes a Node, not {node!r}")
    if inner is not None and (not callable(inner) or _undecorated(inner)):
        raise ConfigurationError(
            f"{inner!r} is no lifespan: decorate it with contextlib.asynccontextmanager"
        )
    for held in node.repositories:
        response_type(held.entity)

    @asynccontextmanager
    async def run(app: Starlette) -> AsyncIterator[Any]:
        async with node:
            outer = _nodes(app)
            if not outer:
                _warn_of_ignored_handlers(app)
            setattr(app.state, NODES, (*outer, node))
            try:
                if inner is None:
                    yield None
                else:
                    async with inner(app) as state:
                        yield state
            finally:
                setattr(app.state, NODES, outer)

    return run


async def current_node(connection: HTTPConnection) -> Node:
    """A dependency: the node of the application, of HTTP and WebSocket routes alike.

    Raises `ConfigurationError` if the application runs none, or several.
    """
    node, *others = _running(connection)
    if others:
        names = ", ".join(one.name for one in (node, *others))
        raise ConfigurationError(
            f"this application runs {len(others) + 1} nodes: {names}. Depend on repository(...),"
            " or on a function of your own that returns the node that is meant"
        )
    return node


@dataclass(frozen=True, slots=True)
class RepositoryOf(Generic[V]):
    """What `repository` makes. Equal for equal arguments, so that each is a key for ``dependency_overrides``."""

    entity: type[V]
    name: str | None = None

    async def __call__(self, connection: HTTPConnection) -> Repository[Any, V]:
        """The repository. Raises `ConfigurationError`."""
        nodes = _running(connection)
        return repository_of(
            [one for node in nodes for one in node.repositories], self.entity, self.name
        )


def repository(entity: type[V], name: str | None = None) -> RepositoryOf[V]:
    """A dependency: the repository of this class, and of this name where the application has several.

    As in ``Students = Annotated[Repository[int, Student], Depends(repository(Student))]``. In a test:
    ``app.dependency_overrides[repository(Student)] = lambda: another``. Where the application has no such repository,
    a request raises `ConfigurationError`. The class can be a response model from here on: see `response_type`.
    """
    return RepositoryOf(response_type(entity), name)


def health(node: Node) -> APIRouter:
    """Routes for ``app.include_router(...)``: ``/live`` and ``/ready``, as in `imperfect_dollop.web.health`.

    Raises `ConfigurationError` for what is no node. They are not in the schema: who asks them is no client of the API.
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"health(node) takes a Node, not {node!r}")
    router = APIRouter()
    for path, probe in (("/live", probes.live), ("/ready", probes.ready)):
        router.add_api_route(
            path,
            _answer(node, probe),
            methods=["GET", "HEAD"],
            name=path.removeprefix("/"),
            include_in_schema=False,
        )
    return router


def _answer(node: Node, probe: Callable[[Node], tuple[int, dict[str, Any]]]) -> Callable[[], Any]:
    async def answer() -> JSONResponse:
        status, body = probe(node)
        return JSONResponse(body, status)

    return answer


def _undecorated(inner: object) -> bool:
    """What would fail at the start only, and without saying what to do."""
    return (
        inspect.isasyncgenfunction(inner)
        or inspect.isgeneratorfunction(inner)
        or inspect.iscoroutinefunction(inner)
    )


def _warn_of_ignored_handlers(app: Any) -> None:
    """Warn of handlers of ``on_event``, which FastAPI does not call where a lifespan is given, and does not mention."""
    router = app.router
    called = [
        id(handler)
        for each in _routers_that_call_handlers(getattr(router, "lifespan_context", None))
        for handler in (*each.on_startup, *each.on_shutdown)
    ]
    for event in ("startup", "shutdown"):
        ignored = [
            getattr(handler, "__qualname__", repr(handler))
            for handler in getattr(router, f"on_{event}", ())
            if id(handler) not in called
        ]
        if ignored:
            warnings.warn(
                f'FastAPI does not call these handlers of on_event("{event}"), because the application has a'
                f" lifespan: {', '.join(ignored)}. Move their code into a lifespan of your own, and pass that:"
                " lifespan=lifespan(node, own)",
                RuntimeWarning,
                stacklevel=1,
            )


def _routers_that_call_handlers(context: Any) -> Iterator[Any]:
    """Routers without a lifespan that were included in the application: their handlers are called.

    FastAPI joins the lifespans of an application and of a router that it includes in a function of its own, which has
    them in its closure.
    """
    if hasattr(context, "_router"):
        yield context._router
    elif getattr(context, "__module__", None) == APIRouter.__module__:
        for cell in getattr(inspect.unwrap(context), "__closure__", None) or ():
            yield from _routers_that_call_handlers(cell.cell_contents)


def _nodes(app: Any) -> tuple[Node, ...]:
    nodes: tuple[Node, ...] = getattr(app.state, NODES, ())
    return nodes


def _running(connection: HTTPConnection) -> tuple[Node, ...]:
    nodes = _nodes(connection.app)
    if not nodes:
        raise ConfigurationError(MISSING)
    return nodes
