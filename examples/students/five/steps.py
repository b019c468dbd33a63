"""The story, a function for each of its steps.

A check that fails ends nothing. States are waited for, never slept for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from .compare import differences
from .instances import Instance, every
from .outage import lose_broker
from .stage import Stage

__all__ = ["STEPS"]

Step: TypeAlias = Callable[[Stage], Awaitable[None]]

CREATES: Final = 20
"""Through each instance; half of them are then updated and a quarter deleted, through another."""

CITIES: Final = ("London", "Paris", "Zürich", "Kraków")


async def write_through_all(stage: Stage) -> None:
    """Creates, updates and deletes through all five at the same time."""
    statuses: Counter[str] = Counter()
    made: dict[str, list[int]] = {}

    async def create(instance: Instance) -> None:
        for number in range(CREATES):
            student = {"name": f"{instance.name} {number}", "city": CITIES[number % len(CITIES)]}
            response = await instance.ask("POST", "/students", student)
            statuses[f"POST {response.status_code}"] += 1
            if response.status_code == 201:
                made.setdefault(instance.name, []).append(stage.confirmed(response))

    async def change(instance: Instance, keys: list[int]) -> None:
        """Of students that another instance has created, a moment ago."""
        for key in keys[: CREATES // 2]:
            student = {"name": f"changed by {instance.name}", "city": "Lisbon"}
            response = await instance.ask("PUT", f"/students/{key}", student)
            statuses[f"PUT {response.status_code}"] += 1
            if response.status_code == 200:
                stage.confirmed(response)
        for key in keys[-(CREATES // 4) :]:
            status = await instance.status("DELETE", f"/students/{key}")
            statuses[f"DELETE {status}"] += 1
            if status == 204:
                del stage.expected[key]

    await every(stage.instances, create)
    names = [instance.name for instance in stage.instances]
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    await every(
        stage.instances, lambda instance: change(instance, made.get(other[instance.name], []))
    )
    count = len(stage.instances) * CREATES
    due = {"POST 201": count, "PUT 200": count // 2, "DELETE 204": count // 4}
    stage.report.check(
        statuses == due, f"writes through all five, at the same time: {_counted(statuses)}"
    )
    await stage.check_all_equal("afterwards")


async def lose_database(stage: Stage) -> None:
    """The table is renamed past the library: writes say so, reads go on."""
    await stage.table.take_away()
    key = min(stage.expected)
    statuses: Counter[str] = Counter()

    async def write(instance: Instance) -> None:
        student = {"name": "Nobody", "city": "Nowhere"}
        for method, path in (
            ("POST", "/students"),
            ("PUT", f"/students/{key}"),
            ("DELETE", f"/students/{key}"),
        ):
            response = await instance.ask(method, path, None if method == "DELETE" else student)
            again = ", Retry-After" if "Retry-After" in response.headers else ""
            statuses[f"{method} {response.status_code}{again}"] += 1

    await every(stage.instances, write)
    due = {
        f"{method} 503, Retry-After": len(stage.instances) for method in ("POST", "PUT", "DELETE")
    }
    stage.report.check(statuses == due, f"the table is away; writes: {_counted(statuses)}")
    reads = Counter(
        await every(stage.instances, lambda each: each.status("GET", f"/students/{key}"))
    )
    reads.update(await every(stage.instances, lambda each: each.status("GET", "/ready")))
    good = reads == {200: 2 * len(stage.instances)}
    stage.report.check(good, f"GET /students/{key} and /ready: {_counted(reads)}")
    await stage.check_all_equal("reads")


async def start_cold(stage: Stage) -> None:
    """One is killed, and started while the table is away: a sibling gives it everything."""
    victim = stage.instances[-1]
    await victim.process.kill()
    await victim.start()
    stage.report.check(True, f"{victim.name} killed with SIGKILL and started again: /ready 200")
    await stage.check_all_equal("with the newcomer")
    metrics = await victim.metrics()
    taken = metrics.total("dollop_snapshots_total", direction="taken")
    loads = metrics.total("dollop_loads_total", kind="all")
    failures = metrics.total("dollop_load_failures_total")
    unread = math.isnan(metrics.total("dollop_source_connection_age_seconds"))
    stage.report.check(
        taken == 1 and unread and failures >= loads,
        f"its /metrics: {taken:.0f} snapshot taken, {'no' if unread else 'A'} load succeeded"
        f" ({loads:.0f} of the whole table tried)",
    )


async def regain_database(stage: Stage) -> None:
    """The table is back, and the next write works."""
    await stage.table.bring_back()
    statuses: Counter[int] = Counter()

    async def write(instance: Instance) -> None:
        student = {"name": f"back on {instance.name}", "city": "Oslo"}
        response = await instance.ask("POST", "/students", student)
        statuses[response.status_code] += 1
        if response.status_code == 201:
            stage.confirmed(response)

    await every(stage.instances, write)
    good = statuses == {201: len(stage.instances)}
    stage.report.check(
        good, f"the table is back; POST /students through all five: {_counted(statuses)}"
    )
    await stage.check_all_equal("afterwards")


async def compare(stage: Stage) -> None:
    """All is back: ready, and equal to each other and to the database."""
    seen: list[tuple[str, str]] = []

    async def settled() -> bool:
        infos = await every(stage.instances, lambda each: each.info())
        students = [info["repositories"]["Student"] for info in infos]
        seen[:] = [(each["state"], each["digest"]) for each in students]
        return {state for state, _ in seen} == {"ready"} and len(
            {digest for _, digest in seen}
        ) == 1

    held = await stage.until(settled)
    states, digests = Counter(state for state, _ in seen), Counter(digest for _, digest in seen)
    stage.report.check(held, f"states in /info: {_counted(states)}; digests: {_counted(digests)}")
    ready = Counter(await every(stage.instances, lambda each: each.status("GET", "/ready")))
    stage.report.check(ready == {200: len(stage.instances)}, f"GET /ready: {_counted(ready)}")
    await stage.check_all_equal("in the end")
    rows = await stage.table.rows()
    off = differences(rows, await stage.held())
    detail = f"; {'; '.join(off)}" if off else ""
    equal = len(stage.instances) - len(off)
    stage.report.check(
        not off,
        f"against SELECT, {len(rows):,} rows: {equal} of {len(stage.instances)} are equal{detail}",
    )
    await _check_counters(stage, len(rows))


async def _check_counters(stage: Stage, rows: int) -> None:
    """That the instances have counted what has happened to them."""

    async def alone() -> bool:
        found = await every(stage.instances, lambda each: each.metrics())
        return all(each.total("dollop_members") == len(stage.instances) for each in found)

    await stage.until(
        alone
    )  # the one that was killed counts for some seconds more, as links were lost since
    figures = await every(stage.instances, lambda each: each.metrics())
    writes = [int(each.total("dollop_writes_total")) for each in figures]
    answered = [instance.written for instance in stage.instances]
    stage.report.check(
        writes == answered,
        f"writes counted by the five: {writes}; answered with success: {answered}",
    )
    expected = {
        "dollop_entities": rows,
        "dollop_members": len(stage.instances),
        "dollop_broker_up": 1,
        "dollop_outbox_events": 0,
        "dollop_events_rejected_total": 0,
        "dollop_messages_rejected_total": 0,
        "dollop_crashes_total": 0,
    }
    off = [
        f"{name} is {value:g} on {instance.name}, not {due}"
        for instance, each in zip(stage.instances, figures, strict=True)
        for name, due in expected.items()
        if (value := each.total(name)) != due
    ]
    connections = [int(each.total("dollop_broker_connections_total")) for each in figures]
    off += [f"connections to the broker: {connections}"] * (min(connections) < 2)
    seen = (
        f"rows {rows:,}, nothing rejected, nothing crashed, connections to the broker {connections}"
    )
    stage.report.check(not off, f"metrics of the five: {'; '.join(off) or seen}")


def _counted(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(counts.items(), key=str))


STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("Writes through all five", write_through_all),
    ("The database goes away", lose_database),
    ("An instance is killed, and starts without the database", start_cold),
    ("The database comes back", regain_database),
    ("The broker goes away under writes", lose_broker),
    ("Everything compared", compare),
)
"""In the order in which they are told."""
