"""One run: everything that is needed is found or started, and ended again in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import traceback
from pathlib import Path

from .brokers import broker_of, fault_of
from .databases import StudentsTable, database_of
from .instances import Instance, five_instances
from .report import Report
from .stage import Stage
from .steps import STEPS

__all__ = ["run"]


async def run(broker: str | None, database: str | None, *, check: bool) -> int:
    """Run five instances until cancelled, or through the check; the exit code.

    Raises `NotFoundError` without a broker or a database, and `ProcessError` for what does not start.
    """
    report = Report()
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="students-")))
        where = await database_of(database, folder)
        report.say(f"Database: {where.shown}")
        link = await stack.enter_async_context(broker_of(broker, folder))
        report.say(f"Broker: {link.shown}")
        fault = await stack.enter_async_context(fault_of(link)) if check else None
        table = await stack.enter_async_context(StudentsTable(where))
        report.say(f"Table: {table.name}, dropped in the end")
        settings = {
            "STUDENTS_BROKER": fault.url if fault else link.url,
            "STUDENTS_DATABASE": where.url,
            "STUDENTS_NAMESPACE": table.name,
            "STUDENTS_TABLE": table.name,
        }
        instances = await stack.enter_async_context(five_instances(settings, folder))
        for instance in instances:
            report.say(f"  {instance.name:6}{instance.address}")
        if fault is not None:
            return await _check(Stage(instances, fault, table, report))
        return await _serve(instances, report)


async def _serve(instances: list[Instance], report: Report) -> int:
    report.say(
        "Each has /students, /docs, /info and /metrics. Ctrl-C ends them, and drops the table."
    )
    endings = {asyncio.create_task(each.process.ended()): each for each in instances}
    try:
        ended, _ = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()  # this is how it is meant to end
        return 0
    finally:
        for ending in endings:
            ending.cancel()
    raise endings[ended.pop()].process.failed("has ended")


async def _check(stage: Stage) -> int:
    report = stage.report
    for number, (title, play) in enumerate(STEPS, 1):
        report.say(f"{number} {title}")
        try:
            await play(stage)
        except Exception as error:
            report.check(False, f"unexpected, and the end of the check: {error!r}")
            traceback.print_exception(error)
            break
    if not report.held:
        for instance in stage.instances:
            report.say(f"--- the last that {instance.name} said\n{instance.process.said()}")
    report.conclude()
    return 0 if report.held else 1
