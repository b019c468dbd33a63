"""The broker dies, or stands still: nodes go on, and are in step again when it is back."""

from __future__ import annotations

from .servers import Server
from .workers import Crew, until

KEYS = 300

RETURN = 30.0
"""Seconds for a node to find its broker again: it asks ever more rarely."""


async def all_up(crew: Crew) -> bool:
    return all([await worker.broker_up() for worker in crew])


async def all_down(crew: Crew) -> bool:
    return not any([await worker.broker_up() for worker in crew])


async def test_killed_and_started_again_empty(crew: Crew, server: Server) -> None:
    await crew.rows.seed(KEYS)
    await crew.start(3, keys=KEYS)
    await crew.write()
    await crew.more_writes(30)
    await server.kill()
    await until(lambda: all_down(crew), "every node says that its broker is away")
    await crew.more_writes(30)
    await server.start()
    await until(lambda: all_up(crew), "every node is connected again", RETURN)
    await crew.more_writes(30)
    await crew.stop_writing()
    await crew.judge()


async def test_stopped_for_longer_than_the_heartbeats_and_continued(
    crew: Crew, server: Server
) -> None:
    await crew.rows.seed(KEYS)
    await crew.start(3, keys=KEYS)
    await crew.write()
    await crew.more_writes(30)
    server.freeze()
    await until(lambda: all_down(crew), "every node says that its broker is away")
    await crew.more_writes(30)
    server.thaw()
    await until(lambda: all_up(crew), "every node is connected again", RETURN)
    await crew.more_writes(30)
    await crew.stop_writing()
    await crew.judge()
    await crew.all_see_all()


async def test_what_was_written_while_it_was_away_is_sent_at_its_return(
    crew: Crew, server: Server
) -> None:
    await crew.rows.seed(KEYS)
    writer, reader = await crew.start(2, keys=KEYS)
    await server.kill()
    await until(lambda: all_down(crew), "every node says that its broker is away")
    await writer.update(1)
    await writer.delete(2)
    await writer.create(KEYS)
    assert (await writer.ask("dump"))["unsent"] == 3
    assert (await reader.ask("dump"))["state"] == "degraded"
    await server.start()
    await writer.ask("flush", RETURN)
    await crew.judge()
    assert (await writer.stats())[
        "events_sent"
    ] >= 3  # and perhaps what it has found when it compared
