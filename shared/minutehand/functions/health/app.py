"""The health routes, which report whether the process is alive and its dependencies are ready.

Each checked part of the service, such as the queue's depth, gets a verdict. The service is not
ready if one of the parts fails.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from minutehand.app import App, find_apps
from minutehand.config import Settings
from minutehand.functions import metrics
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import QueueHealth
from minutehand.queue.worker_client import WorkerQueue
from minutehand.web.application import create_app
from minutehand.web.services import Provided, Services

logger = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


class Readiness(BaseModel):
    """Status of the service, and the verdict on each of its parts.

    A response with status 503 has this body too, because the body names the failed part.
    """

    status: str
    checks: dict[str, Any]


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Readiness}}


@router.head("/health", include_in_schema=False)  # some uptime monitors send HEAD
@router.get("/health")
async def get_health(services: Provided) -> dict[str, Any]:
    """Report that this process is alive, even while the database is unavailable."""
    settings = services.settings
    return {
        "status": "healthy",
        "version": settings.version,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "environment": {"region": settings.aws_region, "env": settings.stage},
    }


@router.head("/api/v1/health", include_in_schema=False)
@router.get("/api/v1/health", responses=_NOT_READY)
async def get_all_health(request: Request, services: Provided) -> JSONResponse:
    """Return the health of every part, which is healthy, degraded, or down with HTTP status 503."""
    return await _respond(request, services, {"ready": "healthy", "not_ready": "down"})


@router.head("/api/health/ready", include_in_schema=False)
@router.get("/api/health/ready", responses=_NOT_READY)
async def get_readiness(request: Request, services: Provided) -> JSONResponse:
    """Return verdicts on database, queue depth, oldest due job and last tick.

    The status is 503 if the service is not ready.
    """
    return await _respond(request, services, {})


async def _respond(request: Request, services: Services, labels: Mapping[str, str]) -> JSONResponse:
    # the route is public, so callers without a token share a limited number of connections
    async with services.request_slot(request, None):
        status, body = await check_queue(services.operator_queue, services.settings)
    body["status"] = labels.get(body["status"], body["status"])
    headers = {"Retry-After": "5"} if status == 503 else {}
    alive = await get_health(services)
    return JSONResponse({**alive, **body}, status_code=status, headers=headers)


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """Build the app. `services`, if given, replaces the clients that the settings describe."""
    routers = [router, metrics.router]
    return create_app(services or Services(settings), routers, title="Minutehand health")


#: Maximum seconds to read the health of the queue.
CHECK_TIMEOUT_SECONDS = 4.0
PASS, WARN, FAIL = "pass", "warn", "fail"


async def check_queue(queue: WorkerQueue, settings: Settings) -> tuple[int, dict[str, Any]]:
    """Return 200 and a body (`ready` or `degraded`), or return 503 and a body (`not_ready`)."""
    started = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
            health = await queue.health()
    except Exception as error:  # any error means that the queue cannot be used
        logger.warning("The queue does not answer the worker: %s", describe(error))
        unknown = "unknown while the database is unavailable"
        units = {"queue_depth": "jobs", "oldest_due": "s", "last_tick": "s"}
        unknown_results = {
            name: _check_result(FAIL, None, unit, unknown) for name, unit in units.items()
        }
        return _summarize(
            {"database": _check_result(FAIL, None, "ms", describe(error)), **unknown_results}
        )
    elapsed = round((time.perf_counter() - started) * 1000, 1)
    of_apps = await run_app_checks(settings)
    status, body = _summarize({**of_apps, **queue_checks(health, elapsed)})
    return status, {**body, "findings": health.findings}


def describe(error: Exception) -> str:
    """Return the database's message of an error.

    For a connection error, return only the error's type.
    """
    if isinstance(error, TokenRefused):
        return f"the worker's key is rejected: {error}"
    if isinstance(error, QueueError) and not isinstance(error, QueueUnavailable):
        return str(error)
    return f"no answer: {type(error).__name__}"  # the message of the error may contain an address


def queue_checks(health: QueueHealth, elapsed_ms: float) -> dict[str, dict[str, Any]]:
    """Return health checks of the queue, made from the database's findings and measurements."""
    entries = {entry["reason"]: entry for entry in health.findings}

    def check(reason: str, value: float | None, unit: str, otherwise: str) -> dict[str, Any]:
        entry = entries.get(reason)
        if entry is None:
            return _check_result(PASS, value, unit, otherwise)
        steps = " ".join(step["words"] for step in entry["next"][:1])
        parts = (entry["sentence"], entry["cause"], steps)
        return _check_result(entry["verdict"], value, unit, " ".join(filter(None, parts)))

    age, tick, backlog = health.oldest_due_seconds, health.last_tick_seconds, health.backlog
    text = "nothing is due" if age is None else f"has waited {age:.0f} s"
    ended = "no tick seen yet" if tick is None else f"ended {tick:.0f} s ago"
    return {
        "database": check("read_only", elapsed_ms, "ms", "answers"),
        "queue_depth": check("no_processor", backlog["jobs"], "jobs", backlog["detail"]),
        "maintenance": check("failing_maintenance", None, "", "nothing fails"),
        "transactions": check("open_transaction", None, "", "none is open for long"),
        "oldest_due": check("overdue", age, "s", text),
        "last_tick": check("no_worker", tick, "s", ended),
    }


def _check_result(status: str, value: float | None, unit: str, detail: str) -> dict[str, Any]:
    return {"verdict": status, "value": value, "unit": unit, "detail": detail}


def _summarize(results: Mapping[str, Mapping[str, Any]]) -> tuple[int, dict[str, Any]]:
    verdicts = {result["verdict"] for result in results.values()}
    if FAIL in verdicts:
        return 503, {"status": "not_ready", "checks": results}
    return 200, {"status": "degraded" if WARN in verdicts else "ready", "checks": results}


#: Maximum seconds for the checks of one app.
APP_TIMEOUT_SECONDS = 3.0


async def run_app_checks(settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Run the health checks of every app that has a module `health`, see `minutehand.app`."""

    async def lines_of(app: App) -> Mapping[str, Mapping[str, Any]]:
        if (module := app.module("health")) is None:
            return {}
        try:
            async with asyncio.timeout(APP_TIMEOUT_SECONDS):
                lines: Mapping[str, Mapping[str, Any]] = await module.checks(settings)
        except Exception as error:  # an error in one app's check must not hide other apps
            return {app.name: _check_result(WARN, None, "", f"no answer: {type(error).__name__}")}
        return lines

    of_each = await asyncio.gather(*map(lines_of, find_apps(settings.apps)))
    return {name: line for lines in of_each for name, line in lines.items()}
