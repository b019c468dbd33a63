"""Where the servers of the integration tests come from.

For each, in this order: the URL in its environment variable; a container, if a Docker daemon
answers; what listens on the usual port of this machine. If there is none of these, its tests are
skipped, or fail where ``DOLLOP_REQUIRE_SERVICES=1`` promises that it is there.

A new service is one more `Service` below and one more fixture in ``conftest.py``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

PATIENCE: Final = 60.0
"""Seconds for a container's server to answer, once its image is here."""


@dataclass(frozen=True)
class Service:
    """A server that tests need."""

    name: str
    variable: str
    """The environment variable that may hold its URL."""
    url: str
    """With ``{host}`` and ``{port}``: that of a container, and of the server on this machine."""
    port: int
    image: str
    environment: Mapping[str, str]
    """Of the container, so that `url` fits."""
    answers: Callable[[str], Awaitable[object]]
    """Raises as long as the server at this URL does not answer. A port that is open is not enough:
    Docker opens it before the server does."""


async def sql_answers(url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with asyncio.timeout(5), engine.connect():
            pass
    finally:
        await engine.dispose()


POSTGRES: Final = Service(
    name="PostgreSQL",
    variable="DOLLOP_POSTGRES_URL",
    url="postgresql+asyncpg://postgres@{host}:{port}/postgres",
    port=5432,
    image="postgres:17-alpine",
    environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
    answers=sql_answers,
)

MARIADB: Final = Service(
    name="MariaDB",
    variable="DOLLOP_MARIADB_URL",
    url="mysql+asyncmy://root@{host}:{port}/test",
    port=3306,
    image="mariadb:11.4",
    environment={"MARIADB_ALLOW_EMPTY_ROOT_PASSWORD": "1", "MARIADB_DATABASE": "test"},
    answers=sql_answers,
)


@dataclass
class Services:
    """The services of one test session: each is looked for once, and started ones are stopped."""

    found: dict[str, str | LookupError] = field(default_factory=dict)
    started: ExitStack = field(default_factory=ExitStack)

    def find(self, service: Service) -> str | LookupError:
        """The service's URL, or why there is none."""
        if service.name not in self.found:
            try:
                self.found[service.name] = (
                    os.environ.get(service.variable)
                    or self.from_docker(service)
                    or self.from_this_machine(service)
                )
            except LookupError as error:
                self.found[service.name] = error
        return self.found[service.name]

    def url(self, service: Service) -> str:
        """The service's URL; where there is none, the test is skipped, or fails."""
        found = self.find(service)
        return found if isinstance(found, str) else absent(f"no {service.name}: {found}")

    def from_docker(self, service: Service) -> str | None:
        if not docker_answers():
            return None
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(
            service.image, env=dict(service.environment), ports=[service.port]
        )
        self.started.enter_context(container)
        url = service.url.format(
            host=container.get_container_host_ip(), port=container.get_exposed_port(service.port)
        )
        until = time.monotonic() + PATIENCE
        while (error := failure(service.answers(url))) is not None:
            if time.monotonic() > until:
                raise LookupError(f"its container does not answer: {error!r}") from error
            time.sleep(0.2)
        return url

    def from_this_machine(self, service: Service) -> str:
        url = service.url.format(host="127.0.0.1", port=service.port)
        if (error := failure(service.answers(url))) is not None:
            raise LookupError(
                f"{service.variable} is not set, Docker does not answer, nor does {url} ({error!r})"
            ) from error
        return url

    def close(self) -> None:
        self.started.close()


def docker_answers() -> bool:
    try:
        from testcontainers.core.docker_client import DockerClient
    except ImportError:
        return False
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        try:
            client = DockerClient(timeout=5).client  # asks the daemon for its version
        except Exception:  # the package docker has no types, and raises what requests raises too
            return False
        finally:
            gc.collect()  # without a daemon, a socket has been left to the collector
    client.close()
    return True


def failure(answer: Awaitable[object]) -> Exception | None:
    """What the awaitable raises, run in a loop of its own beside whatever loop this thread has."""

    async def outcome() -> Exception | None:
        try:
            await answer
        except Exception as error:  # drivers have errors of their own
            return error
        return None

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run, outcome()).result()


def run(work: Coroutine[Any, Any, Exception | None]) -> Exception | None:
    return asyncio.run(work)


def absent(reason: str) -> NoReturn:
    if os.environ.get("DOLLOP_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}; DOLLOP_REQUIRE_SERVICES=1 promises it", pytrace=False)
    pytest.skip(reason)
