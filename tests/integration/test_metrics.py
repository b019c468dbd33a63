"""A real Prometheus reads what a node shows, over HTTP and as it is."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from aioprometheus.collectors import Registry

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.metrics.families import FAMILIES
from imperfect_dollop.metrics.prometheus import endpoint, register, render

from .presence import absent
from .rows import Row
from .servers import PrometheusServer

PATIENCE = 30.0

NAME = 'rows of "all"\\\nothers'


async def rows() -> list[Row]:
    return [Row(number, "row") for number in range(3)]


def node_of_three_rows() -> tuple[Node, Repository[int, Row]]:
    source: FunctionSource[int, Row] = FunctionSource(load_all=rows)
    repository: Repository[int, Row] = Repository(Row, source=source, read_only=True, name=NAME)
    return Node("memory://", repository), repository


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an ASGI application by uvicorn, on a port of its own."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(PATIENCE):
            while not server.started:
                await asyncio.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        await serving


async def test_prometheus_scrapes_a_node() -> None:
    registry = Registry()
    node, repository = node_of_three_rows()
    register(node, registry)
    async with served(endpoint(registry)) as address, PrometheusServer(address) as prometheus:

        async def until(query: str, value: str) -> dict[str, str]:
            """The labels of the one series, once it has this value."""
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = (await prometheus.ask("query", query=query))["result"]
                    if [each["value"][1] for each in found] == [value]:
                        labels: dict[str, str] = found[0]["metric"]
                        return labels
                    await asyncio.sleep(0.05)

        await until("dollop_data_age_seconds", "NaN")  # there is nothing yet, and that is no error
        async with node:
            await repository.get(1)
            labels = await until("dollop_hits_total", "1")
            assert labels["repository"] == NAME
            assert labels["namespace"] == "default"
            await until("dollop_entities", "3")
            await until("dollop_broker_up", "1")
            await until('dollop_node_state{state="ready"}', "1")
            await until("dollop_propagation_seconds_count", "0")
            await until("count(dollop_propagation_seconds_bucket)", "16")
        await until('dollop_node_state{state="closed"}', "1")
        (target,) = (await prometheus.ask("targets"))["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        known = await prometheus.ask("metadata")
        shown = {name: told[0]["type"] for name, told in known.items() if "dollop" in name}
        assert shown == {family.name: family.kind for family in FAMILIES}


async def test_promtool_has_nothing_to_say() -> None:
    promtool = shutil.which("promtool") or absent("no promtool on this machine")
    registry = Registry()
    node, _ = node_of_three_rows()
    register(node, registry)
    async with node:
        text = render(registry)
    checking = await asyncio.create_subprocess_exec(
        *(promtool, "check", "metrics"), stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await checking.communicate(text)
    assert (checking.returncode, said.decode()) == (0, "")
