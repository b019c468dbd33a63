"""Snapshots between two nodes: the frames that donor and joiner make and read, carried over a transfer."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

import anyio
import anyio.lowlevel

from .broker import Link
from .errors import BrokerUnavailableError, ProtocolError
from .replica.messages import Take, encode
from .replica.replica import Effect, Replica
from .replica.snapshot import Donor, Joiner
from .stats import Stats

__all__ = ["BUSY", "MAX_DONATIONS", "TRANSFER_TIMEOUT", "Joining", "give"]

logger: Final = logging.getLogger(__name__)

TRANSFER_TIMEOUT: Final = 5.0
"""Seconds without a chunk, or without credit for one, after which a transfer counts as cut."""

CATCH_UP_SECONDS: Final = 2.0
"""How long a joiner waits for events that its donor had already seen when it finished."""

MAX_DONATIONS: Final = 8
"""Snapshots that a node gives at the same time. Whoever is refused asks another, or waits."""

BUSY: Final = "busy"
"""Why a node refuses that will be able to give soon, as will those that it gives to now."""


async def give(link: Link, donor: Donor[Any, Any], address: str, stats: Stats) -> None:
    """Send a snapshot; raises `BrokerUnavailableError` when the joiner has gone."""
    began = time.monotonic()
    try:
        async with link.send_transfer(address, timeout=TRANSFER_TIMEOUT) as transfer:
            for frame in donor.frames():
                if frame is not None:
                    await transfer.send(frame)
                    stats.snapshot_bytes_given += len(frame)
                await anyio.lowlevel.checkpoint()
        stats.snapshots_given += 1
    finally:
        stats.snapshot_seconds_given += time.monotonic() - began


class Joining:
    """One cold replica on its way to a copy; goes on with another donor where the last one stopped."""

    def __init__(
        self, replica: Replica[Any, Any], repository: str, *, label: str, stats: Stats
    ) -> None:
        self._replica = replica
        self._repository = repository
        self._label = label  # node and repository, for the log
        self._stats = stats
        self._joiner: Joiner[Any, Any] = Joiner(replica)
        self._arrivals = anyio.Event()
        self.address: str = ""
        self.donor: str = ""
        self.busy: bool = False  # the last donor was; it may be asked again
        self._scope = anyio.CancelScope()

    def arrived(self) -> None:
        """Events were buffered."""
        self._arrivals.set()

    def refused(self, reason: str) -> None:
        """The donor does not give."""
        logger.info("%s: %s refuses to give its copy: %s", self._label, self.donor, reason)
        self.busy = reason == BUSY
        self._scope.cancel(reason)

    async def take(self, link: Link, donor: str, address: str) -> list[Effect] | None:
        """Take a snapshot from `donor`; ``None`` if nothing came of it."""
        began = time.monotonic()
        try:
            effects = await self._take(link, donor, address)
        finally:
            self._stats.snapshot_seconds += time.monotonic() - began
        if effects is not None:
            self._stats.snapshots += 1
        return effects

    async def _take(self, link: Link, donor: str, address: str) -> list[Effect] | None:
        replica, joiner = self._replica, self._joiner
        self.address, self.donor, self.busy = address, donor, False
        buckets = joiner.begin(address)
        with anyio.CancelScope() as self._scope:
            try:
                async with link.receive_transfer(address, timeout=TRANSFER_TIMEOUT) as chunks:
                    wanted = Take(
                        replica.origin,
                        donor,
                        self._repository,
                        replica.rows.fingerprint,
                        address,
                        buckets,
                    )
                    with anyio.fail_after(TRANSFER_TIMEOUT):
                        await link.publish(encode(wanted))
                    async for chunk in chunks:
                        self._stats.snapshot_bytes += len(chunk)
                        joiner.take(chunk)
                        await anyio.lowlevel.checkpoint()
                with anyio.move_on_after(CATCH_UP_SECONDS):
                    while joiner.footer is not None and not joiner.arrived:
                        self._arrivals = anyio.Event()
                        await self._arrivals.wait()
                if joiner.footer is None:
                    raise ProtocolError("it ended early")
                effects = joiner.finish(time.time())
            except (BrokerUnavailableError, ProtocolError, TimeoutError) as error:
                reason = str(error) or "the broker does not answer"
                logger.info(
                    "%s: the snapshot of %s came to nothing: %s", self._label, donor, reason
                )
                return None
            if effects is None:
                # Rows of it cannot be told from good ones, so the next attempt starts over.
                logger.info("%s: the copy of %s does not add up", self._label, donor)
                self._joiner = Joiner(replica)
            return effects
        return None
