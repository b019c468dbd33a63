"""Logs which rows are quarantined and which rows have healed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from .codecs import in_short

__all__ = ["QuarantineLog"]

logger: Final = logging.getLogger(__name__)

MOST_LINES: Final = 10
"""Rows that one load names in the log; the other rows are counted."""


class QuarantineLog:
    """Logs the quarantine of one repository. `label` names node and repository."""

    def __init__(self, label: str, quarantined: Mapping[Any, str]) -> None:
        self._label = label
        self._quarantined = quarantined
        self._said: dict[Any, str] = {}

    @property
    def changed(self) -> bool:
        """Whether rows are quarantined or were when `note` ran last."""
        return bool(self._said or self._quarantined)

    def note(self) -> None:
        """Log the changes since the last call."""
        now = dict(self._quarantined)
        new = [key for key in now if key not in self._said]
        healed = [key for key in self._said if key not in now]
        self._said = now
        for key in new[:MOST_LINES]:
            subject = "a row" if key is None else f"the row with the key {in_short(key)}"
            logger.warning(
                "%s: %s is quarantined: %s. Reads of the key raise InvalidEntityError, other rows are served. Correct"
                " the row in the source: the next read of the row ends the quarantine",
                self._label,
                subject,
                now[key],
            )
        if len(new) > MOST_LINES:
            logger.warning(
                "%s: %d more rows are quarantined; repository.quarantined has their keys and the reasons",
                self._label,
                len(new) - MOST_LINES,
            )
        if healed:
            named = ", ".join(in_short(key) for key in healed[:MOST_LINES] if key is not None)
            logger.info(
                "%s: %d rows are no longer quarantined, with the keys %s",
                self._label,
                len(healed),
                named,
            )
