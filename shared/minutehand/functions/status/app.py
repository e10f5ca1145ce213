"""The app of the `status` function: every read of jobs, streams, statistics."""

from __future__ import annotations

from fastapi import FastAPI

from minutehand.config import Settings
from minutehand.functions.status import artefacts, document, receipts, routes
from minutehand.web.application import create_app
from minutehand.web.services import Services


def build_app(settings: Settings, *, services: Services | None = None) -> FastAPI:
    """The app; `services` replaces what it works with."""
    routers = [routes.router, artefacts.router, receipts.router, document.router]
    return create_app(services or Services(settings), routers, title="Minutehand status")
