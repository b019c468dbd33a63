"""What the log says: each change of state once, of which repository, on which node, and why."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

import imperfect_dollop
from imperfect_dollop.brokers.memory import MemoryBroker

from .school import SchoolSource, Student, cluster, eventually, member, repository

ADA, BOB = Student(1, "Ada"), Student(2, "Bob")

SESSION = "imperfect_dollop.session"


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """What was said of the states of repositories."""
    return [(each.levelno, each.getMessage()) for each in caplog.records if each.name == SESSION]


async def test_a_repository_that_is_used_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = SchoolSource(ADA)
    async with repository(source, retry_after=0.005, ttl=0.01, jitter=0.0) as repo:
        source.failure = OSError("no route")
        await eventually(lambda: source.calls["load_all"] >= 5)
        source.failure = None
        await eventually(lambda: repo.state == "ready")
    assert told(caplog) == [
        (logging.INFO, "Student is loading"),
        (logging.INFO, "Student is ready: filled by the source"),
        (
            logging.WARNING,
            "Student is degraded: source: the load of all rows failed: OSError('no route')",
        ),
        (logging.INFO, "Student is ready: the source answers again"),
        (logging.INFO, "Student is closed"),
    ]


async def test_one_that_cannot_be_filled_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source = SchoolSource(ADA)
    source.failure = OSError("no route")
    async with repository(source, retry_after=0.005) as repo:
        await eventually(lambda: source.calls["load_all"] >= 5)
        assert set(repo.causes) == {"source"}
        source.failure = None
        await eventually(lambda: repo.state == "ready")
        assert repo.causes == {}
    assert [message for _, message in told(caplog)] == [
        "Student is loading",
        "Student is cold: source: the load of all rows failed: OSError('no route')",
        "Student is ready: the source answers again",
        "Student is closed",
    ]


async def test_one_that_loads_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with repository(SchoolSource(ADA), preload=False) as repo:
        await repo.get(1)
    assert [message for _, message in told(caplog)] == [
        "Student is ready: opened",
        "Student is closed",
    ]


async def test_the_repository_of_a_node(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source, broker = SchoolSource(ADA), MemoryBroker()
    first = member(broker, source, node={"name": "first"})
    second = member(broker, source, node={"name": "second"})
    async with cluster(first), cluster(second):
        caplog.clear()
        with broker.outage():
            await eventually(lambda: first.repository.state == "degraded")
            assert set(first.repository.causes) == {"broker"}
            source.put(BOB)
            source.failure = OSError("no route")
            with pytest.raises(imperfect_dollop.SourceUnavailableError):
                await first.repository.refresh()
            assert set(first.repository.causes) == {"broker", "source"}
            source.failure = None
        await eventually(lambda: first.repository.state == second.repository.state == "ready")
        assert second.repository.peek(BOB.id) == BOB
        records = [each for each in caplog.records if each.name == SESSION]
        mine = [each for each in records if vars(each)["node"] == "second"]
        assert all(vars(each)["repository"] == "Student" for each in records)
        assert [(vars(each)["state"], each.levelno) for each in mine] == [
            ("degraded", logging.INFO),  # the broker: the node has warned of it
            ("degraded", logging.INFO),  # back, but something was missed
            ("ready", logging.INFO),
        ]
        assert vars(mine[0])["cause"].startswith("broker: ")
        assert vars(mine[1])["cause"].startswith("events: ")
        assert mine[2].getMessage() == (
            "second: Student is ready: what was missed has been made up for"
        )
        warnings = [each.getMessage() for each in records if each.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "first: Student is degraded: source: " in warnings[0]
        assert "; broker: " in warnings[0]
        away = [each for each in caplog.records if "the broker is away" in each.getMessage()]
        assert len([each for each in away if each.levelno == logging.WARNING]) == 2  # one a node


async def test_a_copy_of_a_sibling_is_named_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    source, broker = SchoolSource(ADA), MemoryBroker()
    second = member(broker, source, node={"name": "second"})
    async with cluster(member(broker, source)), cluster(second):
        assert (logging.INFO, "second: Student is ready: filled by a sibling") in told(caplog)


def test_nothing_is_said_to_an_application_that_does_not_listen() -> None:
    root = logging.getLogger("imperfect_dollop")
    assert any(isinstance(handler, logging.NullHandler) for handler in root.handlers)
    program = (
        "import logging, imperfect_dollop;"
        "logging.getLogger('imperfect_dollop.session').warning('nobody listens')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=True
    )
    assert ran.stdout + ran.stderr == b""
