"""The five operations on students."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from imperfect_dollop import ConflictError, EntityExistsError, EntityNotFoundError, Repository
from imperfect_dollop.web.fastapi import repository

from .errors import CONFLICT, NOT_FOUND, UNAVAILABLE
from .model import Student
from .schemas import City, Conflict, NewStudent, StudentChange, StudentId, StudentOut

__all__ = ["router"]

T = TypeVar("T")

Students = Annotated[Repository[int, Student], Depends(repository(Student))]

RIVALS: Final = 10
"""Writes of others that one without a version is put over, before its client hears of them after all."""

router = APIRouter(prefix="/students", tags=["students"], responses=UNAVAILABLE)


@router.get("", response_model=list[StudentOut])
async def list_students(students: Students, city: City = None) -> list[Student]:
    """All students, or those of a city, by id."""
    found = [each for each in await students.get_all() if city is None or each.city == city]
    return sorted(found, key=lambda student: student.id or 0)


@router.get("/{id}", response_model=StudentOut, responses=NOT_FOUND)
async def get_student(students: Students, key: StudentId) -> Student:
    """One student."""
    return _there(await students.get(key), key)


@router.post(
    "",
    status_code=201,
    response_model=StudentOut,
    responses={
        201: {
            "headers": {"Location": {"description": "The student", "schema": {"type": "string"}}}
        },
        **CONFLICT,
    },
)
async def create_student(
    students: Students, new: NewStudent, request: Request, response: Response
) -> Student | JSONResponse:
    """Create a student. The database makes the id, unless one is given."""
    try:
        student = await students.create(Student(new.id, new.name, new.city))
    except EntityExistsError:
        return await _conflict(students, new.id, "a student with this id is there already")
    except ConflictError:
        return await _conflict(students, new.id, "the table does not take this student")
    response.headers["Location"] = str(request.app.url_path_for("get_student", id=student.id))
    return student


@router.put("/{id}", response_model=StudentOut, responses={**NOT_FOUND, **CONFLICT})
async def replace_student(
    students: Students, key: StudentId, change: StudentChange
) -> Student | JSONResponse:
    """Replace a student: whatever is there, or only the version that is named."""

    async def replace() -> Student:
        version = change.version
        if version is None:
            held = await students.get(key) or await students.get(key, max_staleness=0)
            version = _there(held, key).version
        return await students.update(Student(key, change.name, change.city, version))

    try:
        return await (
            replace() if change.version is not None else _over_rivals(students, key, replace)
        )
    except ConflictError:
        return await _conflict(
            students, key, f"student {key} has another version now, or the table refuses this"
        )


@router.delete("/{id}", status_code=204, responses={**NOT_FOUND, **CONFLICT})
async def delete_student(students: Students, key: StudentId) -> Response:
    """Delete a student."""
    try:
        await _over_rivals(students, key, lambda: students.delete(key))
    except ConflictError:
        return await _conflict(students, key, f"student {key} is being changed by others")
    return Response(status_code=204)


def _there(student: Student | None, key: int) -> Student:
    if student is None:
        raise EntityNotFoundError(f"no student {key}")
    return student


async def _over_rivals(students: Students, key: int, write: Callable[[], Awaitable[T]]) -> T:
    """Write. If what is in memory here is not the latest, read that, and write once more."""
    for _ in range(RIVALS):
        try:
            return await write()
        except ConflictError:
            await students.get(key, max_staleness=0)
    return await write()


async def _conflict(students: Students, key: int | None, detail: str) -> JSONResponse:
    """409, with what the database has now."""
    current = None if key is None else await students.get(key, max_staleness=0)
    shown = None if current is None else StudentOut.model_validate(current, from_attributes=True)
    return JSONResponse(Conflict(detail=detail, current=shown).model_dump(), 409)
