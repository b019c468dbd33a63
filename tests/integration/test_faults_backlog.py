"""A node cannot keep up: what it has missed it is told of, and it is in step again."""

from __future__ import annotations

from .servers import Server
from .workers import Crew

KEYS = 300

FEW = 50
"""Messages that may wait for a slow node."""


HEARTBEAT = 6.0
"""Seconds: longer than anything stands still here would a link have to be silent to count as lost."""


async def test_more_than_may_wait_for_a_slow_node(crew: Crew, server: Server) -> None:
    await crew.rows.seed(KEYS)
    *writers, slow = await crew.start(3, keys=KEYS, backlog=FEW, heartbeat=HEARTBEAT)
    for writer in writers:
        writer.write(writers=1, pause=0.0)  # one at a time, so that each is a message of its own
    slow.freeze()
    await crew.more_writes(450, writers)  # RabbitMQ has 500 on their way besides
    slow.thaw()
    for writer in writers:
        await writer.stop_writing()
    await crew.judge()
    assert (await slow.stats())["gaps"] > 0
    # It is told by the broker, or by the numbers of the events, though its link was never lost.
    if server.program == "redis-server":
        assert "no longer has what came after" in crew.log(slow)
    else:
        assert sum([(await writer.stats())["events_resent"] for writer in writers]) > 0


async def test_blocked_for_5_s_under_full_write_load(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    *writers, slow = await crew.start(3, keys=KEYS)
    await crew.write(writers=6, pause=0.0)
    await crew.more_writes(50)
    slow.tell("block", seconds=5.0)
    await crew.more_writes(300, writers)
    await slow.status()  # it answers when it is no longer blocked
    await crew.more_writes(50)
    await crew.stop_writing()
    await crew.judge()
    await crew.all_see_all()
