"""The app's routes below /api/v1, found by the `jobs` function: jobs, executions, keys, schemas.

Each is a call of a SQL function or a read under the caller's own token; what it may do is
decided there.
"""

from __future__ import annotations

from fastapi import APIRouter

from minutehand.web.services import Services
from minutehand_apps.beacon.execution_routes import ExecutionRoutes
from minutehand_apps.beacon.job_routes import JobRoutes
from minutehand_apps.beacon.outbox_routes import OutboxRoutes
from minutehand_apps.beacon.services import Beacon

#: A bundle of many receipts is larger than other bodies.
MAX_BUNDLE_BYTES = 4 * 1024 * 1024
BODY_LIMITS = {r"/api/v1/receipts/verify": MAX_BUNDLE_BYTES}


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Beacon, lambda: Beacon(services.settings))
    routes = APIRouter(prefix="/api/v1", tags=["beacon"])
    JobRoutes(app).add_to(routes)
    ExecutionRoutes(app).add_to(routes)
    OutboxRoutes(app).add_to(routes)
    return routes
