"""The examples, as they are run in earnest: several processes, a real broker, one database."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .pids import lives, process_of
from .serving import Site
from .workers import until


@dataclass(frozen=True)
class Example:
    command: tuple[str, ...]
    servers: int
    workers: int
    """Of all servers together."""
    broker: str
    """Which one joins them; that all brokers do alike is for the contract suite to show."""


EXAMPLES = {
    "fastapi": Example(
        (
            *("-m", "uvicorn", "examples.fastapi_app:create_app", "--factory"),
            *("--host", "127.0.0.1", "--port", "{port}", "--workers", "4"),
        ),
        servers=1,
        workers=4,
        broker="rabbitmq",
    ),
    "aiohttp": Example(
        ("-m", "examples.aiohttp_app", "{port}"), servers=2, workers=2, broker="redis"
    ),
}


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> Example:
    return EXAMPLES[request.param]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """The file that all processes read and write, past the library."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'school.sqlite'}")
    yield engine
    await engine.dispose()


@pytest.fixture
async def site(
    request: pytest.FixtureRequest,
    example: Example,
    database: AsyncEngine,
    tmp_path: Path,
) -> AsyncIterator[Site]:
    environment = {
        "SCHOOL_BROKER": request.getfixturevalue(f"{example.broker}_url"),
        "SCHOOL_DATABASE": str(database.url),
        "SCHOOL_NAMESPACE": f"web-{secrets.token_hex(6)}",
    }
    site = Site(example.command, environment, tmp_path, servers=example.servers)
    try:
        async with site:
            yield site
    finally:
        request.node.add_report_section("teardown", "servers", site.log())


def shows(name: str) -> Callable[[httpx.Response], bool]:
    return lambda response: response.status_code == 200 and response.json()["name"] == name


def ready(response: httpx.Response) -> bool:
    """Fails at once where it is not, as a load balancer takes such a process out at once."""
    assert response.status_code == 200, response.text
    assert response.json()["ready"] is True
    return True


async def put(site: Site, name: str, version: int) -> int:
    student = {"name": name, "city": "London", "version": version}
    return (await site.ask("PUT", "/students/1", json=student)).status_code


async def test_a_write_to_one_worker_is_seen_by_all(site: Site, example: Example) -> None:
    names = await site.names(example.workers)
    assert (await site.ask("GET", "/students/1")).status_code == 404
    assert await put(site, "Ada", 0) == 200
    await site.until_all(names, "/students/1", shows("Ada"))
    assert await put(site, "Augusta", 0) == 200
    await site.until_all(names, "/students/1", shows("Augusta"))
    await site.until_all(names, "/students/1", lambda response: response.json()["version"] == 1)
    assert await put(site, "Byron", 0) == 409  # of a version that is no longer
    assert await put(site, "Byron", -1) == 422
    assert (await site.ask("PUT", "/students/1", content=b"{")).status_code == 422
    await site.until_all(names, "/students/1", shows("Augusta"))


async def test_ready_while_the_database_is_away(
    site: Site, example: Example, database: AsyncEngine
) -> None:
    names = await site.names(example.workers)
    assert await put(site, "Ada", 0) == 200
    await site.until_all(names, "/students/1", shows("Ada"))
    await site.until_all(names, "/ready", ready)

    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE students RENAME TO elsewhere"))
    for _ in range(2 * example.workers):
        assert await put(site, "Byron", 0) == 503
    missed: set[str] = set()

    def ready_and_told(response: httpx.Response) -> bool:
        students = response.json()["repositories"]["Student"]
        if students["state"] == "degraded":
            missed.update(students["missing"])
        return ready(response)

    await site.until_all(names, "/ready", ready_and_told)
    assert "source" in missed  # whoever was to write has noticed
    await site.until_all(names, "/students/1", shows("Ada"))
    await site.until_all(names, "/live", lambda response: response.status_code == 200)

    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE elsewhere RENAME TO students"))

    async def is_back() -> bool:
        return await put(site, "Augusta", 0) == 200

    await until(is_back, "a write, as soon as the database is back")
    await site.until_all(names, "/students/1", shows("Augusta"))


async def test_a_signal_ends_all_in_order(site: Site, example: Example) -> None:
    names = await site.names(example.workers)
    processes = {process_of(name) for name in names}
    assert len(processes) == example.workers
    assert all(map(lives, processes))
    assert await put(site, "Ada", 0) == 200
    assert await site.terminate() == [0] * example.servers
    assert not any(map(lives, processes))
    log = site.log()
    for trouble in ("Traceback", "ERROR", "never retrieved", "never sent"):
        assert trouble not in log, log
