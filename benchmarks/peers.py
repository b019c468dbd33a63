"""The caches for asyncio that others choose, each as its own documentation shows, at its best setting for a hit.

Of a peer with several ways to the same row each is a candidate, and its fastest counts.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, TypeAlias

__all__ = ["PEERS", "Getter", "over_redis", "peer"]

Getter: TypeAlias = Callable[[Any], Awaitable[Any]]
"""An awaitable hit: a key to its row."""


def _loader(rows: Mapping[int, object]) -> Getter:
    """What is decorated: asked once for each key."""

    async def load(key: int) -> object:
        return rows[key]

    return load


async def _aiocache(rows: Mapping[int, object]) -> dict[str, Getter]:
    """Rows as they are, not pickled, and no deadline around each call."""
    caching = importlib.import_module("aiocache")
    serializers = importlib.import_module("aiocache.serializers")
    cache = caching.SimpleMemoryCache(serializer=serializers.NullSerializer(), timeout=0)
    for key, row in rows.items():
        await cache.set(key, row)

    cached = caching.cached(serializer=serializers.NullSerializer(), timeout=0)
    return {"get": cache.get, "@cached": cached(_loader(rows))}


async def _cashews(rows: Mapping[int, object]) -> dict[str, Getter]:
    caching = importlib.import_module("cashews")
    cache = caching.Cache()
    cache.setup("mem://", size=2 * len(rows))
    names = {key: f"row:{key}" for key in rows}  # its keys are strings
    for key, row in rows.items():
        await cache.set(names[key], row)
    get = cache.get

    async def named(key: int) -> object:
        return await get(names[key])

    cached = cache(ttl="1h", key="loaded:{key}")
    return {"get": named, "@cache": cached(_loader(rows))}


async def _async_lru(rows: Mapping[int, object]) -> dict[str, Getter]:
    caching = importlib.import_module("async_lru")
    return {"@alru_cache": caching.alru_cache(maxsize=None)(_loader(rows))}


async def _cachebox(rows: Mapping[int, object]) -> dict[str, Getter]:
    """The row itself instead of a copy, and without the lock that it takes for a miss."""
    caching = importlib.import_module("cachebox")
    plain = caching.cached(caching.Cache(0), postprocess=None)
    unlocked = caching.cached(caching.Cache(0), postprocess=None, lock=None)
    return {"@cached": plain(_loader(rows)), "@cached(lock=None)": unlocked(_loader(rows))}


PEERS: Final[Mapping[str, Callable[[Mapping[int, object]], Awaitable[dict[str, Getter]]]]] = {
    "aiocache": _aiocache,
    "cashews": _cashews,
    "async-lru": _async_lru,
    "cachebox": _cachebox,
}
"""By the name of their distribution."""


async def peer(name: str, rows: Mapping[int, object]) -> tuple[str, dict[str, Getter]]:
    """The version and the ways of a peer that holds these rows. Raises what the peer raises, if it is not there."""
    ways = await PEERS[name](rows)
    for way, get in ways.items():
        for key, row in rows.items():
            if await get(key) != row:
                raise AssertionError(f"{way}({key}) is not the row that was put in")
    return version(name), ways


@asynccontextmanager
async def over_redis(url: str, rows: Mapping[int, bytes]) -> AsyncIterator[Getter]:
    """A row's bytes by GET, from a server that holds them while this lasts."""
    import redis.asyncio

    prefix = f"bench-{secrets.token_hex(4)}"
    async with redis.asyncio.Redis.from_url(url) as client:
        names = {key: f"{prefix}:{key}" for key in rows}
        await client.mset({names[key]: content for key, content in rows.items()})

        async def get(key: int) -> object:
            return await client.get(names[key])

        try:
            yield get
        finally:
            await client.delete(*names.values())
