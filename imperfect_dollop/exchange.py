"""Copies between two nodes, whole or in part: frames that one makes and the other reads, carried over a transfer."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from .broker import Link
from .clock import monotonic
from .errors import BrokerUnavailableError, ProtocolError
from .letting_go import let_go
from .replica.comparison import Comparison
from .replica.effects import Effect
from .replica.messages import Take, encode
from .replica.replica import Replica
from .replica.snapshot import Donor, Joiner
from .stats import Stats

__all__ = ["BUSY", "MAX_DONATIONS", "TRANSFER_TIMEOUT", "Comparing", "Inquiry", "Joining", "give"]

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
    """Send a copy, or what differs in it; raises `BrokerUnavailableError` when the joiner has gone."""
    began = monotonic()
    try:
        async with link.send_transfer(address, timeout=TRANSFER_TIMEOUT) as transfer:
            for frame in donor.frames():
                if frame is not None:
                    await transfer.send(frame)
                    stats.snapshot_bytes_given += len(frame)
                await anyio.lowlevel.checkpoint()
        stats.snapshots_given += donor.whole
    finally:
        stats.snapshot_seconds_given += monotonic() - began


class Inquiry:
    """A sibling is asked for its copy, or for what differs in it. One at a time."""

    def __init__(
        self, replica: Replica[Any, Any], repository: str, *, label: str, stats: Stats
    ) -> None:
        self._replica = replica
        self._repository = repository
        self._label = label  # node and repository, for the log
        self._stats = stats
        self._arrivals = anyio.Event()
        self.address: str = ""
        self.donor: str = ""
        self._donor_name = ""  # for the log, as in whatever else it says of members
        self.busy: bool = False  # the last donor was; it may be asked again
        self._scope = anyio.CancelScope()

    def _begin(self, donor: str, name: str, address: str) -> None:
        self.donor, self._donor_name, self.address = donor, name, address

    def arrived(self) -> None:
        """Events have come."""
        self._arrivals.set()

    def refused(self, reason: str) -> None:
        """The donor does not give."""
        logger.info("%s: %s refuses to give its copy: %s", self._label, self._donor_name, reason)
        self.busy = reason == BUSY
        self._scope.cancel(reason)

    async def _ask(
        self,
        link: Link,
        take: Callable[[bytes], None],
        *,
        buckets: Sequence[int] = (),
        digests: bytes = b"",
    ) -> bool:
        """Hand every frame of the answer to `take`; whether it came to its end."""
        replica = self._replica
        self.busy = False
        wanted = Take(
            replica.origin,
            self.donor,
            self._repository,
            replica.rows.fingerprint,
            self.address,
            list(buckets),
            digests,
            replica.identity_tag,
        )
        with anyio.CancelScope() as self._scope:
            try:
                async with link.receive_transfer(self.address, timeout=TRANSFER_TIMEOUT) as chunks:
                    with anyio.fail_after(TRANSFER_TIMEOUT):
                        await link.publish(encode(wanted))
                    async for chunk in chunks:
                        self._stats.snapshot_bytes += len(chunk)
                        take(chunk)
                        await anyio.lowlevel.checkpoint()
                return True
            except (BrokerUnavailableError, ProtocolError, TimeoutError) as error:
                self._came_to_nothing(str(error) or "the broker does not answer")
        return False

    def _came_to_nothing(self, reason: str) -> None:
        logger.info("%s: asking %s came to nothing: %s", self._label, self._donor_name, reason)


class Joining(Inquiry):
    """One cold replica on its way to a copy; goes on with another donor where the last one stopped."""

    def __init__(
        self, replica: Replica[Any, Any], repository: str, *, label: str, stats: Stats
    ) -> None:
        super().__init__(replica, repository, label=label, stats=stats)
        self._joiner: Joiner[Any, Any] = Joiner(replica)

    async def take(self, link: Link, donor: str, name: str, address: str) -> list[Effect] | None:
        """Take a snapshot from `donor`, a member of this `name`; ``None`` if nothing came of it."""
        began = monotonic()
        self._begin(donor, name, address)
        try:
            effects = await self._take(link)
        finally:
            self._stats.snapshot_seconds += monotonic() - began
        if effects is not None:
            self._stats.snapshots += 1
        return effects

    async def _take(self, link: Link) -> list[Effect] | None:
        joiner = self._joiner
        await let_go(self._replica.table.dropped)  # of an attempt that came to nothing
        if not await self._ask(link, joiner.take, buckets=joiner.begin(self.address, self.donor)):
            return None
        with anyio.move_on_after(CATCH_UP_SECONDS):
            while joiner.footer is not None and not joiner.arrived:
                self._arrivals = anyio.Event()
                await self._arrivals.wait()
        if joiner.footer is None:
            self._came_to_nothing("it ended early")
            return None
        effects = joiner.finish(time.time())
        if effects is None:
            # Rows of it cannot be told from good ones, so the next attempt starts over.
            self._came_to_nothing("the copy does not add up")
            self._joiner = Joiner(self._replica)
        return effects


class Comparing(Inquiry):
    """One replica that compares itself with a sibling's copy; with one that is vouched for, if `clean`.

    `caught_up` waits until everything has been taken in that was published before it was called.
    """

    def __init__(
        self,
        replica: Replica[Any, Any],
        repository: str,
        *,
        label: str,
        stats: Stats,
        clean: bool,
        caught_up: Callable[[], Awaitable[object]],
    ) -> None:
        super().__init__(replica, repository, label=label, stats=stats)
        self._clean = clean
        self._caught_up = caught_up

    async def take(self, link: Link, donor: str, name: str, address: str) -> list[Effect] | None:
        """Compare with `donor`, a member of this `name`; ``None`` if nothing came of it."""
        self._begin(donor, name, address)
        comparison: Comparison[Any, Any] = Comparison(self._replica, address, time.time(), donor)
        try:
            if not await self._ask(link, comparison.take, digests=comparison.digests):
                return None
            narrows = comparison.differ and self._good(comparison)
            if narrows and not await self._ask_for_leaves(link, comparison):
                return None
            if not self._good(comparison):
                self._came_to_nothing("it is not vouched for")
                return None
            # Or what is only late would count as missed, and old heartbeats as going back behind what was compared.
            await self._caught_up()
            effects = comparison.finish(time.time())
            if effects is None:
                self._came_to_nothing("it ended early, or too much has happened since")
            else:
                self._stats.comparisons += 1
            return effects
        finally:
            comparison.close()

    def _good(self, comparison: Comparison[Any, Any]) -> bool:
        return comparison.clean or not self._clean

    async def _ask_for_leaves(self, link: Link, comparison: Comparison[Any, Any]) -> bool:
        self._begin(self.donor, self._donor_name, f"{self.address}.leaves")
        comparison.narrow(self.address)
        digests = bytearray()
        for bucket in comparison.differ:
            digests += comparison.leaves(bucket)
            await anyio.lowlevel.checkpoint()
        return await self._ask(
            link, comparison.take, buckets=comparison.differ, digests=bytes(digests)
        )
