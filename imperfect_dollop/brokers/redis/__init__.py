"""``redis://``: events over one stream of a namespace, transfers over two short-lived streams each.

A stream rather than pub/sub, because a stream can be read again: a link that was lost for a moment goes on at the id
where the last one was, and misses nothing. Whether that is so is never assumed. Every look at the stream asks for
what comes after the last entry that was read, *and* whether that entry is still there. While it is, nothing behind
it can have been trimmed, and the stream is the one that was read before. When it is not - trimmed past
our position, emptied, begun anew by a server that lost its data - that is a gap. No state is kept on the server but
the entries themselves, so it works with any server that has streams, and on a replica that was promoted.

======================  ========================================================================================
key                     what it is
======================  ========================================================================================
PREFIX:events:NS        the messages of a namespace, bounded by number and, roughly, by bytes; expires when unused
PREFIX:chunks:NS:ADDR   a transfer's chunks that were not read yet; made and deleted by the one who receives
PREFIX:credit:NS:ADDR   how many of them were read; the sender stays at most a window ahead of it
======================  ========================================================================================
"""

from __future__ import annotations

try:
    from .broker import RedisBroker
except ImportError as _missing:
    raise ImportError(
        f"a driver is not installed ({_missing}): pip install 'imperfect-dollop[redis]'"
    ) from _missing

__all__ = ["RedisBroker"]
