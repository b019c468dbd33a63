"""A source, some replicas and a network between them, moved one small step at a time.

Each node does what `upkeep` and `writing` do, only that every step is a call of its own: a write *begins*, the
source *commits* it, the answer *arrives*. After every step `World.check` compares what the nodes show with what the
source has ever held. Rows are unique, the text of each names its commit; or there are only two that a key can be, and
it comes and goes which of them it is: then nothing but the end can be checked.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Final, TypeAlias

from imperfect_dollop.replica.comparison import Comparison
from imperfect_dollop.replica.effects import Compare, Effect, Reread, Resend, Resync, Settled
from imperfect_dollop.replica.messages import Event, Events, Kind, Phase, RepositoryState, Take
from imperfect_dollop.replica.replica import Replica, Write
from imperfect_dollop.replica.ring import Ring
from imperfect_dollop.replica.snapshot import Donor
from imperfect_dollop.replica.stamp import Stamp
from imperfect_dollop.replica.window import Load

from .builders import NOW, Row, adds_up, make, state

STEP: Final = 0.25
SETTLE: Final = 2.0

Message: TypeAlias = "Events | RepositoryState"


@dataclasses.dataclass
class Life:
    """One row as the source has held it: in which incarnation of its key, and until when."""

    row: Row
    incarnation: int
    ended: int | None = None


class Source:
    """The truth: rows, and every row that there ever was."""

    def __init__(self, *, unique: bool = True) -> None:
        self.unique = unique
        self.rows: dict[int, Row] = {}
        self.lives: dict[Row, Life] = {}
        self.incarnations: dict[int, int] = {}
        self.commits = 0
        self.moment = 0

    def put(self, key: int, *, same_version: bool = False) -> Row:
        """Create or update, with the version that follows; a row created again starts over."""
        held = self.rows.get(key)
        if not self.unique:
            self.commits += 1
            self.rows[key] = row = Row(key, 0, "AB"[(self.commits // 2 + same_version) % 2])
            self.lives[row] = Life(row, 0)
            return row
        version = 1 if held is None else held.version + (not same_version)
        if held is None:
            self.incarnations[key] = self.incarnations.get(key, 0) + 1
        else:
            self._end(held)
        self.commits += 1
        row = Row(key, version, f"commit {self.commits}")
        self.rows[key] = row
        self.lives[row] = Life(row, self.incarnations[key])
        return row

    def drop(self, key: int) -> None:
        """Delete."""
        self._end(self.rows.pop(key))

    def _end(self, row: Row) -> None:
        self.lives[row].ended = self.moment


@dataclasses.dataclass
class Writing:
    """A write under way."""

    write: Write
    key: int
    kind: Kind
    expected: int | None  # the version that is to be replaced; ``None``: whichever
    committed: int | None = None  # when
    row: Row | None = None


@dataclasses.dataclass
class Reading:
    """A load under way, of some keys or of all (``None``)."""

    load: Load
    keys: list[int] | None
    rows: dict[int, Row] | None = None  # what the source has answered
    moment: int = 0  # and when
    doubtful: frozenset[int] = frozenset()  # the keys that were in doubt when it began


@dataclasses.dataclass
class Comparing:
    """A comparison with a sibling under way, whose frames come one by one."""

    comparison: Comparison[int, Row]
    frames: Iterator[bytes | None]
    missing: bool  # because something is


class Node:
    """One replica and what is under way on its behalf."""

    def __init__(self, origin: str, skew: float) -> None:
        self.origin = origin
        self.skew = skew
        self.replica: Replica[int, Row] = make(origin)
        self.inbox: dict[str, deque[Message]] = {}
        self.writings: list[Writing] = []
        self.readings: list[Reading] = []
        self.comparing: Comparing | None = None
        self.ring = Ring()
        self.asks: list[Resend] = []  # that their origins have not heard yet
        self.differing: list[str] = []
        self.doubts: set[int] = set()
        self.missing = False
        self.shown: dict[int, Life] = {}  # the last row shown of each key
        self.live: set[int] = set()  # what was shown after the last step
        self.learned: dict[int, int] = {}  # the latest moment at which a key is known to be absent

    @property
    def clean(self) -> bool:
        comparing = self.comparing is not None and self.comparing.missing
        complete = self.replica.progress.complete
        return not self.missing and not comparing and not self.doubts and complete

    def take(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Reread):
                self.doubts.update(key for key in effect.keys if isinstance(key, int))
            elif isinstance(effect, Settled):
                self.doubts.difference_update(key for key in effect.keys if isinstance(key, int))
            elif isinstance(effect, Resync):
                self.missing = True
            elif isinstance(effect, Resend):
                self.asks.append(effect)
            elif isinstance(effect, Compare):
                self.differing.append(effect.origin)


class World:
    """All of it. `versioned`: writes check the version they replace, as far as they can."""

    def __init__(self, skews: list[float], *, unique: bool = True) -> None:
        self.source = Source(unique=unique)
        self.seconds = 0.0
        self.deaths: dict[Stamp, int] = {}  # when the source did the delete of this stamp
        self.reads: dict[tuple[str, int], int] = {}  # when it answered a load, by origin and time
        names = "abcdefg"[: len(skews)]
        self.nodes = {name: Node(name, skew) for name, skew in zip(names, skews, strict=True)}
        for node in self.nodes.values():
            node.inbox = {name: deque() for name in names if name != node.origin}

    def now(self, node: Node) -> float:
        return NOW + self.seconds + node.skew

    def tick(self, seconds: float = STEP) -> None:
        self.seconds += seconds
        self.source.moment += 1

    def publish(self, node: Node, events: list[Event]) -> None:
        if events:
            message = node.replica.pack("rows", events)
            node.ring.add(message)
            self._send(node, message)

    def _send(self, node: Node, message: Events) -> None:
        for other in self.nodes.values():
            if other is not node:
                other.inbox[node.origin].append(message)

    def resend(self, node: Node) -> None:
        """What the node has asked for is sent again, to all."""
        asks, node.asks = node.asks, []
        for ask in asks:
            origin = self.nodes[ask.origin]
            for message in origin.ring.between(ask.first, ask.last):
                self._send(origin, message)

    # -- writes ------------------------------------------------------------------------------------

    def begin_write(self, node: Node, key: int, kind: Kind, *, checked: bool) -> None:
        """One write of a key at a time, as `writing` sees to."""
        if any(writing.key == key for writing in node.writings):
            return
        held = node.replica.table.live.get(key)
        expected = held.version if checked and held is not None else None
        write = node.replica.begin_write(key)
        node.writings.append(Writing(write, key, kind, expected))

    def commit(self, node: Node, writing: Writing) -> None:
        """The source does it, or refuses."""
        if writing.committed is not None:
            return
        held = self.source.rows.get(writing.key)
        wrong = writing.expected is not None and held and held.version != writing.expected
        if wrong or (held is None) != (writing.kind is Kind.CREATE):
            self.lose_answer(node, writing)
            return
        writing.committed = self.source.moment
        if writing.kind is Kind.DELETE:
            self.source.drop(writing.key)
        else:
            writing.row = self.source.put(writing.key)

    def answer(self, node: Node, writing: Writing) -> None:
        """The answer of the source has arrived."""
        if writing.committed is None:
            return
        event, effects = node.replica.wrote(
            writing.write, writing.kind, writing.key, writing.row, self.now(node)
        )
        node.replica.end_write(writing.write)
        node.writings.remove(writing)
        if writing.row is None:
            self.deaths[event.stamp] = writing.committed
        self.publish(node, [event])
        node.take(effects)

    def lose_answer(self, node: Node, writing: Writing) -> None:
        """Refused, or failed with an outcome that is not known."""
        node.replica.end_write(writing.write)
        node.writings.remove(writing)
        node.take(node.replica.unsure(writing.key))

    # -- loads -------------------------------------------------------------------------------------

    def begin_load(self, node: Node, keys: list[int] | None) -> Reading:
        if keys is None:
            node.missing = False  # what is noticed from here on has to wait for the next
        load = node.replica.begin_load(self.now(node))
        reading = Reading(load, keys, doubtful=frozenset(node.doubts))
        node.readings.append(reading)
        return reading

    def read(self, reading: Reading) -> None:
        """The source answers: with what it holds at this moment."""
        if reading.rows is None:
            reading.rows, reading.moment = dict(self.source.rows), self.source.moment

    def end_load(self, node: Node, reading: Reading, *, publish: bool = False) -> None:
        """The answer is taken over."""
        if reading.rows is None:
            return
        replica = node.replica
        self.reads[replica.origin, reading.load.began] = reading.moment
        replica.answered(reading.load, self.now(node))
        if reading.keys is None:
            found = [one for piece in replica.replace(reading.load, reading.rows) for one in piece]
            if replica.window.overrun(reading.load):
                node.missing = True
            elif publish:
                confirm = replica.confirmation(reading.load)
                self.publish(node, [*found, confirm])
        else:
            for key in reading.keys:
                counts, event = replica.loaded(reading.load, key, reading.rows.get(key))
                if counts:
                    node.doubts.discard(key)
                elif key in node.doubts or key not in reading.doubtful:
                    if key not in replica.disputes:
                        replica.unsettled(key)
                    node.doubts.add(key)
                self.publish(node, [] if event is None else [event])
        replica.end_load(reading.load)
        node.readings.remove(reading)

    def repair(self, node: Node) -> None:
        """What `upkeep` does next, at once."""
        self.finish_comparison(node)
        donors = [one for one in self.nodes.values() if one is not node and one.clean]
        if (node.missing and donors) or node.differing:
            donor = donors[0] if node.missing else self.nodes[node.differing.pop()]
            self.begin_comparison(node, donor)
            self.finish_comparison(node)
            return
        if node.missing:
            keys = None
        elif node.doubts:
            keys = sorted(node.doubts)
        else:
            return
        reading = self.begin_load(node, keys)
        self.read(reading)
        self.end_load(node, reading, publish=True)

    # -- comparisons -------------------------------------------------------------------------------

    def begin_comparison(self, node: Node, donor: Node) -> None:
        """With a copy that is vouched for or not, whatever the reason."""
        if node.comparing is None and node is not donor:
            comparison = Comparison(node.replica, "place", self.now(node))
            take = Take(
                *(node.origin, donor.origin, "rows", node.replica.rows.fingerprint, "place", []),
                comparison.digests,
            )
            frames = Donor(donor.replica, take, lambda: donor.clean).frames()
            node.comparing = Comparing(comparison, frames, node.missing)
            node.missing = False

    def next_frame(self, node: Node) -> bool:
        """The donor makes its next frame, and it arrives; False if there are no more, and what comes of it."""
        comparing = node.comparing
        if comparing is None:
            return False
        comparison = comparing.comparison
        frame = next(comparing.frames, b"")
        if frame is None:
            return True
        if frame:
            comparison.take(frame)
            return True
        footer = comparison.footer
        believed = footer is not None and (footer.clean or not comparing.missing)
        effects = comparison.finish(self.now(node)) if believed else None
        comparison.close()
        node.comparing = None
        if effects is None:
            node.missing = node.missing or comparing.missing
        else:
            node.take(effects)
        return False

    def finish_comparison(self, node: Node) -> None:
        """All the frames that are still to come."""
        while self.next_frame(node):
            pass

    # -- network -----------------------------------------------------------------------------------

    def deliver(self, node: Node, origin: str, *, again: bool = False) -> None:
        """The next message of an origin; `again` leaves a copy to be delivered once more."""
        queue = node.inbox[origin]
        if not queue:
            return
        message = queue[0] if again else queue.popleft()
        if isinstance(message, Events):
            node.take(node.replica.receive(message, self.now(node)))
        else:
            effects = node.replica.heard(origin, message, list(self.nodes))
            node.take(effects)

    def drop(self, node: Node, origin: str) -> None:
        if node.inbox[origin]:
            node.inbox[origin].popleft()

    def beat(self, node: Node) -> None:
        """A heartbeat to everybody."""
        kept = node.ring.kept(node.replica.sequence)
        said = state(node.replica, list(self.nodes), phase=Phase.READY, clean=node.clean, kept=kept)
        for other in self.nodes.values():
            if other is not node:
                other.inbox[node.origin].append(said)

    # -- promises ----------------------------------------------------------------------------------

    def check(self) -> None:
        """S1, S2 and S3, and digests that are those of the content."""
        for node in self.nodes.values():
            if self.source.unique:
                self._check_shown(node)
            assert adds_up(node.replica)

    def _check_shown(self, node: Node) -> None:
        live = node.replica.table.live
        for key, grave in node.replica.table.dead.items():
            moment = self.deaths.get(grave, self.reads.get((grave.origin, grave.time), -1))
            node.learned[key] = max(node.learned.get(key, -1), moment)
        for key in {*live, *node.shown}:
            row = live.get(key)
            before = node.shown.get(key)
            if row is None:
                continue
            life = self.source.lives.get(row)
            assert life is not None, f"S1: {row} never was in the source"
            if before is not None and before.incarnation == life.incarnation:
                assert row.version >= before.row.version, f"S2: {before.row} went back to {row}"
            gone = life.ended is not None and life.ended <= node.learned.get(key, -1)
            back = key not in node.live
            assert not (gone and back), (
                f"S3: {row} is back on {node.origin}, which knew that it is gone"
            )
            node.shown[key] = life
        node.live = set(live)

    def heal(self, *, refresh: bool) -> None:
        """No more faults: everything under way ends, and repair goes on until all is quiet.

        `refresh`: one node loads everything and publishes the differences, as after `ttl`.
        """
        nodes = list(self.nodes.values())
        for node in nodes:
            for writing in list(node.writings):
                self.lose_answer(node, writing)
            for reading in list(node.readings):
                self.read(reading)
                self.end_load(node, reading, publish=True)
                self.check()
            self.finish_comparison(node)
            self.check()
        for _ in range(16):
            for node in nodes:
                self.resend(node)
            for node, origin in itertools.product(nodes, self.nodes):
                while origin != node.origin and node.inbox[origin]:
                    self.tick()
                    self.deliver(node, origin)
                    self.check()
            if refresh:  # what was under way before the row was changed has arrived
                refresh = False
                reading = self.begin_load(nodes[0], None)
                self.read(reading)
                self.end_load(nodes[0], reading, publish=True)
            for node in nodes:
                self.repair(node)
                self.check()
                self.repair(node)
                self.check()
            for node in nodes:
                self.beat(node)
            self.tick(SETTLE + 1)

    def check_converged(self) -> None:
        """L1."""
        for node in self.nodes.values():
            assert node.replica.table.live == self.source.rows, f"L1: {node.origin} differs"
            assert node.clean
        assert len({node.replica.table.root for node in self.nodes.values()}) == 1
