"""Five instances of the sample, each a process: the whole story, and that it can fail and be interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from examples.students.database import new_engine
from examples.students.five import brokers, stage, steps
from examples.students.five.brokers import KINDS, broker_of, fault_of
from examples.students.five.compare import differences
from examples.students.five.databases import Database, StudentsTable, database_of
from examples.students.five.instances import five_instances
from examples.students.five.processes import NotFoundError, Port, Process, ProcessError
from examples.students.five.report import Report
from examples.students.five.stage import Stage
from examples.students.settings import async_url

from .pids import children
from .presence import absent

ROOT = Path(__file__).parents[2]

COMMAND = (sys.executable, "-m", "examples.students.five")

CHECKS = 22
"""As many lines has the story."""


async def tables(database: str) -> set[str]:
    """Those of any run."""
    engine = new_engine(async_url(database))
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return {name for name in names if name.startswith("students_")}


@contextlib.asynccontextmanager
async def running(
    *arguments: str, until: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A run that has come so far as to say `until`, and what it has said; ended, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    said = ""
    try:
        while not said.endswith(until):
            line = (await process.stdout.readline()).decode()
            assert line, f"it has ended; it said: {said}"
            said += line
        yield process, said
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


def named(output: str) -> set[str]:
    """The table that a run had."""
    return {
        line.split()[1].rstrip(",") for line in output.splitlines() if line.startswith("Table: ")
    }


async def run(*arguments: str) -> tuple[int, str]:
    """The exit code of a run, and all that it has said."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "server"), [("redis", "postgres"), ("rabbitmq", "mariadb")])
async def test_the_story_on_private_brokers(
    request: pytest.FixtureRequest, kind: str, server: str
) -> None:
    """Each broker and each database once: what the death of one shows does not depend on the other."""
    if KINDS[kind].path() is None:
        absent(f"no {KINDS[kind].program} on this machine")
    database: str = request.getfixturevalue(f"{server}_url")
    code, output = await run("--check", "--broker", kind, "--database", database)
    assert code == 0, output
    assert output.count("\N{CHECK MARK}") == CHECKS, output
    assert f"{KINDS[kind].program} is killed with SIGKILL" in output
    assert not named(output) & await tables(database)


@pytest.mark.timeout(180)
async def test_the_story_on_a_broker_of_others(redis_url: str) -> None:
    code, output = await run("--check", "--broker", redis_url, "--database", "sqlite")
    assert code == 0, output
    assert output.count("\N{CHECK MARK}") == CHECKS, output
    assert "the relay of this run that leads to it is cut" in output


# -- that it can fail ------------------------------------------------------------------------------


ROW = {"id": 1, "name": "Ada", "city": "London", "version": 0}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({1: ROW, 2: ROW}, []),
        ({1: ROW}, ["one lacks 1 (the first is 2)"]),
        ({}, ["one lacks 2 (the first is 1)"]),
        ({1: ROW, 2: ROW, 3: ROW}, ["one has too many 1 (the first is 3)"]),
        ({1: ROW, 2: {**ROW, "version": 1}}, ["one has otherwise 1 (the first is 2)"]),
        ({2: ROW, 3: ROW}, ["one lacks 1 (the first is 1), has too many 1 (the first is 3)"]),
    ],
)
def test_differences_are_told(held: dict[int, dict[str, Any]], said: list[str]) -> None:
    assert differences({1: ROW, 2: ROW}, {"one": held, "two": {1: ROW, 2: ROW}}) == said


@contextlib.asynccontextmanager
async def five(broker: str, tmp_path: Path) -> AsyncIterator[Stage]:
    """Five on a broker of others and SQLite."""
    where = await database_of("sqlite", tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(broker_of(broker, tmp_path))
        fault = await stack.enter_async_context(fault_of(link))
        table = await stack.enter_async_context(StudentsTable(where))
        settings = {
            "STUDENTS_BROKER": fault.url,
            "STUDENTS_DATABASE": where.url,
            "STUDENTS_NAMESPACE": table.name,
            "STUDENTS_TABLE": table.name,
        }
        instances = await stack.enter_async_context(five_instances(settings, tmp_path))
        yield Stage(instances, fault, table, Report())


async def test_what_is_wrong_is_seen(
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(stage, "PATIENCE", 1.0)
    async with five(redis_url, tmp_path) as told:
        await steps.write_through_all(told)
        assert told.report.held
        engine = new_engine((await database_of("sqlite", tmp_path)).url)
        async with engine.begin() as connection:  # what no instance hears of
            await connection.execute(text(f"DELETE FROM {told.table.name} WHERE id = 1"))
        await engine.dispose()
        await steps.compare(told)
        assert not told.report.held
        failed = [line for line in capsys.readouterr().out.splitlines() if "\N{BALLOT X}" in line]
        assert len(failed) == 2
        assert "0 of 5 are equal; one has too many 1 (the first is 1); two has" in failed[0]
        assert "connections to the broker: [1, 1, 1, 1, 1]" in failed[1]  # it was never away
        del told.expected[1]
        await told.check_all_equal("without one")
        assert "without one: 0 of 5 answer" in capsys.readouterr().out


async def test_an_instance_that_does_not_start(tmp_path: Path) -> None:
    settings = {"STUDENTS_TTL": "soon", "STUDENTS_BROKER": "memory://"}
    with pytest.raises(ProcessError, match="STUDENTS_TTL='soon' must be seconds above 0"):
        async with five_instances(settings, tmp_path):
            pytest.fail("there is nothing to use")


async def test_a_process_that_ignores_its_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.students.five.processes.STOP_SECONDS", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); signal.pause()"
    process = Process(
        "deaf", [sys.executable, "-c", deaf], {}, log=tmp_path / "log", folder=tmp_path
    )
    await process.start()
    while not process.said():
        await asyncio.sleep(0.01)
    assert process.running
    await process.stop()
    assert not process.running


# -- what is found ---------------------------------------------------------------------------------


async def test_without_a_broker_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Port()
    usual = {
        "redis": f"redis://127.0.0.1:{closed.number}",
        "rabbitmq": f"amqp://127.0.0.1:{closed.number}",
    }
    monkeypatch.setattr(brokers, "USUAL", usual)
    for kind in KINDS.values():
        monkeypatch.setattr(kind, "path", classmethod(lambda cls: None))
    with pytest.raises(NotFoundError, match="apt install redis-server, brew install redis"):
        async with broker_of(None, tmp_path):
            pytest.fail("there is none")
    with pytest.raises(NotFoundError, match="apt install rabbitmq-server, brew install rabbitmq"):
        async with broker_of("rabbitmq", tmp_path):
            pytest.fail("there is none")
    closed.close()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kafka", "takes a URL or one of redis, rabbitmq"),
        ("kafka://a:secret@b", "kafka:// names no broker"),
        ("redis://:secret@127.0.0.1:1", "no broker at redis://127.0.0.1:1: "),
        ("memory://x", "memory:// joins the nodes of one process"),
    ],
)
async def test_a_broker_that_cannot_be_used(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(NotFoundError, match=said) as raised:
        async with broker_of(given, tmp_path) as broker, fault_of(broker):
            pytest.fail("there is none")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("oracle", "takes a URL or one of postgresql, mariadb, sqlite"),
        ("oracle://a:secret@b", "oracle:// names no database"),
        ("postgresql://a:secret@127.0.0.1:1/x", "no database at postgresql://127.0.0.1:1/x: "),
    ],
)
async def test_a_database_that_cannot_be_used(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(NotFoundError, match=said) as raised:
        await database_of(given, tmp_path)
    assert "secret" not in str(raised.value)


def test_a_database_is_shown_without_its_password() -> None:
    shown = Database("postgresql+asyncpg://ada:secret@db/school", "as given").shown
    assert shown == "postgresql://db:5432/school, as given"


# -- its end ---------------------------------------------------------------------------------------


def alive(processes: list[int]) -> list[int]:
    return [each for each in processes if Path(f"/proc/{each}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to find children in")
@pytest.mark.parametrize(("given", "check"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
async def test_an_interrupted_run_leaves_nothing_behind(
    postgres_url: str, given: signal.Signals, check: bool
) -> None:
    if KINDS["redis"].path() is None:
        absent("no redis-server on this machine")
    arguments = ["--broker", "redis", "--database", postgres_url, *["--check"] * check]
    until = "Writes through all five\n" if check else "drops the table.\n"
    async with running(*arguments, until=until) as (process, said):
        started = children(process.pid)
        assert len(started) == 6
        assert named(said) <= await tables(postgres_url)
        process.send_signal(given)
        while len(children(process.pid)) == 6:  # the end has begun, and is not to be disturbed
            await asyncio.sleep(0.001)
        process.send_signal(given)
        output, _ = await process.communicate()
        assert process.returncode == (130 if check else 0)
        assert "held" not in output.decode()
        assert not alive(started)
        assert not named(said) & await tables(postgres_url)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc to find children in")
async def test_an_instance_that_dies_ends_the_run(redis_url: str) -> None:
    arguments = ["--broker", redis_url, "--database", "sqlite"]
    async with running(*arguments, until="drops the table.\n") as (process, _):
        started = children(process.pid)
        os.kill(started[2], signal.SIGKILL)
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert b"instance three has ended; the last it said:" in errors
        assert not alive(started)
