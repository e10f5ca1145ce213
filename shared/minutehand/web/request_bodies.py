"""Request bodies. An ASGI layer checks a body's size while it is read, before FastAPI parses it.

A request body above the limit is never completely in memory. Pydantic checks the types of a body's
fields, and SQL checks the fields' values.
"""

import re
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minutehand.web.errors import ApiError

#: Maximum bytes of a request body. A route in `body_limits` accepts larger bodies.
MAX_BODY_BYTES = 1024 * 1024
#: A job's payload, which is JSON of bounded nesting. The SQL functions limit the size of the
#: payload.
Payload = dict[str, JsonValue]

#: Content types that clients such as `curl -d` send by default.
_UNSPECIFIED = frozenset({"", "application/x-www-form-urlencoded", "text/plain"})


class Body(BaseModel):
    """A request body. A body with unknown fields or NaN is rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BoundedBody:
    """ASGI layer that responds with 413 as soon as a body exceeds its route's limit.

    A body with the default content type of clients such as `curl -d` is read as JSON. Any content
    type is safe, because callers authenticate by bearer token and never by cookie.
    """

    def __init__(self, app: ASGIApp, *, limits: Mapping[str, int]) -> None:
        self._app = app
        self._limits = {re.compile(path): size for path, size in limits.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = next(
            (size for path, size in self._limits.items() if path.fullmatch(scope["path"])),
            MAX_BODY_BYTES,
        )
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        read = 0
        if headers.get("content-type", "").partition(";")[0].strip().lower() in _UNSPECIFIED:
            scope["headers"] = list(scope["headers"])
            MutableHeaders(scope=scope)["content-type"] = "application/json"

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            # raise the error in the route while it reads the body, so that the usual error handlers
            # convert it
            if read > limit or (declared.isdigit() and int(declared) > limit):
                raise ApiError(
                    413,
                    "body_too_large",
                    f"The request body is larger than {limit} bytes",
                    detail={"limit_bytes": limit},
                )
            return message

        await self._app(scope, bounded, send)
