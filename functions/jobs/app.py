"""The app of the `jobs` function: the write routes, and both reads and writes of every app."""

from __future__ import annotations

from fastapi import FastAPI

from functions.jobs import apps, routes, steering, uploads
from shared.config import Settings
from shared.web.application import create_app
from shared.web.services import Services, Waker


def build_app(
    settings: Settings, *, services: Services | None = None, waker: Waker | None = None
) -> FastAPI:
    """The app; `waker` says how a worker is told of new work, `services` replaces everything."""
    services = services or Services(settings, waker=waker)
    return create_app(
        services,
        [routes.router, steering.router, uploads.router, *apps.routers(services)],
        title="Minutehand jobs",
        body_limits={**routes.BODY_LIMITS, **apps.body_limits()},
    )
