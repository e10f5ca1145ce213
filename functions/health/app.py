"""The health routes as an ASGI app, for hosts that serve everything from one process.

On Lambda the same verdicts are served by handler.py without FastAPI.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import JSONResponse

from functions.health.checks import readiness
from functions.health.probe import liveness
from shared.config import Settings
from shared.web.application import create_app
from shared.web.services import Provided, Services

router = APIRouter(tags=["health"])

Deep = Annotated[str | None, Query(description="1 asks for readiness as well.")]


@router.get("/health")
@router.get("/api/v1/health", include_in_schema=False)
async def get_health(request: Request, services: Provided, deep: Deep = None) -> JSONResponse:
    """Whether the process lives; with `?deep=1` whether it is ready."""
    if deep not in {None, "", "0", "false"}:
        return await get_readiness(services)
    settings = services.settings
    return JSONResponse(
        liveness(version=settings.version, stage=settings.stage, region=settings.aws_region)
    )


@router.get("/api/health/ready")
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
