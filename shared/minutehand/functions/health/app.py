"""The health routes as an ASGI app, for hosts that serve everything from one process.

On Lambda the same verdicts are served by handler.py without FastAPI.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse

from minutehand.config import Settings
from minutehand.functions.health.checks import readiness
from minutehand.functions.health.probe import liveness
from minutehand.web.application import create_app
from minutehand.web.services import Provided, Services

router = APIRouter(tags=["health"])

_CHECKED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"enum": ["ready", "degraded", "not_ready"]},
        "checks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "verdict": {"enum": ["pass", "warn", "fail"]},
                    "value": {"type": ["number", "null"]},
                    "unit": {"type": "string"},
                    "detail": {"type": "string"},
                },
                "required": ["verdict", "value", "unit", "detail"],
            },
        },
    },
    "required": ["status", "checks"],
}
#: Not an error body: a probe wants to know which part failed.
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "Not ready", "content": {"application/json": {"schema": _CHECKED}}}
}

Deep = Annotated[str | None, Query(description="1 asks for readiness as well.")]


@router.get("/health", responses=_NOT_READY)
@router.get("/api/v1/health", include_in_schema=False)
async def get_health(request: Request, services: Provided, deep: Deep = None) -> JSONResponse:
    """Whether the process lives; with `?deep=1` whether it is ready."""
    if deep not in {None, "", "0", "false"}:
        return await get_readiness(services)
    settings = services.settings
    return JSONResponse(
        liveness(version=settings.version, stage=settings.stage, region=settings.aws_region)
    )


@router.get("/api/health/ready", responses=_NOT_READY)
async def get_readiness(services: Provided) -> JSONResponse:
    """Database, queue depth, oldest due job, last tick: each with a verdict; 503 if not ready."""
    status, body = await readiness(services.operator_queue)
    settings = services.settings
    alive = liveness(version=settings.version, stage=settings.stage, region=settings.aws_region)
    headers = {"Retry-After": "5"} if status == 503 else {}
    return JSONResponse({**alive, **body}, status_code=status, headers=headers)


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """The app; `services` replaces what it works with."""
    return create_app(services or Services(settings), [router], title="Minutehand health")
