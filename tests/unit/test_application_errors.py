"""Code of the application's that fails, or that runs in the background: who is named, and which context it sees."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from imperfect_dollop import FunctionSource, Repository
from imperfect_dollop.errors import NotReadyError, SourceUnavailableError

from .school import eventually


@dataclass(frozen=True)
class Row:
    id: int


class Checked(pydantic.BaseModel):
    id: int


class DriverError(ValueError):
    """What a driver raises has a class of its own."""


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.levelno >= logging.ERROR]


def wrong_type() -> None:
    _ = 1 + "one"  # type: ignore[operator]


def wrong_key() -> None:
    empty: dict[str, int] = {}
    _ = empty["absent"]


def wrong_value() -> None:
    Checked.model_validate({"id": "one"})


@pytest.mark.parametrize("mistake", [wrong_type, wrong_key, wrong_value])
async def test_loader_mistake_is_logged_once_with_its_traceback(
    mistake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    async def load_all() -> list[Row]:
        calls.append(1)
        mistake()
        return []

    source: FunctionSource[int, Row] = FunctionSource(load_all=load_all)
    async with Repository(Row, source=source, read_only=True, retry_after=0.01) as rows:
        await eventually(lambda: len(calls) >= 3)
        with pytest.raises(NotReadyError, match="error of the application's code"):
            await rows.get(1)
    (record,) = errors(caplog)
    assert "load of all rows failed by an error of the application's code" in record.getMessage()
    assert record.exc_info is not None
    assert mistake.__name__ in caplog.text


@pytest.mark.parametrize("error", [OSError("reset"), DriverError("no table"), TimeoutError()])
async def test_loader_failure_of_the_world_is_no_mistake(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def load(key: int) -> Row | None:
        raise error

    source: FunctionSource[int, Row] = FunctionSource(load=load)
    async with Repository(Row, source=source, read_only=True, preload=False) as rows:
        with pytest.raises(SourceUnavailableError) as raised:
            await rows.get(1)
    assert "application" not in str(raised.value)
    assert raised.value.__cause__ is error
    assert errors(caplog) == []


REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST", default="none")


async def test_load_runs_in_the_context_of_opening_and_not_of_a_request() -> None:
    seen: list[str] = []

    async def load(key: int) -> Row:
        seen.append(REQUEST.get())
        return Row(key)

    async def request(rows: Repository[int, Row], name: str) -> None:
        REQUEST.set(name)
        await rows.get(1)
        await rows.get_many([2, 3])

    source: FunctionSource[int, Row] = FunctionSource(load=load)
    REQUEST.set("the application")
    rows = Repository(Row, source=source, read_only=True, preload=False, ttl=0.01, jitter=0.0)
    async with rows:
        await asyncio.create_task(request(rows, "A"))
        await asyncio.sleep(0.02)
        await asyncio.create_task(request(rows, "B"))  # stale: read again in the background
        await eventually(lambda: len(seen) >= 4)
    assert set(seen) == {"the application"}


async def test_write_runs_in_the_context_of_its_caller() -> None:
    seen: list[str] = []

    async def put(row: Row) -> Row:
        seen.append(REQUEST.get())
        return row

    async def load(key: int) -> Row | None:
        return None

    source: FunctionSource[int, Row] = FunctionSource(
        load=load,
        create=put,
        update=put,
        delete=put,  # type: ignore[arg-type]
    )
    async with Repository(Row, source=source, preload=False) as rows:
        REQUEST.set("A")
        await rows.create(Row(1))
    assert seen == ["A"]
