"""What clients send and get: the bodies, with their bounds and examples."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from .model import MAX_GIVEN_ID, MAX_ID, MAX_TEXT

__all__ = [
    "City",
    "Conflict",
    "NewStudent",
    "Problem",
    "StudentChange",
    "StudentId",
    "StudentOut",
]

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"

ADA: dict[str, JsonValue] = {"id": 1, "name": "Ada", "city": "London", "version": 0}

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=PRINTABLE)]
Name = Annotated[Text, Field(examples=["Ada"])]
Town = Annotated[Text, Field(examples=["London"])]

StudentId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID, examples=[1])]
City = Annotated[str | None, Query(max_length=MAX_TEXT, description="only students of this city")]


class NewStudent(BaseModel):
    """To be created; without an id the database makes one."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "Ada", "city": "London"}]}
    )

    id: Annotated[int | None, Field(strict=True, ge=1, le=MAX_GIVEN_ID)] = None
    name: Name
    city: Town


class StudentChange(BaseModel):
    """What replaces a student. With a version it does so only if that is still the student's."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "Ada", "city": "Paris", "version": 0}]},
    )

    name: Name
    city: Town
    version: Annotated[int | None, Field(strict=True, ge=0, le=MAX_ID)] = None


class StudentOut(BaseModel):
    """A student, as stored."""

    model_config = ConfigDict(json_schema_extra={"examples": [ADA]})

    id: int
    name: str
    city: str
    version: int


class Problem(BaseModel):
    """Why a request was not fulfilled."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": "no student 7"}]})

    detail: str


class Conflict(Problem):
    """Why a write was not made, and what is there now."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "detail": "student 1 has another version now, or the table refuses this",
                    "current": {**ADA, "version": 1},
                }
            ]
        }
    )

    current: StudentOut | None
    """``None`` if there is none."""
