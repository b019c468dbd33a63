"""The demo, small: it holds, and with something broken it is the right step that fails."""

from __future__ import annotations

import dataclasses
import io
import logging
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest
from rich.console import Console

from imperfect_dollop import BrokerUnavailableError, ConflictError, Node, Repository, demo
from imperfect_dollop.demo import Options, Report, member, show
from imperfect_dollop.demo.cluster import Cluster
from imperfect_dollop.demo.database import Database, Student
from imperfect_dollop.demo.member import Figures, LocalMember
from imperfect_dollop.demo.report import Step
from imperfect_dollop.replica.table import Table
from imperfect_dollop.seat import Seat

Patch = pytest.MonkeyPatch

SMALL = Options(rows=120, nodes=3, creates=5, updates=5, deletes=60, patience=10)
HASTY = dataclasses.replace(SMALL, patience=0.5)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The library logs what the demo does to it."""
    caplog.set_level(logging.CRITICAL, "imperfect_dollop")


@pytest.fixture(autouse=True)
def quick(monkeypatch: Patch) -> None:
    """So that a few seconds of a service's life are fractions of one here."""
    monkeypatch.setattr(member, "Node", partial(Node, heartbeat=0.1, offer_wait=0.05))
    monkeypatch.setattr(member, "Repository", partial(Repository, retry_after=0.1))


def failed(report: Report) -> list[int]:
    return [number for number, step in enumerate(report.steps, 1) if not step.held]


def seen(report: Report, step: int) -> str:
    """What the failed checks of a step have seen."""
    return "\n".join(check.seen for check in report.steps[step - 1].checks if not check.held)


async def test_every_check_holds() -> None:
    report = await demo.run(SMALL)
    assert failed(report) == [], [seen(report, step) for step in failed(report)]
    assert report.held
    assert report.counted["writes"] == 5 + 5 + 60 + 1
    assert all(step.checks and step.seconds > 0 for step in report.steps)


@pytest.mark.parametrize("seed", [2, 3])
async def test_two_nodes_suffice(seed: int) -> None:
    report = await demo.run(dataclasses.replace(SMALL, nodes=2, seed=seed))
    assert failed(report) == [], [seen(report, step) for step in failed(report)]


async def test_nothing_need_be_written() -> None:
    report = await demo.run(Options(rows=4, nodes=2, creates=0, updates=0, deletes=0))
    assert failed(report) == [], [seen(report, step) for step in failed(report)]


# -- with something broken -------------------------------------------------------------------------


async def test_nodes_that_all_ask_the_database_are_counted(monkeypatch: Patch) -> None:
    async def no_copy(self: Seat, *, clean: bool, tried: set[str]) -> None:
        return None

    async def my_turn(self: Seat, failures: int) -> bool:
        return True

    monkeypatch.setattr(Seat, "snapshot", no_copy)
    monkeypatch.setattr(Seat, "turn", my_turn)
    report = await demo.run(HASTY)
    assert seen(report, 1) == "reads of the whole table, counted at the database: 3"
    assert "0 of 1 hold all" in seen(report, 5)
    assert "0 of 1 have them from one snapshot" in seen(report, 5)
    assert "0 of 65 reads" in seen(report, 5)


async def test_a_lost_delete_is_found(monkeypatch: Patch) -> None:
    bury: Callable[..., None] = Table.bury
    spared: list[tuple[int, Any]] = []

    def bury_most(table: Table[Any, Any], key: Any, stamp: Any) -> None:
        if not spared:
            spared.append((key, table))
        if (key, table) != spared[0]:
            bury(table, key, stamp)

    monkeypatch.setattr(Table, "bury", bury_most)
    report = await demo.run(HASTY)
    assert "59 of 60 deletes" in seen(report, 2)
    assert "creates" not in seen(report, 2)
    assert 7 in failed(report)
    assert "different digests: 2" in seen(report, 7)
    assert f"differs in 1, the first is {spared[0][0]}" in seen(report, 7)


async def test_a_failing_write_is_found(monkeypatch: Patch) -> None:
    async def refuse(self: Repository[Any, Any], entity: Student) -> Student:
        raise ConflictError(f"not {entity.id}")

    monkeypatch.setattr(Repository, "create", refuse)
    report = await demo.run(SMALL)
    assert failed(report) == [2]
    assert "5 have failed, the first with ConflictError('not 1" in seen(report, 2)
    assert "0 of 5 creates" in seen(report, 2)


async def test_a_refresh_that_does_nothing_is_found(monkeypatch: Patch) -> None:
    async def nothing(self: Repository[Any, Any]) -> None:
        return None

    monkeypatch.setattr(Repository, "refresh", nothing)
    report = await demo.run(HASTY)
    assert seen(report, 3).count("0 of 3 nodes know") == 3
    assert "counted at the database: 0" in seen(report, 3)
    assert "made 0 of 3 nodes fresh" in seen(report, 6)


async def test_a_source_that_does_not_go_away_is_found(monkeypatch: Patch) -> None:
    async def nothing(self: Database) -> None:
        return None

    monkeypatch.setattr(Database, "hide", nothing)
    monkeypatch.setattr(Database, "bring_back", nothing)
    report = await demo.run(HASTY)
    assert "has gone through" in seen(report, 4)
    assert "calls itself ready" in seen(report, 4)


async def test_wrong_answers_are_found(monkeypatch: Patch) -> None:
    get = Repository[Any, Any].get

    async def forgetful(self: Repository[Any, Any], key: Any) -> Any:
        return None if key % 2 else await get(self, key)

    monkeypatch.setattr(Repository, "get", forgetful)
    report = await demo.run(SMALL)
    assert failed(report) == [4, 5]
    assert "of 195 reads on 3 nodes were answered right" in seen(report, 4)


async def test_a_source_that_stays_away_is_found(monkeypatch: Patch) -> None:
    async def nothing(self: Database) -> None:
        return None

    monkeypatch.setattr(Database, "bring_back", nothing)
    report = await demo.run(HASTY)
    assert failed(report) == [6, 7]
    assert "2 of 3 nodes are ready" in seen(report, 6)
    assert "a write on" in seen(report, 6)
    assert "a refresh on" in seen(report, 6)
    assert report.steps[6].error is not None


async def test_a_row_that_differs_from_the_table_is_found(monkeypatch: Patch) -> None:
    rows = Database.rows

    async def another(self: Database) -> dict[int, Student]:
        table = await rows(self)
        key = min(table)
        return {**table, key: dataclasses.replace(table[key], city="Atlantis")}

    monkeypatch.setattr(Database, "rows", another)
    report = await demo.run(SMALL)
    assert failed(report) == [7]
    assert "0 of 3 nodes are equal; node-1 differs in 1" in seen(report, 7)
    assert "not as they were written: 1" in seen(report, 7)


async def test_an_unexpected_exception_ends_the_demo(monkeypatch: Patch) -> None:
    async def crash(self: Database, **rows: Any) -> None:
        raise ZeroDivisionError("what nobody expected")

    monkeypatch.setattr(Database, "change", crash)
    report = await demo.run(SMALL)
    assert failed(report) == [3, 4, 5, 6, 7]
    assert isinstance(report.steps[2].error, ZeroDivisionError)
    assert report.steps[3].began is None


@pytest.fixture
def unheard() -> Iterator[str]:
    """An address that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def test_a_broker_that_is_lost_at_the_start_ends_the_demo(
    monkeypatch: Patch, unheard: str
) -> None:
    async def nothing(self: Cluster) -> None:
        return None

    monkeypatch.setattr(Cluster, "probe", nothing)
    url = f"redis://ada:secret@{unheard}"
    report = await demo.run(dataclasses.replace(SMALL, broker=url, patience=0.1, processes=False))
    assert failed(report) == [1, 2, 3, 4, 5, 6, 7]
    assert "0 of 3 nodes see 3 nodes on the broker" in seen(report, 1)
    assert isinstance(report.steps[0].error, BrokerUnavailableError)
    assert "secret" not in str(report.steps[0].error)
    assert report.steps[1].began is None


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_with_a_broker_that_does_not_answer_nothing_begins(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str], unheard: str, scheme: str
) -> None:
    begun: list[str] = []

    async def begin(self: Any, *given: Any) -> None:
        begun.append(type(self).__name__)

    monkeypatch.setattr(Database, "fill", begin)
    monkeypatch.setattr(Cluster, "start", begin)
    assert demo.main(dataclasses.replace(SMALL, broker=f"{scheme}://ada:secret@{unheard}")) == 2
    output, message = capsys.readouterr()
    assert message.startswith(f"no node can connect: {scheme}://{unheard}: ")
    assert message.count("\n") == 1
    assert "not reached" not in output
    assert "secret" not in output + message
    assert not begun


def test_a_broker_url_that_its_backend_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(dataclasses.replace(SMALL, broker="redis://ada:secret@h?nonsense=1")) == 2
    output, message = capsys.readouterr()
    assert message.startswith("no node can connect: ")
    assert "nonsense" in message
    assert "secret" not in output + message


def test_a_step_that_looked_at_nothing_has_not_held() -> None:
    step = Step("idle")
    step.begin()
    step.end()
    assert not step.held


# -- what a person sees ----------------------------------------------------------------------------


@pytest.fixture
def screen(monkeypatch: Patch) -> io.StringIO:
    output = io.StringIO()
    monkeypatch.setattr(show, "Console", lambda: Console(file=output, width=120))
    return output


def test_the_exit_code_is_0_only_if_every_check_held(
    monkeypatch: Patch, screen: io.StringIO
) -> None:
    assert demo.main(SMALL) == 0
    assert "Every check held" in screen.getvalue()
    assert "FAILED" not in screen.getvalue()
    assert "\N{BALLOT X}" not in screen.getvalue()
    look = LocalMember.look

    async def look_apart(self: LocalMember) -> Figures:
        self.figures = msgspec.structs.replace(await look(self), digest=self.name)
        return self.figures

    monkeypatch.setattr(LocalMember, "look", look_apart)
    assert demo.main(HASTY) == 1
    assert "NOT every check held" in screen.getvalue()
    assert "\N{BALLOT X}" in screen.getvalue()


def test_the_step_that_crashed_is_named(monkeypatch: Patch, screen: io.StringIO) -> None:
    async def crash(self: Database, **rows: Any) -> None:
        raise ZeroDivisionError("what nobody expected")

    monkeypatch.setattr(Database, "change", crash)
    assert demo.main(SMALL) == 1
    lines = screen.getvalue().splitlines()
    (line,) = [line for line in lines if "unexpected" in line and "3 Changes" in line]
    assert "ZeroDivisionError" in line
    assert any("4 The source goes away" in line and "not reached" in line for line in lines)
    assert any(line.startswith("Traceback") for line in lines)


def test_the_live_display(monkeypatch: Patch) -> None:
    output = io.StringIO()
    terminal = partial(Console, file=output, width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(show, "Console", terminal)
    assert demo.main(SMALL) == 0
    assert "node-3" in output.getvalue()
    assert "heard of" in output.getvalue()


def test_letters_for_a_terminal_that_knows_no_others(monkeypatch: Patch) -> None:
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(show, "Console", lambda: Console(file=output, width=120))
    assert demo.main(SMALL) == 0
    output.flush()
    assert b" ok " in written.getvalue()
