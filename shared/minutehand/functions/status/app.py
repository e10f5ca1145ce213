"""The app of the `status` function: every read of jobs, streams, statistics."""

from __future__ import annotations

from fastapi import FastAPI

from minutehand.config import Settings
from minutehand.functions import metrics
from minutehand.functions.status import document, routes
from minutehand.web.application import create_app
from minutehand.web.services import Services

#: The platform's own routes of this function; on Lambda `jobs` has them too, for the paths that
#: API Gateway sends there.
READS = (routes.router, document.router, metrics.router)


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """The app; `services` replaces what it works with."""
    return create_app(services or Services(settings), READS, title="Minutehand status")
