"""A node in an aiohttp application: open while the application runs, its repositories at hand in every handler."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from ..errors import ConfigurationError
from ..node import Node
from ..repository import Repository
from . import health as probes

__all__ = ["NODE", "cleanup_ctx", "health", "json_response", "repository"]

V = TypeVar("V")

NODE: Final[web.AppKey[Node]] = web.AppKey("imperfect_dollop.node", Node)
"""Where the application has its node. ``request.config_dict[NODE]`` finds it in sub-applications, too."""


def cleanup_ctx(node: Node) -> Callable[[web.Application], AsyncIterator[None]]:
    """What opens the node and closes it again, for ``app.cleanup_ctx.append(...)``.

    What is appended before it is there before the node opens, and until it has closed. An application has one node of
    its own; its sub-applications use that one, or have others.

    Raises `ConfigurationError` for what is no node.
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"cleanup_ctx(node) takes a Node, not {node!r}")

    async def run(app: web.Application) -> AsyncIterator[None]:
        if app.get(NODE, node) is not node:
            raise ConfigurationError(
                f"this application has {app[NODE]!r} already: give {node!r} to a sub-application,"
                " or put all repositories into one node"
            )
        async with node:
            if NODE not in app:
                app[NODE] = node
            yield

    return run


def repository(
    request: web.Request, entity: type[V], name: str | None = None
) -> Repository[Any, V]:
    """The repository of this class, and of this name where the node has several.

    The node is that of the application which serves the request, or of the nearest one around it that has one.
    Raises `ConfigurationError` if there is no such repository, or no node.
    """
    node = request.config_dict.get(NODE)
    if node is None:
        raise ConfigurationError(
            "no node runs in this application, nor in one around it: append cleanup_ctx(node) to"
            " its cleanup_ctx before it starts"
        )
    return node.repository(entity, name)


def json_response(value: Any, *, status: int = 200) -> web.Response:
    """A response with rows as JSON: Structs, attrs classes, dataclasses, pydantic models, or a container of them.

    A pydantic model is serialised by its own ``model_dump``, everything else as `msgspec.json.encode` does.
    Raises `TypeError` for a value that neither can serialise.
    """
    return web.Response(
        body=_encoder.encode(value), status=status, content_type="application/json", charset="utf-8"
    )


def _dump(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"json_response() cannot serialise a {type(value).__name__}: {value!r}")


_encoder: Final = msgspec.json.Encoder(enc_hook=_dump)


def health(node: Node) -> list[web.RouteDef]:
    """Routes for ``app.add_routes(...)``: ``/live`` and ``/ready``, as in `imperfect_dollop.web.health`.

    Raises `ConfigurationError` for what is no node.
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"health(node) takes a Node, not {node!r}")
    return [
        web.get("/live", _answer(node, probes.live)),
        web.get("/ready", _answer(node, probes.ready)),
    ]


def _answer(
    node: Node, probe: Callable[[Node], tuple[int, dict[str, Any]]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.Response:
        status, body = probe(node)
        return web.json_response(body, status=status)

    return answer
