"""The app of the `jobs` function: the write routes, and both reads and writes of every app."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from minutehand.config import Settings
from minutehand.functions.jobs import apps, routes, steering
from minutehand.functions.status.app import READS
from minutehand.web.application import create_app
from minutehand.web.services import Services, Waker

#: The platform's own routes of this function.
OWN = (routes.router, steering.router)


def build_app(
    settings: Settings, *, services: Services | None = None, waker: Waker | None = None
) -> FastAPI:
    """The app; `waker` wakes a worker for new work, `services` replaces everything."""
    services = services or Services(settings, waker=waker)
    return create_app(
        services,
        [*OWN, *apps.routers(services)],
        title="Minutehand jobs",
        body_limits={**routes.BODY_LIMITS, **apps.body_limits(settings)},
    )


class AppsOnDemand:
    """The same app in two: the platform's routes at once, the apps' at their first request.

    For Lambda, where every cold start would pay for the routes of every app, a third of its time.
    """

    def __init__(self, settings: Settings, *, waker: Waker | None = None) -> None:
        self.services = Services(settings, waker=waker)
        self._own = create_app(
            self.services,
            [*OWN, *READS],
            title="Minutehand jobs",
            body_limits=routes.BODY_LIMITS,
        )
        self._apps: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        app = self._own if self._is_own(scope) else self._of_apps()
        await app(scope, receive, send)

    def _is_own(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._own.routes)

    def _of_apps(self) -> FastAPI:
        if self._apps is None:
            self._apps = create_app(
                self.services,
                apps.routers(self.services),
                title="Minutehand apps",
                body_limits=apps.body_limits(self.services.settings),
            )
        return self._apps
