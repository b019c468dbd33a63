"""What Prometheus is shown."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aioprometheus.collectors import REGISTRY, Counter, Registry

from imperfect_dollop import ConfigurationError, Node, Stats, __version__
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.metrics.families import FAMILIES, Figures
from imperfect_dollop.metrics.prometheus import (
    CONTENT_TYPE,
    endpoint,
    register,
    render,
    unregister,
)
from imperfect_dollop.replica.counts import Histogram

from .school import (
    NEW,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    repository,
    students,
)

DOCS = Path(__file__).parents[2] / "docs" / "operating.md"

SAMPLE = re.compile(r"(?P<name>[a-z_:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'([a-z]+)="((?:[^"\\]|\\.)*)",?')


@pytest.fixture
def registry() -> Registry:
    return Registry()


def samples(registry: Registry) -> Iterator[tuple[str, dict[str, str], float]]:
    for line in render(registry).decode().splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            labels = dict(LABEL.findall(match["labels"] or ""))
            yield match["name"], labels, float(match["value"])


def value(registry: Registry, name: str, **labels: str) -> float:
    found = [
        value
        for each, its, value in samples(registry)
        if each == name and labels.items() <= its.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def test_size_age_and_source_are_shown(registry: Registry) -> None:
    source = SchoolSource(*students(3))
    one = member(MemoryBroker(), source)
    register(one.node, registry)
    assert value(registry, "dollop_entities", repository="Student") == 0
    assert math.isnan(value(registry, "dollop_data_age_seconds"))
    assert math.isnan(value(registry, "dollop_source_connection_age_seconds"))
    async with cluster(one):
        assert value(registry, "dollop_entities", repository="Student") == 3
        assert value(registry, "dollop_data_age_seconds") >= 0
        assert 0 <= value(registry, "dollop_source_connection_age_seconds") < 60
        source.failure = OSError("away")
        with pytest.raises(Exception, match="away"):
            await one.repository.refresh()
        assert value(registry, "dollop_data_age_seconds") >= 0
        assert math.isnan(value(registry, "dollop_source_connection_age_seconds"))


async def test_what_happens_is_counted(registry: Registry) -> None:
    source, broker = SchoolSource(*students(3)), MemoryBroker()
    one, other = member(broker, source), member(broker, source)
    register(other.node, registry)
    async with cluster(one), cluster(other):
        await other.repository.get(1)
        await other.repository.get(99)
        created = await one.repository.create(Student(NEW, "Zoe"))
        await one.repository.update(dataclasses.replace(created, name="Zo"))
        await one.repository.delete(created.id)
        await eventually(lambda: other.repository.stats.applied == 3)
        await other.repository.update(dataclasses.replace(source.rows[1], name="A"))
        await other.node.flush()
        assert value(registry, "dollop_hits_total") == 1
        assert value(registry, "dollop_misses_total") == 1
        assert value(registry, "dollop_events_received_total") == 3
        assert value(registry, "dollop_events_applied_total") == 3
        assert value(registry, "dollop_events_sent_total") == 1
        assert value(registry, "dollop_writes_total") == 1
        assert value(registry, "dollop_outbox_events") == 0
        assert value(registry, "dollop_propagation_seconds_count") == 3
        assert value(registry, "dollop_propagation_seconds_bucket", le="+Inf") == 3
        assert 0 < value(registry, "dollop_propagation_seconds_sum") < 60
        assert value(registry, "dollop_members", namespace="default") == 2
        assert value(registry, "dollop_broker_up") == 1
        assert value(registry, "dollop_broker_connections_total") == 1
        assert value(registry, "dollop_snapshots_total", direction="taken") == 1
        assert value(registry, "dollop_snapshot_bytes_total", direction="taken") > 0
        assert value(registry, "dollop_snapshot_seconds_total", direction="taken") > 0
        assert value(registry, "dollop_loads_total", kind="all") == 0
        register(one.node, registry)  # of whose figures the others are
        assert value(registry, "dollop_snapshots_total", direction="given") == 1
        assert value(registry, "dollop_snapshot_bytes_total", direction="given") > 0
        assert value(registry, "dollop_snapshot_seconds_total", direction="given") > 0
        assert value(registry, "dollop_loads_total", kind="all") == 1
        assert value(registry, "dollop_loads_total", kind="keys") == 0
        assert value(registry, "dollop_load_seconds_total", kind="all") > 0


async def test_what_goes_wrong_is_counted(registry: Registry) -> None:
    source, broker = SchoolSource(*students(3)), MemoryBroker()
    one = member(broker, source)
    register(one.node, registry)
    async with cluster(one):
        async with broker.connect("default", "stranger") as link:
            await link.publish(b"?")
            await link.publish(b"\xc1")
            await link.publish(b"x" * (9 << 20))
        await eventually(
            lambda: value(registry, "dollop_messages_rejected_total", reason="oversized") == 1
        )
        assert value(registry, "dollop_messages_rejected_total", reason="malformed") == 1
        assert value(registry, "dollop_messages_rejected_total", reason="signed") == 1
        for reason in ("unsigned", "forged", "stale"):
            assert value(registry, "dollop_messages_rejected_total", reason=reason) == 0
        with broker.outage():
            await eventually(lambda: value(registry, "dollop_broker_up") == 0)
            await one.repository.update(source.rows[1])
            assert value(registry, "dollop_outbox_events") == 1
            assert value(registry, "dollop_repository_state", state="degraded") == 1
            assert value(registry, "dollop_node_state", state="degraded") == 1
        await eventually(lambda: value(registry, "dollop_broker_up") == 1)
        await eventually(lambda: value(registry, "dollop_repairs_total") == 1)
        assert value(registry, "dollop_gaps_total") == 1
        assert value(registry, "dollop_broker_connections_total") == 2
        assert value(registry, "dollop_node_state", state="ready") == 1
        assert value(registry, "dollop_node_state", state="degraded") == 0


def test_every_counter_of_a_repository_is_shown() -> None:
    """A counter that is added to Stats has to be added to the table of metrics."""
    shown: set[str] = set()

    class Watched(Stats):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            shown.add(name)
            return super().__getattribute__(name)

    one = member(MemoryBroker(), SchoolSource())
    one.repository._last_stats = Watched()
    for family in FAMILIES:
        list(family.read(Figures.of(one.node)))
    every = {field.name for field in dataclasses.fields(Stats)}
    assert every - shown == {"rejected"}  # which is the sum of those by reason


async def test_the_text_is_what_prometheus_wants(registry: Registry) -> None:
    name = 'of "all"\\\nothers'
    one = Node("memory://", repository(SchoolSource(), name=name), name=name, namespace=name)
    register(one, registry)
    text = render(registry).decode()
    escaped = r"of \"all\"\\\nothers"
    assert f'dollop_entities{{namespace="{escaped}",repository="{escaped}"}} 0.0\n' in text
    assert f'node="{escaped}",version="{__version__}"' in text
    assert text.endswith("\n")
    families = [family.name for family in FAMILIES]
    assert len(set(families)) == len(families)
    for family in FAMILIES:
        assert f"# TYPE {family.name} {family.kind}\n" in text
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.doc.endswith(".")
        assert not set(family.doc) & {"\n", "\\"}  # which aioprometheus would not escape
    seen = [(name, tuple(sorted(labels.items()))) for name, labels, _ in samples(registry)]
    assert len(set(seen)) == len(seen)


def test_a_histogram_counts_up_to_its_bounds() -> None:
    histogram = Histogram((1.0, 2.0))
    for observed in (0.5, 1.0, 1.5, 3.0):
        histogram.observe(observed)
    copy = histogram.copy()
    histogram.observe(0.0)
    assert (copy.counts, copy.total) == ([2, 1, 1], 6.0)


async def test_a_histogram_is_cumulative_where_it_is_shown(registry: Registry) -> None:
    one = member(MemoryBroker(), SchoolSource())
    register(one.node, registry)
    async with cluster(one):
        counts = one.repository._session.replica.counts.propagation  # type: ignore[union-attr]
        for observed in (0.000_1, 0.002, 0.002, 7.0, 99.0):
            counts.observe(observed)
        name = "dollop_propagation_seconds"
        shown = [labels["le"] for each, labels, _ in samples(registry) if each == f"{name}_bucket"]
        assert shown == sorted(shown, key=float)
        for bound, count in (("0.00025", 1), ("0.001", 1), ("0.0025", 3), ("5.0", 3), ("10.0", 4)):
            assert value(registry, f"{name}_bucket", le=bound) == count
        assert value(registry, f"{name}_bucket", le="+Inf") == 5
        assert value(registry, f"{name}_count") == 5
        assert value(registry, f"{name}_sum") == pytest.approx(106.0041)


async def test_all_values_of_a_scrape_are_of_one_moment(registry: Registry) -> None:
    one = member(MemoryBroker(), SchoolSource(*students(1)))
    register(one.node, registry)
    read = 0
    of = Figures.of

    def counted(node: Node) -> Figures:
        nonlocal read
        read += 1
        return of(node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figures, "of", counted)
        async with cluster(one):
            for expected in (1, 2):  # twice in one turn of the event loop
                await one.repository.get(1)
                assert value(registry, "dollop_hits_total") == expected
                assert read == expected
            collector = registry.get("dollop_hits_total")
            await asyncio.sleep(0)
            await one.repository.get(1)
            assert registry.get("dollop_misses_total").get_all()[0][1] == 0
            assert collector.get_all()[0][1] == 3


def test_the_last_node_of_a_namespace_is_the_one_that_is_shown(
    registry: Registry,
) -> None:
    first, second = (
        Node("memory://", repository(SchoolSource(), name=name)) for name in ("first", "second")
    )
    elsewhere = Node("memory://", repository(SchoolSource()), namespace="elsewhere")
    for node in (first, second, second, elsewhere):
        register(node, registry)
    assert {
        labels["repository"] for name, labels, _ in samples(registry) if name == "dollop_entities"
    } == {
        "second",
        "Student",
    }
    unregister(first, registry)  # it is not shown any more
    assert value(registry, "dollop_entities", namespace="default") == 0
    unregister(second, registry)
    assert value(registry, "dollop_entities") == 0  # of the one elsewhere
    unregister(elsewhere, registry)
    unregister(elsewhere, registry)
    assert render(registry) == b""
    register(first, registry)
    assert value(registry, "dollop_entities", repository="first") == 0


def test_what_others_have_in_a_registry_stays(registry: Registry) -> None:
    node = Node("memory://", repository(SchoolSource()))
    theirs = Counter("dollop_hits_total", "Of another.", registry=registry)
    with pytest.raises(ConfigurationError, match=r"dollop_hits_total; give register\(\) another"):
        register(node, registry)
    assert registry.get_all() == [theirs]
    with pytest.raises(ConfigurationError, match="takes a Node, not 'node'"):
        register("node", registry)  # type: ignore[arg-type]
    assert registry.get_all() == [theirs]
    with pytest.raises(ConfigurationError, match=r"no aioprometheus\.Registry"):
        register(node, object())  # type: ignore[arg-type]


def test_a_registry_that_somebody_has_taken_something_out_of(registry: Registry) -> None:
    node = Node("memory://", repository(SchoolSource()))
    register(node, registry)
    for taken in (FAMILIES[0].name, "dollop_hits_total"):
        registry.deregister(taken)
        register(node, registry)
        assert set(registry.collectors) == {family.name for family in FAMILIES}
        registry.deregister(taken)
    unregister(node, registry)
    assert registry.get_all() == []


def test_by_default_it_is_aioprometheus_registry() -> None:
    node = Node("memory://", repository(SchoolSource()))
    register(node)
    try:
        assert b"dollop_entities" in render()
        assert "dollop_entities" in REGISTRY.collectors
    finally:
        unregister(node)
    assert b"dollop_entities" not in render()


async def ask(app: Any, method: str, **more: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "headers": [], **more}, None, send)
    return sent


async def test_the_endpoint_answers_whatever_the_request_accepts(
    registry: Registry,
) -> None:
    register(Node("memory://", repository(SchoolSource())), registry)
    app = endpoint(registry)
    for headers in ([], [(b"accept", b"application/json")], [(b"accept", b"*/*")]):
        start, body = await ask(app, "GET", headers=headers)
        assert start["status"] == 200
        told = dict(start["headers"])
        assert told[b"content-type"].decode() == CONTENT_TYPE
        assert int(told[b"content-length"]) == len(body["body"])
        assert b"# TYPE dollop_entities gauge" in body["body"]
    start, body = await ask(app, "HEAD")
    assert (start["status"], body["body"]) == (200, b"")
    assert int(dict(start["headers"])[b"content-length"]) > 1_000
    start, _ = await ask(app, "POST")
    assert start["status"] == 405
    assert await ask(app, "GET", type="websocket") == [{"type": "websocket.close"}]
    with pytest.raises(RuntimeError, match="lifespan"):
        await app({"type": "lifespan"}, None, None)


def test_the_documentation_lists_every_metric() -> None:
    told = set(re.findall(r"`(dollop_\w+)", DOCS.read_text()))
    assert told == {family.name for family in FAMILIES}
