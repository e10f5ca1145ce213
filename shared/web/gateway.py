"""API Gateway HTTP API events to ASGI, through Mangum.

One loop and one app per environment, so that connections are kept between invocations.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

from shared.web.services import Services


class GatewayHandler:
    """A Lambda handler that serves `app` on a loop of its own."""

    def __init__(self, app: FastAPI) -> None:
        self._services: Services = app.state.services
        self._loop = asyncio.new_event_loop()
        # Mangum asks for the thread's loop each time; asking while none is set is deprecated
        asyncio.set_event_loop(self._loop)
        self._mangum = Mangum(app, lifespan="off")

    def __call__(self, event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        asyncio.set_event_loop(self._loop)
        answer: dict[str, Any] = self._mangum(_without_stage(event), context)
        return answer

    def close(self) -> None:
        """Close connections and loop; Lambda just freezes both, tests must not."""
        self._loop.run_until_complete(self._services.aclose())
        self._loop.close()
        asyncio.set_event_loop(None)


def _without_stage(event: dict[str, Any]) -> dict[str, Any]:
    """The event without the stage in its path; a named stage's own URL carries it, as `/dev`."""
    context = event.get("requestContext", {})
    stage = context.get("stage", "$default")
    http = context.get("http", {})
    path = http.get("path", "")
    prefix = f"/{stage}"
    if stage == "$default" or not (path == prefix or path.startswith(f"{prefix}/")):
        return event
    stripped = path[len(prefix) :] or "/"
    return {
        **event,
        "rawPath": stripped,
        "requestContext": {**context, "http": {**http, "path": stripped}},
    }
