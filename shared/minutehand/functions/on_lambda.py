"""AWS Lambda handlers for the apps of the API. Mangum converts events of API Gateway to ASGI.

Each Lambda environment has one event loop and one app, so that connections are kept between
invocations.
"""

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
    """Build a Lambda handler, whose app uses the Lambda environment's variables and secrets."""

    def build(environ: Mapping[str, str]) -> GatewayHandler:
        settings = Settings.from_env(environ)
        configure_logging(settings.log_level)
        return GatewayHandler(build_app(settings))

    return RotatingHandler(os.environ, build)


class GatewayHandler:
    """A Lambda handler that serves `app` on its own event loop."""

    def __init__(self, app: FastAPI) -> None:
        self._services: Services = app.state.services
        settings = self._services.settings
        telemetry.start(settings.environ, version=settings.version)
        self._loop = asyncio.new_event_loop()
        # set the current event loop, because Mangum reads it in each call, which Python deprecates
        # while no loop is set
        asyncio.set_event_loop(self._loop)
        self._mangum = Mangum(app, lifespan="off")

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Serve one HTTP request."""
        asyncio.set_event_loop(self._loop)
        stripped, prefix = _strip_prefix(event)
        response: dict[str, Any] = self._mangum(stripped, context)
        telemetry.flush()
        headers = response.get("headers", {})
        if prefix and headers.get("location", "").startswith("/"):
            headers["location"] = prefix + headers["location"]
        return response

    def close(self) -> None:
        """Close the connections and the event loop. Lambda itself never calls `close`."""
        self._loop.run_until_complete(self._services.aclose())
        self._loop.close()
        asyncio.set_event_loop(None)


def _strip_prefix(event: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the event with the path that the route matched, and the prefix before this path.

    The prefix is the stage in a URL such as `/dev/api`, or the mapping key of a custom domain.
    Every path in a `location` header must begin with the prefix.
    """
    context = event.get("requestContext", {})
    http = context.get("http", {})
    path = http.get("path", "")
    parameters = event.get("pathParameters") or {}
    relative = _matched(event.get("routeKey", ""), parameters, path)
    if relative == path:
        return event, ""
    stripped = {
        **event,
        "rawPath": relative,
        "requestContext": {**context, "http": {**http, "path": relative}},
    }
    return stripped, path.removesuffix(relative)


def _matched(route_key: str, parameters: dict[str, str], path: str) -> str:
    """Return the end of `path` that `route_key` matches, or the whole path if there is no match."""
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
