"""One OpenAPI document for the whole service, made on the first request for it.

The other functions' routes are only described here, never served.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from shared.web import openapi
from shared.web.services import Services


def whole_document(services: Services) -> dict[str, Any]:
    """The document of every route of `jobs`, `status`, `health` and the apps."""
    # here and not at the top: reads must not pay for importing the other functions
    from functions.health.app import router as health
    from functions.jobs.apps import routers as of_apps
    from functions.jobs.routes import router as jobs
    from functions.jobs.uploads import router as uploads
    from functions.status.routes import router as status

    app = FastAPI(title="Minutehand", version=services.settings.version)
    for router in (jobs, uploads, status, health, *of_apps(services)):
        app.include_router(router)
    return openapi.document(app)
