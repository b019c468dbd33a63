"""An ASGI application, run and asked as a server does it: in the test's own event loop, with no sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from .school import soon

Message = MutableMapping[str, Any]


class StartFailedError(Exception):
    """The application has said that it cannot start; as a server would log it."""


class Served:
    """An application that runs. `state` is what its lifespan has yielded."""

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self.app = app
        self.state = state
        # An error of the application is the test's, not a page that says "500".
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self), base_url="http://school"
        )

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        scope["state"] = self.state.copy()  # as the ASGI specification has it
        await self.app(scope, receive, send)

    async def get(self, path: str) -> Any:
        """What a route answers."""
        response = await soon(self.client.get(path))
        response.raise_for_status()
        return response.json()

    async def websocket(self, path: str) -> list[Message]:
        """Connect to a route, and take all that it sends until it ends."""
        sent: list[Message] = []
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("school", 80),
            "subprotocols": [],
        }

        async def receive() -> Message:
            return {"type": "websocket.connect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await soon(self(scope, receive, send))
        return sent


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[Served]:
    """Run its lifespan, in a task of its own. Raises `StartFailedError`, and whatever it raises at its end."""
    asked: asyncio.Queue[Message] = asyncio.Queue()
    told: asyncio.Queue[Message] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    running = asyncio.create_task(app(scope, asked.get, told.put))
    asked.put_nowait({"type": "lifespan.startup"})
    answer = await soon(told.get())
    if answer["type"] == "lifespan.startup.failed":
        await asyncio.wait([running])
        raise StartFailedError(answer["message"]) from running.exception()
    served = Served(app, state)
    try:
        yield served
    finally:
        await served.client.aclose()
        asked.put_nowait({"type": "lifespan.shutdown"})
        await soon(running)
