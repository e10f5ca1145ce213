"""The app of the `jobs` function: the write routes, and both reads and writes of every app."""

from __future__ import annotations

from fastapi import FastAPI

from minutehand.config import Settings
from minutehand.functions.jobs import apps, routes, steering
from minutehand.functions.status.app import READS
from minutehand.web.application import create_app
from minutehand.web.services import Services, Waker

#: The platform's own routes of this function.
OWN = (routes.router, steering.router)


def build_app(
    settings: Settings, *, services: Services | None = None, waker: Waker | None = None
) -> FastAPI:
    """The app; `waker` wakes a worker for new work, `services` replaces everything.

    It has the reads as well: on AWS it serves every path that no other function claims.
    """
    services = services or Services(settings, waker=waker)
    return create_app(
        services,
        [*OWN, *READS, *apps.routers(services)],
        title="Minutehand jobs",
        body_limits=routes.BODY_LIMITS,
    )
