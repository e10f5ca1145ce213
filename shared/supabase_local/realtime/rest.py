"""Broadcast over HTTP: the batch endpoint and the single-message endpoint."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import unquote

from supabase_local.http import Request, Response
from supabase_local.realtime.database import DatabaseUnavailable
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.member import PREFIX
from supabase_local.realtime.serializer import (
    BINARY,
    JSON,
    Fanout,
    MalformedFrame,
    UserBroadcast,
    dump,
    load,
)
from supabase_local.realtime.tokens import Token, TokenError

logger = logging.getLogger(__name__)

CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-headers", "authorization, apikey, x-api-key, content-type, *"),
    ("access-control-allow-methods", "GET, POST, OPTIONS"),
)
_BATCH = "/realtime/v1/api/broadcast"
_BLANK = "can't be blank"


def json_response(status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """JSON as hosted writes it."""
    kind = ("content-type", "application/json; charset=utf-8")
    return Response(status, dump(body).encode(), (kind, *headers))


class Rest:
    """The HTTP endpoints that broadcast."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def respond(self, request: Request) -> Response:
        """Answer a request below `/realtime/v1/api`."""
        path = (
            request.path
            if request.path.startswith("/realtime/v1")
            else f"/realtime/v1{request.path}"
        )
        single = _single(path)
        if path.rstrip("/") != _BATCH and single is None:
            return Response(404, b"", CORS)
        if request.method == "OPTIONS":
            return Response(204, b"", CORS)
        if request.method != "POST":
            return Response(405, b"", (*CORS, ("allow", "POST, OPTIONS")))
        token = self._authenticate(request)
        if token is None:
            return self._answer(401, {"message": "Unauthorized"})
        try:
            if single is not None:
                return await self._single(request, token, *single)
            return await self._batch(request, token)
        except MalformedFrame:
            return self._answer(400, {"message": "Bad Request"})
        except DatabaseUnavailable as error:
            return self._answer(503, {"message": error.reason.partition(": ")[2]})

    def _authenticate(self, request: Request) -> Token | None:
        scheme, _, bearer = request.header("authorization").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else ""
        key = key or request.header("apikey") or request.header("x-api-key")
        try:
            return self._hub.verifier.verify(key) if key else None
        except TokenError:
            return None

    def _answer(self, status: int, body: Any = None) -> Response:
        rate, limit = self._hub.rooms.rate, self._hub.limits.messages_per_second
        rolling = rate.rolling
        headers = (
            *CORS,
            ("x-rate-rolling", f"{rolling:.2f}"),
            ("x-rate-limit", f"{limit:g}"),
            ("x-rate-limit-remaining", f"{max(0.0, limit - rolling):.2f}"),
        )
        return (
            Response(status, b"", headers) if body is None else json_response(status, body, headers)
        )

    def _over_limit(self, count: int) -> Response | None:
        rolling, limit = self._hub.rooms.rate.rolling, self._hub.limits.messages_per_second
        if rolling > limit:
            return self._answer(429, {"message": "You have exceeded your rate limit"})
        if rolling + count > limit:
            message = "Too many messages to broadcast, please reduce the batch size"
            return self._answer(429, {"message": message})
        return None

    # ----------------------------------------------------------------------------- batch

    async def _batch(self, request: Request, token: Token) -> Response:
        body = load(request.body) if request.body else {}
        messages = body.get("messages") if isinstance(body, dict) else None
        if messages is None or messages == []:
            return self._answer(422, {"errors": {"messages": [_BLANK]}})
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            return self._answer(422, {"errors": {"messages": ["is invalid"]}})
        errors = [self._errors_of(message) for message in messages]
        if any(errors):
            return self._answer(422, {"errors": {"messages": errors}})
        over = self._over_limit(len(messages))
        if over is not None:
            return over
        may: dict[str, bool] = {}
        for message in messages:
            topic, private = message["topic"], _flag(message.get("private"))
            if private and topic not in may:
                may[topic] = await self._hub.authorizer.write(
                    token, topic, "broadcast", dict(request.headers)
                )
            if not private or may[topic]:
                self._broadcast(topic, private, message)
        return self._answer(202)

    def _broadcast(self, topic: str, private: bool, message: dict[str, Any]) -> None:
        content = {"event": message["event"], "payload": message["payload"], "type": "broadcast"}
        if message.get("id"):
            content["meta"] = {"id": message["id"]}
        self._hub.rooms.rate.add()
        fanout = Fanout(PREFIX + topic, "broadcast", dump(content))
        self._hub.rooms.deliver(topic, private, fanout)

    def _errors_of(self, message: dict[str, Any]) -> dict[str, list[str]]:
        errors: dict[str, list[str]] = {}
        for field, kind in (("topic", str), ("payload", dict), ("event", str)):
            value = message.get(field)
            if value is None or (kind is str and isinstance(value, str) and not value.strip()):
                errors[field] = [_BLANK]
            elif not isinstance(value, kind):
                errors[field] = ["is invalid"]
        for field in ("private", "id"):
            value = message.get(field)
            wanted = str if field == "id" else (bool, str)
            if value is not None and not isinstance(value, wanted):
                errors[field] = ["is invalid"]
        payload = message.get("payload")
        if "payload" not in errors and len(dump(payload).encode()) > self._hub.limits.payload_bytes:
            errors["payload"] = ["Payload size exceeds tenant limit"]
        return errors

    # ---------------------------------------------------------------------------- single

    async def _single(self, request: Request, token: Token, topic: str, event: str) -> Response:
        kind = request.header("content-type").partition(";")[0].strip().lower()
        if kind not in ("application/json", "application/octet-stream"):
            text = "Unsupported Media Type. Use application/json or application/octet-stream"
            return self._answer(415, {"error": text})
        if len(request.body) > self._hub.limits.payload_bytes:
            return self._answer(422, {"errors": {"payload": ["Payload size exceeds tenant limit"]}})
        if kind == "application/json":
            load(request.body)
        over = self._over_limit(1)
        if over is not None:
            return over
        private = _flag(request.parameters.get("private"))
        if private and not await self._hub.authorizer.write(
            token, topic, "broadcast", dict(request.headers)
        ):
            return self._answer(403, {"message": "Unauthorized"})
        self._hub.rooms.rate.add()
        message = UserBroadcast(
            PREFIX + topic,
            event,
            request.body,
            encoding=JSON if kind == "application/json" else BINARY,
        )
        self._hub.rooms.deliver(topic, private, message)
        return self._answer(202)


def _single(path: str) -> tuple[str, str] | None:
    """The topic and event of `/api/broadcast/{topic}/events/{event}`."""
    parts = path.removeprefix(_BATCH).split("/")
    if not path.startswith(f"{_BATCH}/") or len(parts) != 4 or parts[2] != "events":
        return None
    topic, event = unquote(parts[1]), unquote(parts[3])
    return (topic, event) if topic and event else None


def _flag(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")
