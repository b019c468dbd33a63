"""The broker and the database of a run: somebody's, or a broker of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from examples.students.settings import async_url

from ..integration.presence import rabbitmq_answers, redis_answers, sql_answers
from ..integration.servers import RabbitMQServer, RedisServer, Server
from ..integration.services import MARIADB, POSTGRES

KINDS: Final[dict[str, type[Server]]] = {"redis": RedisServer, "rabbitmq": RabbitMQServer}

DATABASES: Final = {"postgresql": POSTGRES, "mariadb": MARIADB}


class NotThereError(LookupError):
    """What a run needs is not to be had. The message says what to do."""


@dataclass(frozen=True)
class Broker:
    """`server` is there if it is the run's own, and may be killed."""

    url: str
    kind: str
    server: Server | None = None

    def __str__(self) -> str:
        if self.server is not None:
            return f"{self.kind} of its own on port {self.server.port}"
        return f"{self.kind} at {urlsplit(self.url).hostname}, as given: it is not harmed itself"


@asynccontextmanager
async def broker_of(given: str) -> AsyncIterator[Broker]:
    """The broker at a URL, or one of this kind that is started, and ended with the block."""
    if given in KINDS:
        if KINDS[given].found() is None:
            raise NotThereError(
                f"no {KINDS[given].program} on this machine to start; give --broker a URL"
            )
        async with KINDS[given]() as server:
            yield Broker(server.url, given, server)
        return
    scheme = urlsplit(given).scheme
    answers = {"redis": redis_answers, "amqp": rabbitmq_answers}.get(scheme)
    if answers is None:
        raise NotThereError(
            f"--broker takes redis://, amqp:// or one of {', '.join(KINDS)}: connections are cut on their"
            " way, which TLS does not allow"
        )
    try:
        await answers(given)
    except Exception as error:  # drivers have errors of their own
        raise NotThereError(f"the broker does not answer: {error!r}") from error
    yield Broker(given, scheme)


async def database_of(given: str) -> str:
    """The URL of a database that answers; a kind stands for the one on its usual port of this machine."""
    if given in DATABASES:
        service = DATABASES[given]
        given = service.url.format(host="127.0.0.1", port=service.port)
    if urlsplit(given).scheme.partition("+")[0] not in (
        "postgresql",
        "postgres",
        "mysql",
        "mariadb",
    ):
        raise NotThereError(f"--database takes the URL of one, or one of {', '.join(DATABASES)}")
    url = async_url(given)
    try:
        await sql_answers(url)
    except Exception as error:
        raise NotThereError(f"the database does not answer: {error!r}") from error
    return url
