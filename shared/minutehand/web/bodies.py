"""Request bodies: bounded while they are read, and JSON that Postgres can store.

A pure ASGI layer, so that a body over the limit never reaches memory or a route; what a
route makes of its fields is left to pydantic, and what they may hold to SQL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minutehand.web.errors import ApiError, invalid_argument

#: Most bytes of a request body; routes that take more are listed by `body_limits`.
MAX_BODY_BYTES = 1024 * 1024
#: A job's payload; how large it may be is SQL's to say.
Payload = dict[str, Any]

_JSON = re.compile(r"application/([a-z0-9.!#$&^_-]+\+)?json$")
#: What clients send by default, curl's `-d` first among them.
_UNSPECIFIED = frozenset({"", "application/x-www-form-urlencoded", "text/plain"})
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_LARGE = re.compile(rb"[eE]\+?\d{3}|\d{309}")


class BodyTooLarge(ApiError):
    """413: raised while the body is read, before it is whole in memory."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            413,
            "body_too_large",
            f"The request body is larger than {limit} bytes",
            detail={"limit_bytes": limit},
        )


def check_json(body: bytes) -> None:
    """Refuse what would fail later and worse: NaN, lone surrogates, NUL, bottomless nesting."""
    try:
        from_json(body, allow_inf_nan=False)
        if _LARGE.search(body):
            json.loads(body, parse_float=_finite)
        if _NUL.search(body):
            raise ValueError("it holds the character U+0000, which Postgres cannot store")
    except ValueError as error:
        raise ApiError(
            400,
            "invalid_json",
            f"The request body is not valid JSON: {error}",
            detail={"field": "body", "problem": str(error)},
        ) from error


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(f"{text[:32]} is out of range")
    return value


class BoundedBody:
    """ASGI layer: limits every body while it is read and vets JSON before a route sees it.

    A JSON body without a JSON content type, as `curl -d` sends it, is taken as JSON: callers
    prove themselves by bearer token and never by cookie, so nothing rests on the content type.
    Other types (multipart, CSV) pass through as a stream that fails once it exceeds the limit.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: int = MAX_BODY_BYTES,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._limit = limit
        self._limits = [(re.compile(path), size) for path, size in (limits or {}).items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Postgres stores no such text, and its refusal could look like an outage
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            part = "path" if "\x00" in scope["path"] else "query"
            raise invalid_argument(part, "holds the character U+0000", location=part)
        if scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared) > limit:
            raise BodyTooLarge(limit)
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not (content_type in _UNSPECIFIED or _JSON.match(content_type)):
            await self._app(scope, _limited(receive, limit), send)
            return
        body = await _read(receive, limit)
        if body is None:
            return
        if body.strip():
            check_json(body)
            scope["headers"] = list(scope["headers"])
            MutableHeaders(scope=scope)["content-type"] = "application/json"
        else:
            body = b""
        await self._app(scope, _replay(body, receive), send)

    def _limit_of(self, path: str) -> int:
        return next((size for rule, size in self._limits if rule.fullmatch(path)), self._limit)


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when the client left before sending all of it."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _limited(receive: Receive, limit: int) -> Receive:
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise BodyTooLarge(limit)
        return message

    return limited


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
