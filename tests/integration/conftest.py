from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from .presence import apart
from .proxy import Proxy
from .rows import rows_of_a_test
from .servers import Certificates, RabbitMQServer, RedisServer, Server
from .services import MARIADB, POSTGRES, RABBITMQ, REDIS, Service, Services
from .workers import Crew

FIXTURES: Final[dict[str, Service]] = {
    "postgres_url": POSTGRES,
    "mariadb_url": MARIADB,
    "redis_url": REDIS,
    "rabbitmq_url": RABBITMQ,
}

SERVICES: Final = pytest.StashKey[Services]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVICES] = Services()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests need, here, where no test's timeout runs: images take a while."""
    if session.config.option.collectonly:
        return
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for name, service in FIXTURES.items():
        if name in needed:
            session.config.stash[SERVICES].find(service)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVICES].close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have measured, for people: each says it with `record_property`."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [
        f"{report.nodeid.rpartition('::')[2]}: {name}: {figure}"
        for report in reports
        if report.when == "call"
        for name, figure in report.user_properties
    ]
    if lines:
        terminalreporter.section("measured, and judged by nobody")
    for line in lines:
        terminalreporter.line(line)


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(POSTGRES)


@pytest.fixture
def mariadb_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(MARIADB)


@pytest.fixture
def redis_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(REDIS)


@pytest.fixture
def rabbitmq_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(RABBITMQ)


@pytest.fixture(params=["redis", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker that works, of each kind in turn."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


# -- servers that a test may kill ------------------------------------------------------------------
# One of each for the whole session, because RabbitMQ takes seconds to start: a test finds it running,
# with what earlier tests have left in it.


@pytest.fixture(scope="session")
def mortal_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    apart(server.stop())


@pytest.fixture(scope="session")
def mortal_rabbitmq() -> Iterator[RabbitMQServer]:
    server = RabbitMQServer()
    yield server
    apart(server.stop())


@pytest.fixture
async def redis_server(mortal_redis: RedisServer) -> AsyncIterator[RedisServer]:
    if not mortal_redis.running:
        await mortal_redis.start()
    yield mortal_redis
    mortal_redis.thaw()


@pytest.fixture
async def rabbitmq_server(mortal_rabbitmq: RabbitMQServer) -> AsyncIterator[RabbitMQServer]:
    if not mortal_rabbitmq.running:
        await mortal_rabbitmq.start()
    yield mortal_rabbitmq
    mortal_rabbitmq.thaw()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    files = Certificates(
        authority=folder / "authority.pem",
        certificate=folder / "certificate.pem",
        key=folder / "key.pem",
    )
    authority.cert_pem.write_to_path(str(files.authority))
    server.cert_chain_pems[0].write_to_path(str(files.certificate))
    server.private_key_pem.write_to_path(str(files.key))
    return files


# -- faults ----------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> Server:
    """A broker that a test may kill, of each kind in turn."""
    server = request.getfixturevalue(f"{request.param}_server")
    assert isinstance(server, Server)
    return server


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A way to that broker that may fail."""
    async with Proxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def broker_url(server: Server) -> str:
    return server.url


@pytest.fixture
async def crew(
    request: pytest.FixtureRequest, postgres_url: str, broker_url: str, tmp_path: Path
) -> AsyncIterator[Crew]:
    """Worker processes on a table of their own; what they said is shown where a test fails."""
    async with rows_of_a_test(postgres_url) as rows:
        crew = Crew(rows, postgres_url, broker_url, f"faults-{uuid.uuid4().hex[:8]}", tmp_path)
        try:
            yield crew
        finally:
            await crew.close()
            request.node.add_report_section("teardown", "workers", crew.logs())
