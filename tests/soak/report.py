"""What is told of a run: a table and a verdict for people, the same as JSON for programs."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, Final

from .fleet import Life
from .run import Result

MOST_FAULTS: Final = 50
"""That are shown; all of them are counted."""

COLUMNS: Final = (
    "node",
    "lives",
    "reads",
    "writes",
    "conflicts",
    "gaps",
    "repairs",
    "loads",
    "snapshots",
    "doubts",
    "RSS first",
    "max",
    "last",
    "KiB/min",
)


def as_json(result: Result) -> dict[str, Any]:
    """Everything that was measured, in plain types."""
    verdict = result.verdict
    return {
        "ok": not verdict.faults,
        "faults": verdict.faults,
        "seed": result.settings.seed,
        "seconds": result.settings.seconds,
        "harm": dict(Counter(str(fault.kind) for fault in result.faults)),
        "records": verdict.records,
        "record_bytes": result.disk,
        "commits": verdict.commits,
        "changed_by_sql": result.changes,
        "spoiled_by_sql": result.spoiled,
        "counts": dict(_counts(result)),
        "links_back_seconds": verdict.returned,
        "agreed_seconds": verdict.agreed,
        "equal_to_source_seconds": verdict.true,
        "lookups_equal_seconds": verdict.lookups,
        "errors_in_logs": {name: count for name, count in verdict.errors.items() if count},
        "most": _most(result),
        "nodes": [
            {
                "lives": [
                    {
                        "name": life.name,
                        **life.counted(),
                        "rss_kib": {
                            "first": life.memory.first,
                            "max": life.memory.highest,
                            "last": life.memory.last,
                            "a_minute": life.memory.slope,
                            "growth": life.memory.growth,
                            "samples": list(zip(life.memory.ages, life.memory.sizes, strict=True)),
                        },
                        "counts": life.report.get("counts", {}),
                    }
                    for life in lives
                ]
            }
            for lives in result.lives
        ],
    }


def as_text(result: Result) -> str:
    """A table, a line for each node, and the verdict."""
    verdict = result.verdict
    lines = [COLUMNS, *(_row(f"n{number}", lives) for number, lives in enumerate(result.lives))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    table = "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    counts = _counts(result)
    harm = Counter(str(fault.kind) for fault in result.faults)
    told = [
        table,
        "RSS in MiB, of each node's longest life, from after the warm-up.",
        f"{len(result.faults)} faults: {', '.join(f'{count} {kind}' for kind, count in harm.most_common())}",
        (
            f"{verdict.commits:,} commits, {result.changes:,} of them by SQL, which spoiled {result.spoiled:,} rows;"
            f" {counts['hot writes']:,} writes of hot keys and {counts['hot conflicts']:,} refused ones;"
            f" {counts['quarantined']:,} reads of quarantined rows; {verdict.records:,} records of what was"
            f" served, {result.disk / 2**20:.1f} MiB"
        ),
        (
            f"links back after {_seconds(verdict.returned)}; from then on all copies equal after"
            f" {_seconds(verdict.agreed)}, equal to the source after {_seconds(verdict.true)}, rows by key after"
            f" {_seconds(verdict.lookups)}"
        ),
        "most at a time: " + ", ".join(f"{size:,} {what}" for what, size in _most(result).items()),
    ]
    if errors := {name: count for name, count in verdict.errors.items() if count}:
        told.append(f"errors in logs, by logger: {errors}")
    if not verdict.faults:
        told.append(f"S1-S5, L1 and memory hold (seed {result.settings.seed}).")
    else:
        told += verdict.faults[:MOST_FAULTS]
        told.append(f"{len(verdict.faults)} faults found (seed {result.settings.seed}).")
    return "\n".join(told)


def _counts(result: Result) -> Counter[str]:
    """What all lives have counted of their work."""
    counts: Counter[str] = Counter()
    for life in itertools.chain(*result.lives):
        counts.update(life.report.get("counts", {}))
    return counts


def _row(name: str, lives: list[Life]) -> tuple[str, ...]:
    counted: Counter[str] = Counter()
    for life in lives:
        counted.update(life.counted())
    longest = max(lives, key=lambda life: life.memory.ages[-1] if life.memory.ages else 0)
    memory = longest.memory
    sums = (counted[each] for each in ("reads", "writes", "conflicts", "gaps", "repairs"))
    return (
        name,
        str(len(lives)),
        *(f"{each:,}" for each in sums),
        f"{counted['loads'] + counted['full_loads']:,}",
        f"{counted['snapshots']:,}",
        f"{counted['doubts']:,}",
        *(f"{size / 1024:.1f}" for size in (memory.first, memory.highest, memory.last)),
        "-" if memory.slope is None else f"{memory.slope:+.0f}",
    )


def _most(result: Result) -> dict[str, int]:
    most: dict[str, int] = {}
    for lives in result.lives:
        for life in lives:
            for what, size in life.most.items():
                most[what] = max(most.get(what, 0), size)
    return most


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"
