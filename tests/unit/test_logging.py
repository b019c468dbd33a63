"""What the log says: each change of state once, of which repository, on which node, and why."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any

import pytest

import imperfect_dollop
from imperfect_dollop import Node
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
        "Student is ready: filled by the source",
        "Student is closed",
    ]
    assert [level for level, _ in told(caplog)].count(logging.WARNING) == 1


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
        mine = [each for each in records if vars(each)["dollop"]["node"] == "second"]
        assert all(vars(each)["dollop"]["repository"] == "Student" for each in records)
        assert [(vars(each)["dollop"]["state"], each.levelno) for each in mine] == [
            ("degraded", logging.INFO),  # the broker: the node has warned of it
            ("degraded", logging.INFO),  # back, but something was missed
            ("ready", logging.INFO),
        ]
        assert vars(mine[0])["dollop"]["cause"].startswith("broker: ")
        assert vars(mine[1])["dollop"]["cause"].startswith("events: ")
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


async def test_a_source_that_fails_is_warned_of_once_also_when_a_sibling_fills_the_copy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broken = SchoolSource(ADA)
    broken.failure = OSError("no route")
    broker = MemoryBroker()
    one = member(broker, broken, node={"name": "one"})
    async with cluster(one):
        await eventually(lambda: one.repository.state == "cold")
        async with cluster(member(broker, SchoolSource(ADA))):
            await eventually(lambda: one.repository.state == "degraded")
            assert one.repository.peek(1) == ADA
            broken.failure = None
            await eventually(lambda: one.repository.state == "ready")
    mine = [each for each in told(caplog) if each[1].startswith("one: ")]
    assert [level for level, _ in mine].count(logging.WARNING) == 1
    assert "one: Student is degraded: filled by a sibling; source: " in mine[2][1]
    assert mine[3][1] == "one: Student is ready: the source answers again"


async def test_what_was_missed_is_said_to_be_made_up_for_by_one_that_its_source_has_filled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broker = MemoryBroker()
    one = member(broker, SchoolSource(ADA))
    async with cluster(one):
        with broker.outage():
            await eventually(lambda: one.repository.state == "degraded")
        await eventually(lambda: one.repository.state == "ready")
        caplog.clear()
        await one.repository.clear()
        await one.repository.get(1)
        await eventually(lambda: one.repository.state == "ready")
    said = [message.partition(": ")[2] for _, message in told(caplog)]
    assert said == [
        "Student is loading: events: everything was dropped",
        "Student is ready: filled by the source",
        "Student is closed",
    ]


async def test_the_broker_of_one_that_loads_on_demand_is_said_to_be_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    broker = MemoryBroker()
    one = member(broker, SchoolSource(ADA), preload=False)
    async with cluster(one):
        with broker.outage():
            await eventually(lambda: one.repository.state == "degraded")
        await eventually(lambda: one.repository.state == "ready")
        assert told(caplog)[-1][1].endswith("Student is ready: the broker is back")


async def test_a_log_that_raises_does_not_keep_a_node_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuse(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if "closed" in record.getMessage():
                raise RuntimeError("no room")
            return True

    caplog.set_level(logging.INFO)
    both = [repository(SchoolSource(ADA), name=name) for name in ("first", "second")]
    node = Node("memory://", *both)
    refuse = Refuse()
    logging.getLogger(SESSION).addFilter(refuse)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        async with node:
            pass
        assert node.state == "closed"
        assert [each.state for each in both] == ["closed", "closed"]
    finally:
        logging.getLogger(SESSION).removeFilter(refuse)
    async with node:
        assert [each.peek(1) for each in both] == [ADA, ADA]


def record_with_a_node(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    record.node = record.state = record.cause = record.repository = "the application's"
    return record


async def test_attributes_that_the_application_gives_its_records_are_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(record_with_a_node)
    try:
        async with repository(SchoolSource(ADA)):
            pass
    finally:
        logging.setLogRecordFactory(factory)
    assert len(told(caplog)) == 3


def test_warning_reaches_stderr_of_an_application_that_has_not_configured_logging() -> None:
    program = (
        "import logging, imperfect_dollop;"
        "logging.getLogger('imperfect_dollop.session').warning('a row is quarantined');"
        "logging.getLogger('imperfect_dollop.session').info('a detail')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=30, check=True
    )
    assert (ran.stdout, ran.stderr) == (b"", b"a row is quarantined\n")
