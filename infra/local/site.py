"""The console as the local API's origin serves it: its files, its configuration, its headers.

What CloudFront does on AWS (infra/aws/console.yml) is done here: one page for every path of the
console's own router, and a policy that runs no script but the console's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from infra.local.breaking import break_token
from infra.local.users import DEMO_USERS, PASSWORD
from shared.config import Settings


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
            if missing.status_code != 404 or "." in Path(path).name:
                raise
            response = await super().get_response("index.html", scope)
        response.headers.update(self._headers)
        return response
