"""Whether the promises were kept: what was served, what is held in the end, and what must not be said in a log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from imperfect_dollop.node import OUTBOX
from imperfect_dollop.replica.ring import RING_BYTES

from ..integration.history import History, Record, Shown
from ..integration.rows import Rows
from .fleet import Fleet, Life
from .record import records_in
from .settings import HEARTBEAT, Settings
from .workload import BAD

RETURN_SECONDS: Final = 60.0
"""Until every link is there again after the last fault: to a broker a node tries every 5 s and waits 3 for an answer, a
source it asks again after 30 at the latest, and a call that hangs is given up after 30."""

TRANSFER_SECONDS: Final = 5.0
"""For what has to be sent, on a machine on which ten processes share two processors."""

AGREE_SECONDS: Final = 2 * HEARTBEAT + TRANSFER_SECONDS
"""L1: from then on, until all copies are equal."""

MISSING_SECONDS: Final = 5.0
"""For which an absent key is remembered where rows are loaded by key, by default."""

LOOK_EVERY: Final = 0.25

OURS: Final = "imperfect_dollop"

FORBIDDEN: Final = ("could not be taken in", " crashed")
"""What no log says, as far as it is our own."""


@dataclass
class Verdict:
    """Everything that was wrong, and what was measured."""

    faults: list[str] = field(default_factory=list)
    returned: float | None = None
    """Seconds until all links were there again, after the last fault."""
    agreed: float | None = None
    """Seconds from then until all copies were equal."""
    true: float | None = None
    """Seconds from then until all were what the source has, for good."""
    lookups: float | None = None
    """The same for what is loaded by key."""
    records: int = 0
    commits: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Lines of that level in the logs, by logger: drivers and pools complain when a connection breaks."""

    def add(self, promise: str, what: str) -> None:
        self.faults.append(f"{promise}: {what}")


async def settled(fleet: Fleet, whole: Rows, lookup: Rows, ttl: float, verdict: Verdict) -> None:
    """Wait until all is as it must be once faults and writes have ended, for no longer than is promised."""
    verdict.returned, told = await _until(lambda: _links(fleet), RETURN_SECONDS)
    if told:
        verdict.add("links", f"not there again within {RETURN_SECONDS:g} s: {_some(told)}")
        return
    start = time.monotonic()
    verdict.agreed, told = await _until(lambda: _agreement(fleet), AGREE_SECONDS)
    if told:
        verdict.add(
            "L1",
            f"not equal within {AGREE_SECONDS:g} s (2 heartbeats and the transfers) of the last link's"
            f" return: {_some(told)}",
        )
    # What was changed by SQL, or by a process that died before it could tell, is found by the refresh.
    before = time.monotonic() - start
    took, told = await _until(lambda: _truth(fleet, whole), ttl + AGREE_SECONDS - before)
    verdict.true = None if took is None else before + took
    if told:
        verdict.add(
            "L1",
            f"not what the source has within {ttl + AGREE_SECONDS:g} s (ttl, 2 heartbeats and the"
            f" transfers): {_some(told)}",
        )
    # A row that is loaded by key has its own ttl before it, and an absent one is remembered.
    before = time.monotonic() - start
    most = ttl + MISSING_SECONDS + AGREE_SECONDS - before
    took, told = await _until(lambda: _lookups(fleet, lookup), most)
    verdict.lookups = None if took is None else before + took
    if told:
        verdict.add("L1", f"loaded by key, and not what the source has: {_some(told)}")


async def _until(
    look: Callable[[], Awaitable[list[str]]], seconds: float
) -> tuple[float | None, list[str]]:
    """The seconds until the beginning of the first `look` that had nothing to tell, and what the last one had to."""
    start = began = time.monotonic()
    while told := await look():
        if began - start > seconds:
            return None, told
        await asyncio.sleep(LOOK_EVERY)
        began = time.monotonic()
    return began - start, []


async def _shown(fleet: Fleet, name: str) -> dict[str, dict[int, Shown]]:
    lives = list(fleet)
    answers = await asyncio.gather(*(life.process.ask("shown", 30.0) for life in lives))
    return {
        life.name: {key: msgspec.convert(row, Shown) for key, row in answer[name]}
        for life, answer in zip(lives, answers, strict=True)
    }


async def _links(fleet: Fleet) -> list[str]:
    """Who has no broker or no source, or is not in."""
    await fleet.ask()
    told: list[str] = []
    for life in fleet:
        status = life.report.get("status", {})
        if not life.joined or not status.get("open"):
            told.append(f"{life.name} has not joined")
            continue
        if not status["broker"]["up"]:
            told.append(f"{life.name}: broker: {status['broker']['failure']}")
        for name, repository in status["repositories"].items():
            causes = {
                kind: why
                for kind, why in repository["causes"].items()
                if kind not in ("events", "rows")
            }
            if causes or repository["state"] in ("cold", "loading"):
                told.append(f"{life.name}, {name}: {repository['state']} {causes}")
    return told


def _wholes(fleet: Fleet) -> dict[str, dict[str, Any]]:
    return {life.name: life.report["status"]["repositories"]["whole"] for life in fleet}


async def _agreement(fleet: Fleet) -> list[str]:
    """How copies differ from each other."""
    await fleet.ask()
    digests = {name: whole["digest"] for name, whole in _wholes(fleet).items()}
    if len(set(digests.values())) == 1:
        return []
    return [f"{name}: {digest}" for name, digest in digests.items()]


async def _truth(fleet: Fleet, rows: Rows) -> list[str]:
    """How copies differ from the table, and what is known to be missing or yet to be sent."""
    told = await _agreement(fleet)
    truth = await rows.now()
    told += _differences(truth, await _shown(fleet, "whole"))
    members = len(list(fleet))
    for life in fleet:
        status, node = life.report["status"], life.report["node"]
        for name, repository in status["repositories"].items():
            if repository["state"] != "ready" or not repository["clean"] or repository["unsent"]:
                told.append(
                    f"{life.name}, {name}: {repository['state']} {repository['causes']}, clean"
                    f" {repository['clean']}, {repository['unsent']} unsent"
                )
        if node["members"] != members:
            told.append(f"{life.name} sees {node['members']} members of {members}")
    return told


async def _lookups(fleet: Fleet, rows: Rows) -> list[str]:
    """How what is loaded by key differs from the table."""
    shown = await _shown(fleet, "lookup")
    return _differences(await rows.now(), shown)


def _differences(truth: dict[int, Shown], shown: dict[str, dict[int, Shown]]) -> list[str]:
    told: list[str] = []
    for name, rows in shown.items():
        wrong = [key for key in truth.keys() | rows.keys() if truth.get(key) != rows.get(key)]
        if wrong:
            some = {key: (truth.get(key), rows.get(key)) for key in sorted(wrong)[:3]}
            told.append(f"{name}: {len(wrong)} rows differ (table, node): {some}")
    return told


def _some(told: list[str], most: int = 6) -> str:
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return "; ".join(told[:most]) + more


# -- what every life has left ------------------------------------------------------------------------


def judge_life(
    life: Life, settings: Settings, histories: dict[str, History], verdict: Verdict
) -> None:
    """S1 to S5 of all that it has served, what it has said of itself, and its memory and bounds."""
    verdict.faults += [f"run: {life.name} {what}" for what in life.wrong]
    served = 0
    for repository, history in histories.items():
        path = life.records[repository]
        if not path.exists():
            continue  # killed before it was there
        try:
            counted = _Counted(path, verdict)
            verdict.faults += [
                f"S1-S5: {fault}" for fault in history.faults(f"{life.name}, {repository}", counted)
            ]
            served += counted.count
        except ValueError as error:
            verdict.add("run", str(error))
    if not served and life.joined:
        verdict.add("run", f"{life.name} has served nothing, which proves nothing")
    for unexpected in life.report.get("unexpected", []):
        verdict.add("unexpected", f"{life.name}: {unexpected}")
    status = life.report.get("status", {})
    for what in ("crashes", "rejected_messages"):
        if status.get(what):
            verdict.add("status", f"{life.name}: {status[what]} {what}")
    for name, repository in status.get("repositories", {}).items():
        if repository["stats"]["rejected"]:
            verdict.add(
                "status",
                f"{life.name}, {name}: rejected events {repository['stats']['rejections']}",
            )
    bounds = {
        "rows of whole": settings.keys,
        "rows of lookup": settings.held,
        "quarantined of whole": BAD,
        "quarantined of lookup": BAD,
        "unsent": OUTBOX * len(histories),
        "bytes to be sent again": RING_BYTES * len(histories),
    }
    for what, bound in bounds.items():
        if life.most.get(what, 0) > bound:
            verdict.add("S6", f"{life.name} had {life.most[what]} {what}, of {bound} at most")
    if (fault := life.memory.fault()) is not None:
        verdict.add("memory", f"{life.name} {fault}")
    verdict.faults += [f"log: {life.name}: {line}" for line in said(life.log, verdict.errors)]


class _Counted:
    """The records of a file, counted as they pass."""

    def __init__(self, path: Path, verdict: Verdict) -> None:
        self._records = records_in(path)
        self._verdict = verdict
        self.count = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Record:
        record = next(self._records)
        self.count += 1
        self._verdict.records += 1
        return record


def said(log: Path, errors: Counter[str], most: int = 5) -> list[str]:
    """The first lines in which our own code has said what it must not; counts the errors by logger."""
    wrong: list[str] = []
    with log.open(errors="replace") as lines:
        for line in lines:
            _, _, level, logger, *_ = [*line.split(" ", 4), "", "", "", ""]
            is_error = level in ("ERROR", "CRITICAL")
            errors[logger] += is_error
            ours = logger.startswith(OURS)
            if ours and (is_error or any(each in line for each in FORBIDDEN)) and len(wrong) < most:
                wrong.append(line.rstrip()[:400])
    return wrong
