"""API Gateway's HTTP API, payload format 2.0: HTTP in, an event to the function, HTTP out.

Routes and CORS come from the compiled template; throttles are omitted. See
https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from supabase_local.http import Request, Response
from supabase_local.lambda_runtime.function import Function, TooManyRequests
from supabase_local.lambda_runtime.invocation import Invocation

INTEGRATION_SECONDS = 30.0
_TEXT = re.compile(r"^(text/|application/(json|xml|javascript)|[^;]*\+(json|xml))", re.IGNORECASE)


@dataclass(frozen=True)
class Route:
    """A route key such as `GET /api/jobs/{proxy+}` and the function it leads to."""

    key: str
    function: str

    @property
    def method(self) -> str:
        """The method, or ANY."""
        return self.key.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The path with its variables."""
        return self.key.split(" ", 1)[-1]

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Path variables when this route takes the request."""
        if self.method not in {"ANY", method}:
            return None
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        pattern = re.sub(r"\\\{(\w+)\\\+\\\}", r"(?P<\1>.+)", pattern)
        found = re.fullmatch(pattern, path)
        return None if found is None else {k: unquote(v) for k, v in found.groupdict().items()}

    def rank(self) -> tuple[bool, int, int, bool]:
        """Sorts the most specific first: whole paths, long fixed parts, named methods."""
        fixed = self.path.split("{", 1)[0]
        return ("+}" in self.path, -len(fixed), self.path.count("{"), self.method == "ANY")


@dataclass(frozen=True)
class Cors:
    """The API's CORS settings; without origins, CORS is off."""

    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age: int = 0

    def answer(self, origin: str, *, preflight: bool) -> list[tuple[str, str]]:
        """The headers for a request from `origin`; none for a stranger."""
        if not origin or not ({origin, "*"} & set(self.origins)):
            return []
        allowed = "*" if "*" in self.origins else origin
        headers = [("access-control-allow-origin", allowed), ("vary", "origin")]
        if preflight:
            headers += [
                ("access-control-allow-methods", ",".join(self.methods)),
                ("access-control-allow-headers", ",".join(self.headers)),
                ("access-control-max-age", str(self.max_age)),
            ]
        elif self.exposed:
            headers.append(("access-control-expose-headers", ",".join(self.exposed)))
        return headers


@dataclass
class HttpApi:
    """One HTTP API over some functions."""

    functions: Mapping[str, Function]
    routes: Sequence[Route]
    cors: Cors = field(default_factory=Cors)
    #: Of a custom domain: routes match what follows it, the event's path keeps it.
    mapping_key: str = ""
    integration_seconds: float = INTEGRATION_SECONDS

    def __post_init__(self) -> None:
        self.routes = sorted(self.routes, key=Route.rank)

    async def __call__(self, request: Request) -> Response:
        """Route, invoke, translate; failures in the gateway's own words."""
        origin = request.header("origin")
        if request.method == "OPTIONS" and request.header("access-control-request-method"):
            return Response(204, headers=tuple(self.cors.answer(origin, preflight=True)))
        response = await self._route(request)
        ours = self.cors.answer(origin, preflight=False)
        if not ours:
            return response
        # with CORS configured, API Gateway drops what the integration says about it
        theirs = [h for h in response.headers if not h[0].startswith("access-control-")]
        return Response(response.status, response.body, (*theirs, *ours))

    async def _route(self, request: Request) -> Response:
        mounted = f"/{self.mapping_key}/"
        path = request.path
        if self.mapping_key and path.startswith(mounted):
            path = path[len(mounted) - 1 :]
        for route in self.routes:
            variables = route.match(request.method, path)
            if variables is not None:
                return await self._integrate(route, variables, request)
        return _message(404, "Not Found")

    async def _integrate(
        self, route: Route, variables: dict[str, str], request: Request
    ) -> Response:
        event = http_event(route.key, variables, request)
        invocation = Invocation(json.dumps(event).encode())
        function = self.functions[route.function]
        # the function continues when the gateway gives up, as on AWS
        running = asyncio.create_task(function.invoke(invocation))
        try:
            async with asyncio.timeout(self.integration_seconds):
                outcome = await asyncio.shield(running)
        except TooManyRequests:
            return _message(503, "Service Unavailable")
        except TimeoutError:
            running.add_done_callback(_read_exception)
            return _message(503, "Service Unavailable")
        if outcome.error is not None:
            return _message(500, "Internal Server Error")
        try:
            return http_response(outcome.json())
        except (ValueError, TypeError, binascii.Error):
            return _message(500, "Internal Server Error")


def http_event(key: str, variables: Mapping[str, str], request: Request) -> dict[str, Any]:
    """The event of payload format 2.0."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        if name != "cookie":
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    cookies = [
        part.strip()
        for name, value in request.headers
        if name == "cookie"
        for part in value.split(";")
        if part.strip()
    ]
    query: dict[str, str] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    now = datetime.now(UTC)
    headers.setdefault("x-forwarded-for", request.peer)
    headers.setdefault("x-forwarded-proto", "http")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": key,
        "rawPath": unquote(request.path),
        "rawQueryString": request.query,
        "headers": headers,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "local",
            "domainName": request.header("host", "localhost"),
            "domainPrefix": "local",
            "http": {
                "method": request.method,
                "path": unquote(request.path),
                "protocol": "HTTP/1.1",
                "sourceIp": request.peer,
                "userAgent": request.header("user-agent"),
            },
            "requestId": uuid.uuid4().hex[:15] + "=",
            "routeKey": key,
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": False,
    }
    if cookies:
        event["cookies"] = cookies
    if query:
        event["queryStringParameters"] = query
    if variables:
        event["pathParameters"] = dict(variables)
    if request.body:
        content_type = request.header("content-type")
        text = _utf8(request.body) if _TEXT.match(content_type) else None
        event["isBase64Encoded"] = text is None
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    return event


def http_response(answer: Any) -> Response:
    """A function's answer as HTTP; without a statusCode the whole answer is the JSON body."""
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return Response.of_json(200, answer)
    body = answer.get("body") or ""
    if not isinstance(body, str):
        raise TypeError("body must be a string")
    encoded = (
        base64.b64decode(body, validate=True) if answer.get("isBase64Encoded") else body.encode()
    )
    headers = [(str(k).lower(), str(v)) for k, v in (answer.get("headers") or {}).items()]
    if not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", "text/plain;charset=UTF-8"))
    headers += [("set-cookie", str(cookie)) for cookie in answer.get("cookies") or []]
    return Response(int(answer["statusCode"]), encoded, tuple(headers))


def _message(status: int, text: str) -> Response:
    return Response.of_json(status, {"message": text})


def _utf8(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _read_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
