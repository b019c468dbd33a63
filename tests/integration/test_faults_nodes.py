"""A node dies, stands still, or starts with others: the rest is none the worse."""

from __future__ import annotations

from pathlib import Path

from .history import Saw
from .orders import Point
from .workers import Crew

KEYS = 300

FILLER = 2_000
"""Characters of a row, so that a snapshot has several chunks."""

REFRESH = 6.0
"""Seconds. A commit that nobody has heard of nobody can miss: the next refresh finds it."""

CHUNKS = 3
"""Chunks of a snapshot that get through before somebody dies."""


async def test_five_cold_nodes_read_the_table_once(crew: Crew) -> None:
    await crew.rows.seed(KEYS, filler=FILLER)
    nodes = await crew.start(5, keys=KEYS)
    stats = [await node.stats() for node in nodes]
    assert sum(each["full_loads"] for each in stats) == 1
    assert sum(each["snapshots"] for each in stats) == 4
    await crew.judge()


async def test_killed_between_commit_and_event(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    doomed, *_ = await crew.start(3, keys=KEYS, ttl=REFRESH)
    await doomed.doom(Point.COMMITTED, after=20)
    await crew.write()
    await doomed.died()
    await crew.more_writes(20)
    await crew.stop_writing()
    await crew.judge()
    await crew.all_see_all()


async def test_killed_as_the_donor_of_a_snapshot(crew: Crew, tmp_path: Path) -> None:
    await crew.rows.seed(KEYS, filler=FILLER)
    # No refresh: a key that one finds changed is in doubt for a moment, in which no copy is vouched for.
    donors = await crew.start(2, keys=KEYS)
    for donor in donors:  # whichever is asked first dies, and the other one goes on
        await donor.doom(Point.GIVING, after=CHUNKS, once=str(tmp_path / "died"))
    donors[0].write(filler=FILLER)
    (joiner,) = await crew.start(1, keys=KEYS)
    stats = await joiner.stats()
    assert stats["snapshots"] == 1
    # Somebody has to look for what the dead one may have committed.
    assert stats["full_loads"] <= 1
    assert len(list(crew)) == 2
    await crew.stop_writing()
    await crew.judge()


async def test_the_last_donor_is_killed(crew: Crew) -> None:
    await crew.rows.seed(KEYS, filler=FILLER)
    (donor,) = await crew.start(1, keys=KEYS)
    await donor.doom(Point.GIVING, after=CHUNKS)
    (joiner,) = await crew.start(1, keys=KEYS)
    await donor.died()
    stats = await joiner.stats()
    assert (stats["snapshots"], stats["full_loads"]) == (0, 1)
    await crew.judge()


async def test_killed_as_the_joiner_of_a_snapshot(crew: Crew) -> None:
    await crew.rows.seed(KEYS, filler=FILLER)
    donors = await crew.start(2, keys=KEYS)
    donors[0].write(filler=FILLER)
    doomed = await crew.spawn(keys=KEYS, fatal=Point.TAKING, fatal_after=CHUNKS)
    await doomed.died()
    (joiner,) = await crew.start(1, keys=KEYS)
    stats = await joiner.stats()
    assert (stats["snapshots"], stats["full_loads"]) == (1, 0)
    await crew.stop_writing()
    await crew.judge()
    assert [record for record in doomed.records if record.saw is Saw.READ] == []
