"""The tests that every `Source` passes: derive from `SourceContract` to run them on your own.

::

    class TestMySource(SourceContract):
        @pytest.fixture
        async def source(self) -> AsyncIterator[MySource]:
            async with open_my_source() as source:  # with no rows
                yield source

The tests are async methods; they run under pytest-asyncio in its ``auto`` mode, or under anyio's
plugin with ``anyio_mode = "auto"``.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import Any, ClassVar, Final, cast

import pytest

from ..errors import ConflictError, EntityExistsError, EntityNotFoundError
from ..source import Source

__all__ = ["Record", "SourceContract"]

CANCELLATIONS: Final = 30
"""Calls cancelled in one test, each later than the one before. It is more than there are connections
in a pool (15 by default in SQLAlchemy's), so that it shows when every other one is lost."""

PATIENCE: Final = 20.0
"""Seconds that a source may take for what is to show that it still works."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """The entity of the suite, unless a subclass builds its own."""

    id: int
    name: str
    city: str
    version: int = 0


class SourceContract:
    """What a `Source` owes, as tests. Override the fixture `source` and what else differs.

    Attributes
    ----------
    versioned:
        Whether the source compares versions: on `update` that of the entity, on `delete` the one
        that it is handed.
    rows:
        How many rows `load_all` is tried with; more than one chunk of the source's.
    """

    versioned: ClassVar[bool] = True
    rows: ClassVar[int] = 2_500

    @pytest.fixture
    def source(self) -> Source[Any, Any]:
        """A source without rows, fresh for each test. Async generator fixtures do as well."""
        raise NotImplementedError("a SourceContract needs a fixture `source`; see its module")

    def make(self, id: int, name: str = "Ada", city: str = "Paris") -> Any:  # noqa: A002
        """An entity that is not stored yet, with this key."""
        return Record(id, name, city)

    def change(self, entity: Any, **changes: str) -> Any:
        """The entity with another name or city, and all else as it was."""
        return dataclasses.replace(entity, **changes)

    async def fill(self, source: Source[Any, Any], entities: Sequence[Any]) -> None:
        """Store many entities; override it where that is faster at once."""
        for entity in entities:
            await source.create(entity)

    # -- reading -----------------------------------------------------------------------------------

    async def test_load(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        assert await source.load(1) == stored

    async def test_load_absent(self, source: Source[Any, Any]) -> None:
        await source.create(self.make(1))
        assert await source.load(2) is None

    async def test_load_many(self, source: Source[Any, Any]) -> None:
        stored = [await source.create(self.make(key, name=f"n{key}")) for key in (1, 2, 3)]
        assert by_key(await source.load_many([3, 1])) == {1: stored[0], 3: stored[2]}

    async def test_load_many_leaves_out_what_is_absent(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        assert by_key(await source.load_many([7, 1, 8])) == {1: stored}
        assert list(await source.load_many([7, 8])) == []

    async def test_load_many_of_no_keys(self, source: Source[Any, Any]) -> None:
        await source.create(self.make(1))
        assert list(await source.load_many([])) == []

    async def test_load_many_of_one_key_twice(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        found = list(await source.load_many([1, 1, 1]))
        assert found
        assert all(entity == stored for entity in found)

    async def test_load_many_of_many_keys(self, source: Source[Any, Any]) -> None:
        await self.fill(source, [self.make(key) for key in range(self.rows)])
        found = await source.load_many(range(self.rows + 100))
        assert sorted(entity.id for entity in found) == list(range(self.rows))

    async def test_load_all(self, source: Source[Any, Any]) -> None:
        entities = [self.make(key, name=f"n{key}") for key in range(self.rows)]
        await self.fill(source, entities)
        found = [entity async for chunk in source.load_all() for entity in chunk]
        found.sort(key=lambda entity: entity.id)
        assert [(entity.id, entity.name) for entity in found] == [
            (entity.id, entity.name) for entity in entities
        ]
        assert found[0] == await source.load(0)

    async def test_load_all_without_rows(self, source: Source[Any, Any]) -> None:
        assert [entity async for chunk in source.load_all() for entity in chunk] == []

    # -- writing -----------------------------------------------------------------------------------

    async def test_create_returns_the_row_as_stored(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1, name="Ada", city="London"))
        assert (stored.id, stored.name, stored.city) == (1, "Ada", "London")
        assert await source.load(1) == stored

    async def test_create_of_a_key_that_exists(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1, name="Ada"))
        with pytest.raises(EntityExistsError):
            await source.create(self.make(1, name="Bob"))
        assert await source.load(1) == stored

    async def test_update_returns_the_row_as_stored(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        other = await source.create(self.make(2))
        updated = await source.update(self.change(stored, name="Bob", city="Rome"))
        assert (updated.id, updated.name, updated.city) == (1, "Bob", "Rome")
        assert await source.load(1) == updated
        assert await source.load(2) == other

    async def test_update_with_what_is_there_already(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        updated = await source.update(stored)
        assert (updated.name, updated.city) == (stored.name, stored.city)

    async def test_update_absent(self, source: Source[Any, Any]) -> None:
        with pytest.raises(EntityNotFoundError):
            await source.update(self.make(1))
        assert await source.load(1) is None

    async def test_delete(self, source: Source[Any, Any]) -> None:
        await source.create(self.make(1))
        other = await source.create(self.make(2))
        await source.delete(1, None)
        assert await source.load(1) is None
        assert await source.load(2) == other

    async def test_delete_absent(self, source: Source[Any, Any]) -> None:
        with pytest.raises(EntityNotFoundError):
            await source.delete(1, None)

    async def test_a_deleted_key_can_be_created_again(self, source: Source[Any, Any]) -> None:
        await source.create(self.make(1, name="Ada"))
        await source.delete(1, None)
        stored = await source.create(self.make(1, name="Bob"))
        assert await source.load(1) == stored

    async def test_every_read_sees_a_write_that_returned(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1))
        for name in ("Bob", "Eve", "Joe"):
            stored = await source.update(self.change(stored, name=name))
            assert await source.load(1) == stored
            assert list(await source.load_many([1])) == [stored]
            assert [row async for chunk in source.load_all() for row in chunk] == [stored]

    # -- versions ----------------------------------------------------------------------------------

    def _needs_versions(self) -> None:
        """Skip a test of versions where the source has none."""
        if not self.versioned:
            pytest.skip("this source does not compare versions")

    async def test_update_raises_the_version(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        stored = await source.create(self.make(1))
        updated = await source.update(self.change(stored, name="Bob"))
        again = await source.update(updated)
        assert stored.version < updated.version < again.version

    async def test_update_of_a_stale_version(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        stale = await source.create(self.make(1))
        current = await source.update(self.change(stale, name="Bob"))
        with pytest.raises(ConflictError):
            await source.update(self.change(stale, name="Eve"))
        assert await source.load(1) == current

    async def test_of_two_updates_at_once_one_wins(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        stored = await source.create(self.make(1))
        results = await asyncio.gather(
            source.update(self.change(stored, name="Bob")),
            source.update(self.change(stored, name="Eve")),
            return_exceptions=True,
        )
        lost = [result for result in results if isinstance(result, BaseException)]
        won = [result for result in results if not isinstance(result, BaseException)]
        assert [type(error) for error in lost] == [ConflictError], results
        assert await source.load(1) == won[0]

    async def test_delete_of_the_current_version(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        stored = await source.create(self.make(1))
        await source.delete(1, stored.version)
        assert await source.load(1) is None

    async def test_delete_of_a_stale_version(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        stale = await source.create(self.make(1))
        current = await source.update(self.change(stale, name="Bob"))
        with pytest.raises(ConflictError):
            await source.delete(1, stale.version)
        assert await source.load(1) == current

    async def test_delete_of_a_version_of_an_absent_row(self, source: Source[Any, Any]) -> None:
        self._needs_versions()
        with pytest.raises(EntityNotFoundError):
            await source.delete(1, 0)

    async def test_without_versions_the_last_update_stays(self, source: Source[Any, Any]) -> None:
        if self.versioned:
            pytest.skip("this source compares versions")
        stored = await source.create(self.make(1))
        await source.update(self.change(stored, name="Bob"))
        last = await source.update(self.change(stored, name="Eve"))
        assert last.name == "Eve"
        assert await source.load(1) == last

    # -- calls that are not waited for -------------------------------------------------------------

    async def _still_works(self, source: Source[Any, Any]) -> None:
        """Read and write the row 1: no connection is lost, and no lock left behind."""
        async with asyncio.timeout(PATIENCE):
            stored = await source.load(1)
            updated = await source.update(self.change(stored, name="Zoe"))
            assert updated.name == "Zoe"
            assert await source.load(1) == updated

    async def test_a_cancelled_load_leaves_the_source_usable(
        self, source: Source[Any, Any]
    ) -> None:
        await source.create(self.make(1))
        await cancelled(lambda: source.load(1))
        await self._still_works(source)

    async def test_a_cancelled_load_all_leaves_the_source_usable(
        self, source: Source[Any, Any]
    ) -> None:
        async def read_all() -> int:
            return sum([len(list(chunk)) async for chunk in source.load_all()])

        await self.fill(source, [self.make(key) for key in range(self.rows)])
        await cancelled(read_all)
        await self._still_works(source)
        assert await read_all() == self.rows

    async def test_a_cancelled_update_is_done_or_not(self, source: Source[Any, Any]) -> None:
        stored = await source.create(self.make(1, name="Ada"))
        await cancelled(lambda: source.update(self.change(stored, name="Bob")))
        found = await source.load(1)
        assert found is not None
        assert found == stored or found.name == "Bob"
        await self._still_works(source)

    async def test_an_abandoned_load_all_leaves_the_source_usable(
        self, source: Source[Any, Any]
    ) -> None:
        await self.fill(source, [self.make(key) for key in range(self.rows)])
        for _ in range(CANCELLATIONS):
            async with aclosing(cast("Any", source.load_all())) as chunks:
                async for chunk in chunks:
                    assert list(chunk)
                    break
        await self._still_works(source)


async def cancelled(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Make the call again and again, and cancel it at a later and later point.

    Later by turns of the loop at first, as something may go wrong in each of them; then by time, as
    most of it is spent in waiting for the other side.
    """
    for turns in range(CANCELLATIONS):
        task = asyncio.create_task(call())
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        if turns % 2:
            await asyncio.sleep(turns / 10_000)
        task.cancel()
        with suppress(asyncio.CancelledError, ConflictError):
            await task


def by_key(entities: Iterable[Any]) -> dict[Any, Any]:
    """The entities by their keys."""
    return {entity.id: entity for entity in entities}
