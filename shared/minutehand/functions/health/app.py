"""The health routes: whether the process lives, and how what it depends on is."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.responses import JSONResponse

from minutehand.config import Settings
from minutehand.functions import metrics
from minutehand.functions.health.checks import checks_of_apps, in_words, readiness
from minutehand.queue.keys import days_left
from minutehand.web.application import create_app
from minutehand.web.errors import ApiError
from minutehand.web.services import Provided, Services

router = APIRouter(tags=["health"])

_CHECKED: dict[str, Any] = {
    "type": "object",
    "properties": {"status": {"type": "string"}, "checks": {"type": "object"}},
    "required": ["status", "checks"],
}
#: Not an error body: a probe is to say which part failed.
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "Not ready", "content": {"application/json": {"schema": _CHECKED}}}
}

#: How long `/health` waits for its parts.
PATIENCE_SECONDS = 0.5

Deep = Annotated[str | None, Query(description="1 waits for the parts; 503 if one failed.")]


async def _readiness(services: Services) -> tuple[int, dict[str, Any]]:
    """Look now: status and body of readiness."""
    settings = services.settings
    key_days = days_left(settings.supabase_worker_key, datetime.now(UTC))
    return await readiness(services.operator_queue, checks_of_apps(settings), key_days=key_days)


async def _in_time(services: Services) -> dict[str, Any]:
    """What is known soon; unknown while a read hangs, and where there is no key for one."""
    with contextlib.suppress(TimeoutError, ApiError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return in_words((await _readiness(services))[1])
    return {"status": "unknown"}


@router.get("/health")
async def get_health(services: Provided, deep: Deep = None) -> JSONResponse:
    """Whether the process lives, and how its parts are, or unknown while a read hangs.

    `status` is healthy, degraded, down, or unknown while the read that would say so hangs; always
    with 200: the process answers. `?deep=0` speaks of the process alone. `?deep=1` is readiness:
    it waits, and answers 503 when a part failed.
    """
    if deep not in {None, "", "0", "false"}:
        return await get_readiness(services)
    known = {} if deep in {"0", "false"} else await _in_time(services)
    return JSONResponse({**_alive(services), **known})


@router.get("/api/v1/health", responses=_NOT_READY)
async def get_all_health(services: Provided, deep: Deep = None) -> JSONResponse:
    """How every part is right now: healthy, degraded, or down with 503; `?deep=0` as /health's."""
    if deep in {"0", "false"}:
        return JSONResponse(_alive(services))
    status, body = await _readiness(services)
    return _answer(services, status, body if deep else in_words(body))


@router.get("/api/health/ready", responses=_NOT_READY)
async def get_readiness(services: Provided) -> JSONResponse:
    """Database, queue depth, oldest due job, last tick: each with a verdict; 503 if not ready."""
    return _answer(services, *await _readiness(services))


def _answer(services: Services, status: int, body: dict[str, Any]) -> JSONResponse:
    headers = {"Retry-After": "5"} if status == 503 else {}
    return JSONResponse({**_alive(services), **body}, status_code=status, headers=headers)


def _alive(services: Services) -> dict[str, Any]:
    settings = services.settings
    return {
        "status": "healthy",
        "version": settings.version,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "environment": {"region": settings.aws_region, "env": settings.stage},
    }


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """The app; `services` replaces what it works with."""
    routers = [router, metrics.router]
    return create_app(services or Services(settings), routers, title="Minutehand health")
