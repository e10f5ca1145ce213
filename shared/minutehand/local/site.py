"""The console as the local API's origin serves it: its configuration, and the pages of apps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from minutehand.app import App
from minutehand.config import Settings
from minutehand.local.breaking import break_token
from minutehand.local.users import DEMO_USERS, PASSWORD
from minutehand.web.site import ConsoleFiles


def console_config(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Build what `/config.json` gives the console; demo accounts exist on this machine only."""
    accounts = [
        {
            "email": user.email,
            "password": PASSWORD,
            "label": f"{user.email.partition('@')[0].capitalize()}, {user.role}",
        }
        for user in DEMO_USERS
    ]
    local = settings.stage == "local"
    return {
        "supabaseUrl": settings.supabase_url,
        "supabaseKey": settings.supabase_publishable_key,
        "apiUrl": environ.get("API_URL", ""),
        "schema": settings.schema_name,
        "stage": settings.stage,
        "demoAccounts": accounts if local and environ.get("DEMO_EMAIL") else [],
        "breakToken": break_token(environ) if local else None,
    }


def pages_of_apps(apps: Iterable[App], headers: Mapping[str, str]) -> list[BaseRoute]:
    """Serve each app's pages under /apps/<name>, and the list of names that the console reads."""
    with_pages = [app for app in apps if (app.folder / "console" / "manifest.js").is_file()]
    names = [app.name for app in with_pages]

    async def list_names(_: Request) -> JSONResponse:
        return JSONResponse(names, headers=dict(headers))

    pages = [
        Mount(f"/apps/{app.name}", app=ConsoleFiles(app.folder / "console", headers))
        for app in with_pages
    ]
    return [Route("/apps/index.json", list_names), *pages]
