"""Figures for Prometheus, on aioprometheus (extra ``prometheus``).

`register` a node, then serve the registry: `endpoint` in an ASGI application, `render` in any other, or
whatever already serves it. Values are read from the node when the registry is rendered, all of one moment, and cost
nothing between.

aioprometheus writes label values as they are, so they are escaped here.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from aioprometheus import renderer
from aioprometheus.collectors import REGISTRY, Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.formats.text import TEXT_CONTENT_TYPE

from ..errors import ConfigurationError
from ..node import Node
from .families import FAMILIES, Family, Figures, Labels

__all__ = ["CONTENT_TYPE", "endpoint", "register", "render", "unregister"]

CONTENT_TYPE: Final[str] = TEXT_CONTENT_TYPE
"""Of what `render` returns: Prometheus' text format."""

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def register(node: Node, registry: Registry | None = None) -> None:
    """Show the figures of `node` in `registry`, by default aioprometheus' own, until `unregister`.

    To be called once, before or after the node is opened. Of two nodes of one namespace the one that was
    registered last is shown: they would have the same series. Raises `ConfigurationError` where a metric of
    another's has one of our names, and for what is no node or no registry.
    """
    if not isinstance(node, Node):
        raise ConfigurationError(f"register(node) takes a Node, not {node!r}")
    registry = _checked(registry)
    ours = _ours_in(registry)
    taken = [
        family.name
        for family in FAMILIES
        if family.name in registry.collectors and family.name not in ours
    ]
    if taken:
        raise ConfigurationError(
            f"the registry has metrics of others named {', '.join(taken)}; give register() another registry"
        )
    shown = next(iter(ours.values())).shown if ours else _Shown()
    for family in FAMILIES:
        if family.name not in ours:
            _COLLECTORS[family.kind](family, shown, registry)
    shown.nodes[node.namespace] = node


def unregister(node: Node, registry: Registry | None = None) -> None:
    """Undo `register`. Harmless if the node is not shown. Raises `ConfigurationError` for what is no registry."""
    registry = _checked(registry)
    ours = _ours_in(registry)
    for name, collector in ours.items():
        nodes = collector.shown.nodes
        if nodes.get(node.namespace) is node:
            del nodes[node.namespace]
        if not nodes:
            registry.deregister(name)


def render(registry: Registry | None = None) -> bytes:
    """All metrics of the registry, others' too, in Prometheus' text format; see `CONTENT_TYPE`.

    Raises `ConfigurationError` for what is no registry.
    """
    text, _ = renderer.render(_checked(registry), [CONTENT_TYPE])
    return text


def endpoint(registry: Registry | None = None) -> Callable[..., Awaitable[Any]]:
    """An ASGI application that answers with `render`, whatever the request accepts.

    In FastAPI and Starlette: ``app.add_route("/metrics", endpoint())``. Raises `ConfigurationError` for what is no
    registry.
    """
    return _Endpoint(_checked(registry))


class _Endpoint:
    # An object, not a function: Starlette would hand a function a request.

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            raise RuntimeError(f"metrics are served over http, not {scope['type']}")
        allowed = scope["method"] in ("GET", "HEAD")
        body = render(self._registry) if allowed else b""
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        if not allowed:
            headers.append((b"allow", b"GET, HEAD"))
        status = 200 if allowed else 405
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send(
            {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body}
        )


class _Shown:
    """The nodes that a registry shows, and what was last read of them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}  # by namespace
        self._figures: dict[str, Figures] = {}
        # The families that were handed these, since the event loop has turned.
        self._read_by: set[str] = set()

    def figures(self, family: str) -> dict[str, Figures]:
        """Of all nodes, by namespace: read once for all families, as they are rendered one after the other."""
        if not self._read_by or family in self._read_by:
            self._figures = {namespace: Figures.of(node) for namespace, node in self.nodes.items()}
            self._read_by.clear()
            try:
                asyncio.get_running_loop().call_soon(self._read_by.clear)
            except RuntimeError:  # no loop, no turns
                return self._figures
        self._read_by.add(family)
        return self._figures


class _ReadsNodes(Collector):
    """A collector that holds no values, but knows where to read them."""

    def __init__(self, family: Family, shown: _Shown, registry: Registry) -> None:
        super().__init__(family.name, family.doc, registry=registry)
        self.shown = shown
        self._family = family

    def get_all(self) -> list[tuple[Labels, Any]]:
        """A sample for each set of labels, of all nodes."""
        return [
            (_escaped({"namespace": namespace, **labels}), self._exposed(value))
            for namespace, figures in self.shown.figures(self.name).items()
            for labels, value in self._family.read(figures)
        ]

    def _exposed(self, value: Any) -> Any:
        return value


class _Counter(_ReadsNodes, Counter):
    pass


class _Gauge(_ReadsNodes, Gauge):
    def _exposed(self, value: Any) -> float:
        return float(value)


class _Histogram(_ReadsNodes, Histogram):
    def _exposed(self, value: Any) -> dict[float | str, float]:
        """Cumulative, as Prometheus has them."""
        sums = itertools.accumulate(value.counts)
        buckets = dict(zip((*value.bounds, math.inf), sums, strict=True))
        return {**buckets, self.COUNT_KEY: buckets[math.inf], self.SUM_KEY: value.total}


_COLLECTORS: Final[dict[str, type[_ReadsNodes]]] = {
    "counter": _Counter,
    "gauge": _Gauge,
    "histogram": _Histogram,
}


def _checked(registry: Registry | None) -> Registry:
    if registry is None:
        return REGISTRY
    if not isinstance(registry, Registry):
        raise ConfigurationError(f"{registry!r} is no aioprometheus.Registry")
    return registry


def _ours_in(registry: Registry) -> dict[str, _ReadsNodes]:
    """Our metrics, by name; all of them, or none, unless somebody has taken some out."""
    collectors = registry.collectors.items()
    return {name: one for name, one in collectors if isinstance(one, _ReadsNodes)}


def _escaped(labels: Labels) -> Labels:
    return {
        name: value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
        for name, value in labels.items()
    }
