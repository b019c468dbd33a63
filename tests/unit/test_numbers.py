"""Numbers that an application configures: what makes no sense is refused, with the values that are allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from imperfect_dollop import ConfigurationError, FunctionSource, Node, Repository
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker

from .school import Student

ADA = Student(1, "Ada", version=1)


async def load_all() -> list[Student]:
    return [ADA]


async def load(key: int) -> Student | None:
    return ADA if key == ADA.id else None


def repository(**settings: Any) -> Repository[int, Student]:
    source: FunctionSource[int, Student] = FunctionSource(load=load, load_all=load_all)
    return Repository(Student, source=source, read_only=True, **settings)


def on_demand(**settings: Any) -> Repository[int, Student]:
    return repository(preload=False, **settings)


def node(**settings: Any) -> Node:
    return Node("memory://", **settings)


def redis(**settings: Any) -> RedisBroker:
    return RedisBroker("redis://127.0.0.1", **settings)


def rabbitmq(**settings: Any) -> RabbitMQBroker:
    return RabbitMQBroker("amqp://127.0.0.1", **settings)


ABSURD = [float("nan"), -1, -0.5, True, False, "10", Decimal(10), 1e300, [1], object()]

SECONDS = [
    (repository, "ttl"),
    (repository, "hard_timeout"),
    (repository, "retry_after"),
    (repository, "jitter"),
    (on_demand, "missing_ttl"),
    (node, "heartbeat"),
    (node, "offer_wait"),
    (node, "shutdown_timeout"),
    (redis, "timeout"),
    (rabbitmq, "timeout"),
]

COUNTS: list[tuple[Callable[..., object], str]] = [
    (on_demand, "max_entries"),
    (node, "outbox"),
    (MemoryBroker, "inbox"),
    (redis, "backlog"),
    (rabbitmq, "inbox"),
    (rabbitmq, "backlog"),
]


@pytest.mark.parametrize("value", ABSURD, ids=repr)
@pytest.mark.parametrize(("build", "name"), SECONDS)
def test_seconds_absurd_value_is_refused_by_name(
    build: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.* must be "):
        build(**{name: value})


@pytest.mark.parametrize("value", [*ABSURD, 0, 1.5, float("inf")], ids=repr)
@pytest.mark.parametrize(("build", "name"), COUNTS)
def test_count_absurd_value_is_refused_by_name(
    build: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}=.* must be a whole number"):
        build(**{name: value})


async def test_repository_infinite_ttl_never_refreshes() -> None:
    async with repository(ttl=float("inf"), hard_timeout=float("inf")) as rows:
        await asyncio.sleep(0.05)
        assert rows.stats.full_loads == 1
        assert rows.state == "ready"


async def test_repository_infinite_ttl_on_demand_keeps_rows() -> None:
    async with on_demand(ttl=float("inf")) as rows:
        for _ in range(3):
            assert await rows.get(ADA.id) == ADA
        assert rows.stats.loads == 1
