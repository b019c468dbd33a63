"""What clients are told when something is wrong: ``{"detail": ...}``, as FastAPI does it by itself."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from imperfect_dollop import (
    ClosedError,
    EntityNotFoundError,
    InvalidEntityError,
    LoadTimeoutError,
    NotReadyError,
    SourceUnavailableError,
    TooStaleError,
)

from .schemas import Conflict, Problem

__all__ = ["CONFLICT", "NOT_FOUND", "UNAVAILABLE", "add_handlers"]

RETRY_SECONDS: Final = 1
"""The library tries again by itself that soon, so it pays to ask again."""

Responses = dict[int | str, dict[str, Any]]

NOT_FOUND: Final[Responses] = {404: {"model": Problem, "description": "No such student"}}

CONFLICT: Final[Responses] = {
    409: {"model": Conflict, "description": "The student is there already, or has another version"}
}

UNAVAILABLE: Final[Responses] = {
    503: {
        "model": Problem,
        "description": "The database does not answer, or nothing is loaded yet; try again",
        "headers": {
            "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}
        },
    }
}

AWAY: Final = "the database does not answer; whether a write has been made is not known"
NOT_LOADED: Final = "the students are not loaded yet"


def add_handlers(app: FastAPI) -> None:
    """Answer with 404, 422 or 503 for what the library raises."""
    app.add_exception_handler(EntityNotFoundError, _not_found)
    app.add_exception_handler(InvalidEntityError, _invalid)
    app.add_exception_handler(RequestValidationError, _misshapen)
    for error in (
        SourceUnavailableError,
        LoadTimeoutError,
        TooStaleError,
        NotReadyError,
        ClosedError,
    ):
        app.add_exception_handler(error, _unavailable)


def _not_found(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"no student {request.path_params['id']}"}, 404)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """A value that the database refuses, though it was within bounds."""
    problem = {"type": "refused", "loc": ["body"], "msg": "the database cannot hold this"}
    return JSONResponse({"detail": [problem]}, 422)


def _misshapen(request: Request, error: Exception) -> JSONResponse:
    """As FastAPI does it, but for the input: it may be what JSON cannot carry back, like NaN."""
    assert isinstance(error, RequestValidationError)
    problems = [
        {name: problem[name] for name in ("type", "loc", "msg")} for problem in error.errors()
    ]
    return JSONResponse({"detail": problems}, 422)


def _unavailable(request: Request, error: Exception) -> JSONResponse:
    # Not the error's own words: they name tables and hosts, which are nothing to a client. The log has them.
    loaded = not isinstance(error, (NotReadyError, ClosedError))
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return JSONResponse({"detail": AWAY if loaded else NOT_LOADED}, 503, headers)
