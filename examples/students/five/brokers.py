"""The best broker that there is, and a way to take it from the instances."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

from imperfect_dollop import BrokerUnavailableError, ConfigurationError, Node

from .processes import LOOPBACK, NotFoundError, opens
from .relay import Relay
from .servers import PrivateServer, RabbitMQ, Redis

__all__ = ["KINDS", "Broker", "Fault", "broker_of", "fault_of"]

PATIENCE: Final = 45.0
"""Seconds for a server of our own to answer; RabbitMQ takes five on a machine that does nothing else."""

KINDS: Final[dict[str, type[PrivateServer]]] = {"redis": Redis, "rabbitmq": RabbitMQ}
"""Best first."""

USUAL: Final = {
    "redis": f"redis://{LOOPBACK}:6379",
    "rabbitmq": f"amqp://guest:guest@{LOOPBACK}:5672",
}

USUAL_PORTS: Final = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}


@dataclass(frozen=True)
class Broker:
    """What the instances are joined by."""

    url: str
    shown: str
    """What it is and why it was taken, without a password."""
    server: PrivateServer | None = None
    """If it is this run's own."""


class Fault(Protocol):
    """A way to take a broker from the instances, and to bring it back."""

    url: str
    """Where the instances then find the broker."""
    shown: str

    async def take_away(self) -> None:
        """From now on nobody can reach it."""
        ...

    async def bring_back(self) -> None:
        """It can be reached again, or will be in a moment."""
        ...


@contextlib.asynccontextmanager
async def broker_of(given: str | None, folder: Path) -> AsyncIterator[Broker]:
    """The broker that is asked for by its URL or kind, else the best one; there until the block is left.

    Raises `NotFoundError`, and `ProcessError` for a server of our own that does not start.
    """
    if given and given.startswith("memory://"):
        raise NotFoundError("memory:// joins the nodes of one process, and these are five")
    if given and "://" in given:
        await _prove(given)
        yield Broker(given, f"{_masked(given)}, as given")
        return
    if given and given not in KINDS:
        raise NotFoundError(f"--broker takes a URL or one of {', '.join(KINDS)}, not {given!r}")
    kinds = [given] if given else list(KINDS)
    program = next((kind for kind in kinds if KINDS[kind].path()), None)
    if program is not None:
        async with _private(KINDS[program](folder)) as broker:
            yield broker
    else:
        url = await _usual(kinds)
        why = f"which listens on its usual port, as there is no {_programs(kinds)} to start"
        yield Broker(url, f"{_masked(url)}, {why}")


@contextlib.asynccontextmanager
async def fault_of(broker: Broker) -> AsyncIterator[Fault]:
    """A broker of our own is killed; to one of others there is a relay, which is cut.

    Raises `NotFoundError` for one that no relay can lead to.
    """
    if broker.server is not None:
        yield _Kill(broker.server)
        return
    parts = urlsplit(broker.url)
    if parts.scheme not in ("redis", "amqp"):
        raise NotFoundError(
            f"--check cuts a broker that it was given by a relay on {LOOPBACK}, which TLS does not allow;"
            f" {parts.scheme}:// can be used without --check"
        )
    relay = Relay(parts.hostname or "localhost", parts.port or USUAL_PORTS[parts.scheme])
    try:
        await relay.restore()
        user, at, _ = parts.netloc.rpartition("@")
        through = parts._replace(netloc=f"{user}{at}{LOOPBACK}:{relay.port}")
        yield _Cut(relay, urlunsplit(through))
    finally:
        relay.close()


class _Kill:
    def __init__(self, server: PrivateServer) -> None:
        self._server = server
        self.url = server.url
        self.shown = f"{server.program} is killed with SIGKILL, and later started again, empty, on the same port"

    async def take_away(self) -> None:
        await self._server.process.kill()

    async def bring_back(self) -> None:
        await self._server.start()


class _Cut:
    def __init__(self, relay: Relay, url: str) -> None:
        self._relay = relay
        self.url = url
        self.shown = "the broker is not ours to kill: the relay of this run that leads to it is cut, and refuses"

    async def take_away(self) -> None:
        self._relay.cut()

    async def bring_back(self) -> None:
        await self._relay.restore()


@contextlib.asynccontextmanager
async def _private(server: PrivateServer) -> AsyncIterator[Broker]:
    try:
        await server.start()
        await server.process.until(lambda: _lets_in(server), PATIENCE)
        yield Broker(
            server.url,
            f"{server.program} on port {server.port.number}, private to this run",
            server,
        )
    finally:
        await server.stop()


async def _lets_in(server: PrivateServer) -> bool:
    """Whether a node can connect."""
    return await opens(server.port.number) and await _refusal(server.url) is None


async def _usual(kinds: list[str]) -> str:
    refusals: list[str] = []
    for kind in kinds:
        url = USUAL[kind]
        if not await opens(urlsplit(url).port or USUAL_PORTS[urlsplit(url).scheme]):
            refusals.append(f"nothing listens at {_masked(url)}")
        elif (refusal := await _refusal(url)) is None:
            return url
        else:
            refusals.append(f"{_masked(url)} lets nobody in ({refusal})")
    raise NotFoundError(
        f"no broker: there is no {_programs(kinds)} on this machine, and {', '.join(refusals)}."
        f" Install one (apt install {KINDS[kinds[0]].program}, brew install {kinds[0]}), or name one"
        " with --broker URL"
    )


async def _prove(url: str) -> None:
    try:
        refusal = await _refusal(url)
    except ConfigurationError as error:
        raise NotFoundError(f"--broker: {error}") from error
    if refusal is not None:
        raise NotFoundError(f"no broker at {_masked(url)}: {refusal}")


async def _refusal(url: str) -> str | None:
    """Why no node can connect, or None if one can."""
    try:
        async with Node(url, startup="raise", namespace=f"probe-{secrets.token_hex(4)}"):
            return None
    except BrokerUnavailableError as error:
        return str(error.__cause__ or error)


def _programs(kinds: list[str]) -> str:
    return " or ".join(KINDS[kind].program for kind in kinds)


def _masked(url: str) -> str:
    parts: SplitResult = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
