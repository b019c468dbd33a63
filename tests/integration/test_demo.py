"""The demo as it is shown: five processes on a real broker, over a real database."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import demo
from imperfect_dollop.demo import Options, Report
from imperfect_dollop.demo.urls import SQLITE

from .pids import children


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def database(request: pytest.FixtureRequest) -> str:
    url: str = SQLITE
    if request.param != "sqlite":
        url = request.getfixturevalue(f"{request.param}_url")
    return url


def seen(report: Report) -> list[str]:
    """What the failed checks have seen, and what ended the demo."""
    failed = [check.seen for step in report.steps for check in step.checks if not check.held]
    return failed + [repr(step.error) for step in report.steps if step.error is not None]


async def tables(database: str) -> set[str]:
    """Those of any demo."""
    engine = create_async_engine(database)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return {name for name in names if name.startswith("dollop_demo_")}


def runs(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # ended, whoever is to take note of that


async def test_five_processes_hold_every_check(broker: str, database: str) -> None:
    options = Options(
        rows=1_000,
        creates=20,
        updates=20,
        deletes=200,
        broker=broker,
        database=database,
        patience=30.0,
    )
    report = await demo.run(options)
    assert seen(report) == []
    assert report.held
    assert report.counted["writes"] == 20 + 20 + 200 + 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to find children in")
@pytest.mark.parametrize("given", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_interrupted_demo_leaves_nothing_behind(
    redis_url: str, postgres_url: str, given: signal.Signals
) -> None:
    before = await tables(postgres_url)
    command = [sys.executable, "-m", "imperfect_dollop.demo", "--plain", "--nodes", "3"]
    urls = ["--broker", redis_url, "--database", postgres_url]
    run = await asyncio.create_subprocess_exec(
        *command, *urls, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    assert "3 nodes, each a process of its own," in (await run.stdout.readline()).decode()
    assert "All start at once" in (await run.stdout.readline()).decode()
    nodes = children(run.pid)
    assert len(nodes) == 3
    run.send_signal(given)
    output, errors = await run.communicate()
    assert b"Every check held" not in output
    while any(map(runs, nodes)):  # who is left alone ends by itself; a test takes a minute at most
        await asyncio.sleep(0.05)
    if given == signal.SIGKILL:
        assert run.returncode == -signal.SIGKILL
        left = await tables(postgres_url) - before
        await drop(postgres_url, left)
    else:
        assert (run.returncode, errors) == (130, b"")
        assert await tables(postgres_url) <= before


@pytest.mark.parametrize("scheme", ["postgresql", "mariadb"])
def test_a_database_that_does_not_answer(capsys: pytest.CaptureFixture[str], scheme: str) -> None:
    with socket.socket() as unheard:  # bound, and nobody listens
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}/x"
        options = Options(database=f"{scheme}://ada:secret@{address}")
        assert demo.main(options) == 2
    message = capsys.readouterr().err
    assert f"no table can be made in {scheme}://{address}: " in message
    assert "secret" not in message


async def drop(database: str, names: set[str]) -> None:
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        for name in names:
            await connection.execute(text(f"DROP TABLE {name}"))
    await engine.dispose()
