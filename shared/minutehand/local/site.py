"""The console as the local API's origin serves it: its files, its configuration, its headers.

What CloudFront does on AWS (infra/aws/console.yml) is done here: one page for every path of the
console's own router, and a policy that runs no script but the console's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from minutehand.app import App
from minutehand.config import Settings
from minutehand.local.breaking import break_token
from minutehand.local.users import DEMO_USERS, PASSWORD


def console_config(settings: Settings, environ: Mapping[str, str]) -> dict[str, Any]:
    """Build what `/config.json` tells the console; demo accounts exist on this machine only."""
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
        "demoAccounts": accounts if local else [],
        "breakToken": break_token(environ) if local else None,
    }


def security_headers(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Build the headers of every file; connections go to Supabase and to storage only."""
    origin = urlsplit(settings.supabase_url)
    storage = environ.get("AWS_ENDPOINT_URL", "")
    socket = "wss" if origin.scheme == "https" else "ws"
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "font-src": "'self'",
        "media-src": f"'self' {storage}".strip(),
        "connect-src": f"'self' {settings.supabase_url} {socket}://{origin.netloc} {storage}",
        "manifest-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(
            f"{name} {value}".strip() for name, value in policy.items()
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
        "Cache-Control": "no-cache",
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


class ConsoleFiles(StaticFiles):
    """Files of the console; a path that names none is a page of its router."""

    def __init__(self, directory: Path, headers: Mapping[str, str]) -> None:
        super().__init__(directory=directory, html=True)
        self._has_page = (directory / "index.html").is_file()
        self._headers = dict(headers)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer one request."""
        try:
            response = await super().get_response(path, scope)
        except HTTPException as missing:
            if missing.status_code != 404 or "." in Path(path).name or not self._has_page:
                raise
            response = await super().get_response("index.html", scope)
        response.headers.update(self._headers)
        return response
