"""A process's membership of a cluster: its repositories and one broker, opened and closed together."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias, TypeVar, get_args

import anyio

from .broker import Broker
from .brokers import check_url, from_url, is_local
from .config import fault_in_count, fault_in_seconds
from .errors import (
    BrokerUnavailableError,
    ClosedError,
    ConfigurationError,
    NotReadyError,
    SourceMismatchError,
)
from .lookup import repository_of
from .loop_binding import LoopBinding
from .membership import FOREIGN_ADVICE, Membership
from .replica.messages import MAX_BEAT_SECONDS, MAX_NAME, MAX_REPOSITORIES, is_name
from .replica.seal import Seal, Secrets
from .repository import DRAIN_SECONDS, Repository
from .seat import Seat
from .stats import NodeStats, State
from .supervisor import Supervisor
from .workers import sibling_workers

__all__ = ["Node", "Startup"]

V = TypeVar("V")

logger: Final = logging.getLogger(__name__)

Startup: TypeAlias = Literal["background", "wait", "raise"]

OFFER_WAIT: Final = 0.25
"""Seconds that a newcomer waits to hear of a sibling with a copy: many times a broker's round trip."""

_WORST_FIRST: Final = (State.CLOSED, State.COLD, State.LOADING, State.DEGRADED, State.READY)

OUTBOX: Final = 10_000
"""Events of one repository that wait for a broker that is away, about 10 MB at a kilobyte each."""


_warned_of_workers: Final[list[str]] = []
"""Reasons that were logged for the warning of sibling workers, which is logged once a process."""

LOCAL_NAMESPACE: Final = "default"
"""The namespace of a node that names none, on a broker that reaches nobody outside of the process."""


def _reaches_this_process_only(broker: str | Broker) -> bool:
    return is_local(broker) if isinstance(broker, str) else getattr(broker, "local", False)


def _default_namespace(broker: str | Broker) -> str:
    """For a node without ``namespace=``. Raises `ConfigurationError` unless the broker is local."""
    if not _reaches_this_process_only(broker):
        shown = (
            f"{broker.partition(':')[0]}://..."
            if isinstance(broker, str)
            else type(broker).__qualname__
        )
        raise ConfigurationError(
            f"Node({shown}) needs namespace=: all nodes of one broker and one namespace exchange rows, so two services"
            ' with the same default would serve each other\'s rows. Name the service, as in namespace="shop"'
        )
    return LOCAL_NAMESPACE


class Node:
    """Keeps repositories in step with those of the same name on every other node of the namespace.

    Parameters
    ----------
    broker:
        a URL, or a broker. What a URL opens is closed with the node, what is handed in is left open.
        ``redis://`` and ``rediss://``, ``amqp://`` and ``amqps://`` (RabbitMQ) join processes and hosts,
        ``memory://name`` the nodes of this process and event loop; see ``docs/brokers.md``.
    repositories:
        those of this node; each belongs to one node.
    namespace:
        nodes of different namespaces do not see each other. Required unless the broker is ``memory://``, or is `local`
        (see `imperfect_dollop.broker`): two services that share a broker would otherwise share a default.
    name:
        for people: shown to the other nodes, in logs and figures. By default host, process and a suffix.
    secret:
        proves to the others that this node is one of them: text or bytes, 16 bytes or more, the same on all nodes, or a
        list of several of which the first signs and all are accepted. Without one, whoever can write to the broker is
        trusted; see ``docs/security.md``.
    heartbeat:
        seconds between heartbeats, at least: how fast a lost event is noticed. Up to 3,600, the same on all nodes. More
        than 141 nodes of a namespace make them rarer by themselves; see ``docs/operating.md``.
    startup:
        what entering does when the first attempt to reach the broker, or to fill a repository, fails:
        ``"background"`` goes on and keeps trying, ``"wait"`` waits until all is there, ``"raise"`` raises. With all
        well, entering returns when every preloading repository is filled. ``"raise"`` also raises
        `SourceMismatchError` if a live node reads another source for one of the repositories.
    offer_wait:
        seconds that a newcomer waits to hear of a sibling with a copy before it asks the source.
    shutdown_timeout:
        seconds for sending what is queued when the node is left.
    outbox:
        most events of a repository that wait while the broker is away. With more, the oldest are given up, which
        the siblings notice and repair.

    Raises `ConfigurationError` for arguments that cannot work.
    """

    def __init__(
        self,
        broker: str | Broker,
        *repositories: Repository[Any, Any],
        namespace: str | None = None,
        name: str | None = None,
        secret: str | bytes | Sequence[str | bytes] | None = None,
        heartbeat: float = 1.0,
        startup: Startup = "background",
        offer_wait: float = OFFER_WAIT,
        shutdown_timeout: float = 5.0,
        outbox: int = OUTBOX,
    ) -> None:
        for repository in repositories:
            if not isinstance(repository, Repository):
                raise ConfigurationError(f"Node() takes repositories, not {repository!r}")
        if not isinstance(broker, str) and (
            isinstance(broker, type) or not callable(getattr(broker, "connect", None))
        ):
            raise ConfigurationError(
                f"a broker is a URL or has connect(), unlike this {type(broker).__qualname__}; a driver's"
                " client is wrapped: RedisBroker(client), RabbitMQBroker(connection)"
            )
        if len(repositories) > MAX_REPOSITORIES:
            raise ConfigurationError(
                f"{len(repositories)} repositories; a node has at most {MAX_REPOSITORIES}"
            )
        names = [repository.name for repository in repositories]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(
                f"two repositories are named {', '.join(twice)}: give them a name="
            )
        if startup not in get_args(Startup):
            raise ConfigurationError(
                f"startup={startup!r} is none of {', '.join(get_args(Startup))}"
            )
        if isinstance(broker, str):
            check_url(broker)
        if namespace is None:
            namespace = _default_namespace(broker)
        for what, text in (("namespace", namespace), ("name", name or "-")):
            if not is_name(text):
                raise ConfigurationError(f"{what} must be 1 to {MAX_NAME} characters, not {text!r}")
        for fault in (
            fault_in_seconds("heartbeat", heartbeat, most=MAX_BEAT_SECONDS),
            fault_in_seconds("offer_wait", offer_wait, zero=True),
            fault_in_seconds("shutdown_timeout", shutdown_timeout, zero=True),
            fault_in_count("outbox", outbox),
        ):
            if fault is not None:
                raise ConfigurationError(fault)
        self.repositories = repositories
        self.namespace: str = namespace
        self.name: str = name or f"{socket.gethostname()}:{os.getpid()}-{secrets.token_hex(2)}"
        self._broker = broker
        self._secrets = None if secret is None else Secrets(secret)
        self._heartbeat = heartbeat
        self._startup = startup
        self._offer_wait = offer_wait
        self._shutdown_timeout = shutdown_timeout
        self._outbox = outbox
        self._supervisor: Supervisor | None = None
        self._opened: Broker | None = None
        self._seats: list[Seat] = []
        self._membership: Membership | None = None
        self._binding: LoopBinding | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name} of {self.namespace!r}, {len(self.repositories)} repositories>"

    # -- lifecycle -------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Join; see `startup` for when this returns."""
        if self._supervisor is not None:
            raise ConfigurationError(f"{self!r} is open already")
        self._warn_of_workers()
        self._supervisor = supervisor = Supervisor(
            f"node {self.name}", closing=self._leave, closed=self._release
        )
        try:
            await supervisor.start()
            membership = self._attach(supervisor)
            await self._start(supervisor, membership)
        except BaseException:
            await supervisor.stop()
            raise
        return self

    def _warn_of_workers(self) -> None:
        """A broker of this process does not reach other processes; say so once in a process that has siblings."""
        if _warned_of_workers or not _reaches_this_process_only(self._broker):
            return
        why = sibling_workers()
        if why is not None:
            _warned_of_workers.append(why)
            logger.warning(
                "%s: memory:// joins the nodes of one process only, and this process seems to be one of several"
                " workers (%s): the others will not see what is written here. Use redis:// or amqp://",
                self.name,
                why,
            )

    def _attach(self, supervisor: Supervisor) -> Membership:
        if isinstance(self._broker, str):
            broker = self._opened = from_url(self._broker)
        else:
            broker = self._broker
        origin = secrets.token_hex(8)
        seats = [
            Seat(repository.name, supervisor, outbox=self._outbox, offer_wait=self._offer_wait)
            for repository in self.repositories
        ]
        seal = None
        if self._secrets is not None:
            seal = Seal(self._secrets, self.namespace, origin, time.time())
        membership = Membership(
            broker,
            seats,
            namespace=self.namespace,
            origin=origin,
            name=self.name,
            heartbeat=self._heartbeat,
            seal=seal,
        )
        for repository, seat in zip(self.repositories, seats, strict=True):
            seat.membership = membership
            seat.session = repository.attach(
                supervisor,
                origin,
                seat,
                node=self.name,
                away=lambda: membership.away,
            )
            self._seats.append(seat)
        self._membership = membership
        self._binding = LoopBinding(f"node {self.name}", self._forked)
        return membership

    def _forked(self) -> object:
        """Close in a forked child without sending anything; return the objects that belong to the parent."""
        inherited = self._membership, self._supervisor, self._opened, list(self._seats)
        self._membership = self._supervisor = self._opened = None
        self._seats.clear()
        return inherited

    async def _start(self, supervisor: Supervisor, membership: Membership) -> None:
        supervisor.keep(membership.run, name=f"membership of {self.name}")
        supervisor.keep(membership.stalls.run, name=f"watch of the event loop of {self.name}")
        await membership.attempted.wait()
        if not membership.up and self._startup == "raise":
            raise BrokerUnavailableError(f"{self.name}: no broker: {membership.failure}")
        while not membership.up and self._startup == "wait":
            await membership.news(self._heartbeat)
        membership.serving = True
        for seat in self._seats:
            seat.session.start()
        for seat in self._seats:
            await seat.session.started()
        if self._startup == "wait":
            await self.wait_ready()
        for seat in self._seats:
            if self._startup == "raise" and seat.replica.cold:
                await seat.session.filling.warm()  # raises what has kept it cold
        if self._startup == "raise":
            await self._check_identities(membership)

    async def _check_identities(self, membership: Membership) -> None:
        """Raises `SourceMismatchError` if a live node reads another source, once the live nodes could be heard."""
        if not any(seat.replica.identity for seat in self._seats):
            return
        await membership.introduced(self._offer_wait)
        for seat in self._seats:
            for identity, names in seat.foreign().items():
                raise SourceMismatchError(
                    f"{self.name}: {', '.join(names)} of namespace {self.namespace!r} reads another source for"
                    f" {seat.name}: here {seat.replica.identity}, there {identity}. {FOREIGN_ADVICE}"
                )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave in order: no new work, send what is queued, say goodbye, close what was opened."""
        if self._supervisor is not None:
            if self._binding is not None:
                self._binding.check()
            await self._supervisor.stop()

    async def _leave(self) -> None:
        """Everything still runs."""
        membership = self._membership
        if membership is None:
            return
        with anyio.move_on_after(DRAIN_SECONDS):
            async with anyio.create_task_group() as draining:
                for seat in self._seats:
                    draining.start_soon(seat.session.drain)
        try:
            with anyio.move_on_after(self._shutdown_timeout):
                await membership.flushed()
                await membership.leave()
        except BrokerUnavailableError as error:
            logger.info("%s: left without a goodbye: %s", self.name, error)
        unsent = {seat.name: seat.unsent for seat in self._seats if seat.unsent}
        if unsent:
            logger.warning(
                "%s: closed with events that were never sent; siblings will notice by digest"
                " or refresh: %s",
                self.name,
                unsent,
            )

    async def _release(self) -> None:
        """Nothing runs any more. Whatever one thing raises, the others are ended."""
        membership, self._membership = self._membership, None
        opened, self._opened = self._opened, None
        async with contextlib.AsyncExitStack() as stack:
            if opened is not None:
                stack.push_async_callback(opened.aclose)
            if membership is not None:
                stack.callback(membership.close)
            for repository, _ in zip(self.repositories, self._seats, strict=False):
                stack.callback(repository.detach)
            self._seats.clear()
            self._supervisor = None
            if self._binding is not None:
                self._binding.left()

    # -- what an application asks ----------------------------------------------------------------

    def repository(self, entity: type[V], name: str | None = None) -> Repository[Any, V]:
        """The repository of this class, and of this name where there are several. Open or not.

        Raises `ConfigurationError` if there is none, or if there are several and none was named.
        """
        return repository_of(self.repositories, entity, name)

    async def wait_ready(self) -> None:
        """Wait until every preloading repository is filled, however many attempts that takes.

        Raises `ClosedError`.
        """
        self._joined()
        for seat in self._seats:
            while seat.session.options.preload and seat.replica.cold:
                try:
                    await seat.session.filling.next_attempt()
                except NotReadyError:
                    continue

    async def flush(self) -> None:
        """Wait until everything written so far has been handed to the broker.

        For as long as the broker is away. Raises `ClosedError`.
        """
        await self._joined().flushed()

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the live nodes, this one included, as far as heartbeats tell."""
        if self._membership is None:
            return ()
        others = (member.beat.name for member in self._membership.members.alive.values())
        return tuple(sorted((self.name, *others)))

    @property
    def state(self) -> State:
        """The worst state of its repositories: in this order closed, cold, loading, degraded, ready.

        Without repositories it is ready, or degraded while the broker is away.
        """
        if self._membership is None:
            return State.CLOSED
        if not self.repositories:
            return State.READY if self._membership.up else State.DEGRADED
        return min((repository.state for repository in self.repositories), key=_WORST_FIRST.index)

    @property
    def stats(self) -> NodeStats:
        """Figures of this node that are about no single repository, and what each has to send: a copy."""
        membership, supervisor = self._membership, self._supervisor
        if membership is None or supervisor is None:
            return NodeStats(
                unsent={repository.name: 0 for repository in self.repositories},
                agreed={repository.name: None for repository in self.repositories},
            )
        return NodeStats(
            broker_up=membership.up,
            connections=membership.links,
            members=len(membership.members.alive) + 1,
            inbox=0 if membership.link is None else membership.link.waiting,
            unsent={seat.name: seat.unsent for seat in self._seats},
            agreed={seat.name: seat.session.agreed for seat in self._seats},
            rejections=dict(membership.rejections),
            crashes=supervisor.crashes,
        )

    def status(self) -> dict[str, Any]:
        """The cluster as seen from here, in plain types that JSON can carry."""
        membership = self._membership
        status: dict[str, Any] = {
            "node": self.name,
            "namespace": self.namespace,
            "open": membership is not None,
        }
        if membership is None:
            return status
        status["origin"] = membership.origin
        status["broker"] = {"up": membership.up, "failure": membership.failure}
        stats = self.stats
        status["rejected_messages"] = sum(stats.rejections.values())
        status["crashes"] = stats.crashes
        status["repositories"] = {
            repository.name: {
                "state": str(repository.state),
                "digest": f"{seat.replica.table.root:016x}",
                "clean": seat.session.upkeep.clean,
                "agreed": seat.session.agreed,
                "agreed_since": seat.session.agreed_since,
                "agreed_at": seat.session.agreed_at,
                "causes": repository.causes,
                "identity": repository.identity,
                "foreign": [
                    {"identity": identity, "members": names}
                    for identity, names in seat.foreign().items()
                ],
                "unsent": seat.unsent,
                "info": dataclasses.asdict(repository.info()),
                "stats": dataclasses.asdict(repository.stats),
            }
            for repository, seat in zip(self.repositories, self._seats, strict=True)
        }
        status["members"] = [
            {
                "node": member.beat.name,
                "origin": origin,
                "repositories": {
                    state.repository: {
                        "phase": state.phase.name.lower(),
                        "digest": f"{state.digest:016x}",
                        "clean": state.clean,
                        "entities": state.entities,
                    }
                    for state in member.beat.repositories
                },
            }
            for origin, member in sorted(membership.members.alive.items())
        ]
        return status

    def _joined(self) -> Membership:
        if self._binding is not None and (self._membership is not None or self._binding.inherited):
            self._binding.check()
        if self._membership is None:
            raise ClosedError(f"{self.name} is not open: use it inside `async with`")
        return self._membership
