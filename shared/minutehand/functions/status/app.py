"""The app of the `status` function, which has reads of jobs, event streams and statistics."""

from fastapi import FastAPI

from minutehand.config import Settings
from minutehand.functions.status.routes import router
from minutehand.web.application import create_app
from minutehand.web.services import Services


def build_app(settings: Settings) -> FastAPI:
    """Build the app of the `status` function."""
    return create_app(Services(settings), [router], title="Minutehand status")
