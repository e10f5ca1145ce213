"""The worker's routes as a small ASGI app, for hosts other than Lambda.

The polling loop is `Worker.run_forever`; the host starts it.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from minutehand import telemetry
from minutehand.app import OnError
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.functions.worker.routes import MAX_BODY_BYTES, Reply, Request
from minutehand.log import request_context
from minutehand.worker.channel import Channel
from minutehand.worker.loop import Worker

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Routes(Protocol):
    """What answers the worker's requests."""

    async def answer(self, request: Request) -> Reply:
        """Answer one request."""


App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_worker(
    settings: Settings, *, channel: Channel | None = None, on_error: OnError | None = None
) -> Worker:
    """A worker with every app's processors; `on_error` as `load_processors` takes it."""
    telemetry.start(settings.environ, version=settings.version)
    registry = load_processors(settings, on_error=on_error)
    return Worker(settings, registry=registry, channel=channel)


def build_app(routes: Routes) -> App:
    """The routes of a worker, in this process or another."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        request = Request(
            method=scope["method"],
            path=scope["path"],
            headers=headers,
            body=await _body(receive),
            request_id=headers.get("x-request-id") or uuid.uuid4().hex,
        )
        with request_context(request.request_id):
            reply = await routes.answer(request)
        await _send(reply, send)

    return app


async def _body(receive: Receive) -> bytes:
    """The body, read no further than the routes accept."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            break
    return body


async def _send(reply: Reply, send: Send) -> None:
    body = reply.encoded()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in reply.headers.items()},
    }
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
