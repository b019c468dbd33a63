"""An event loop that is blocked is reported as that; a broker of this process warns of sibling workers."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.workers import sibling_workers

from .school import eventually


@dataclass(frozen=True)
class Row:
    id: int


async def load_all() -> list[Row]:
    return [Row(1)]


def repository() -> Repository[int, Row]:
    source: FunctionSource[int, Row] = FunctionSource(load_all=load_all)
    return Repository(Row, source=source, read_only=True)


async def test_node_blocked_event_loop_is_reported_once_and_not_as_the_broker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = repository(), repository()
    with caplog.at_level(logging.INFO, "imperfect_dollop"):
        async with (
            Node("memory://stall", one, heartbeat=0.1) as node,
            Node("memory://stall", two, heartbeat=0.1),
        ):
            await eventually(lambda: len(node.members) == 2)
            caplog.clear()
            time.sleep(2.0)  # noqa: ASYNC251  # what an application should not do
            await asyncio.sleep(0.5)
            lines = [one.getMessage() for one in caplog.records]
            assert len([line for line in lines if "event loop was blocked for" in line]) == 2
            assert not [line for line in lines if "away" in line or "vanished" in line]
            assert one.state == two.state == "ready"


@pytest.mark.parametrize(
    ("environment", "arguments", "found"),
    [
        ({}, ["app"], None),
        ({"WEB_CONCURRENCY": "1"}, ["app"], None),
        ({"WEB_CONCURRENCY": "4"}, ["app"], "WEB_CONCURRENCY is 4"),
        ({"WEB_CONCURRENCY": "many"}, ["app"], None),
        ({"SERVER_SOFTWARE": "gunicorn/23.0"}, ["app"], "gunicorn"),
    ],
)
def test_sibling_workers_are_told_from_the_environment(
    environment: dict[str, str], arguments: list[str], found: str | None
) -> None:
    assert (found or "") in (sibling_workers(environment, arguments) or "")
    assert (sibling_workers(environment, arguments) is None) == (found is None)


PROGRAM = """
import asyncio
from imperfect_dollop import Node

async def main():
    for _ in range(2):
        async with Node("memory://"):
            pass

asyncio.run(main())
"""


def test_node_in_a_plain_process_does_not_warn_of_workers() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, timeout=30, check=True
    )
    assert ran.stderr == b""


def _open() -> None:
    exec(PROGRAM, {})


def test_node_in_a_child_of_multiprocessing_warns_once(capfd: pytest.CaptureFixture[str]) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_open)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    said = capfd.readouterr().err
    assert said.count("seems to be one of several workers") == 1
    assert "redis://" in said
