"""The app's routes, found by the `jobs` function: settings, enrichment, imports.

Each is a call of a SQL function under the caller's own token; what it may do is decided there.
"""

from __future__ import annotations

from fastapi import APIRouter

from minutehand.web.services import Services
from minutehand_apps.enrichment.enrich_routes import EnrichRoutes
from minutehand_apps.enrichment.import_routes import MAX_UPLOAD_BYTES, ImportRoutes
from minutehand_apps.enrichment.services import Enrichment
from minutehand_apps.enrichment.settings_routes import SettingsRoutes

BODY_LIMITS = {r"/api/accounts/import": MAX_UPLOAD_BYTES + 64 * 1024}


def router(services: Services) -> APIRouter:
    """The app's routes over one process's services."""
    app = services.provide(Enrichment, lambda: Enrichment(services.settings))
    routes = APIRouter(prefix="/api", tags=["enrichment"])
    SettingsRoutes(app).add_to(routes)
    EnrichRoutes(app).add_to(routes)
    ImportRoutes(app).add_to(routes)
    return routes
