"""The app of the `jobs` function, which has every route except the worker's."""

from fastapi import FastAPI

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.functions import metrics, openapi
from minutehand.functions.health.app import router as health
from minutehand.functions.jobs import routes, steering
from minutehand.functions.status.routes import router as reads
from minutehand.web.application import create_app
from minutehand.web.services import Services, Waker


def build_app(
    settings: Settings, *, services: Services | None = None, waker: Waker | None = None
) -> FastAPI:
    """Build the app.

    On AWS, the app of the `jobs` function gets only the paths that no other function serves. On
    other hosts, the app serves the whole API.

    Args:
        services: Clients and dependencies. By default, the services are built from the settings.
        waker: Waker that wakes a worker for new jobs.
    """
    services = services or Services(settings, waker=waker)
    # find the routes by name, so that a developer who deletes an app's folder changes nothing here
    apps = (app.module("routes") for app in find_apps(settings.apps))
    return create_app(
        services,
        [
            routes.bulks,
            routes.router,
            steering.router,
            reads,
            health,
            metrics.router,
            openapi.router,
            *(module.router(services) for module in apps if module is not None),
        ],
        title="Minutehand jobs",
        body_limits=routes.BODY_LIMITS,
    )
