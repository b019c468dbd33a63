"""Forked children, several workers and wrong passwords, with real brokers and a real server."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from imperfect_dollop import Node

from .servers import RedisServer
from .test_nodes import Rows

PATIENCE = 30.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork() beside threads
async def test_forked_child_that_ends_leaves_the_connections_of_its_parent(url: str) -> None:
    rows = Rows(3)
    namespace = f"fork-{secrets.token_hex(6)}"
    one, two = rows.repository(), rows.repository()
    async with (
        Node(url, one, namespace=namespace, heartbeat=0.2) as node,
        Node(url, two, namespace=namespace, heartbeat=0.2),
    ):
        await node.wait_ready()
        await until(lambda: len(node.members) == 2)
        connections = node.stats.connections
        for _ in range(3):
            child = os.fork()
            if child == 0:
                closed = one.state == "closed"
                os._exit(0 if closed else 1)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        await one.create(type(one[1])(7, "after the fork"))
        await until(lambda: 7 in two)
        await asyncio.sleep(1.0)  # some heartbeats
        assert node.stats.connections == connections
        assert len(node.members) == 2


async def test_wrong_password_of_redis_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(["--requirepass", "right"])
    await server.start()
    try:
        url = f"redis://:wrong-one@{server.host}:{server.port}/0"
        with caplog.at_level(logging.WARNING):
            async with Node(url, namespace="password", heartbeat=0.1):
                await asyncio.sleep(3.0)  # several attempts to connect
        _one_warning(caplog, "wrong-one")
    finally:
        await server.stop()


async def test_wrong_password_of_rabbitmq_is_one_warning(
    rabbitmq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(rabbitmq_url)
    url = f"amqp://guest:wrong-one@{parts.hostname}:{parts.port or 5672}/"
    with caplog.at_level(logging.WARNING):
        async with Node(url, namespace="password", heartbeat=0.1):
            await asyncio.sleep(3.0)  # several attempts to connect
    _one_warning(caplog, "wrong-one")


def _one_warning(caplog: pytest.LogCaptureFixture, password: str) -> None:
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    assert "the broker is away" in lines[0]
    assert password not in lines[0]


APPLICATION = """
from dataclasses import dataclass
from fastapi import FastAPI
from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.web.fastapi import lifespan

@dataclass(frozen=True)
class Row:
    id: int

async def load_all():
    return [Row(1)]

rows = Repository(Row, source=FunctionSource(load_all=load_all), read_only=True)
app = FastAPI(lifespan=lifespan(Node("memory://", rows)))
"""


@pytest.mark.parametrize(("workers", "warnings"), [(1, 0), (2, 2)])
async def test_memory_broker_under_uvicorn_warns_in_each_of_several_workers(
    workers: int, warnings: int, tmp_path: Path
) -> None:
    (tmp_path / "application.py").write_text(APPLICATION)
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "application:app", "--port", "0"),
        *("--workers", str(workers)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stderr is not None
    said: list[str] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while sum("Application startup complete" in line for line in said) < workers:
                line = await server.stderr.readline()
                assert line, said
                said.append(line.decode())
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            await server.communicate()
    assert sum("seems to be one of several workers" in line for line in said) == warnings
