"""A node's repositories, found by their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from imperfect_dollop import ConfigurationError, Node, Repository
from imperfect_dollop.lookup import repository_of

from .school import SchoolSource, Student, repository


@dataclass(frozen=True, slots=True)
class Course:
    id: int


def courses(name: str) -> Repository[int, Any]:
    return Repository(Course, source=SchoolSource(), name=name)


def twin_of(entity: type) -> type:
    """Another class, called the same."""
    return dataclass(type(entity.__qualname__, (), {"__annotations__": {"id": int}}))


def test_a_repository_has_its_class() -> None:
    assert repository(SchoolSource()).entity is Student


async def test_by_class_open_or_not() -> None:
    students, autumn = repository(SchoolSource()), courses("autumn")
    node = Node("memory://", students, autumn)
    assert node.repository(Student) is students
    assert node.repository(Course) is autumn
    async with node:
        assert node.repository(Student) is students
        assert node.repository(Student, "Student") is students


def test_by_name_where_there_are_several_of_a_class() -> None:
    autumn, spring = courses("autumn"), courses("spring")
    node = Node("memory://", autumn, spring)
    assert node.repository(Course, "spring") is spring
    assert node.repository(Course, name="autumn") is autumn
    with pytest.raises(
        ConfigurationError,
        match=r"2 repositories of .*\.Course, named 'autumn', 'spring': say which",
    ):
        node.repository(Course)


@pytest.mark.parametrize(
    ("entity", "name", "message"),
    [
        (Student, None, r"no repository of .*\.Student; there is 'autumn' of .*\.Course"),
        (Course, "spring", r"no repository of .*\.Course named 'spring'; there is 'autumn' of"),
        (twin_of(Course), None, r"no repository of .*Course; there is 'autumn' of .*\.Course"),
        ("Course", None, r"no repository of 'Course', which is no class; there is 'autumn'"),
    ],
)
def test_what_is_not_there(entity: Any, name: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Node("memory://", courses("autumn")).repository(entity, name)


def test_a_node_without_any() -> None:
    with pytest.raises(ConfigurationError, match=r"\.Student; there is none at all$"):
        Node("memory://").repository(Student)


def test_one_name_on_several_nodes() -> None:
    with pytest.raises(
        ConfigurationError, match=r"2 repositories of .* named 'c', on several nodes"
    ):
        repository_of([courses("c"), courses("c")], Course, "c")
