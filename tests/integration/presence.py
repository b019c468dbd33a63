"""Whether what a test needs is there, and what becomes of the test if it is not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import warnings
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeVar

import aio_pika
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

T = TypeVar("T")

TRIAL: Final = 5.0
"""Seconds for a server to answer a single question."""


async def sql_answers(url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with asyncio.timeout(TRIAL), engine.connect():
            pass
    finally:
        await engine.dispose()


async def redis_answers(url: str) -> None:
    async with asyncio.timeout(TRIAL), Redis.from_url(url) as client:
        # That one is an answer too, of a server that wants to know who asks.
        with contextlib.suppress(AuthenticationError):
            await client.ping()


async def rabbitmq_answers(url: str) -> None:
    async with asyncio.timeout(TRIAL), await aio_pika.connect(url):
        pass


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


def apart(work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to, done in a loop of its own beside whatever loop this thread has."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def absent(reason: str) -> NoReturn:
    """Skip the test that needs what is not there, or fail it where it was promised."""
    if os.environ.get("DOLLOP_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}; DOLLOP_REQUIRE_SERVICES=1 promises it", pytrace=False)
    pytest.skip(reason)
