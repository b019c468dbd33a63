"""A run as text: one line for each event, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica.messages import Events, Heartbeat, Refuse, Take, decode

from .loop import BEGINNING, SimLoop

__all__ = ["Story"]

WIDTH: Final = 8


class Story:
    """Lines are made only if somebody will read them (`told`)."""

    def __init__(self, loop: SimLoop, *, told: bool) -> None:
        self.told = told
        self.lines: list[str] = []
        self.errors: list[str] = []  # what was logged as an error
        self._loop = loop
        self._names: dict[str, str] = {}  # of nodes, by origin
        self.tell: Callable[[str, Callable[[], str]], None] = self._tell if told else _silent

    def _tell(self, who: str, what: Callable[[], str]) -> None:
        self.lines.append(f"{self._loop.now - BEGINNING:10.4f}  {who:<{WIDTH}} {what()}")

    def message(self, sender: str, payload: bytes) -> None:
        """The broker has taken a message."""
        try:
            message = decode(payload)
        except ProtocolError as error:
            text = f"publishes no message: {str(error)[:60]}"
            self._tell(sender, lambda: text)
            return
        if isinstance(message, Events):
            for number, event in enumerate(message.events, message.first):
                key = int.from_bytes(event.key[-1:], "big") if event.key else 0
                name, base = event.kind.name.lower(), event.base
                self._tell(
                    sender,
                    lambda number=number, event=event, key=key, name=name, base=base: (  # type: ignore[misc]
                        f"publishes #{number} {name} key {key} v{event.stamp.version}"
                        f" at {_time(event.stamp.time)} on v{base.version} at {_time(base.time)}"
                    ),
                )
        elif isinstance(message, Heartbeat):
            self._names[message.origin] = message.name
            state = message.repositories[0] if message.repositories else None
            if state is not None:
                self._tell(
                    sender,
                    lambda: (
                        f"publishes heartbeat {message.number}: {state.phase.name.lower()},"
                        f" {'clean' if state.clean else 'not clean'}, #{state.sequence},"
                        f" {state.digest & 0xFFFF:04x}{', leaving' * message.leaving}"
                    ),
                )
        elif isinstance(message, Take):
            donor = self._names.get(message.donor, message.donor)
            self._tell(sender, lambda: f"asks {donor} for a copy of {len(message.buckets)} buckets")
        elif isinstance(message, Refuse):
            self._tell(sender, lambda: f"refuses: {message.reason}")


def _time(time: int) -> str:
    """A hybrid time, as far as it matters to a reader."""
    return f"{(time >> 10) / 1e6 % 10_000:.4f}" if time else "0"


def _silent(who: str, what: Callable[[], str]) -> None:
    pass
