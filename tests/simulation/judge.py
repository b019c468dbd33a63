"""What the nodes show, judged at every moment by everything that the source has ever held.

For each key the source went through a row of states; what one run of a node shows of it walks along that row and
never backwards. That is S1 (there is such a state), S2 and S3 (not backwards), S4 (where a key was there from the
beginning, "absent" is no state before its first delete) and S5 (an acknowledged write is a step that the walk has
made, and so is the state in which the source has refused a write).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from .source import BEFORE, Database

if TYPE_CHECKING:
    from .world import Process

__all__ = ["BrokenPromiseError", "Judge"]

ABSENT: Final = None
NOT_SHOWN: Final = object()


class BrokenPromiseError(Exception):
    """A promise was broken; `promise` is its name."""

    def __init__(self, promise: str, text: str) -> None:
        super().__init__(f"{promise}: {text}")
        self.promise = promise
        self.text = text


class Judge:
    """Phase one: safety. `keys` are all that there can be."""

    def __init__(
        self,
        database: Database,
        keys: Iterable[int],
        tell: Callable[[str, Callable[[], str]], None],
    ) -> None:
        self._database = database
        self._keys = tuple(keys)
        self._tell = tell
        self._seeded = frozenset(database.rows)

    def begin(self, process: Process) -> None:
        """A run of a node begins; it may know anything of the past, but nothing from before it."""
        for key in self._keys:
            process.walked[key] = 0 if key in self._seeded else BEFORE

    def look(self, process: Process) -> None:
        """What a node shows at this moment."""
        session = process.session
        if session is None or session.closed:
            return
        replica = session.replica
        if replica.cold:
            if process.warm:
                process.warm = False
                process.shown.clear()
                self._tell(process.host.name, lambda: "is cold")
            return
        if not process.warm:
            process.warm = True
            self._tell(process.host.name, lambda: "is warm")
        live, shown = replica.table.live, process.shown
        for key in self._keys:
            entity = live.get(key)
            if shown.get(key, NOT_SHOWN) is entity:
                continue
            if entity is None and not replica.whole:
                shown[key] = None
                continue
            self.saw(process, key, entity)
            shown[key] = entity

    def saw(
        self,
        process: Process,
        key: int,
        entity: Any,
        *,
        since: int | None = None,
        how: str = "shows",
    ) -> None:
        """A node has shown this for a key; a read may return what was there when it began (`since`)."""
        walked = process.walked[key]
        least = walked if since is None else since
        line = self._database.line(key)
        told = "absent" if entity is None else f"v{entity.version} {entity.mark}"
        self._tell(process.host.name, lambda: f"{how} key {key}: {told}")
        if entity is None:
            place = line.absent(least)
            if place is None:
                promise = "S4" if walked == 0 and not line.gone else "S1"
                raise BrokenPromiseError(promise, self._against(process, key, told, least))
        else:
            place = line.place(entity.mark, least)
            state = None if place is None else line.states[place].record
            if state is None or state.version != entity.version or entity.id != key:
                raise BrokenPromiseError("S1", self._against(process, key, told, least))
            assert place is not None
            if place < least:
                own = process.wrote.get(key, BEFORE) > place
                gone = any(place < grave <= least for grave in line.gone)
                promise = "S5" if own else "S3" if gone else "S2"
                raise BrokenPromiseError(promise, self._against(process, key, told, least))
        process.walked[key] = max(walked, place)

    def acknowledged(self, process: Process, key: int, place: int) -> None:
        """A write of a node was acknowledged: from now on it reads that, or what came later."""
        process.walked[key] = max(process.walked[key], place)
        process.wrote[key] = max(process.wrote.get(key, BEFORE), place)
        process.shown.pop(key, None)
        self.look(process)

    def refused(self, process: Process, key: int, place: int) -> None:
        """The source has refused a write in this state: from now on the node reads that, or what came later."""
        process.walked[key] = max(process.walked[key], place)
        process.shown.pop(key, None)
        self.look(process)

    def read_again(self, process: Process, latest: dict[int, int], *, each: bool = False) -> None:
        """A node has read these keys again, at the earliest when they were in these states.

        Those of which somebody has said something meanwhile are in doubt, and owed until they were read once more; not
        if `each` was read until it was shown.
        """
        session = process.session
        if session is None or not session.replica.whole:
            return
        for key, place in list(latest.items()):
            if session.upkeep.in_doubt(key) and not each:
                process.owed[key] = max(process.owed.get(key, place), place)
                continue
            process.owed.pop(key, None)
            process.walked[key] = max(process.walked[key], place)
            process.shown.pop(key, None)
        self.look(process)

    def _against(self, process: Process, key: int, told: str, least: int) -> str:
        line = self._database.line(key)
        past = ", ".join(
            f"{place}: {'absent' if state.record is None else f'v{state.record.version} {state.record.mark}'}"
            for place, state in enumerate(line.states)
        )
        return (
            f"{process.host.name} shows key {key} as {told}, and had come to state {least}"
            f" (its own writes: {process.wrote.get(key, BEFORE)}); the source's were {past or 'none'}"
        )
