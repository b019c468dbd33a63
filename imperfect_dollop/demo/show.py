"""The demo on a terminal: what goes on while it runs, and what was seen in the end."""

from __future__ import annotations

import asyncio
import os
import traceback
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from .cluster import every
from .member import Member
from .options import Options
from .play import Demo
from .remote import MemberDiedError
from .report import Report, Step
from .urls import SQLITE, masked

__all__ = ["perform"]

FRAME: Final = 0.1
"""Seconds between two looks at the demo. They take the event loop's time, so not too many of them."""

PIPED_WIDTH: Final = 120
"""Columns where nobody says how many there are."""


async def perform(options: Options) -> Report:
    """Run the demo before somebody's eyes."""
    console = Console()
    if not (console.is_terminal or "COLUMNS" in os.environ):
        console.width = PIPED_WIDTH
    plain = options.plain or options.log is not None or not console.is_terminal
    demo = Demo(options)
    console.print(_headline(options), highlight=False, markup=False, soft_wrap=True)
    # No task group: it would wrap what ends the demo.
    watching = asyncio.create_task((_tell if plain else _draw)(console, demo), name="display")
    try:
        await demo.run()
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()  # raises what has ended the display
    _conclude(console, demo.report)
    return demo.report


def _headline(options: Options) -> str:
    who = "nodes, each a process of its own," if options.apart else "nodes in one process"
    where = "SQLite" if options.database == SQLITE else masked(options.database)
    return (
        f"{options.nodes} {who} on {masked(options.broker)}, {options.rows:,} rows in {where},"
        f" seed {options.seed}"
    )


# -- while it runs ---------------------------------------------------------------------------------


async def _tell(console: Console, demo: Demo) -> None:
    """A line for each step that has ended."""
    left = list(demo.report.steps)
    try:
        while True:
            left = _told(console, left)
            await asyncio.sleep(FRAME)
    finally:
        _told(console, left)


def _told(console: Console, steps: list[Step]) -> list[Step]:
    """Print those that have ended; returns the others."""
    for step in steps:
        if step.ended is not None:
            console.print(
                Text.assemble(_mark(console, step.held), f" {step.title}, {_time(step.seconds)}")
            )
    return [step for step in steps if step.ended is None]


async def _draw(console: Console, demo: Demo) -> None:
    """Steps and nodes, drawn again and again; gone when it ends."""
    spinner = Spinner("dots")
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            nodes = [] if demo.cluster is None else demo.cluster.members
            try:
                await every(nodes, lambda member: member.look())
            except* MemberDiedError:
                nodes = list(nodes)  # "dead" is what its figures say; the step that needs it fails
            steps = _steps(console, demo.report.steps, spinner)
            live.update(Group(steps, "", _nodes(nodes)), refresh=True)
            await asyncio.sleep(FRAME)


def _steps(console: Console, steps: list[Step], spinner: Spinner) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for step in steps:
        mark: RenderableType = ""
        progress: RenderableType = ""
        if step.ended is not None:
            mark = _mark(console, step.held)
        elif step.began is not None:
            mark = spinner
            if step.total:
                progress = ProgressBar(total=step.total, completed=step.done, width=30)
        time = "" if step.began is None else _time(step.seconds)
        style = "dim" if step.began is None else ""
        table.add_row(mark, Text(step.title, style), Text(time, justify="right"), progress)
    return table


def _nodes(members: list[Member]) -> Table:
    table = Table("node", "state", "rows", "digest", "wrote", "heard of", "snapshots", box=None)
    for member in members:
        figures = member.figures
        table.add_row(
            member.name,
            Text(figures.state, "green" if figures.state == "ready" else "yellow"),
            f"{figures.entities:,}",
            figures.digest,
            f"{figures.stats.writes:,}",
            f"{figures.stats.applied:,}",
            f"{figures.stats.snapshots}",
        )
    return table


# -- in the end ------------------------------------------------------------------------------------


def _conclude(console: Console, report: Report) -> None:
    table = Table("Step", "What was seen", "Time", "")
    table.columns[2].justify = "right"
    for number, step in enumerate(report.steps, 1):
        _add(console, table, f"{number} {step.title}", step)
    console.print(table)
    for step in report.steps:
        if step.error is not None:
            console.print(
                "".join(traceback.format_exception(step.error)), markup=False, highlight=False
            )
    counted = ", ".join(f"{count:,} {name}" for name, count in report.counted.items())
    console.print(f"Counted on all nodes: {counted}.", highlight=False)
    verdict = "Every check held" if report.held else "NOT every check held"
    console.print(
        Text(f"{verdict}, {report.seconds:.1f} s in all.", "green" if report.held else "bold red")
    )


def _add(console: Console, table: Table, title: str, step: Step) -> None:
    for check in step.checks:
        table.add_row(title, Text(check.seen), _time(check.seconds), _mark(console, check.held))
        title = ""
    if step.error is not None:
        error = Text(f"unexpected, and the end of the demo: {step.error!r}")
        table.add_row(title, error, "", _mark(console, False))
    elif step.ended is None:
        table.add_row(title, Text("not reached"), "", _mark(console, False))
    table.add_section()


def _mark(console: Console, held: bool) -> Text:
    """A check mark, or the opposite, in letters where the terminal knows no others."""
    good, bad = (
        ("ok", "FAILED") if console.options.ascii_only else ("\N{CHECK MARK}", "\N{BALLOT X}")
    )
    return Text(good, "green") if held else Text(bad, "bold red")


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
