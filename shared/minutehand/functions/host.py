"""The functions on one origin without Lambda: which of their apps serves a request."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from minutehand.functions.worker.routes import PROCESS_PATH, WORKER_PATH


def is_api(path: str) -> bool:
    """Whether a path belongs to the functions, and not to the console."""
    return path in {"/health", "/metrics"} or path.startswith("/api/")


class Functions:
    """Sends each request to the function that serves its route, as API Gateway does."""

    def __init__(self, worker: ASGIApp, apps: Sequence[Starlette]) -> None:
        self._worker = worker
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._choose(scope)(scope, receive, send)

    def _choose(self, scope: Scope) -> ASGIApp:
        if scope["path"] in {WORKER_PATH, PROCESS_PATH}:
            return self._worker
        near: ASGIApp | None = None
        for app in self._apps:
            match = best_match(app.routes, scope)
            if match is Match.FULL:
                return app
            if match is Match.PARTIAL and near is None:
                near = app  # the path with another method: that app answers 405 or a preflight
        return near or self._apps[-1]


def best_match(routes: list[BaseRoute], scope: Scope) -> Match:
    """Tell how well any of `routes` fits a request."""
    found = Match.NONE
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return match
        if match is Match.PARTIAL:
            found = match
    return found
