"""The worker's HTTP routes for Lambda and for other hosts, without a web framework."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from minutehand.config import Settings
from minutehand.error_body import INVALID_JSON, METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, error_body
from minutehand.functions.tokens import token_matches
from minutehand.queue.errors import DatabaseReadOnly, QueueError, QueueUnavailable
from minutehand.worker.loop import Worker

logger = logging.getLogger(__name__)

WORKER_PATH = "/api/jobs/worker"
PROCESS_PATH = "/api/jobs/process"
MAX_BODY_BYTES = 16_384
_METHODS = {WORKER_PATH: ("GET", "POST"), PROCESS_PATH: ("POST",)}


@dataclass(frozen=True)
class Request:
    """One HTTP request, with header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    request_id: str | None = None


@dataclass(frozen=True)
class Reply:
    """One HTTP response with a JSON body."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Return the body as JSON."""
        return json.dumps(self.body, separators=(",", ":"), default=str).encode()


class _Rejected(Exception):
    def __init__(
        self, status: int, code: str, text: str, detail: Any = None, **headers: str
    ) -> None:
        self.status, self.code, self.detail = status, code, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(text)


class WorkerRoutes:
    """Serves `GET` and `POST /api/jobs/worker`, and `POST /api/jobs/process`.

    Args:
        wake: Function that makes a worker's permanent loop lease immediately. If `wake` is set, a
            request calls `wake` and runs no tick.
    """

    def __init__(
        self, settings: Settings, worker: Worker, *, wake: Callable[[], object] | None = None
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._wake = wake

    async def handle(
        self,
        request: Request,
        *,
        budget_seconds: float = math.inf,
        full_tick_seconds: float | None = None,
    ) -> Reply:
        """Serve one HTTP request. A tick takes at most `budget_seconds`.

        Args:
            full_tick_seconds: Duration of a tick for which no caller waits. If a shorter tick must
                stop a job, the tick releases the job, and the attempt does not count.
        """
        try:
            self._check(request)
            if request.method == "GET":
                return Reply(503 if self._worker.is_stalled else 200, self._health())
            job_types = self._job_types(request) if request.path == PROCESS_PATH else None
            if self._wake is not None and job_types is None:
                self._wake()
                return Reply(202, {"success": True, "running": True, **self._head()})
            return await self._tick(budget_seconds, full_tick_seconds, job_types)
        except _Rejected as rejection:
            body = error_body(
                rejection.code,
                str(rejection),
                detail=rejection.detail,
                request_id=request.request_id,
            )
            return Reply(rejection.status, body, rejection.headers)

    def _check(self, request: Request) -> None:
        methods = _METHODS.get(request.path)
        if methods is None:
            raise _Rejected(404, *ROUTE_NOT_FOUND)
        if request.method not in methods:
            raise _Rejected(405, *METHOD_NOT_ALLOWED, Allow=", ".join(methods))
        tokens = (
            self._settings.worker_secret_tokens
            if request.path == WORKER_PATH
            else self._settings.background_job_tokens
        )
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token_matches(token.strip(), tokens):
            raise _Rejected(401, "unauthorized", "Unauthorized", WWW_Authenticate="Bearer")

    def _job_types(self, request: Request) -> list[str] | None:
        if len(request.body) > MAX_BODY_BYTES:
            raise _Rejected(413, "body_too_large", "The request body is too large")
        try:
            body = json.loads(request.body) if request.body.strip() else {}
        except ValueError:
            raise _Rejected(400, *INVALID_JSON) from None
        if not isinstance(body, dict):
            text = "The request body must be an object"
            raise _Rejected(400, "invalid_argument", text, {"field": "body"})
        names = body.get("jobTypes")
        if names is None:
            return None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            text = "jobTypes must be a list of job types"
            raise _Rejected(400, "invalid_argument", text, {"field": "jobTypes"})
        registry = self._worker.registry
        if unknown := [name for name in names if name not in registry]:
            # reject unknown job types, because a caller would not notice a misspelt type otherwise
            known = sorted(job_type.name for job_type in registry if job_type.part_of is None)
            text = f"Unknown job type {unknown[0]!r}; known job types are {', '.join(known)}"
            detail = {"field": "jobTypes", "unknown": unknown, "known": known}
            raise _Rejected(422, "unknown_job_type", text, detail)
        return registry.with_parts(names)

    def _health(self) -> dict[str, Any]:
        return {
            "status": "stalled" if self._worker.is_stalled else "healthy",
            "worker_exists": bool(self._worker.registry.names),
            **self._head(),
            "environment": {"region": self._settings.aws_region, "env": self._settings.stage},
        }

    async def _tick(
        self, budget_seconds: float, full_tick_seconds: float | None, job_types: list[str] | None
    ) -> Reply:
        # do not wait for jobs that fall due, because a caller waits for the response
        options = replace(self._worker.options, linger_seconds=0.0, usual_seconds=full_tick_seconds)
        try:
            summary = await self._worker.tick(
                budget_seconds=budget_seconds, job_types=job_types, options=options
            )
        except QueueError as error:
            logger.warning(
                "The queue rejected the tick, or is unavailable",
                extra={"event": "tick.refused", "error": str(error)},
            )
            if isinstance(error, DatabaseReadOnly):
                raise _Rejected(503, "database_read_only", str(error)) from error
            if isinstance(error, QueueUnavailable):
                text = "The queue is not available"
                raise _Rejected(503, "unavailable", text, Retry_After="5") from error
            text = "The queue rejected the worker"
            raise _Rejected(502, error.word or "refused", text) from error
        counts = summary.as_dict()
        failure = {} if summary.error is None else {"error": summary.error}
        counts |= {"duration_ms": round(summary.duration_ms), **self._head()}
        del counts["error"]
        return Reply(200, {"success": not failure, **counts, **failure})

    def _head(self) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"worker_id": self._worker.worker_id, "timestamp": now}
