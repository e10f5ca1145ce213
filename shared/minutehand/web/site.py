"""The console's files and headers where an API's own origin serves them.

What CloudFront does on AWS (infra/aws/console.yml) is done here: one page for every path of the
console's own router, and a policy that runs no script but the console's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from minutehand.config import Settings

#: The folders of the console's files, as in infra/aws/pages.js.
FOLDERS = frozenset({"apps", "lib", "parts", "styles", "vendor", "views"})


def is_page(path: str) -> bool:
    """Whether a path is a page of the console's router: a job type's name may end like a file's.

    Args:
        path: Without the first slash.
    """
    first, *rest = parts = path.rstrip("/").split("/")
    if not all(part.strip(".") for part in parts):
        return False
    return first not in FOLDERS if rest else "." not in first


def security_headers(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Build the headers of every file; connections go to Supabase and to storage only."""
    origin = urlsplit(settings.supabase_url)
    storage = environ.get("AWS_ENDPOINT_URL", "")
    socket = "wss" if origin.scheme == "https" else "ws"
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' data: {storage}".strip(),
        "font-src": "'self'",
        "media-src": f"'self' {storage}".strip(),
        "connect-src": f"'self' {settings.supabase_url} {socket}://{origin.netloc} {storage}",
        "manifest-src": "'self'",
        # pages that an app's work has built; each forbids itself the network
        "frame-src": f"'self' {environ.get('API_URL', '')}".strip(),
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


def config_route(settings: Settings, **more: Any) -> Route:
    """What the console asks first: whom it talks to, and `more`."""
    body = {
        "supabaseUrl": settings.supabase_url,
        "supabaseKey": settings.supabase_publishable_key,
        "schema": settings.schema_name,
        "stage": settings.stage,
        **more,
    }

    async def config(_: Request) -> Response:
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    return Route("/config.json", config)


_PARTS = ("text/javascript", "application/javascript", "text/css")
_OF_PARTS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


def written_console(settings: Settings, folder: Path) -> list[BaseRoute]:
    """The console from a folder that `python -m minutehand.deploy.console` wrote."""
    files = ConsoleFiles(folder, security_headers(settings, settings.environ))
    return [config_route(settings), Mount("/", app=files)]


class ConsoleFiles(StaticFiles):
    """Files of the console; a path that names none is a page of its router."""

    def __init__(self, directory: Path, headers: Mapping[str, str]) -> None:
        super().__init__(directory=directory, html=True)
        self._headers = dict(headers)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer one request."""
        try:
            response = await super().get_response(path, scope)
        except HTTPException as missing:
            if missing.status_code != 404 or not is_page(path):
                raise
            response = await super().get_response("index.html", scope)
        # scripts and styles run under their page's policy: most of a small answer would be headers
        is_part = response.headers.get("content-type", "").startswith(_PARTS)
        response.headers.update(_OF_PARTS if is_part else self._headers)
        return response
