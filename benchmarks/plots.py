"""Pictures and tables of what ``python -m benchmarks all --json`` has measured: ``python -m benchmarks.plots FILE``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["main"]

TARGETS: Final = (
    ("hits", "floor_ratio", 1.4, "hit, beside an awaited dict lookup"),
    ("hits", "on_demand_floor_ratio", 2.0, "the same on demand"),
    ("hits", "peek_ratio", 2.0, "peek, beside dict.get"),
    ("hits", "best_peer_speedup", 3.5, "hit, faster than the best peer"),
    ("hits", "redis_speedup", 300.0, "hit, faster than Redis"),
    ("stampede", "floor_ratio", 2.0, "10,000 misses at once, beside one future"),
    ("propagation", "redis_ratio", 1.5, "write to another process, beside Redis"),
    ("propagation", "rabbitmq_ratio", 1.5, "the same beside RabbitMQ"),
    ("throughput", "redis_speedup", 2.0, "events/s, faster than Redis one by one"),
    ("throughput", "rabbitmq_speedup", 25.0, "the same for RabbitMQ"),
    ("snapshot", "redis_source_speedup", 3.0, "cold start over Redis, faster than the source"),
    ("snapshot", "redis_orm_speedup", 10.0, "the same, faster than the ORM"),
    ("snapshot", "rabbitmq_source_speedup", 3.0, "over RabbitMQ, faster than the source"),
    ("snapshot", "rabbitmq_orm_speedup", 10.0, "the same, faster than the ORM"),
    ("stall", "donor_ms", 10.0, "pause of the donor, ms"),
    ("stall", "joiner_ms", 10.0, "pause of the joiner, ms"),
    ("repair", "bytes_ratio", 0.01, "bytes for 100 wrong rows, of a copy"),
    ("memory", "overhead_bytes", 120.0, "bytes a row beyond a dict"),
)
"""Benchmark, key, target and words for it; more is better where the key says speedup."""

TIMES: Final = (
    ("hits", "floor_ns", "ns", "awaited dict lookup"),
    ("hits", "preload_ns", "ns", "hit"),
    ("hits", "on_demand_ns", "ns", "hit, on demand"),
    ("hits", "dict_get_ns", "ns", "`dict.get`"),
    ("hits", "peek_ns", "ns", "`peek`"),
    ("hits", "redis_ns", "ns", "`GET` of redis-py"),
    ("stampede", "floor_ms", "ms", "10,000 tasks that await one future"),
    ("stampede", "ours_ms", "ms", "10,000 callers who miss one key"),
    ("propagation", "redis_ours_p50_us", "us", "write to another process over Redis, median"),
    ("propagation", "redis_ours_p99_us", "us", "the same, p99"),
    ("propagation", "redis_bare_p50_us", "us", "a message of the bare driver, median"),
    ("propagation", "rabbitmq_ours_p50_us", "us", "write to another process over RabbitMQ, median"),
    ("propagation", "rabbitmq_ours_p99_us", "us", "the same, p99"),
    ("propagation", "rabbitmq_bare_p50_us", "us", "a message of the bare driver, median"),
    ("throughput", "redis_ours_per_s", "events/s", "written, and applied elsewhere, over Redis"),
    ("throughput", "redis_bare_per_s", "messages/s", "of the bare driver"),
    (
        "throughput",
        "rabbitmq_ours_per_s",
        "events/s",
        "written, and applied elsewhere, over RabbitMQ",
    ),
    ("throughput", "rabbitmq_bare_per_s", "messages/s", "of the bare driver"),
    ("snapshot", "orm_s", "s", "a million rows through the ORM"),
    ("snapshot", "source_s", "s", "a million rows through `SQLAlchemySource`"),
    ("snapshot", "redis_s", "s", "a million rows from a sibling, over Redis"),
    ("snapshot", "rabbitmq_s", "s", "a million rows from a sibling, over RabbitMQ"),
    ("coldstart", "redis_ready_s", "s", "20 nodes in one process, over Redis"),
    ("coldstart", "rabbitmq_ready_s", "s", "20 nodes in one process, over RabbitMQ"),
    ("repair", "repair_s", "s", "100 wrong rows of a million, until they are right"),
)
"""Benchmark, key, unit and words for it."""

mpl: Any = importlib.import_module("matplotlib")
mpl.use("agg")  # no screen is needed
plt: Any = importlib.import_module("matplotlib.pyplot")

GOOD, BAD, PLAIN = "#2a7f62", "#c2543b", "#5b7c99"

Figures = Mapping[str, Any]


def main() -> int:
    """Draw what the file has figures for, and print the tables of `benchmarks/README.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("file", type=Path, help="its last line is the JSON object")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path(__file__).with_name("plots"),
        help="where the pictures go, in the place of those that are there (%(default)s)",
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    try:
        figures = _read(arguments.file)
        folder.mkdir(parents=True, exist_ok=True)
        for name, draw in (("targets", _targets), ("hits", _hits), ("scale", _scale)):
            if name == "targets" or name in figures:
                picture = draw(figures)
                picture.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
                plt.close(picture)
                print(folder / f"{name}.png")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f"\n{_table(figures)}\n\n{_times(figures)}")
    if "scale" in figures:
        print(f"\n{_costs(figures['scale'])}")
    return 0


def _read(file: Path) -> Figures:
    """What `all --json` has printed. Raises `ValueError` for anything else."""
    lines = file.read_text().splitlines()
    try:
        figures = json.loads(lines[-1])
        if figures["benchmark"] == "all":
            return dict(figures)
    except (LookupError, TypeError, ValueError):
        pass  # said below
    raise ValueError(f"{file}: its last line is not what `python -m benchmarks all --json` prints")


def _table(figures: Figures) -> str:
    """In Markdown: of each target what was measured, and what the lowest and the highest round were."""
    lines = [
        "| | benchmark | key | measured | lowest to highest round | target | |",
        "|" + "---|" * 7,
    ]
    for benchmark, key, target, words in TARGETS:
        found = figures.get(benchmark, {})
        if key not in found:
            continue
        lowest, highest = found.get(f"{key}_lowest"), found.get(f"{key}_highest")
        rounds = "" if lowest is None else f"{lowest:,g} to {highest:,g}"
        sign = "≥" if "speedup" in key else "≤"
        lines.append(
            f"| {'✓' if _met(key, found[key], target) else '✗'} | `{benchmark}` | `{key}` | **{found[key]:,g}** |"
            f" {rounds} | {sign} {target:g} | {words} |"
        )
    return "\n".join(lines)


def _met(key: str, found: float, target: float) -> bool:
    return found >= target if "speedup" in key else found <= target


def _times(figures: Figures) -> str:
    """In Markdown: what the ratios are of."""
    lines = ["| benchmark | what | |", "|---|---|---|"]
    for benchmark, key, unit, words in TIMES:
        found = figures.get(benchmark, {})
        if key in found:
            lines.append(f"| `{benchmark}` | {words} | {found[key]:,g} {unit} |")
    return "\n".join(lines)


def _costs(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """In Markdown: what `scale` has measured, in microseconds of processor time of one node, and bytes."""
    lines = [
        "| nodes | rows | repositories | a heartbeat | its bytes | an event | bytes of a lone event |",
        "|" + "---|" * 7,
    ]
    for what in ("nodes", "rows", "repositories"):
        for each in found[what]:
            where = " | ".join(f"{each[one]:,.0f}" for one in ("nodes", "rows", "repositories"))
            lines.append(
                f"| {where} | {each['heartbeat_us']:.0f} | {each['heartbeat_bytes']:.0f} |"
                f" {each['event_us']:.0f} | {each['event_bytes']:.0f} |"
            )
    return "\n".join(lines)


def _targets(figures: Figures) -> Any:
    """How far each is from its target: to the right of the line is better than it."""
    bars = []
    for benchmark, key, target, words in TARGETS:
        if key in figures.get(benchmark, {}):
            found = figures[benchmark][key]
            times = found / target if "speedup" in key else target / found
            label = f"{found:g} (target {target:g})"
            good = _met(key, found, target)
            bars.append((words, times, label, GOOD if good else BAD))
    picture, axes = _bars(bars, begin=1.0, limits=(0.1, 40))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as good as the target")
    return picture


def _hits(figures: Figures) -> Any:
    """Nanoseconds of a hit, one bar for each side."""
    names = {
        "floor_ns": "awaited dict lookup",
        "preload_ns": "ours",
        "on_demand_ns": "ours, on demand",
        "cachebox_ns": "cachebox",
        "async-lru_ns": "async-lru",
        "aiocache_ns": "aiocache",
        "cashews_ns": "cashews",
        "redis_ns": "Redis on loopback",
    }
    ours = ("preload_ns", "on_demand_ns")
    found = figures["hits"]
    bars = [
        (words, found[key], f"{found[key]:,} ns", GOOD if key in ours else PLAIN)
        for key, words in names.items()
        if key in found
    ]
    picture, axes = _bars(bars, begin=50.0, limits=(50, 1_000_000))
    axes.set_xlabel("nanoseconds of a hit")
    return picture


def _bars(
    bars: Sequence[tuple[str, float, str, str]], *, begin: float, limits: tuple[float, float]
) -> tuple[Any, Any]:
    """Words, where it ends, label and colour of each bar, from the top; all of them `begin` there, on a log scale."""
    picture, axes = plt.subplots(figsize=(9, 0.36 * len(bars) + 1.2))
    for place, (words, end, label, colour) in enumerate(reversed(bars)):
        axes.barh(place, end - begin, left=begin, color=colour)
        axes.text(1.05 * max(end, begin), place, label, va="center", fontsize=8)
        axes.text(0.95 * limits[0], place, words, va="center", ha="right", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    return picture, axes


def _scale(figures: Figures) -> Any:
    """What an event and a heartbeat cost a node, against nodes, rows and repositories."""
    found = figures["scale"]
    picture, all_axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True)
    for axes, what in zip(all_axes, ("nodes", "rows", "repositories"), strict=True):
        across = [each[what] for each in found[what]]
        for key, words in (("event_us", "an event"), ("heartbeat_us", "a heartbeat")):
            axes.plot(across, [each[key] for each in found[what]], marker="o", label=words)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(across, [f"{number:,.0f}" for number in across], fontsize=8)
        axes.set_xticks([], minor=True)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_formatter("{x:,.0f}")
        axes.tick_params(axis="y", which="both", labelsize=7)
        axes.set_xlabel(what)
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel("microseconds of processor time")
    all_axes[0].legend()
    return picture


if __name__ == "__main__":
    sys.exit(main())
