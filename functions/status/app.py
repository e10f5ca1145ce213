"""The app of the `status` function: every read of jobs, streams, statistics."""

from __future__ import annotations

from fastapi import FastAPI

from functions.status import routes
from shared.config import Settings
from shared.web.application import create_app
from shared.web.services import Services


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """The app; `services` replaces what it works with."""
    return create_app(services or Services(settings), [routes.router], title="Minutehand status")
