"""The app's routes, found by the `jobs` function: specs, runs, receipts, keys.

Each is a call of a SQL function or a read under the caller's own token; what it may do is
decided there.
"""

from __future__ import annotations

from fastapi import APIRouter

from minutehand.apps.beacon.receipt_routes import ReceiptRoutes
from minutehand.apps.beacon.run_routes import RunRoutes
from minutehand.apps.beacon.services import Beacon
from minutehand.web.services import Services

#: A bundle of a few thousand samples is larger than other bodies.
MAX_BUNDLE_BYTES = 2 * 1024 * 1024
BODY_LIMITS = {r"/api/beacon/receipts/verify": MAX_BUNDLE_BYTES}


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Beacon, lambda: Beacon(services.settings))
    routes = APIRouter(prefix="/api/beacon", tags=["beacon"])
    RunRoutes(app).add_to(routes)
    ReceiptRoutes(app).add_to(routes)
    return routes
