"""AWS Lambda's way into an app of the API: events of API Gateway to ASGI, through Mangum.

One loop and one app per environment, so that connections are kept between invocations.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

from minutehand import telemetry
from minutehand.aws.rotation import RotatingHandler
from minutehand.config import Settings
from minutehand.log import configure_logging
from minutehand.web.services import Services


def on_lambda(build_app: Callable[[Settings], FastAPI]) -> RotatingHandler:
    """The handler that Lambda calls, with the app made from its environment and its secrets."""

    def build(environ: Mapping[str, str]) -> GatewayHandler:
        settings = Settings.from_env(environ)
        configure_logging(settings.log_level)
        return GatewayHandler(build_app(settings))

    return RotatingHandler(os.environ, build)


class GatewayHandler:
    """A Lambda handler that serves `app` on a loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._services: Services = app.state.services
        settings = self._services.settings
        telemetry.start(settings.environ, version=settings.version)
        self._loop = asyncio.new_event_loop()
        # Mangum asks for the thread's loop each time; asking while none is set is deprecated
        asyncio.set_event_loop(self._loop)
        self._mangum = Mangum(app, lifespan="off")

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        asyncio.set_event_loop(self._loop)
        below, prefix = _below_its_prefix(event)
        answer: dict[str, Any] = self._mangum(below, context)
        telemetry.flush()
        headers = answer.get("headers", {})
        if prefix and headers.get("location", "").startswith("/"):
            headers["location"] = prefix + headers["location"]
        return answer

    def close(self) -> None:
        """Close connections and loop; Lambda just freezes both, tests must not."""
        self._loop.run_until_complete(self._services.aclose())
        self._loop.close()
        asyncio.set_event_loop(None)


def _below_its_prefix(event: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The event with the path that the route matched, and what preceded that path.

    A named stage's own URL carries `/dev` before it, a custom domain's mapping its key; both
    belong before every address of ours that an answer names.
    """
    context = event.get("requestContext", {})
    http = context.get("http", {})
    path = http.get("path", "")
    parameters = event.get("pathParameters") or {}
    stripped = _matched(event.get("routeKey", ""), parameters, path)
    if stripped == path:
        return event, ""
    below = {
        **event,
        "rawPath": stripped,
        "requestContext": {**context, "http": {**http, "path": stripped}},
    }
    return below, path.removesuffix(stripped)


def _matched(route_key: str, parameters: dict[str, str], path: str) -> str:
    """The end of `path` that `route_key` matches, the whole of it when that is not certain."""
    route = route_key.partition(" ")[2]
    if not route:
        return path
    fixed, _, variable = route.partition("{")
    length = route.count("/")
    if "+}" in variable:
        greedy = variable.rpartition("{")[2].removesuffix("+}")
        length += parameters.get(greedy, "").count("/")
    end = "/" + "/".join(path.split("/")[-length:])
    return end if end.startswith(fixed) else path
