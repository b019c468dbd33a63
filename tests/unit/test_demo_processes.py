"""A member of the demo in a process of its own: what it is asked, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import EntityNotFoundError, demo
from imperfect_dollop.demo import Options, remote
from imperfect_dollop.demo.database import Database, Student, students_table
from imperfect_dollop.demo.member import LocalMember, Member, Setup
from imperfect_dollop.demo.pipe import CALLS, MemberFailedError, Reply
from imperfect_dollop.demo.remote import MemberDiedError, RemoteMember

Patch = pytest.MonkeyPatch

ROWS = {number: Student(number, f"Ada {number}", "London") for number in range(1, 11)}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database("sqlite", str(tmp_path)) as database:
        await database.fill(ROWS.values())
        yield database


@pytest.fixture
def setup(database: Database) -> Setup:
    return Setup(
        name="node-1",
        broker="memory://demo",
        namespace="demo",
        database=database.url,
        table=database.table,
    )


@pytest.fixture
async def member(setup: Setup) -> AsyncIterator[RemoteMember]:
    """Open, and not started."""
    member = RemoteMember(setup)
    await member.open()
    yield member
    await member.leave()


def pid(member: RemoteMember) -> int:
    process = member._process
    assert process is not None
    return process.pid


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def everything(member: Member) -> list[object]:
    """What a member returns, without moments."""
    await member.start()
    began = time.perf_counter()
    written = await member.write("update", dataclasses.replace(ROWS[1], city="Oslo"))
    assert written.stored is not None
    shown = await member.shows(1, written.stored, 5.0)
    created = await member.write("create", Student(11, "Grace", "Rome"))
    deleted = await member.write("delete", ROWS[2])
    assert shown is not None
    assert began < written.at < shown < created.at < deleted.at < time.perf_counter()
    with pytest.raises(EntityNotFoundError) as absent:
        await member.write("update", ROWS[2])
    wanted = {key: row for key, row in ROWS.items() if key > 2} | {1: written.stored}
    answers = await member.answers(wanted)
    assert answers.seconds > 0
    figures = await member.look()
    assert figures == member.figures
    await member.refresh()
    reads = (await member.look()).whole_reads
    return [
        written.stored,
        created.stored,
        deleted.stored,
        str(absent.value),
        await member.shows(1, ROWS[1], 0.0),
        await member.shows(2, None, 0.0) is not None,
        await member.differs(wanted, 0.0),
        await member.differs(wanted | {11: Student(11, "Grace", "Rome")}, 0.0),
        answers.right,
        (figures.state, figures.entities, figures.digest, figures.members, figures.read_source),
        (figures.whole_reads, reads, figures.failure),
        (figures.stats.writes, figures.stats.full_loads),
    ]


async def test_a_process_does_what_a_member_here_does(setup: Setup, member: RemoteMember) -> None:
    there = await everything(member)
    await member.leave()
    for number in ROWS.keys() | {11}:
        await _write_back(setup, number)
    here = LocalMember(setup)
    try:
        assert there == await everything(here)
    finally:
        await here.leave()
    assert there[0] == dataclasses.replace(ROWS[1], city="Oslo", version=1)
    assert there[6:9] == [[11], [], 9]
    assert there[9][:2] == ("ready", 10)  # type: ignore[index]
    assert there[10] == (1, 2, None)


async def _write_back(setup: Setup, number: int) -> None:
    """Undo what `everything` has written."""
    engine, table = create_async_engine(setup.database), students_table(setup.table)
    async with engine.begin() as connection:
        await connection.execute(table.delete().where(table.c.id == number))
        if number in ROWS:
            await connection.execute(table.insert().values(dataclasses.asdict(ROWS[number])))
    await engine.dispose()


async def test_a_wait_in_a_process_holds_up_nothing_else(member: RemoteMember) -> None:
    await member.start()
    row = dataclasses.replace(ROWS[3], city="Oslo", version=1)
    waiting = asyncio.create_task(member.shows(3, row, 30.0))
    assert (await member.look()).state == "ready"
    assert not waiting.done()
    written = await member.write("update", dataclasses.replace(ROWS[3], city="Oslo"))
    assert written.stored == row
    assert await waiting is not None


async def test_only_what_is_declared_can_be_called(
    member: RemoteMember, monkeypatch: Patch
) -> None:
    assert "open" not in CALLS
    monkeypatch.setitem(CALLS, "__init__", CALLS["look"])  # on this side
    with pytest.raises(MemberFailedError, match="KeyError: '__init__'"):
        await member._call("__init__")
    with pytest.raises(MemberFailedError, match="ValidationError"):
        await member._call("shows", "one", None, 0.0)
    assert (await member.look()).state == "closed"


async def test_what_nobody_expected_is_told_with_its_traceback(setup: Setup) -> None:
    member = RemoteMember(msgspec.structs.replace(setup, namespace=""))
    with pytest.raises(MemberDiedError) as death:
        await member.open()
    assert "node-1 has ended with exit code 1; the last it said:" in str(death.value)
    assert "ConfigurationError: namespace must be" in str(death.value)
    assert member.figures.state == "dead"
    await member.leave()


async def test_a_killed_process_ends_all_waits(member: RemoteMember) -> None:
    await member.start()
    waits = [asyncio.create_task(member.shows(99, ROWS[1], 50.0)) for _ in range(3)]
    await member.look()
    os.kill(pid(member), signal.SIGKILL)
    for wait in waits:
        with pytest.raises(MemberDiedError, match=r"node-1 was ended by SIGKILL"):
            await wait
    with pytest.raises(MemberDiedError, match="SIGKILL"):
        await member.look()
    await member.leave()


async def test_a_crash_leaves_the_last_figures(member: RemoteMember) -> None:
    await member.start()
    await member.write("delete", ROWS[2])
    process = pid(member)
    await member.crash()
    assert not runs(process)
    assert member.figures.stats.writes == 1
    assert member.figures.whole_reads == 1
    assert member.figures.state == "dead"


async def test_a_process_that_does_not_answer(member: RemoteMember, monkeypatch: Patch) -> None:
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(remote, "LEAVE_SECONDS", 0.1)
    process = pid(member)
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(MemberDiedError, match="has not answered 'look' for"):
        await member.look()
    await member.leave()
    assert not runs(process)


async def test_a_process_ends_when_nobody_listens_to_it(member: RemoteMember) -> None:
    await member.start()
    process = member._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("program", "fate"),
    [
        ("print('hello, this is no frame')", "has sent what is no reply|exit code 0"),
        (
            f"import sys; sys.stdout.write('\\0\\0\\0\\1x{' ' * 9}'); sys.stdout.flush(); input()",
            "has sent what is no reply",
        ),
        ("import sys; sys.exit('no such luck')", "exit code 1; the last it said:\nno such luck"),
        ("pass", "exit code 0, without a word"),
    ],
)
async def test_a_process_of_another_kind(
    setup: Setup, monkeypatch: Patch, program: str, fate: str
) -> None:
    monkeypatch.setattr(remote, "COMMAND", (sys.executable, "-c", program))
    member = RemoteMember(setup)
    with pytest.raises(MemberDiedError, match=fate):
        await member.open()
    await member.leave()


async def test_what_is_printed_there_is_no_reply(
    setup: Setup, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import asyncio\n"
        "from imperfect_dollop.demo import child, member\n"
        "async def refresh(self):\n"
        "    print('printed', flush=True)\n"
        "member.LocalMember.refresh = refresh\n"
        "asyncio.run(child._main())\n"
    )
    monkeypatch.setattr(remote, "COMMAND", (sys.executable, "-c", program))
    member = RemoteMember(msgspec.structs.replace(setup, log="WARNING"))
    await member.open()
    await member.refresh()
    await member.look()
    await member.leave()
    assert "printed\n" in capsys.readouterr().err


def test_a_reply_without_a_result_is_none() -> None:
    assert CALLS["start"].result(Reply(1)) is None


async def test_nodes_that_do_not_meet_are_found() -> None:
    options = Options(
        rows=12, nodes=2, creates=1, updates=1, deletes=1, patience=0.1, processes=True
    )
    report = await demo.run(options)
    (hold, members, reads) = report.steps[0].checks
    assert hold == ("2 of 2 nodes hold all 12 rows", True, hold.seconds)
    assert members[:2] == ("0 of 2 nodes see 2 nodes on the broker", False)
    assert reads[:2] == ("reads of the whole table, counted at the database: 2", False)
    assert "node-1 killed (SIGKILL) and started cold: 0 of 1 hold" in report.steps[4].checks[0].seen
    assert report.counted["writes"] >= 3


async def test_a_process_that_dies_ends_the_demo(monkeypatch: Patch) -> None:
    hide = Database.hide

    async def hide_and_kill(self: Database) -> None:
        await hide(self)
        for member in alive:
            os.kill(pid(member), signal.SIGKILL)

    alive: list[RemoteMember] = []
    started = RemoteMember.start

    async def start(self: RemoteMember) -> None:
        await started(self)
        alive.append(self)

    monkeypatch.setattr(RemoteMember, "start", start)
    monkeypatch.setattr(Database, "hide", hide_and_kill)
    options = Options(
        rows=12, nodes=2, creates=0, updates=0, deletes=0, patience=0.1, processes=True
    )
    report = await demo.run(options)
    assert isinstance(report.steps[3].error, MemberDiedError)
    assert "was ended by SIGKILL" in str(report.steps[3].error)
    assert report.steps[4].began is None
