"""What is known to be wrong with a copy as a whole, and what was tried: which repair is to be made, and since when."""

from __future__ import annotations

from .clock import monotonic
from .siblings import MAX_DETOURS

__all__ = ["Repairs"]


class Repairs:
    """Of one copy. `begin`, then `made_up` if it has worked, and `end` in any case, around an attempt."""

    def __init__(self) -> None:
        self.missing: str | None = None  # why everything has to be compared
        self.differing: dict[str, None] = {}  # siblings to compare with, in that order
        # Hybrid time: a complete load, by whichever node, is to begin after it.
        self.wanted: int = 0
        self.since: float = 0.0  # monotonic, when a load was wanted first, or something missing
        self.source_only: bool = False  # siblings' copies do not tell what is missing
        self._under_way: str | None = None  # what was missing when the attempt began
        self._source_only_before = False
        self._detours = 0  # comparisons that came to nothing, since this is missing

    @property
    def known(self) -> str | None:
        """Why everything has to be compared, or is being compared; ``None`` where nothing is known to be missing."""
        return self.missing or self._under_way

    @property
    def comparable(self) -> bool:
        """Whether what is missing may be found in a sibling's copy."""
        return self.missing is not None and not self.source_only and self._detours < MAX_DETOURS

    @property
    def load_wanted(self) -> bool:
        """Whether one of all nodes is to load everything."""
        return self.missing is not None or self.wanted > 0

    def miss(self, reason: str, *, siblings: bool) -> bool:
        """Something is missing, which no sibling can know unless `siblings`; whether that is news."""
        self.source_only = self.source_only or not siblings
        if self.missing is not None:
            return False
        self.missing = reason or "something was missed"
        self.since = monotonic()
        self._detours = 0
        return True

    def want(self, since: int) -> None:
        """The source may have what no sibling knows of, from a hybrid time on."""
        if not self.wanted:
            self.since = monotonic()
        self.wanted = max(self.wanted, since)

    def confirmed(self, began: int) -> None:
        """Everything was loaded, by whichever node, from a hybrid time on."""
        if began >= self.wanted:
            self.wanted = 0

    def hope(self) -> None:
        """Siblings can be heard again, or one has a copy to give."""
        self._detours = 0

    def clear(self) -> None:
        """Nothing is held any more that could be repaired."""
        self.differing.clear()
        self.missing = self._under_way = None
        self.source_only = self._source_only_before = False
        self.wanted = 0

    # -- an attempt ------------------------------------------------------------------------------

    def begin(self) -> None:
        """What is missing from now on comes on top."""
        self._under_way, self.missing = self.missing, None
        self._source_only_before, self.source_only = self.source_only, False

    def made_up(self) -> None:
        """Nothing is missing any more of what was when the attempt began."""
        self._under_way, self._source_only_before = None, False

    def came_to_nothing(self) -> None:
        """A sibling's copy was of no use."""
        self._detours += 1

    def end(self) -> None:
        """What was not made up for is missing still."""
        self.missing = self.missing or self._under_way
        self.source_only = self.source_only or self._source_only_before
        self.made_up()
