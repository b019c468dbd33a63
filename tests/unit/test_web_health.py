"""What probes are told."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from typing import Any

import pytest

from imperfect_dollop import ConfigurationError, Node, Repository
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.web.aiohttp import health as of_aiohttp
from imperfect_dollop.web.fastapi import health as of_fastapi
from imperfect_dollop.web.health import live, ready

from .school import SchoolSource, Student, eventually, member, repository, soon

ADA = Student(1, "Ada", version=1)
SECRET = "connection refused by ada:secret@school.internal"


def node_of(*repositories: Repository[Any, Any]) -> Node:
    return Node("memory://", *repositories, name="n", heartbeat=0.05, offer_wait=0.05)


async def test_ready_when_all_are_filled_and_only_while_the_node_is_open() -> None:
    whole = repository(SchoolSource(ADA))
    single = repository(SchoolSource(ADA), name="single", preload=False)
    node = node_of(whole, single)
    assert ready(node) == (
        503,
        {
            "ready": False,
            "node": "n",
            "broker": "away",
            "repositories": {
                "Student": {"state": "closed", "missing": []},
                "single": {"state": "closed", "missing": []},
            },
        },
    )
    async with node:
        assert ready(node) == (
            200,
            {
                "ready": True,
                "node": "n",
                "broker": "up",
                "repositories": {
                    "Student": {"state": "ready", "missing": []},
                    "single": {"state": "ready", "missing": []},
                },
            },
        )
        assert json.loads(json.dumps(ready(node))) == list(ready(node))
    assert ready(node)[0] == 503


async def test_a_node_without_repositories_is_ready_while_it_is_open() -> None:
    node = node_of()
    assert ready(node)[0] == 503
    async with node:
        assert ready(node)[0] == 200
    assert ready(node)[0] == 503


async def test_not_ready_before_the_first_complete_load() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError(SECRET)
    filled, empty = repository(SchoolSource(ADA), name="filled"), repository(source)
    node = node_of(filled, empty)
    async with node:
        status, body = ready(node)
        assert status == 503
        assert not body["ready"]
        assert body["repositories"]["filled"] == {"state": "ready", "missing": []}
        assert body["repositories"]["Student"]["state"] in ("cold", "loading")
        assert body["repositories"]["Student"]["missing"] == ["source"]
        assert "secret" not in str(body)
        source.failure = None
        await node.wait_ready()
        assert ready(node)[0] == 200


async def test_not_ready_while_the_first_load_goes_on() -> None:
    source = SchoolSource(Student(1, "Ada"))
    gate = source.hold("load_all")
    one = member("memory://loading", source)
    entering = asyncio.create_task(one.node.__aenter__())
    await eventually(lambda: gate.entered)
    status, body = ready(one.node)
    assert (status, body["repositories"]["Student"]["state"]) == (503, "loading")
    gate.open()
    await entering
    assert ready(one.node)[0] == 200
    await one.node.__aexit__(None, None, None)


async def test_ready_while_the_source_is_away() -> None:
    source = SchoolSource(ADA)
    repo = repository(source, ttl=0.02)
    node = node_of(repo)
    async with node:
        source.failure = OSError(SECRET)
        await eventually(lambda: repo.state == "degraded")
        status, body = ready(node)
        assert (status, body["ready"], body["broker"]) == (200, True, "up")
        assert body["repositories"]["Student"] == {"state": "degraded", "missing": ["source"]}
        assert "secret" not in str(body)


async def test_ready_on_demand_while_the_source_is_away() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError(SECRET)
    node = node_of(repository(source, preload=False))
    async with node:
        assert ready(node)[0] == 200


async def test_the_broker_informs_and_does_not_decide() -> None:
    broker = MemoryBroker()
    one = member(broker, SchoolSource(ADA))
    async with one.node:
        with broker.outage(SECRET):
            await eventually(lambda: ready(one.node)[1]["broker"] == "away")
            status, body = ready(one.node)
            assert (status, body["ready"]) == (200, True)
            assert body["repositories"]["Student"] == {"state": "degraded", "missing": ["broker"]}
            assert "secret" not in str(body)
        await eventually(lambda: ready(one.node)[1]["broker"] == "up")


async def test_not_ready_while_the_node_is_left() -> None:
    source = SchoolSource(ADA)
    repo = repository(source)
    node = node_of(repo)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(node)
        gate = source.hold("update")
        write = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Augusta")))
        await eventually(lambda: gate.entered)
        leaving = asyncio.create_task(stack.aclose())
        await eventually(lambda: ready(node)[0] == 503)
        assert not leaving.done()  # it carries the write through
        gate.open()
        await soon(leaving)
        assert (await soon(write)).name == "Augusta"


def test_what_is_no_node_has_no_health() -> None:
    for health in (of_fastapi, of_aiohttp):
        with pytest.raises(
            ConfigurationError, match=r"health\(node\) takes a Node, not <Repository"
        ):
            health(repository(SchoolSource()))  # type: ignore[arg-type]


async def test_alive_whatever_the_state() -> None:
    node = node_of(repository(SchoolSource(ADA)))
    assert live(node) == (200, {"live": True, "node": "n"})
    async with node:
        assert live(node) == (200, {"live": True, "node": "n"})
