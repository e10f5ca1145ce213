"""API Gateway HTTP API events to ASGI, through Mangum.

One loop and one app per environment, so that connections are kept between invocations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from mangum import Mangum

Handler = Callable[[dict[str, Any], Any], dict[str, Any]]


def gateway_handler(app: FastAPI) -> Handler:
    """A Lambda handler that serves `app`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # set here, so that Mangum finds it: asking for a missing one is deprecated
        asyncio.set_event_loop(asyncio.new_event_loop())
    mangum = Mangum(app, lifespan="off")

    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        """Answer one HTTP request."""
        answer: dict[str, Any] = mangum(_without_stage(event), context)
        return answer

    return handler


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
