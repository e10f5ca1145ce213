"""The console's files and their headers, for hosts that serve the console on the API's origin.

The server returns one page for every path of the console's router, as CloudFront does on AWS
(infra/aws/console.yml). The Content-Security-Policy of the console's page allows only the console's
scripts.
"""

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

#: Folders with the console's files, as in infra/aws/pages.js. A page of version 0.5.1 that is still
#: open may request files of `lib` and `parts`.
FOLDERS = frozenset({"apps", "lib", "parts", "styles"})


def is_page(path: str) -> bool:
    """Return whether a path is a page of the console's router and not a file.

    The path's extension does not decide, because the name of a job type may end like a file name.

    Args:
        path: Path without the first slash.
    """
    first, *rest = parts = path.rstrip("/").split("/")
    if not all(part.strip(".") for part in parts):
        return False
    return first not in FOLDERS if rest else "." not in first


def security_headers(settings: Settings) -> dict[str, str]:
    """Build the headers of the console's files.

    The headers allow the console to connect only to Supabase and to storage.
    """
    origin = urlsplit(settings.supabase_url)
    storage = settings.environ.get("AWS_ENDPOINT_URL", "")
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
        # allow frames with pages that apps' jobs have built. The pages' own policies forbid network
        # access.
        "frame-src": f"'self' {settings.environ.get('API_URL', '')}".strip(),
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


def console_routes(
    settings: Settings, folder: Path, *pages: BaseRoute, **values: Any
) -> list[BaseRoute]:
    """Return the routes of a console whose files `python -m minutehand.deploy.console` wrote.

    `pages` are routes of apps, and `values` adds fields to the console's configuration.
    """
    body = {
        "supabaseUrl": settings.supabase_url,
        "supabaseKey": settings.supabase_publishable_key,
        "schema": settings.schema_name,
        "stage": settings.stage,
        **values,
    }

    async def config(_: Request) -> Response:
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    files = ConsoleFiles(folder, settings)
    return [Route("/config.json", config), *pages, Mount("/", app=files)]


_STATIC_TYPES = ("text/javascript", "application/javascript", "text/css")
_STATIC_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


class ConsoleFiles(StaticFiles):
    """Serves the console's files. A path without a file gets the page of the console's router."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        super().__init__(directory=directory, html=True)
        self._headers = security_headers(settings)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve one request."""
        try:
            response = await super().get_response(path, scope)
        except HTTPException as missing:
            if missing.status_code != 404 or not is_page(path):
                raise
            response = await super().get_response("index.html", scope)
        # scripts and styles run under the policy of their page, so that they need fewer headers
        is_static = response.headers.get("content-type", "").startswith(_STATIC_TYPES)
        response.headers.update(_STATIC_HEADERS if is_static else self._headers)
        return response
