"""Where the servers of the integration tests come from that no test has to kill.

For each, in this order: the URL in its environment variable; a container, if a Docker daemon
answers; a private process, if it is a server of ``servers.py`` and its program is on this machine;
what listens on the usual port of this machine. If there is none of these, its tests are skipped, or
fail where ``DOLLOP_REQUIRE_SERVICES=1`` promises that it is there.

A new service is one more `Service` below and one more fixture in ``conftest.py``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from .presence import (
    absent,
    apart,
    docker_answers,
    rabbitmq_answers,
    redis_answers,
    sql_answers,
)
from .servers import RabbitMQServer, RedisServer, Server

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
    answers: Callable[[str], Coroutine[Any, Any, None]]
    """Raises as long as the server at this URL does not answer. A port that is open is not enough:
    Docker opens it before the server does."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of the container, so that `url` fits."""
    private: type[Server] | None = None


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

REDIS: Final = Service(
    name="Redis",
    variable="DOLLOP_REDIS_URL",
    url="redis://{host}:{port}/0",
    port=6379,
    image="redis:7.4-alpine",
    answers=redis_answers,
    private=RedisServer,
)

RABBITMQ: Final = Service(
    name="RabbitMQ",
    variable="DOLLOP_RABBITMQ_URL",
    url="amqp://guest:guest@{host}:{port}/",
    port=5672,
    image="rabbitmq:4.1-alpine",
    answers=rabbitmq_answers,
    private=RabbitMQServer,
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
                    or self.from_program(service)
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

    def from_program(self, service: Service) -> str | None:
        if service.private is None or service.private.found() is None:
            return None
        server = service.private()
        self.started.callback(lambda: apart(server.stop()))
        if (error := failure(server.start())) is not None:
            raise LookupError(str(error)) from error
        return server.url

    def from_this_machine(self, service: Service) -> str:
        url = service.url.format(host="127.0.0.1", port=service.port)
        if (error := failure(service.answers(url))) is not None:
            program = f"there is no {service.private.program}, " if service.private else ""
            raise LookupError(
                f"{service.variable} is not set, Docker does not answer, {program}"
                f"nor does {url} ({error!r})"
            ) from error
        return url

    def close(self) -> None:
        self.started.close()


def failure(work: Coroutine[Any, Any, None]) -> Exception | None:
    """What the work raises."""
    try:
        apart(work)
    except Exception as error:  # drivers have errors of their own
        return error
    return None
