"""The soak, for some seconds: it holds on each broker, and its judge finds what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import create_async_engine

from ..soak import report
from ..soak.judge import said
from ..soak.memory import ENOUGH, NOISE, WARM_UP, Memory
from ..soak.plan import ENDING, SERVER, Kind, plan
from ..soak.record import Recorder, records_in
from ..soak.run import soak
from ..soak.services import Broker
from ..soak.settings import Settings
from .history import Record, Saw, Shown
from .pids import children, lives
from .servers import RabbitMQServer, RedisServer, Server
from .workers import ROOT

SHORT = Settings(seed=7, seconds=7.0, nodes=4, ttl=3.0, keys=100, held=50, pause=0.2, gap=0.5)


def kind_of(server: Server) -> str:
    return "redis" if isinstance(server, RedisServer) else "rabbitmq"


@pytest.mark.timeout(120)
async def test_it_holds(
    server: Server, postgres_url: str, mariadb_url: str, tmp_path: Path
) -> None:
    """Each broker beside another database, as both are not to take twice as long."""
    database = mariadb_url if isinstance(server, RabbitMQServer) else postgres_url
    broker = Broker(server.url, kind_of(server), server)
    result = await soak(SHORT, broker, database, tmp_path, lambda _: None)
    told = report.as_text(result)
    assert result.verdict.faults == [], told
    assert len(result.faults) >= 5, told
    assert result.verdict.records > 1_000
    counted: Counter[str] = Counter()
    for life in itertools.chain(*result.lives):
        counted.update(life.counted())
    assert min(counted[what] for what in ("reads", "writes", "conflicts", "loads")) > 0, told
    assert result.spoiled > 0, told
    for what in ("hot writes", "hot conflicts"):
        assert report.as_json(result)["counts"][what] > 0, told
    assert "S1-S5, L1 and memory hold (seed 7)." in told
    assert report.as_json(result)["ok"]


@pytest.mark.timeout(120)
async def test_it_finds_who_breaks_a_promise(
    redis_server: RedisServer, postgres_url: str, tmp_path: Path
) -> None:
    settings = Settings(
        seed=1, seconds=5.0, nodes=5, ttl=2.0, keys=40, held=20, pause=0.05, gap=1e9,
        member="tests.integration.flawed",
    )  # fmt: skip
    broker = Broker(redis_server.url, "redis")
    result = await soak(settings, broker, postgres_url, tmp_path, lambda _: None)
    faults = result.verdict.faults
    told = "\n".join(faults)
    assert re.search(r"S1-S5: n0\.0, whole, key \d+ .*: showed \S+ v\d+ after .* already", told)
    assert re.search(r"S1-S5: n1\.0, whole, key \d+ .*: showed \S+ v\d+ after .* already", told)
    assert re.search(r"S1-S5: n2\.0, whole, .*: showed invented .* did not have", told)
    assert re.search(
        r"L1: not what the source has within 9 s .*n3\.0: ([1-9]|1[0-5]) rows differ", told
    )
    assert "n4.0, whole, key" not in told  # it has no flaw
    assert ", lookup, " not in told  # nor has any of what is loaded by key
    assert "faults found (seed 1)." in report.as_text(result)
    assert not report.as_json(result)["ok"]


async def tables(database: str) -> set[str]:
    engine = create_async_engine(database)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    await engine.dispose()
    return {name for name in names if name.startswith("dollop_")}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("given", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_leaves_nothing(
    given: signal.Signals, postgres_url: str, mortal_redis: RedisServer
) -> None:
    assert mortal_redis.found() is not None
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak", "--broker", "redis", "--nodes", "3"),
        cwd=ROOT,
        env={**os.environ, "SOAK_DATABASE": postgres_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    started: list[int] = []
    try:
        assert process.stdout is not None
        said = b""
        while b"nodes are there" not in said:
            line = await asyncio.wait_for(process.stdout.readline(), 40)
            assert line, said
            said += line
        started = children(process.pid)
        assert len(started) == 4  # three nodes and the broker
        ours = set(re.findall(r"dollop_\w+", said.decode()))
        assert len(ours & await tables(postgres_url)) == 2
        process.send_signal(given)
        rest, errors = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 130, errors.decode()
        assert b"nodes" not in rest  # no verdict, which nobody has waited for
        assert [pid for pid in started if lives(pid)] == []
        assert not ours & await tables(postgres_url)
    finally:
        for pid in (*started, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await process.wait()


# -- what is planned ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_keeps_to_what_it_says(seed: int) -> None:
    settings = Settings(seed=seed, seconds=120.0)
    faults = plan(settings, own_broker=bool(seed % 2))
    assert faults == plan(settings, own_broker=bool(seed % 2))
    assert len(faults) > 20
    for fault in faults:
        assert 0 <= fault.at <= fault.at + fault.seconds <= settings.seconds
        now = [each for each in faults if each.at <= fault.at < each.at + each.seconds]
        nodes = [each.node for each in now if each.node is not None]
        assert len(nodes) == len(set(nodes)) <= 3
        assert sum(each.node is None for each in now) <= 1
        assert not (fault.kind in ENDING and fault.node in (0, 1, 2))
        assert seed % 2 or fault.kind not in SERVER


def test_every_kind_comes() -> None:
    kinds = {
        fault.kind
        for seed in range(20)
        for fault in plan(Settings(seed=seed, seconds=300.0), own_broker=True)
    }
    assert kinds == set(Kind)


# -- memory ------------------------------------------------------------------------------------------


def memory(*, a_minute: float, seconds: float, jump: int = 0, kept: float = 0.0) -> Memory:
    samples = Memory()
    for age in range(0, int(seconds), 5):
        samples.kept = int(kept * age / 60)
        noise = 300 * (age % 3)
        warm = 20_000 * min(1.0, age / WARM_UP)
        samples.add(age, int(40_000 + warm + noise + jump * (age >= 90) + a_minute * age / 60))
    return samples


def test_memory_that_grows_is_told() -> None:
    grown = memory(a_minute=2_000, seconds=600)
    assert grown.slope == pytest.approx(2_000, rel=0.05)
    told = grown.fault()
    assert told is not None
    assert "KiB a minute" in told


def test_memory_that_stays_within_the_noise_is_not() -> None:
    assert memory(a_minute=0, seconds=600, jump=12_000).fault() is None
    assert memory(a_minute=NOISE / 20, seconds=600).fault() is None
    assert memory(a_minute=2_000, seconds=600, kept=1_900).fault() is None
    told = memory(a_minute=0, seconds=600, jump=60_000).fault()
    assert told is not None
    assert "more than after the warm-up" in told
    young = memory(a_minute=50_000, seconds=WARM_UP + ENOUGH - 5)
    assert (young.fault(), young.slope) == (None, None)
    assert memory(a_minute=0, seconds=600).first >= 60_000  # the warm-up does not count


# -- files -------------------------------------------------------------------------------------------


def test_records_come_back_as_they_were_less_the_last_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "records"
    records = [Record(Saw.READ, key, Shown("m", key), 1.5) for key in range(1_000)]
    recorder = Recorder(path)
    recorder.write(records[:700])
    recorder.write(records[700:])
    assert list(records_in(path)) == records
    os.truncate(path, path.stat().st_size - 5)
    assert list(records_in(path)) == records[:-1]
    path.write_bytes(path.read_bytes() + b"\n" + b"[]\n")
    with pytest.raises(ValueError, match="line 1000 is no record"):
        list(records_in(path))


def test_what_must_not_be_said(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "2026-01-01 00:00:00,000 INFO imperfect_dollop.session n0 is ready\n"
        "2026-01-01 00:00:00,000 ERROR sqlalchemy.pool Exception terminating connection\n"
        "2026-01-01 00:00:00,000 WARNING imperfect_dollop.membership a message could not be taken in\n"
        "Traceback (most recent call last):\n"
        "2026-01-01 00:00:00,000 ERROR imperfect_dollop.supervisor n0: a loop crashed\n"
    )
    errors: Counter[str] = Counter()
    assert len(said(log, errors)) == 2
    assert errors["sqlalchemy.pool"] == 1
