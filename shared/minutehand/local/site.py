"""The console as the local API's origin serves it: its files and configuration, the apps' pages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from minutehand.app import App, find_apps
from minutehand.config import Settings
from minutehand.local.users import DEMO_USERS, PASSWORD
from minutehand.node import node_home
from minutehand.resources import resource
from minutehand.web.site import ConsoleFiles, security_headers


def build_site(settings: Settings, environ: Mapping[str, str], **more: Any) -> Starlette:
    """Build what CloudFront serves beside the API; `more` is for `Starlette`."""
    config = console_config(settings, environ)

    async def serve_config(_: Request) -> JSONResponse:
        return JSONResponse(config, headers={"Cache-Control": "no-store"})

    headers = security_headers(settings, environ)
    routes: list[BaseRoute] = [
        Route("/config.json", serve_config),
        *_vendored_modules(),
        *_pages_of_apps(find_apps(settings.apps), headers),
        Mount("/", app=ConsoleFiles(resource("console"), headers)),
    ]
    # as CloudFront does: a console that is quick here only uncompressed would be slow there
    return Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)], **more)


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
    }


def _pages_of_apps(apps: Iterable[App], headers: Mapping[str, str]) -> list[BaseRoute]:
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


def _vendored_modules() -> list[BaseRoute]:
    """Serve the npm packages that package.json names, and no others, under /vendor."""
    folder = node_home()
    names = json.loads((folder / "package.json").read_text())
    packages = sorted({**names.get("dependencies", {}), **names.get("devDependencies", {})})
    return [
        Mount(f"/vendor/{name}", app=StaticFiles(directory=folder / "node_modules" / name))
        for name in packages
        if (folder / "node_modules" / name).is_dir()
    ]
