"""The worker's HTTP routes without any framework: requests in, replies out.

The handler and the local ASGI app translate to and from their own shapes.
"""

from __future__ import annotations

import hmac
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from minutehand.config import Settings
from minutehand.error_body import (
    INVALID_JSON,
    METHOD_NOT_ALLOWED,
    ROUTE_NOT_FOUND,
    error_body,
)
from minutehand.queue.errors import DatabaseReadOnly, QueueError, QueueUnavailable
from minutehand.worker.loop import Worker
from minutehand.worker.summary import TickSummary

logger = logging.getLogger(__name__)

WORKER_PATH: Final = "/api/jobs/worker"
PROCESS_PATH: Final = "/api/jobs/process"
MAX_BODY_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One JSON answer."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The body as JSON."""
        return json.dumps(self.body, separators=(",", ":"), default=str).encode()


class WorkerRoutes:
    """`GET`/`POST /api/jobs/worker` and `POST /api/jobs/process`.

    Args:
        wake: Of a worker whose loop runs anyway: asking it for a tick makes it lease at once.
    """

    def __init__(
        self, settings: Settings, worker: Worker, *, wake: Callable[[], object] | None = None
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._wake = wake

    async def answer(
        self,
        request: Request,
        *,
        budget_seconds: float = math.inf,
        usual_seconds: float | None = None,
    ) -> Reply:
        """Answer one request; a tick takes at most `budget_seconds`.

        Args:
            usual_seconds: How long a tick is that no one waits for; what a shorter one has to
                stop is released without spending an attempt.
        """
        methods = {WORKER_PATH: ("GET", "POST"), PROCESS_PATH: ("POST",)}.get(request.path)
        if methods is None:
            return _error(404, *ROUTE_NOT_FOUND, request)
        if request.method not in methods:
            reply = _error(405, *METHOD_NOT_ALLOWED, request)
            return replace(reply, headers={"Allow": ", ".join(methods)})
        tokens = (
            self._settings.worker_secret_tokens
            if request.path == WORKER_PATH
            else self._settings.background_job_tokens
        )
        if not bearer_matches(request.headers.get("authorization", ""), tokens):
            reply = _error(401, "unauthorized", "Unauthorized", request)
            return replace(reply, headers={"WWW-Authenticate": "Bearer"})
        if request.method == "GET":
            return Reply(200, self._health())
        job_types: list[str] | None = None
        if request.path == PROCESS_PATH:
            wanted = _job_types(request)
            if isinstance(wanted, Reply):
                return wanted
            unknown = [name for name in wanted or () if name not in self._worker.registry]
            if unknown:
                return self._refuse_unknown(unknown, request)
            job_types = None if wanted is None else self._worker.registry.with_parts(wanted)
        return await self._tick(request, budget_seconds, usual_seconds, job_types)

    def _refuse_unknown(self, unknown: list[str], request: Request) -> Reply:
        """A misspelt type would be processed by no one, and its caller would never know."""
        registry = self._worker.registry
        known = sorted(kind.name for kind in registry if kind.part_of is None)
        text = f"Unknown job type {unknown[0]!r}; known are {', '.join(known)}"
        detail = {"field": "jobTypes", "unknown": unknown, "known": known}
        return _error(422, "unknown_job_type", text, request, detail)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "healthy",
            "worker_exists": len(self._worker.registry) > 0,
            "worker_id": self._worker.worker_id,
            "timestamp": _now(),
            "environment": {"region": self._settings.aws_region, "env": self._settings.stage},
        }

    async def _tick(
        self,
        request: Request,
        budget_seconds: float,
        usual_seconds: float | None,
        job_types: list[str] | None,
    ) -> Reply:
        if self._wake is not None and job_types is None:
            self._wake()
            return Reply(202, {**self._head(), "success": True, "running": True})
        try:
            summary = await self._worker.tick(
                budget_seconds=budget_seconds,
                job_types=job_types,
                # a caller waits for the answer, not for work of the future
                options=replace(
                    self._worker.options, linger_seconds=0.0, usual_seconds=usual_seconds
                ),
            )
        except QueueError as error:
            return self._refusal(error, request)
        return self._reply(summary)

    def _refusal(self, error: QueueError, request: Request) -> Reply:
        if isinstance(error, DatabaseReadOnly):
            logger.error(str(error), extra={"event": "tick.read_only"})
            return _error(503, "database_read_only", str(error), request)
        if isinstance(error, QueueUnavailable):
            logger.warning(
                "Tick found the queue unavailable",
                extra={"event": "tick.unavailable", "error": str(error)},
            )
            reply = _error(503, "unavailable", "The queue is not available", request)
            return replace(reply, headers={"Retry-After": "5"})
        logger.error("Queue refused the tick", extra={"event": "tick.refused", "error": str(error)})
        return _error(502, error.word or "refused", "The queue refused the worker", request)

    def _head(self) -> dict[str, Any]:
        return {"worker_id": self._worker.worker_id, "timestamp": _now()}

    def _reply(self, summary: TickSummary) -> Reply:
        counts = summary.as_dict()
        error_text = counts.pop("error")
        return Reply(
            200,
            {
                "success": error_text is None,
                "duration_ms": round(summary.duration_ms),
                **self._head(),
                **{k: v for k, v in counts.items() if k not in {"duration_ms", "worker_id"}},
                **({} if error_text is None else {"error": error_text}),
            },
        )


def bearer_matches(authorization: str, accepted: Iterable[str]) -> bool:
    """Whether the header carries one of the accepted tokens."""
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "bearer" and token_matches(token.strip(), accepted)


def token_matches(offered: str, accepted: Iterable[str]) -> bool:
    """Whether `offered` is one of `accepted` and not empty, compared in constant time."""
    matches = False
    for candidate in accepted:
        # no early exit: a match on the first must take as long as one on the second
        matches |= hmac.compare_digest(offered.encode(), candidate.encode())
    return matches and bool(offered)


def _job_types(request: Request) -> list[str] | Reply | None:
    if len(request.body) > MAX_BODY_BYTES:
        return _error(413, "body_too_large", "The request body is too large", request)
    if not request.body.strip():
        return None
    try:
        body = json.loads(request.body)
    except ValueError:
        return _error(400, *INVALID_JSON, request)
    if not isinstance(body, dict):
        return _invalid("body", "The request body must be an object", request)
    names = body.get("jobTypes")
    if names is None:
        return None
    if (
        not isinstance(names, list)
        or len(names) > 200
        or not all(isinstance(name, str) and 0 < len(name) <= 100 for name in names)
    ):
        return _invalid("jobTypes", "jobTypes must be a list of job types", request)
    return names


def _invalid(field_name: str, text: str, request: Request) -> Reply:
    return _error(400, "invalid_argument", text, request, {"field": field_name})


def _error(status: int, code: str, text: str, request: Request, detail: Any = None) -> Reply:
    return Reply(status, error_body(code, text, detail=detail, request_id=request.request_id))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
