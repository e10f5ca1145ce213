"""The worker's routes as a small ASGI app, for hosts other than Lambda.

The polling loop is `Worker.run_forever`; the host starts it.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.functions.worker.routes import MAX_BODY_BYTES, Reply, Request, WorkerRoutes
from minutehand.log import request_context
from minutehand.worker.loop import Worker

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_worker(settings: Settings) -> Worker:
    """A worker with every app's processors."""
    return Worker(settings, registry=load_processors(settings))


def build_app(
    settings: Settings, worker: Worker | None = None, *, routes: WorkerRoutes | None = None
) -> App:
    """The routes over `worker`, or those given; a worker of its own when both are None."""
    routes = routes or WorkerRoutes(settings, worker or build_worker(settings))

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
