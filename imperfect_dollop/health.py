"""Whether a source answers, as far as what was asked of it last, and when it may be asked again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .clock import monotonic
from .errors import DollopError
from .freshness import Backoff

__all__ = ["Health"]


class Health:
    """Of one repository's source, seen from this node. `changed` is called when it begins or ceases to answer."""

    def __init__(self, retry_after: float, changed: Callable[[], None]) -> None:
        self._backoff = Backoff(retry_after)
        self._changed = changed
        self._not_before = 0.0  # monotonic: nothing is tried earlier
        self.failure: DollopError | None = None  # the last, while nothing has succeeded since
        self.failures: int = 0  # in a row; many that come at once count as one
        self.load_failed: bool = False  # of everything, and nobody's has succeeded since
        self.alive_since: float | None = None  # wall clock

    @property
    def pause(self) -> float:
        """Seconds until it is asked again in the background; 0 or less for now."""
        return self._not_before - monotonic()

    @property
    def may_try(self) -> bool:
        """Whether the pause after the last failure is over."""
        return self.pause <= 0

    def hurry(self) -> None:
        """Something has changed for the better: the pause is over."""
        self._not_before = 0.0

    def loaded(self) -> None:
        """Everything could be read, by this node or another."""
        self.load_failed = False

    def answered(self) -> None:
        """It works, as far as what failed last: a row that was read does not make up for a load that failed."""
        if self.load_failed:
            return
        self.failure = None
        self.failures = 0
        self._backoff.succeeded()
        self._not_before = 0.0
        if self.alive_since is None:
            self.alive_since = time.time()
            self._changed()

    def failed(self, error: DollopError, *, load: bool = False) -> None:
        """It does not work; `load`: everything could not be read."""
        self.failure = error
        self.load_failed = self.load_failed or load
        self.alive_since = None
        if self.may_try:  # many calls that fail at once are one failure
            self.failures += 1
            self._not_before = monotonic() + self._backoff.failed(random.random())
        self._changed()
