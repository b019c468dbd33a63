"""What a process answers when it is asked how it is: a status and a body for JSON, for any framework.

Probes are often public, so nothing here quotes what a driver said: that may name hosts and users.
"""

from __future__ import annotations

from typing import Any, Final

from ..node import Node
from ..stats import State

__all__ = ["live", "ready"]

OK: Final = 200
UNAVAILABLE: Final = 503

ANSWERS: Final = frozenset({State.READY, State.DEGRADED})
"""States of a node in which all its repositories answer reads. One that loads on demand does whenever it is open."""


def live(node: Node) -> tuple[int, dict[str, Any]]:
    """Whether the process answers: it does. Status and body."""
    return OK, {"live": True, "node": node.name}


def ready(node: Node) -> tuple[int, dict[str, Any]]:
    """Whether requests can be served: 200 if every repository answers reads, else 503. Status and body.

    A copy that answers from memory while source or broker is away is ready. The body says all the same what each
    repository misses: the keys of `Repository.causes`.
    """
    answers = node.state in ANSWERS
    return OK if answers else UNAVAILABLE, {
        "ready": answers,
        "node": node.name,
        "broker": "up" if node.stats.broker_up else "away",
        "repositories": {
            one.name: {"state": str(one.state), "missing": sorted(one.causes)}
            for one in node.repositories
        },
    }
