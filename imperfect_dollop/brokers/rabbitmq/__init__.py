"""``amqp://``: events over a fanout exchange into one queue per link, transfers over two queues each.

A queue lives as long as its link: it is exclusive, and its name is never used again, so a link that was lost leaves
nothing behind that a new one could be refused for. What is sent while a node has no link is not kept for it, so
a new link after a lost one always means a gap. Messages are taken from the queue as they arrive and wait in the
process; a reader that is too slow for them loses them and is told. If the whole process does not take them, the queue
is bounded too, and drops the oldest: siblings notice that by the numbers of the events.

==========================  ====================================================================================
name                        what it is
==========================  ====================================================================================
exchange PREFIX.NS          where the messages of a namespace are published; goes with its last queue
queue PREFIX.NS.events.ID   a link's own: exclusive, bounded
queue PREFIX.NS.chunks.ADR  a transfer's chunks that were not read yet; exclusive to the one who receives
a queue named by the server a sender's own, where it is told how many were read
==========================  ====================================================================================

Chunks are published as mandatory: one that comes back says that the receiver has gone.
"""

from __future__ import annotations

try:
    from .broker import RabbitMQBroker
except ImportError as _missing:
    raise ImportError(
        f"a driver is not installed ({_missing}): pip install 'imperfect-dollop[rabbitmq]'"
    ) from _missing

__all__ = ["RabbitMQBroker"]
